"""One command at every point of a grid, each in its own run folder; finished points are skipped."""

import itertools
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from grefel_lib.commands import SWEEPABLE
from grefel_lib.commands.notebook import cell_parameters, resolve, run_command
from grefel_lib.config import Config, check_name, command_settings
from grefel_lib.files import Folder, read_facts, relative
from grefel_lib.run import (
    BEST,
    BEST_EMA,
    Run,
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
        """Its resolved settings, those of the notebook's parameters cell among them."""
        return resolve(cell_parameters(self.command) | self.given, command=self.command)


def sweep_points(
    command: str,
    name: str,
    *,
    grid: Sequence[str] = (),
    cases: Sequence[str] = (),
    seeds: str = "",
    given: Mapping[str, Any] | None = None,
    evaluate: bool = False,
) -> list[Point]:
    """Every combination of a case, a value of each grid key, and a seed; the seed varies slowest.

    Args:
        command: train or finetune.
        name: The sweep's name: trained runs go to outputs/<name>/<point>.
        grid: Each "key=v1,v2".
        cases: Each "key=value,other=value": settings that go together. None: a single empty case.
        seeds: "0,1,2"; empty: the profile's.
        given: Settings of every point.
        evaluate: Whether to read the test split after each run.

    Raises:
        ValueError: An unknown key or command, a value out of range, a key set twice, a bad name.
    """
    if command not in SWEEPABLE:
        raise ValueError(f"sweep runs {' or '.join(SWEEPABLE)}; got {command!r}")
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(
            f"a sweep needs --name, one folder name of letters, digits and . _ + -; got {name!r}"
        )
    given = dict(given or {})
    for key in ("run_name", "finetune_name", "resume"):
        if key in given:
            raise ValueError(f"a sweep names its runs itself; leave --{key.replace('_', '-')} out")
    axes = [[dict([pair]) for pair in _pairs(command, text, many=True)] for text in grid]
    alternatives = [dict(_pairs(command, text)) for text in cases] or [{}]
    seed_values = [{"seed": seed} for seed in seeds.split(",")] if seeds else [{}]
    outputs = outputs_folder(given.get("output_dir", "outputs"))
    points = []
    for seed, case, *values in itertools.product(seed_values, alternatives, *axes):
        own: dict[str, Any] = {}
        for part in (case, *values, seed):
            twice = set(part) & (set(own) | set(given))
            if twice:
                raise ValueError(f"{min(twice)} is set twice in the sweep")
            own |= part
        point_name = "-".join(f"{k}={Path(v).name}" for k, v in own.items()) or "run"
        point_name = re.sub(r"[^\w.+=-]", "_", point_name)
        where = {"output_dir": str(outputs / name), "run_name": point_name}
        if command == "finetune":
            where = {"finetune_name": f"{name}-{point_name}"}
        points.append(Point(point_name, command, given | own | where, evaluate))
        points[-1].config()  # a bad value is told before the first run starts
    if len({point.name for point in points}) < len(points):
        raise ValueError("two points of the sweep are the same; look for a value given twice")
    return points


def run_sweep(
    todo: Sequence[Point], folder: Folder, *, say: Callable[[str], None], cluster: str = "",
    options: Mapping[str, str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Run every point that is not finished; one that fails does not stop the rest.

    Args:
        todo: From `points`.
        folder: The sweep's own: its table goes there, and a cluster's job files.
        say: Receives a line a point.
        cluster: Empty: one after another, here. "local": the same in a submitit process each.
            "slurm": as a job array, without waiting for it.
        options: submitit's parameters, as timeout_min or slurm_partition.

    Returns:
        One row a point: point, status; validation accuracy and NLL of its best epoch and of the
        best EMA epoch, and which epochs; error.
        Also written to the sweep's table.csv, with the folder of each run.

    Raises:
        ValueError: submitit is not installed, or does not know an option or the cluster.
    """
    errors: dict[str, str] = {}
    waiting = []
    for point in todo:
        try:
            if is_finished(point):
                say(f"{point.name}: finished before, skipped")
            else:
                waiting.append(point)
        except (ValueError, OSError) as error:
            errors[point.name] = str(error)
    submit = _executor(folder, cluster, options or {}) if cluster else None
    if cluster == "slurm" and waiting:
        jobs = submit.map_array(run_point, waiting)
        for point, job in zip(waiting, jobs, strict=True):
            say(f"{point.name}: job {job.job_id}")
        say("the same command, later, skips what is finished and shows the table")
        waiting = []
    for number, point in enumerate(waiting, start=1):
        started = time.perf_counter()
        say(f"{point.name}: starts ({number} of {len(waiting)})")
        try:
            submit.submit(run_point, point).result() if submit else run_point(point)
        except Exception as error:  # whatever it is, the other points go on
            errors[point.name] = " ".join(str(error).split()) or type(error).__name__
            say(f"{point.name}: failed: {errors[point.name]}")
        else:
            say(f"{point.name}: done in {(time.perf_counter() - started) / 60:.1f} min")
    table = pd.DataFrame([_row(point, errors.get(point.name, "")) for point in todo])
    folders = [relative(run_folder(point.config())) for point in todo]
    folder.write_table(table.assign(run=folders), "table.csv")
    return table


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """A sweep's table with its seeds averaged.

    Returns:
        One row a point without its seed: seeds (finished ones), mean val_accuracy with its lowest
        and highest, val_nll, ema_val_accuracy and ema_val_nll. Empty where no run has ended an
        epoch.
    """
    measures = [f"{key}_{what}" for key in ("val", "ema_val") for what in ("accuracy", "nll")]
    if not set(measures) <= set(table):
        return pd.DataFrame()
    name = table["point"].str.replace(r"-?seed=\d+$", "", regex=True)
    groups = table[table["status"] == "ok"].groupby(name, sort=False)
    means = groups[measures].mean()
    means.insert(0, "seeds", groups.size())
    means.insert(2, "lowest", groups["val_accuracy"].min())
    means.insert(3, "highest", groups["val_accuracy"].max())
    return means


def run_point(point: Point) -> None:
    """Train (or go on training) one point, then evaluate it if that was asked for.

    The robustness test, which takes thirty times the test split, is left to `grefel evaluate`; so
    are the training faces, unless their labels were made wrong to be found.
    """
    if hasattr(signal, "SIGTERM"):  # how a cluster stops a job: end like Ctrl-C
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    run = _run(point)
    if run is None or run.status() != "ok":
        run_command(point.command, point.given)
    trained = _run(point)
    stopped = trained is not None and trained.status() == "stopped"  # somebody asked it to
    if point.evaluate and not stopped:
        config = point.config()
        extra = {"robustness_images": 0, "inspect_labels": config.label_noise > 0}
        run_command("evaluate", {"checkpoint_dir": str(run_folder(config)), **extra})


def is_finished(point: Point) -> bool:
    """Whether nothing is left to do for a point.

    Raises:
        ValueError: Its run folder holds a run with other settings.
    """
    run = _run(point)
    if run is None:
        return False
    check_same_settings(run, point.config())
    done = run.status() == "ok"
    return done and (not point.evaluate or (run.path / "metrics.json").is_file())


def _run(point: Point) -> Run | None:
    folder = run_folder(point.config())
    return open_run(folder) if (folder / "config.json").is_file() else None


def _row(point: Point, error: str) -> dict[str, Any]:
    run = _run(point)
    row: dict[str, Any] = {"point": point.name, "status": run.status() if run else "not started"}
    written = run is not None and (run.path / "history.csv").is_file()  # after the checkpoints
    history = run.history().set_index("epoch") if written else pd.DataFrame()
    for key, name in (("val", BEST), ("ema_val", BEST_EMA)):
        if run and run.has_checkpoint(name):
            facts = read_facts(run.path / "checkpoints" / f"{name}.safetensors")
            epoch = facts["epoch"]
            row |= {f"{key}_accuracy": facts["val_accuracy"], f"{key}_epoch": epoch}
            if epoch in history.index:
                row[f"{key}_nll"] = history.loc[epoch, f"{key}_loss"]
    return row | {"error": error}


def _pairs(command: str, text: str, *, many: bool = False) -> list[tuple[str, str]]:
    """ "a=1,b=2" as pairs; with `many`, "a=1,2" as (a, 1), (a, 2)."""
    if many:
        key, _, values = text.partition("=")
        pairs = [(key.strip(), value.strip()) for value in values.split(",")]
    else:
        pairs = [tuple(map(str.strip, part.partition("=")[::2])) for part in text.split(",")]
    for key, value in pairs:
        if not key or not value:
            raise ValueError(f"write key=value{',value' if many else ',key=value'}; got {text!r}")
        check_name(key.replace("-", "_"), command_settings(command), "setting")
    return [(key.replace("-", "_"), value) for key, value in pairs]


def _executor(folder: Folder, cluster: str, options: Mapping[str, str]) -> Any:
    try:
        import submitit
    except ImportError:
        raise ValueError(
            "a cluster needs submitit; install it with: pip install -e '.[cluster]'"
        ) from None
    if cluster not in ("slurm", "local"):
        raise ValueError(f"--cluster must be slurm or local; got {cluster!r}")
    executor = submitit.AutoExecutor(folder=folder.file("jobs"), cluster=cluster)
    numbers = {k: int(v) if v.isdecimal() else v for k, v in options.items()}
    try:
        executor.update_parameters(name=folder.path.name, **numbers)
    except (TypeError, ValueError, NameError) as error:
        raise ValueError(f"submitit does not take these options: {error}") from error
    return executor
