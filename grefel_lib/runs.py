"""The run folder: start, record, load, find."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock

from grefel_lib import checkpoints, environment
from grefel_lib.config import FIELDS, PROJECT_ROOT, Config
from grefel_lib.folders import Folder, relative

if TYPE_CHECKING:  # torch takes seconds to import, and `grefel --help` needs none of it
    from torch import Tensor

_TIME = "%Y-%m-%dT%H:%M:%S%z"
BEST, BEST_EMA, LAST = "best_model", "best_ema_model", "last"
# what may differ between a run and its continuation
_FREE = (
    "num_workers", "device", "output_dir", "data_dir", "resume", "micro_batch_size", "processes",
)  # fmt: skip


@dataclass(frozen=True)
class Run(Folder):
    """One run folder and the config it was started with."""

    config: Config

    def save_checkpoint(self, name: str, tensors: Mapping[str, Tensor], facts: dict) -> Path:
        """Write checkpoints/<name>.safetensors atomically."""
        path = self.file("checkpoints", f"{name}.safetensors")
        return checkpoints.save(path, tensors, facts)

    def has_checkpoint(self, name: str) -> bool:
        """Whether checkpoints/<name>.safetensors exists."""
        return (self.path / "checkpoints" / f"{name}.safetensors").is_file()

    def load_checkpoint(self, name: str) -> tuple[dict[str, Tensor], dict]:
        """Tensors and facts of one of this run's checkpoints."""
        return checkpoints.load(self.path / "checkpoints" / f"{name}.safetensors")

    def history(self) -> pd.DataFrame:
        """history.csv, one row an epoch."""
        path = self.path / "history.csv"
        if not path.is_file():
            raise FileNotFoundError(f"run {self.name} has no history.csv: no epoch has ended yet")
        return pd.read_csv(path)

    def status(self) -> str:
        """running, ok, stopped, failed, interrupted; died (its process is gone) or new."""
        path = self.path / "status.json"
        if not path.is_file():
            return "new"
        content = json.loads(path.read_text())
        here = content.get("host") == socket.gethostname()
        if content["status"] == "running" and here and not _alive(content["pid"]):
            return "died"
        return content["status"]

    @property
    def asked_to_stop(self) -> bool:
        """Whether somebody wants training to end after the epoch it is in: a file named stop."""
        return (self.path / "stop").exists()

    def ask_to_stop(self, wanted: bool = True) -> None:
        """Ask for that, or take it back; works from any machine that shares the folder."""
        (self.path / "stop").touch() if wanted else (self.path / "stop").unlink(missing_ok=True)

    @contextlib.contextmanager
    def recording(self) -> Iterator[dict[str, str]]:
        """Keep status.json true while training: running, then ok, failed or interrupted.

        What the block puts into the yielded dict is how it says it ended otherwise.
        """
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime(_TIME)}
        self.write_json({"status": "running", **facts}, "status.json")
        ending = {"status": "ok"}
        try:
            yield ending
        except KeyboardInterrupt:
            ending = {"status": "interrupted"}
            raise
        except BaseException as error:
            ending = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            raise
        finally:
            with contextlib.suppress(OSError):  # a full disk must not hide the first error
                self.write_ending(ending)

    def write_ending(self, ending: Mapping[str, str]) -> None:
        """Write into status.json how training ended: status, and error if there was one."""
        path = self.path / "status.json"
        facts = json.loads(path.read_text()) if path.is_file() else {}
        self.write_json({**facts, **ending, "ended": time.strftime(_TIME)}, "status.json")


def resolve(namespace: Mapping[str, Any]) -> Config:
    """The config that a notebook's parameters ask for.

    `resume` takes the stored config of the run it names; `checkpoint_path` takes that run's
    config under the fine-tuning profile.

    Raises:
        ValueError: A bad value, an unknown name, or a setting beside `resume`.
        FileNotFoundError: The run or checkpoint is not there.
    """
    config = Config.from_notebook(namespace)
    asked = {k for k in FIELDS if namespace.get(k) is not None}
    if config.resume:
        run = open_run(config.resume, config.output_dir)
        for name, (kept, value) in run.config.differences(config).items():
            if name in asked - {*_FREE, "profile", "dataset"}:
                raise ValueError(
                    f"run {run.name} was started with {name}={kept!r} and cannot go on with "
                    f"{value!r}; leave it out, or start a new run"
                )
        free = {k: getattr(config, k) for k in ("num_workers", "device", "processes") if k in asked}
        return run.config.replace(run_name=run.path.name, output_dir=str(run.path.parent), **free)
    if config.checkpoint_path:
        source = checkpoint_file(config.checkpoint_path, config.output_dir)
        parent = Config.from_dict(checkpoints.read_facts(source)["config"])
        config = Config.from_notebook(namespace, parent=parent)
        if Path(config.checkpoint_path).suffix != ".safetensors":  # a run, not one of its files
            source = source.parent.parent
        return config.replace(checkpoint_path=relative(source))
    return config


