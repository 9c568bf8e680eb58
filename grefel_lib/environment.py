"""The environment of a run: versions, device, commit, threads, interactive or not."""

import ctypes
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from tqdm.std import tqdm as terminal_tqdm

from grefel_lib.config import PROJECT_ROOT, Config


def describe_environment() -> dict[str, Any]:
    """Versions and device; commit and dirty flag of the project, None if git cannot tell.

    The commit is that of the repository that tracks this file; an enclosing repository that does
    not track it is ignored.
    """
    here = Path(__file__).resolve()
    commit = _git("rev-parse", "HEAD", f"HEAD:./{here.name}", folder=here.parent)
    changes = _git("status", "--porcelain", "--", ".", folder=PROJECT_ROOT) if commit else None
    packages = ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "gpu": gpu,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": commit.split()[0] if commit else None,
        "dirty": None if changes is None else bool(changes),
    }


def watched() -> bool:
    """Whether the session is interactive: a notebook open in Jupyter, VS Code or Colab.

    GREFEL_PANELS=0 or 1 overrides.
    """
    if "GREFEL_PANELS" in os.environ:
        return os.environ["GREFEL_PANELS"] == "1"
    return bool({"JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG"} & os.environ.keys())


def keep_memory() -> None:
    """Let this process keep the memory it frees, if the C library is glibc.

    Otherwise a training step on a CPU returns its activations to the system and gets them back
    page by page, which costs several percent of the time (`make bench`, fit_against_bare_loop).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never trim the top of the heap
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: the largest allowed value


def openmp_settings() -> dict[str, str]:
    """Environment variables for a new kernel or process; they must be set before torch loads.

    On a CPU, OpenMP threads wait for each other by spinning, long enough to slow down
    both other jobs and themselves. GOMP_SPINCOUNT makes them sleep sooner. User settings are kept.
    """
    if torch.cuda.is_available() or {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        return {}
    return {"GOMP_SPINCOUNT": "1000"}


def progress_bar(total: int, what: str, **settings: Any) -> tqdm:
    """A progress bar with the time left, if somebody is watching (`progress_bars`).

    A kernel started by a command draws it in that command's terminal, not in the notebook.

    Args:
        total: Number of things to do.
        what: What is being done; shown before the bar.
        settings: Of tqdm, e.g. unit.
    """
    settings = {"desc": what, "leave": False, "dynamic_ncols": True} | settings
    name = os.environ.get("GREFEL_TERMINAL", "")
    if os.access(name, os.W_OK):  # after su it belongs to another user
        settings["file"] = open(name, "w")  # noqa: SIM115 - open as long as the bar
        return terminal_tqdm(total=total, disable=not progress_bars(), **settings)
    return tqdm(total=total, disable=not progress_bars(), **settings)


def progress_bars() -> bool:
    """Whether to show progress bars: in a terminal or an open notebook.

    GREFEL_PROGRESS=0 or 1 overrides. Headless runs get plain lines instead.
    """
    if "GREFEL_PROGRESS" in os.environ:
        return os.environ["GREFEL_PROGRESS"] == "1"
    return sys.stderr.isatty() or watched() or "GREFEL_TERMINAL" in os.environ


def _git(*arguments: str, folder: Path) -> str | None:
    """Output of git in a folder, ignoring GIT_DIR and similar variables."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def pick_device(name: str, *, occupy: bool = True) -> torch.device:
    """The device that a config asks for; auto is the GPU where there is one.

    Args:
        name: As in `Config.device`.
        occupy: False: only check that it exists, and leave a GPU to the process that trains.

    Raises:
        ValueError: torch does not know the device, or it is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
            raise RuntimeError(f"this machine has {count} GPUs")
        if device.type != "cuda" or occupy:
            torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); "
            f"use auto, cpu, cuda or cuda:N"
        ) from error
    return device


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """bf16 autocast if the config asks for it."""
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def memory_format(config: Config) -> torch.memory_format:
    """Of a network and its inputs: channels-last where the config asks for it."""
    return torch.channels_last if config.channels_last else torch.contiguous_format
