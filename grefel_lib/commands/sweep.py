"""One command at every point of a grid, each in its own run folder; finished points are skipped."""

import contextlib
import itertools
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from grefel_lib.analysis.evaluation import stale_because
from grefel_lib.commands import SWEEPABLE
from grefel_lib.commands.notebook import cell_parameters, latest_parent, resolve, run_command
from grefel_lib.config import Config, check_name, command_settings
from grefel_lib.faces import load_faces
from grefel_lib.files import Folder, read_facts, relative
from grefel_lib.run import (
    BEST,
    BEST_EMA,
    Run,
    check_same_data,
    check_same_settings,
    open_run,
    outputs_folder,
    run_folder,
)


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str
    command: str
    given: dict[str, Any]
    evaluate: bool

    def config(self) -> Config:
        """Its resolved settings, including the notebook's parameters cell."""
        return resolve(cell_parameters(self.command) | self.given, command=self.command)

    def run(self) -> Run | None:
        """Its run, if it was started."""
        folder = run_folder(self.config())
        return open_run(folder) if (folder / "config.json").is_file() else None


def sweep_points(
    command: str,
    name: str,
    *,
    grid: Sequence[str] = (),
    cases: Sequence[str] = (),
    seeds: str = "",
    given: Mapping[str, Any] = MappingProxyType({}),
    evaluate: bool = False,
) -> list[Point]:
    """All combinations of case, grid values and seed; the seed varies slowest.

    Args:
        command: train or finetune.
        name: The sweep's name: trained runs go to outputs/<name>/<point>.
        grid: Each "key=v1,v2".
        cases: Each "key=value,other=value": settings that go together.
        seeds: "0,1,2"; empty: the profile's.
        given: Settings shared by all points.
        evaluate: Evaluate each run on the test split.

    Raises:
        ValueError: An unknown key or command, a value out of range, a key set twice, a bad name.
    """
    if command not in SWEEPABLE:
        raise ValueError(f"sweep runs {' or '.join(SWEEPABLE)}; got {command!r}")
    if not re.fullmatch(r"[\w.+-]+", name) or name in (".", ".."):
        raise ValueError(
            f"a sweep needs --name, one folder name of letters, digits and . _ + -; got {name!r}"
        )
    settings = command_settings(command)
    axes = [
        [_setting(f"{key}{equals}{value}", settings) for value in values.split(",")]
        for key, equals, values in (text.partition("=") for text in grid)
    ]
    alternatives = [[_setting(part, settings) for part in text.split(",")] for text in cases]
    seed_values = [[("seed", seed.strip())] for seed in seeds.split(",")] if seeds else [[]]
    varied = {key for options in (*axes, *alternatives) for key, _ in options}
    for key in ("run_name", "finetune_name", "resume"):
        if key in given or key in varied:
            raise ValueError(f"a sweep names its runs itself; remove {key}")
    if "output_dir" in varied:
        raise ValueError("a sweep lies in one folder; give output_dir as --output-dir DIR")
    outputs = outputs_folder(given.get("output_dir", "outputs"))
    chosen = any("checkpoint_path" in text.replace("-", "_") for text in (*given, *grid, *cases))
    if command == "finetune" and not chosen:  # the same for all points, also when they are resumed
        given = {**given, "checkpoint_path": str(latest_parent(str(outputs)).path)}
    points = []
    for seed, case, *values in itertools.product(seed_values, alternatives or [[]], *axes):
        pairs = [*case, *values, *seed]
        keys = [*given, *(key for key, _ in pairs)]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"{key} is set twice in the sweep")
        point_name = "-".join(f"{key}={Path(value).name}" for key, value in pairs) or "run"
        point_name = re.sub(r"[^\w.+=-]", "_", point_name)
        where = {"output_dir": str(outputs / name), "run_name": point_name}
        if command == "finetune":
            where = {"finetune_name": f"{name}-{point_name}"}
        points.append(Point(point_name, command, {**given, **dict(pairs), **where}, evaluate))
        points[-1].config()  # a bad value is reported before the first run starts
    names = [point.name for point in points]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ValueError(
            f"two points of the sweep would be called {twice}: give each value once, and files of "
            f"one name other names"
        )
    return points


