"""What a run ran on: versions, device, commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from typing import Any

from grefel_lib.config import PROJECT_ROOT


def describe() -> dict[str, Any]:
    """Versions, device, commit and dirty flag of this moment."""
    import torch

    packages = ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "gpu": gpu,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
    }


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