def resolve_evaluation(namespace: Mapping[str, Any]) -> tuple[Run, Run, Config]:
    """The run that is evaluated, where the results go, and the config with what was asked for.

    Without `checkpoint_dir` it is the built-in demo run. `output_dir` sends the results elsewhere.

    Raises:
        ValueError: A bad value.
        FileNotFoundError: No such run.
    """
    wanted = {k: v for k, v in namespace.items() if k in FIELDS and v is not None}
    asked = Config.resolve(wanted)  # checks every value
    run = open_run(asked.checkpoint_dir) if asked.checkpoint_dir else demo()
    kept = {k: getattr(asked, k) for k in wanted if k not in ("profile", "output_dir")}
    config = run.config.on_data(**kept)
    results = Run(outputs(asked.output_dir) if "output_dir" in wanted else run.path, config)
    return run, results, config


def check(config: Config) -> Path:
    """The folder a run with these settings would use, if it may be started or continued there.

    Raises:
        ValueError: The run is finished, is running now, or has other settings.
        NotADirectoryError: A file is in the way.
    """
    path = folder(config)
    for parent in (path, *path.parents):
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(f"{parent} is a file; a folder is needed for the run {path}")
    if (path / "config.json").is_file():
        run = Run(path, _read_config(path))
        if run.status() == "ok":
            raise ValueError(f"run {run.name} is finished; choose another name for a new run")
        if run.status() == "running":
            raise ValueError(
                f"run {run.name} is running now; wait, or choose another name (if its machine "
                f"is gone, remove {run.name}/status.json)"
            )
        same_settings(run, config)
    return path


def same_settings(run: Run, config: Config) -> None:
    """Refuse to go on with a run under other settings; what changes no result may differ.

    Raises:
        ValueError: Names the settings that differ.
    """
    ignored = (*_FREE, "run_name", "finetune_name", "profile")
    other = {k: v for k, v in run.config.differences(config).items() if k not in ignored}
    if other:
        told = ", ".join(f"{k} {old!r} there, {new!r} here" for k, (old, new) in other.items())
        raise ValueError(
            f"run {run.name} exists with other settings ({told}); choose another name, or use "
            f"the same settings to continue it"
        )


def start(config: Config, data: Mapping[str, Any] | None = None) -> Run:
    """Make the run folder, or open it to continue an unfinished run of the same settings.

    Args:
        config: The resolved settings; `run_name` or `finetune_name` names the folder.
        data: What the data set says of itself (`FaceSet.info`), kept in environment.json.

    Raises:
        ValueError, NotADirectoryError: See `check`.
        OSError: The folder cannot be written.
    """
    path = check(config)
    try:
        path.mkdir(parents=True, exist_ok=True)
        named = {"finetune_name": path.name.removeprefix("finetune_")}
        named = named if config.checkpoint_path else {"run_name": path.name}
        run = Run(path, config.replace(**named))
        run.write_json(dataclasses.asdict(run.config), "config.json")
        run.write_json(environment.describe() | {"data": dict(data or {})}, "environment.json")
    except OSError as error:
        raise OSError(f"cannot write the run folder {path}: {error.strerror or error}") from error
    return run


def open_run(name: str | Path, output_dir: str = "outputs") -> Run:
    """Open a run by its name or folder.

    Raises:
        FileNotFoundError: No such run; the message names the nearest places looked at.
    """
    for path in (Path(name).expanduser(), outputs(output_dir) / name, PROJECT_ROOT / name):
        path = path.parent if path.name == "checkpoints" else path
        if (path / "config.json").is_file():
            return Run(path.resolve(), _read_config(path))
    raise FileNotFoundError(
        f"no run {str(name)!r}: looked for {name}/config.json here and under "
        f"{relative(outputs(output_dir))}; the runs there: "
        f"{', '.join(r.path.name for r in all_runs(output_dir)[-5:]) or 'none'}"
    )