def run_sweep(
    todo: Sequence[Point], folder: Folder, *, say: Callable[[str], None], cluster: str = "",
    options: Mapping[str, str] = MappingProxyType({}),
) -> pd.DataFrame:  # fmt: skip
    """Run every point that is not finished; one that fails does not stop the rest.

    Args:
        todo: From `sweep_points`.
        folder: Receives the sweep's table, and the cluster job files.
        say: Called with a line per point.
        cluster: Empty: one after another in this process. "local": each in a submitit process.
            "slurm": as a job array, without waiting for it.
        options: submitit parameters, e.g. timeout_min or slurm_partition.

    Returns:
        One row per point: point, status; minutes of training; validation accuracy, mean class
        accuracy and NLL of its best epoch and of the best EMA epoch, and which epochs; error.
        Also written to the sweep's table.csv, with the folder of each run.

    Raises:
        ValueError: submitit is not installed, or an option or the cluster is unknown.
    """
    errors: dict[str, str] = {}
    waiting = []
    for point in todo:
        try:
            if is_finished(point):
                say(f"{point.name}: already finished, skipped")
            else:
                waiting.append(point)
        except (ValueError, OSError) as error:
            errors[point.name] = str(error)
    refused = set(errors)
    submit = _executor(folder, cluster, options) if cluster else None
    if cluster == "slurm" and waiting:
        jobs = submit.map_array(run_point, waiting)
        for point, job in zip(waiting, jobs, strict=True):
            say(f"{point.name}: job {job.job_id}")
        say("run the same command again later: it skips finished points and shows the table")
        waiting = []
    begun = time.perf_counter()
    for number, point in enumerate(waiting, start=1):
        started = time.perf_counter()
        say(f"{point.name}: starting ({number} of {len(waiting)})")
        try:
            submit.submit(run_point, point).result() if submit else run_point(point)
        except Exception as error:  # in any case, continue with the other points
            errors[point.name] = " ".join(str(error).split()) or type(error).__name__
            say(f"{point.name}: failed: {errors[point.name]}")
        else:
            now, left = time.perf_counter(), len(waiting) - number
            minutes = (now - begun) / number * left / 60
            text = f", about {minutes:.1f} min for the other {left}" if left else ""
            say(f"{point.name}: done in {(now - started) / 60:.1f} min{text}")
    table = pd.DataFrame([_row(p, errors.get(p.name, ""), p.name in refused) for p in todo])
    folders = [relative(run_folder(point.config())) for point in todo]
    folder.write_table(table.assign(run=folders), "table.csv")
    return table


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """A sweep's table, averaged over seeds.

    Returns:
        One row per point without its seed: seeds (number of finished runs), mean val_accuracy with
        its lowest and highest, and the means of the other measures and of the minutes. Empty if no
        run has finished an epoch.
    """
    kinds = ("accuracy", "mean_class_accuracy", "nll")
    measures = [f"{key}_{kind}" for key in ("val", "ema_val") for kind in kinds] + ["minutes"]
    measures = [name for name in measures if name in table]
    if "val_accuracy" not in measures:
        return pd.DataFrame()
    name = table["point"].str.replace(r"-?seed=\d+$", "", regex=True)
    groups = table[table["status"] == "ok"].groupby(name, sort=False)
    first, *others = measures
    return groups.agg(
        seeds=(first, "size"), val_accuracy=(first, "mean"), lowest=(first, "min"),
        highest=(first, "max"), **{name: (name, "mean") for name in others},
    )  # fmt: skip


