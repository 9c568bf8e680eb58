"""Two things timed in turn, in one process; their ratio is what counts."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from grefel_lib.environment import describe_environment


def seconds(call: Callable[[], Any]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def ratio(ours: Callable[[], Any], other: Callable[[], Any], *, rounds: int) -> dict[str, Any]:
    """Time two calls in turn, after one warm-up of each.

    Returns:
        Median seconds of each, the median of the rounds' ratios (ours / other) and all of them.
    """
    for call in (ours, other):
        call()
    pairs = [(seconds(ours), seconds(other)) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    return {
        "ours_seconds": statistics.median(a for a, _ in pairs),
        "other_seconds": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def machine() -> dict[str, Any]:
    """What this is measured on."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
        processor = names[0] if names else processor
    except OSError:
        pass  # not Linux
    facts = describe_environment()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    } | {name: facts[name] for name in ("python", "torch", "timm", "commit") if name in facts}
