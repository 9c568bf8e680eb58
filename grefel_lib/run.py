"""Run folders: starting, recording and finding runs."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from torch import Tensor

from grefel_lib.config import PRETRAINED, PROJECT_ROOT, SETTINGS, WITHOUT_WEIGHTS, Config
from grefel_lib.environment import describe_environment
from grefel_lib.files import (
    Folder,
    load_checkpoint,
    only_one,
    read_facts,
    read_json,
    reading,
    relative,
    same_data,
    save_checkpoint,
)

log = logging.getLogger(__name__)
_warn_once = functools.cache(log.warning)
_TIME = "%Y-%m-%dT%H:%M:%S%z"
BEAT, GONE = 10, 90  # seconds: between signs of life in status.json; without one, a run is dead
ENDINGS = ("running", "ok", "stopped", "failed", "interrupted")  # "status" of status.json
BEST, BEST_EMA, LAST = "best_model", "best_ema_model", "last"


@dataclass(frozen=True)
class Run(Folder):
    """One run folder and the config it was started with."""

    config: Config

    def save_checkpoint(self, name: str, tensors: Mapping[str, Tensor], facts: dict) -> Path:
        """Write checkpoints/<name>.safetensors atomically."""
        return save_checkpoint(self.file("checkpoints", f"{name}.safetensors"), tensors, facts)

    def checkpoint(self, name: str) -> Path:
        """The path of checkpoints/<name>.safetensors."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    def has_checkpoint(self, name: str) -> bool:
        """Whether checkpoints/<name>.safetensors exists."""
        return self.checkpoint(name).is_file()

    def load_checkpoint(self, name: str) -> tuple[dict[str, Tensor], dict]:
        """Tensors and facts of one of this run's checkpoints."""
        return load_checkpoint(self.checkpoint(name))

    def best_checkpoint(self, which: str = "") -> Path:
        """The better of the two best checkpoints on validation, or the one that is named.

        Raises:
            FileNotFoundError: It is not there.
        """
        paths = {name: self.checkpoint(name) for name in (BEST, BEST_EMA)}
        paths = {n: p for n, p in paths.items() if p.is_file() and which in ("", n)}
        if not paths:
            raise FileNotFoundError(
                f"run {self.name} has no {which or BEST} checkpoint: it has not finished an epoch, "
                f"was published without its weights, or they were deleted"
            )

        def accuracy(path: Path) -> float:
            with reading(path):
                return float(read_facts(path)["val_accuracy"])

        return max(paths.values(), key=accuracy)

    def check_folder(self, *names: str) -> None:
        """Refuse to go on when the folder, or one of these checkpoints, was deleted.

        Raises:
            FileNotFoundError: Names what is not there.
        """
        for path in (self.path / "config.json", *map(self.checkpoint, names)):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is not there (any more); restore it to continue, or train a new run"
                )

    def parent_checkpoint(self) -> Path:
        """The checkpoint that this run was fine-tuned from."""
        return checkpoint_file(self.config.checkpoint_path, self.config.output_dir)

    def parent(self) -> Run:
        """The run that this one was fine-tuned from, with the config in its checkpoint."""
        source = self.parent_checkpoint()
        with reading(source):
            return Run(source.parents[1], Config.from_dict(read_facts(source)["config"]))

    def history(self) -> pd.DataFrame:
        """history.csv, one row an epoch."""
        path = self.path / "history.csv"
        if not path.is_file():
            raise FileNotFoundError(f"run {self.name} has no history.csv: no epoch has ended yet")
        with reading(path):
            return pd.read_csv(path)

    def status(self) -> str:
        """running, ok, stopped, failed, interrupted; died (its process is gone) or new.

        Raises:
            ValueError: status.json is damaged.
        """
        facts = self._facts()
        if not facts:
            return "new"
        with reading(self.path / "status.json"):
            if facts["status"] not in ENDINGS:
                raise ValueError(f"status {facts['status']!r}")
            return "died" if facts["status"] == "running" and not _alive(facts) else facts["status"]

    def started(self) -> float:
        """When training began or was resumed, in seconds since 1970; 0 if not known."""
        text = self._facts().get("started")
        return datetime.strptime(text, _TIME).timestamp() if text else 0.0

    def _facts(self) -> dict[str, Any]:
        path = self.path / "status.json"
        return read_json(path) if path.is_file() else {}

    def still_running(self) -> bool:
        """Whether the run is being trained; on another machine, the next sign of life tells."""
        first = self._facts()
        while self.status() == "running":
            if first["host"] == socket.gethostname() or self._facts() != first:
                return True
            _warn_once(f"run {self.name} was on {first['host']}; waiting for a sign of life there")
            time.sleep(1)
        return False

    @property
    def asked_to_stop(self) -> bool:
        """Whether a file named stop asks training to end after the current epoch."""
        return (self.path / "stop").exists()

    def ask_to_stop(self, wanted: bool = True) -> None:
        """Request a stop, or cancel it; works from any machine that shares the folder."""
        (self.path / "stop").touch() if wanted else (self.path / "stop").unlink(missing_ok=True)

    @contextlib.contextmanager
    def recording(self) -> Iterator[dict[str, str]]:
        """Keep status.json up to date while training: running, then ok, failed or interrupted.

        Inside the block, set "status" in the yielded dict to record another ending. A thread adds
        a sign of life ("heartbeat", in seconds since 1970) every BEAT seconds.

        Raises:
            ValueError: Another process trains this run.
        """
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime(_TIME),
                 "process_started": psutil.Process().create_time()}  # fmt: skip
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT):
                with contextlib.suppress(OSError):
                    self._write_status(facts | {"status": "running"})

        message = (f"run {self.name} is being trained by another process; wait, or choose another "
                f"name (if there is none, delete {self.name}/.lock)")  # fmt: skip
        with only_one(self.path / ".lock", message):
            self.remove_litter("checkpoints")
            self._write_status(facts | {"status": "running"})
            heart, ending = threading.Thread(target=beat, daemon=True), {"status": "ok"}
            heart.start()
            try:
                yield ending
            except KeyboardInterrupt:
                ending = {"status": "interrupted"}
                raise
            except BaseException as error:
                ending = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
                raise
            finally:
                over.set()
                heart.join()
                with contextlib.suppress(OSError):  # a full disk must not hide the first error
                    self._write_status(facts | ending | {"ended": time.strftime(_TIME)})

    def write_ending(self, ending: Mapping[str, str]) -> None:
        """Record in status.json how training ended: status, and the error, if any."""
        self._write_status({**self._facts(), **ending, "ended": time.strftime(_TIME)})

    def _write_status(self, facts: Mapping[str, Any]) -> None:
        if self.path.is_dir():  # a deleted folder does not come back
            self.write_json({**facts, "heartbeat": time.time()}, "status.json")


