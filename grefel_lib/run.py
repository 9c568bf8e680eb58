"""Run folders: starting, recording and finding runs."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from grefel_lib.config import PRETRAINED, PROJECT_ROOT, SETTINGS, Config
from grefel_lib.environment import describe_environment
from grefel_lib.files import (
    Folder,
    load_checkpoint,
    read_facts,
    relative,
    same_data,
    save_checkpoint,
)

_TIME = "%Y-%m-%dT%H:%M:%S%z"
BEST, BEST_EMA, LAST = "best_model", "best_ema_model", "last"


@dataclass(frozen=True)
class Run(Folder):
    """One run folder and the config it was started with."""

    config: Config

    def save_checkpoint(self, name: str, tensors: Mapping[str, Tensor], facts: dict) -> Path:
        """Write checkpoints/<name>.safetensors atomically."""
        path = self.file("checkpoints", f"{name}.safetensors")
        return save_checkpoint(path, tensors, facts)

    def has_checkpoint(self, name: str) -> bool:
        """Whether checkpoints/<name>.safetensors exists."""
        return (self.path / "checkpoints" / f"{name}.safetensors").is_file()

    def load_checkpoint(self, name: str) -> tuple[dict[str, Tensor], dict]:
        """Tensors and facts of one of this run's checkpoints."""
        return load_checkpoint(self.path / "checkpoints" / f"{name}.safetensors")

    def best_checkpoint(self, which: str = "") -> Path:
        """The better of the two best checkpoints on validation, or the one that is named.

        Raises:
            FileNotFoundError: It is not there.
        """
        paths = {n: self.path / "checkpoints" / f"{n}.safetensors" for n in (BEST, BEST_EMA)}
        paths = {n: p for n, p in paths.items() if p.is_file() and which in ("", n)}
        if not paths:
            raise FileNotFoundError(f"run {self.name} has no {which or BEST} checkpoint yet")
        return max(paths.values(), key=lambda path: read_facts(path)["val_accuracy"])

    def parent_checkpoint(self) -> Path:
        """The checkpoint that this run was fine-tuned from."""
        return checkpoint_file(self.config.checkpoint_path, self.config.output_dir)

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
        """Whether a file named stop asks training to end after the current epoch."""
        return (self.path / "stop").exists()

    def ask_to_stop(self, wanted: bool = True) -> None:
        """Request a stop, or cancel it; works from any machine that shares the folder."""
        (self.path / "stop").touch() if wanted else (self.path / "stop").unlink(missing_ok=True)

    @contextlib.contextmanager
    def recording(self) -> Iterator[dict[str, str]]:
        """Keep status.json up to date while training: running, then ok, failed or interrupted.

        Inside the block, set "status" in the yielded dict to record another ending.
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
        """Record in status.json how training ended: status, and the error, if any."""
        path = self.path / "status.json"
        facts = json.loads(path.read_text()) if path.is_file() else {}
        self.write_json({**facts, **ending, "ended": time.strftime(_TIME)}, "status.json")


def check_run(config: Config) -> Path:
    """The folder a run with these settings would use, if it may be started or continued there.

    Raises:
        ValueError: The run is finished, is running now, or has other settings.
        NotADirectoryError: A file exists where a folder is needed.
    """
    path = run_folder(config)
    for parent in (path, *path.parents):
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(f"{parent} is a file; a folder is needed for the run {path}")
    if (path / "config.json").is_file():
        run = Run(path, _read_config(path))
        if run.status() == "ok":
            raise ValueError(f"run {run.name} is finished; choose another name for a new run")
        if run.status() == "running":
            raise ValueError(
                f"run {run.name} is still running; wait, or choose another name (if its machine "
                f"no longer exists, delete {run.name}/status.json)"
            )
        check_same_settings(run, config)
    return path


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
        ValueError: Names what differs from environment.json.
    """
    there = _environment(run).get("data", {})
    here = json.loads(json.dumps(dict(data)))
    other = [k for k in there if k in here and k != "warnings" and there[k] != here[k]]
    if same_data(there.get("fingerprint"), here.get("fingerprint")):
        other = [key for key in other if key != "fingerprint"]
    if other and run.has_checkpoint(LAST):
        differing = ", ".join(f"{k} {there[k]!r} there, {here[k]!r} here" for k in other)
        raise ValueError(
            f"run {run.name} has learned from other data ({differing}); restore that data to "
            f"continue it, or choose another name for a new run"
        )


