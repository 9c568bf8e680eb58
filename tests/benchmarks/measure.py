"""Two things timed in turn, in one process; their ratio is what counts, told with its spread."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from grefel_lib.environment import describe_environment

WIDEST = 2.0  # rounds whose largest ratio is more than so many times the smallest are no result


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
        Median seconds of each, and the rounds' ratios (ours / other).
    """
    for call in (ours, other):
        call()
    pairs = [(seconds(ours), seconds(other)) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    return {
        "ours_seconds": statistics.median(a for a, _ in pairs),
        "other_seconds": statistics.median(b for _, b in pairs),
        "ratios": ratios,
    }


def told(ratios: Sequence[float]) -> str:
    """The median of the rounds with the smallest and the largest, or that they are no result."""
    low, middle, high = (f"{f(ratios):#.3g}" for f in (min, statistics.median, max))
    if max(ratios) > WIDEST * min(ratios):
        return f"not a result: rounds from {low} to {high}"
    return f"{middle} ({low} to {high})" if len(ratios) > 1 else f"{middle} (one round)"


def load() -> float | None:
    """Processes that ran or waited to run, averaged over the last minute; None on Windows."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


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