def event_writer(folder: Folder, *parts: str, step: int = 0) -> Any:
    """A TensorBoard writer that discards earlier values from the given step onwards."""
    from torch.utils.tensorboard import SummaryWriter  # of an extra

    return SummaryWriter(str(folder.file("tensorboard", *parts)), purge_step=step)


def check_run(config: Config) -> Path:
    """The folder for a run with these settings, provided it may start or continue there.

    Raises:
        ValueError: The run is finished, is running now, or has other settings; or a package that
            its settings need is not installed.
        NotADirectoryError: A file exists where a folder is needed.
    """
    if config.log and not importlib.util.find_spec("tensorboard"):
        raise ValueError(
            "log=tensorboard needs a package; install it with: pip install -e '.[tensorboard]'"
        )
    path = run_folder(config)
    for parent in (path, *path.parents):
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(f"{parent} is a file; a folder is needed for the run {path}")
    if config.folder_name and (path / "config.json").is_file():
        run = Run(path, _read_config(path))
        if run.status() == "ok" and not _cut_short(path):
            raise ValueError(f"run {run.name} is finished; choose another name for a new run")
        if run.still_running():
            raise ValueError(f"run {run.name} is still running; wait, or choose another name")
        check_same_settings(run, config)
        if (path / "history.csv").is_file() and not run.has_checkpoint(LAST):
            best = run.has_checkpoint(BEST) * f"evaluate its {BEST} (grefel evaluate), or "
            raise FileNotFoundError(f"run {run.name} cannot continue: {run.checkpoint(LAST)} is "
                                    f"not there any more; restore it, {best}choose another name "
                                    f"for a new run")  # fmt: skip
    return path