def all_runs(output_dir: str = "outputs") -> list[Run]:
    """Every run folder and its fine-tuned runs, oldest first."""
    root = outputs(output_dir)
    paths = [*root.glob("*/config.json"), *root.glob("*/finetune_*/config.json")]
    return [
        Run(p.parent, _read_config(p.parent))
        for p in sorted(paths, key=lambda p: p.stat().st_mtime)
    ]


def everywhere() -> list[Run]:
    """Every run under outputs/, in the folders of sweeps as well."""
    folders = [p for p in outputs().glob("*/") if not (p / "config.json").is_file()]
    return [*all_runs(), *(run for path in sorted(folders) for run in all_runs(str(path)))]


def newest(output_dir: str = "outputs", *, finetuned: bool = True) -> Run:
    """The newest run with a best checkpoint; the built-in demo run only if there is no other.

    Raises:
        FileNotFoundError: There is none.
    """
    found = [r for r in all_runs(output_dir) if r.has_checkpoint(BEST)]
    found = [r for r in found if finetuned or not r.path.name.startswith("finetune_")]
    found = [r for r in found if "demo" not in (r.path.name, r.path.parent.name)] or found
    if not found:
        raise FileNotFoundError(
            f"no trained run under {relative(outputs(output_dir))}; train one with: grefel train"
        )
    return found[-1]


def demo(say: Callable[[str], None] | None = None) -> Run:
    """The small built-in run that any notebook can fall back on: found, or trained now, once."""
    from grefel_lib import datasets, training  # they use this module

    config = Config.resolve({"profile": "demo", "run_name": "demo"})
    path = folder(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if (path / "config.json").is_file():
            run = Run(path, _read_config(path))
            if run.config.differences(config):  # made by another version of the profile
                shutil.rmtree(path)
            elif run.status() == "ok":
                return run
        if say:
            say("training the built-in demo run once ...")
        faces = datasets.load(config)
        run = start(config, faces.info)
        training.fit(faces, run)
    return run


def checkpoint_file(name: str | Path, output_dir: str = "outputs", *, which: str = "") -> Path:
    """The checkpoint that a path names: a file itself, or the better one of a run folder.

    Of a run's two checkpoints the one with the higher validation accuracy is taken.

    Raises:
        FileNotFoundError: Neither a file nor a run with checkpoints.
    """
    path = Path(name).expanduser()
    for candidate in (path, PROJECT_ROOT / path):
        if candidate.is_file():
            return candidate
    run = open_run(name, output_dir)
    found = {n: run.path / "checkpoints" / f"{n}.safetensors" for n in (BEST, BEST_EMA)}
    found = {n: p for n, p in found.items() if p.is_file() and which in ("", n)}
    if not found:
        raise FileNotFoundError(f"run {run.name} has no {which or BEST} checkpoint yet")
    return max(found.values(), key=lambda p: checkpoints.read_facts(p)["val_accuracy"])


def folder(config: Config) -> Path:
    """Where a run with these settings lives: outputs/<run> or <parent run>/finetune_<name>."""
    if config.checkpoint_path:
        name = config.finetune_name or time.strftime("%Y%m%d-%H%M%S")
        source = checkpoint_file(config.checkpoint_path, config.output_dir)
        parent = source.parent.parent
        if (parent / "config.json").is_file():
            return parent / f"finetune_{name}"
        return outputs(config.output_dir) / f"finetune_{name}"
    return outputs(config.output_dir) / (config.run_name or run_id(config))


def outputs(output_dir: str = "outputs") -> Path:
    """The outputs folder; relative names start from the project root."""
    return PROJECT_ROOT / Path(output_dir).expanduser()


def run_id(config: Config) -> str:
    """A name that says what a run is: ferplus-vit_base_patch16_224-grefel-seed0-20261201-1412."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{config.dataset}-{config.backbone}-{config.head}-seed{config.seed}-{stamp}"


def _read_config(path: Path) -> Config:
    try:
        return Config.from_dict(json.loads((path / "config.json").read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}/config.json is not a run's config: {error}") from error


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # it lives, but is somebody else's
    return True