def run_point(point: Point) -> None:
    """Train one point, or continue its training, then evaluate it if asked to.

    The robustness test, which scores the test split thirty times, is left to `grefel evaluate`; so
    is scoring the training faces, except with `label_noise` or `label_fixes`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's stop ends like Ctrl-C
    run = point.run()
    if run is None or run.status() != "ok":
        run_command(point.command, point.given)
        run = point.run()
    stopped = run is not None and run.status() == "stopped"  # on a user's request
    if point.evaluate and not stopped:
        config = point.config()
        others = config.label_noise > 0 or bool(config.label_fixes)
        extra = {"robustness_images": 0, "inspect_labels": others}
        run_command("evaluate", {"checkpoint_dir": str(run_folder(config)), **extra})


def is_finished(point: Point) -> bool:
    """Whether a point is trained, and evaluated if asked to.

    Raises:
        ValueError: Its run folder contains a run with other settings or on other faces.
    """
    run = point.run()
    if run is None:
        return False
    check_same_settings(run, config := point.config())
    with contextlib.suppress(FileNotFoundError):  # without its data, a finished point stays so
        check_same_data(run, load_faces(config).info)
    done = run.status() == "ok"
    evaluated = (run.path / "metrics.json").is_file() and not stale_because(run)
    return done and (not point.evaluate or evaluated)


def _row(point: Point, error: str, refused: bool) -> dict[str, Any]:
    """A refused point has no numbers: those in its folder are of other settings or data."""
    try:
        results = _results(point.run())
    except (ValueError, OSError) as damage:
        return {"point": point.name, "status": "damaged", "error": error or str(damage)}
    results = {"status": "refused"} if refused else results
    return {"point": point.name, **results, "error": error}


def _results(run: Run | None) -> dict[str, Any]:
    row: dict[str, Any] = {"status": run.status() if run else "not started"}
    written = run is not None and (run.path / "history.csv").is_file()  # after the checkpoints
    history = run.history().set_index("epoch") if written else pd.DataFrame()
    if "seconds" in history:
        row["minutes"] = history["seconds"].sum() / 60
    for key, name in (("val", BEST), ("ema_val", BEST_EMA)):
        if run and run.has_checkpoint(name):
            facts = read_facts(run.path / "checkpoints" / f"{name}.safetensors")
            row |= {f"{key}_accuracy": facts["val_accuracy"], f"{key}_epoch": facts["epoch"]}
            if facts["epoch"] in history.index:
                epoch = history.loc[facts["epoch"]]
                recall = epoch.filter(regex=f"^{key}_accuracy_").mean()
                row |= {f"{key}_mean_class_accuracy": recall, f"{key}_nll": epoch[f"{key}_loss"]}
    return row


def _setting(text: str, settings: Mapping[str, Any]) -> tuple[str, str]:
    key, equals, value = map(str.strip, text.partition("="))
    if not key or not equals:  # an empty value is one, as of teacher
        raise ValueError(f"{text!r} has no {'value' if key else 'name'}; write key=value,key=value")
    key = key.replace("-", "_")
    check_name(key, settings, "setting")
    return key, value


def _executor(folder: Folder, cluster: str, options: Mapping[str, str]) -> Any:
    try:
        import submitit
    except ImportError:
        raise ValueError(
            "--cluster needs submitit; install it with: pip install -e '.[cluster]'"
        ) from None
    if cluster not in ("slurm", "local"):
        raise ValueError(f"--cluster must be slurm or local; got {cluster!r}")
    try:
        executor = submitit.AutoExecutor(folder=folder.file("jobs"), cluster=cluster)
    except RuntimeError as error:  # this is no machine of a cluster
        raise ValueError(f"--cluster {cluster}: {error}") from error
    numbers = {k: int(v) if v.isdecimal() else v for k, v in options.items()}
    try:
        executor.update_parameters(name=folder.path.name, **numbers)
    except (TypeError, ValueError, NameError) as error:
        raise ValueError(f"submitit rejects these options: {error}") from error
    return executor