def _cut_short(path: Path) -> bool:
    """Whether the command that trained a run ended after the training, before its last cell."""
    for notebook in path.glob("0[34]_*.ipynb"):
        record = read_json(notebook).get("metadata", {}).get("papermill", {"end_time": ""})
        if record.get("exception") or record.get("end_time") is None:
            return True
    return False


def check_same_settings(run: Run, config: Config) -> None:
    """Refuse to continue a run with other settings; settings that do not affect results may differ.

    Raises:
        ValueError: Names the settings that differ.
    """
    named = ("run_name", "finetune_name", "profile")
    differences = run.config.differences(config).items()
    other = {k: v for k, v in differences if not (k in named or SETTINGS[k].may_change)}
    if other:
        differing = ", ".join(f"{k} {old!r} there, {new!r} here" for k, (old, new) in other.items())
        raise ValueError(
            f"run {run.name} exists with other settings ({differing}); choose another name, or use "
            f"the same settings to continue it"
        )


def check_same_data(run: Run, data: Mapping[str, Any]) -> None:
    """Refuse to continue a run on different faces than it was trained on so far.

    Args:
        run: A run, or the folder where one would be started.
        data: `FaceSet.info` of the current faces.

    Raises:
        ValueError: Names what differs from environment.json; or see `check_folds`.
    """
    if run.config.checkpoint_path and not run.has_checkpoint(LAST):
        check_folds(run.parent(), run.config, data)
        if why := learned_validation(run.parent(), run.config, data):
            raise ValueError(why)
    with reading(run.path / "environment.json"):
        there = dict(_environment(run).get("data", {}))
    here = json.loads(json.dumps(dict(data)))
    other = [k for k in there if k in here and k != "warnings" and there[k] != here[k]]
    other += ["label_fixes"] * (("label_fixes" in there) != ("label_fixes" in here))
    if same_data(there.get("fingerprint"), here.get("fingerprint")):
        other = [key for key in other if key != "fingerprint"]
    if other and any(map(run.has_checkpoint, (LAST, BEST))):
        differing = ", ".join(f"{k} {there.get(k)!r} there, {here.get(k)!r} here" for k in other)
        raise ValueError(
            f"run {run.name} has learned from other data ({differing}); restore that data to "
            f"continue it, or choose another name for a new run"
        )


def learned_validation(run: Run, config: Config, data: Mapping[str, Any]) -> str:
    """Why a run may have learned validation faces of these data; empty if it has not.

    A tenth of the training faces, drawn where there is no validation split, is another one as soon
    as these faces change.

    Args:
        run: A trained run.
        config: Names the faces.
        data: `FaceSet.info` of these faces.
    """
    there, key = _environment(run).get("data", {}), "validation_drawn_from"
    if key not in data or not there or not run.config.same_data(config):
        return ""
    key = key if key in there else "fingerprint"
    if same_data(there.get(key), data[key]):
        return ""
    return (
        f"the training faces of {config.data_dir or config.dataset} have changed since run "
        f"{run.name} was trained, and validation faces are drawn from them: it may have learned "
        f"some of these; restore its faces, or give the data set a validation split"
    )


def check_folds(run: Run, config: Config, data: Mapping[str, Any]) -> None:
    """Refuse to test a run, or one fine-tuned from it, on a fold from which it has learned.

    Args:
        run: A trained run.
        config: Names the faces and the fold.
        data: `FaceSet.info` of these faces.

    Raises:
        ValueError: The fold is another one, or was drawn from other faces.
    """
    theirs, fingerprint = run.config, _environment(run).get("data", {}).get("fingerprint")
    copied = fingerprint and fingerprint == data.get("fingerprint")  # to another folder
    if config.unmet("folds") or not (config.folds or theirs.folds):
        return
    if not (copied or theirs.same_data(config)):
        return
    trained, asked = ({k: getattr(c, k) for k in ("folds", "fold")} for c in (theirs, config))
    if trained != asked:
        raise ValueError(
            f"run {run.name} has learned from faces of this test split: it was trained with "
            f"folds={theirs.folds}, fold={theirs.fold}, not folds={config.folds}, "
            f"fold={config.fold}; take the run of that fold, or the same values"
        )
    if not same_data(fingerprint, data.get("fingerprint")):
        raise ValueError(
            f"the faces of {config.data_dir} have changed since run {run.name} was trained, so "
            f"that its folds can no longer be drawn: it may have learned from the test faces; "
            f"restore them, or train again"
        )