def start_run(config: Config, data: Mapping[str, Any] | None = None) -> Run:
    """Create the run folder, or open it to continue an unfinished run (same settings and data).

    Args:
        config: The resolved settings; `run_name` or `finetune_name` names the folder.
        data: The data set's description (`FaceSet.info`), stored in environment.json.

    Raises:
        ValueError, NotADirectoryError: See `check_run` and `check_same_data`.
        OSError: The folder cannot be written.
    """
    path = check_run(config)
    check_same_data(Run(path, config), data or {})
    try:
        path.mkdir(parents=True, exist_ok=True)
        named = {"finetune_name": path.name.removeprefix("finetune_")}
        named = named if config.checkpoint_path else {"run_name": path.name}
        run = Run(path, config.replace(**named))
        run.write_json(run.config.to_dict(), "config.json")
        _record_environment(run, data or {})
    except OSError as error:
        raise OSError(f"cannot write the run folder {path}: {error.strerror or error}") from error
    return run


def open_run(name: str | Path, output_dir: str = "outputs") -> Run:
    """Open a run by its name or folder; a model of PRETRAINED by its name, if no run has it.

    Raises:
        FileNotFoundError: No such run; the message lists where it was looked for.
    """
    given = Path(name).expanduser()
    for folder in (Path(), outputs_folder(output_dir), PROJECT_ROOT, PRETRAINED):
        path = folder / given
        path = path.parent if path.name == "checkpoints" else path
        if (path / "config.json").is_file():
            return Run(path.resolve(), _read_config(path))
    raise FileNotFoundError(
        f"no run {str(name)!r}: looked for {name}/config.json here and under "
        f"{relative(outputs_folder(output_dir))}; latest runs there: "
        f"{', '.join(r.path.name for r in all_runs(output_dir)[-5:]) or 'none'}"
    )


def all_runs(output_dir: str = "outputs") -> list[Run]:
    """Every run folder and its fine-tuned runs, oldest first."""
    root = outputs_folder(output_dir)
    paths = [*root.glob("*/config.json"), *root.glob("*/finetune_*/config.json")]
    return [
        Run(p.parent, _read_config(p.parent))
        for p in sorted(paths, key=lambda p: p.stat().st_mtime)
    ]


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
            f"grefel train"
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
            return candidate
    return open_run(name, output_dir).best_checkpoint(which)


def run_folder(config: Config) -> Path:
    """Folder of a run with these settings: outputs/<run> or <parent run>/finetune_<name>."""
    if config.checkpoint_path:
        name = config.finetune_name or time.strftime("%Y%m%d-%H%M%S")
        source = checkpoint_file(config.checkpoint_path, config.output_dir)
        parent = source.parent.parent
        if (parent / "config.json").is_file() and parent.parent != PRETRAINED:
            return parent / f"finetune_{name}"
        return outputs_folder(config.output_dir) / f"finetune_{name}"
    return outputs_folder(config.output_dir) / (config.run_name or run_id(config))


def results_folder(path: Path) -> Path:
    """Where the results of a run go: its folder; outputs/pretrained_<name> for a shipped one."""
    return outputs_folder() / f"pretrained_{path.name}" if path.parent == PRETRAINED else path


def outputs_folder(output_dir: str = "outputs") -> Path:
    """The outputs folder; relative paths are relative to the project root."""
    return PROJECT_ROOT / Path(output_dir).expanduser()


def run_id(config: Config) -> str:
    """A descriptive run name: ferplus-vit_base_patch16_224-grefel-seed0-20261201-1412."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{config.dataset}-{config.backbone}-{config.head}-seed{config.seed}-{stamp}"


def _environment(run: Run) -> dict[str, Any]:
    path = run.path / "environment.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _record_environment(run: Run, data: Mapping[str, Any]) -> None:
    """Write environment.json; when a run is resumed, keep it and add what has changed since."""
    now, first = describe_environment(), _environment(run)
    if not (first and run.has_checkpoint(LAST)):
        run.write_json(now | {"data": dict(data)}, "environment.json")
    elif changed := {key: value for key, value in now.items() if first.get(key) != value}:
        continued = [*first.get("continued", []), changed]
        run.write_json(first | {"continued": continued}, "environment.json")


def _read_config(path: Path) -> Config:
    try:
        return Config.from_dict(json.loads((path / "config.json").read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}/config.json is not a run's config: {error}") from error


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # alive, but owned by another user
    return True