def start_run(config: Config, data: Mapping[str, Any] | None = None) -> Run:
    """Create the run folder, or open it to continue an unfinished run (same settings and data).

    Args:
        config: The resolved settings; `run_name` or `finetune_name` names the folder.
        data: The data set's description (`FaceSet.info`), stored in environment.json.

    Without a name, a new folder is created, even if another run starts in the same second.

    Raises:
        ValueError, NotADirectoryError: See `check_run` and `check_same_data`.
        OSError: The folder cannot be written.
    """
    path = check_run(config)
    path = path if config.folder_name else new_folder(path)
    check_same_data(Run(path, config), data or {})
    named = {"finetune_name": path.name.removeprefix("finetune_")}
    named = named if config.checkpoint_path else {"run_name": path.name}
    run = Run(path, config.replace(**named))
    run.write_json(run.config.to_dict(), "config.json")
    _record_environment(run, data or {})
    return run


def run_places(name: str | Path, output_dir: str = "outputs") -> list[Path]:
    """Where a run of this name may be, in the order of search."""
    folders = (Path(), outputs_folder(output_dir), outputs_folder(), PROJECT_ROOT, PRETRAINED)
    return [folder / Path(name).expanduser() for folder in folders]


def open_run(name: str | Path, output_dir: str = "outputs") -> Run:
    """Open a run by its name or folder, or a model of PRETRAINED if no run has that name.

    Raises:
        FileNotFoundError: No such run; the message lists where it was looked for.
    """
    for path in run_places(name, output_dir):
        path = path.parent if path.name == "checkpoints" else path
        if (path / "config.json").is_file():
            return Run(path.resolve(), _read_config(path))
    raise FileNotFoundError(
        f"no run {str(name)!r}: looked for {name}/config.json here and under "
        f"{relative(outputs_folder(output_dir))}; latest runs there: "
        f"{', '.join(r.path.name for r in all_runs(output_dir)[-5:]) or 'none'}"
    )


def all_runs(output_dir: str = "outputs") -> list[Run]:
    """Every run folder and its fine-tuned runs, oldest first; unreadable ones are skipped."""
    root, runs = outputs_folder(output_dir), []
    finetuned = (
        path for path in root.glob("*/finetune_*/**/config.json")
        if not path.parent.name.startswith("evaluate_")
    )  # fmt: skip
    for path in (*root.glob("*/config.json"), *finetuned):
        try:
            runs.append((path.stat().st_mtime, Run(path.parent, _read_config(path.parent))))
        except (ValueError, OSError) as error:
            _warn_once(f"skipped a run: {error}")
    return [run for _, run in sorted(runs, key=lambda item: item[0])]


def every_run() -> list[Run]:
    """Every run under outputs/, including those in sweep folders."""
    folders = [p for p in outputs_folder().glob("*/") if not (p / "config.json").is_file()]
    return [*all_runs(), *(run for path in sorted(folders) for run in all_runs(str(path)))]


def shipped_runs() -> list[Run]:
    """The models that come with the library, as runs."""
    return [open_run(path.parent) for path in sorted(PRETRAINED.glob("*/config.json"))]


def newest_run(output_dir: str = "outputs", *, finetuned: bool = True) -> Run:
    """The newest run with a best checkpoint; the built-in demo run only if there is no other.

    Raises:
        FileNotFoundError: There is none.
    """
    runs = [r for r in all_runs(output_dir) if r.has_checkpoint(BEST)]
    runs = [r for r in runs if finetuned or not r.path.name.startswith("finetune_")]
    runs = [r for r in runs if "demo" not in (r.path.name, r.path.parent.name)] or runs
    if not runs:
        raise FileNotFoundError(
            f"no trained run under {relative(outputs_folder(output_dir))}; train one with: "
            f"grefel train, or name one elsewhere (--checkpoint-dir; to finetune --checkpoint-path)"
        )
    return runs[-1]


def checkpoint_file(name: str | Path, output_dir: str = "outputs", *, which: str = "") -> Path:
    """The checkpoint a path refers to: the file itself, or the better one of a run folder.

    Of a run's two checkpoints, the one with the higher validation accuracy is used.

    Raises:
        FileNotFoundError: Neither a file nor a run with checkpoints.
    """
    path = Path(name).expanduser()
    for candidate in (path, PROJECT_ROOT / path):
        if candidate.is_file():
            return candidate.absolute()
    return open_run(name, output_dir).best_checkpoint(which)


def run_folder(config: Config) -> Path:
    """Folder of a run with these settings: outputs/<run> or <parent run>/finetune_<name>.

    A fine-tuned run lies beside its parent's files only if the parent lies in the outputs folder.
    """
    if config.checkpoint_path:
        name = config.finetune_name or time.strftime("%Y%m%d-%H%M%S")
        source = checkpoint_file(config.checkpoint_path, config.output_dir)
        parent = source.parent.parent
        outputs = outputs_folder(config.output_dir)
        inside = (parent / "config.json").is_file() and parent.parent.resolve() == outputs.resolve()
        return (parent if inside else outputs) / f"finetune_{name}"
    return outputs_folder(config.output_dir) / (config.run_name or run_id(config))


def new_folder(path: Path) -> Path:
    """Create a folder that no other process has created: a name that is taken gets -2, -3, ...

    Raises:
        OSError: It cannot be created.
    """
    for number in itertools.count(1):
        new = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            new.mkdir(parents=True)
            return new
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(f"cannot create the folder {new}: {error.strerror}") from error


def results_folder(path: Path) -> Path:
    """Where the results of a run go: its folder; outputs/pretrained_<name> for a shipped one."""
    return outputs_folder() / f"pretrained_{path.name}" if path.parent == PRETRAINED else path


def outputs_folder(output_dir: str = "outputs") -> Path:
    """The outputs folder; relative paths are relative to the project root."""
    return PROJECT_ROOT / Path(output_dir).expanduser()


def run_id(config: Config) -> str:
    """A descriptive run name: ferplus-vit_base_patch16_224-grefel-seed0-20261201-141207."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{config.dataset}-{config.backbone}-{config.head}-seed{config.seed}-{stamp}"


def _environment(run: Run) -> dict[str, Any]:
    path = run.path / "environment.json"
    return read_json(path) if path.is_file() else {}


def started_from(run: Run) -> set[str]:
    """The weights that a run began with, and those that its parents began with."""
    own = {getattr(run.config, name) for name in WITHOUT_WEIGHTS if not run.config.unmet(name)}
    return (own | set(_environment(run).get("parents_weights", ()))) - {"none"}


def _record_environment(run: Run, data: Mapping[str, Any]) -> None:
    """Write environment.json; when a run is resumed, keep it and add what has changed since."""
    now, first = describe_environment(), _environment(run)
    if not (first and run.has_checkpoint(LAST)):
        weights = {}
        if run.config.checkpoint_path:
            weights = {"parents_weights": sorted(started_from(run.parent()))}
        run.write_json(now | weights | {"data": dict(data)}, "environment.json")
    elif changed := {key: value for key, value in now.items() if first.get(key) != value}:
        continued = [*first.get("continued", []), changed]
        run.write_json(first | {"continued": continued}, "environment.json")


def _read_config(path: Path) -> Config:
    try:
        return Config.from_dict(read_json(path / "config.json"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}/config.json is not a run's config: {error}") from error


def _alive(facts: Mapping[str, Any]) -> bool:
    """Whether the process of a status.json still runs; on another machine, by its heartbeat."""
    if facts["host"] != socket.gethostname():
        return time.time() - facts.get("heartbeat", 0) < GONE
    try:
        process = psutil.Process(facts["pid"])
        started = process.create_time()  # tells it from a later process of the same pid
        same = abs(started - facts.get("process_started", started)) < 10
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error as error:
        return isinstance(error, psutil.AccessDenied)  # alive, but owned by another user
