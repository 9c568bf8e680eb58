"""Training one run in several processes: how they start and exchange results.

`grefel train --processes N` starts them on this machine, through torchrun; on several machines
torchrun starts `grefel train` itself: rank 0 runs the notebook, whose `fit` starts the process that
trains. Only that process writes to the run folder.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from grefel_lib.environment import openmp_settings
from grefel_lib.run import Run

PARENT = "GREFEL_PARENT"  # environment variable: the process that started torchrun
LEADS = "GREFEL_LEADS"  # that this is the notebook of rank 0, and the id of its torchrun
_ID = "TORCHELASTIC_RUN_ID"


class ProcessError(ValueError):
    """One of several training processes failed."""


@dataclass(frozen=True)
class World:
    """The processes that train together, and the rank of this one."""

    rank: int = 0
    size: int = 1

    def share(self, total: int) -> slice:
        """This process's part of `total` items; parts differ by at most one."""
        return slice(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gathered(self, item: Any) -> list[Any]:
        """The items of all processes, by rank."""
        items = [item]
        if self.size > 1:
            items = [None] * self.size
            dist.all_gather_object(items, item)
        return items

    def from_first(self, module: nn.Module) -> None:
        """Broadcast the parameters and buffers of rank 0."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    @contextlib.contextmanager
    def own_draws(self, device: torch.device, seed: int) -> Iterator[None]:
        """Use this process's own seed (dropout); shared random draws stay in sync."""
        if self.size == 1:
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return _ID in os.environ


def lead() -> None:
    """Make this rank 0 process, and its notebook, one that starts the process of rank 0."""
    os.environ[LEADS] = os.environ.pop(_ID)


def is_first_process() -> bool:
    """Whether this process writes the run folder; always true for a single process."""
    return not under_torchrun() or int(os.environ["RANK"]) == 0


def join_processes(device: torch.device) -> tuple[World, torch.device]:
    """Join the other training processes, if there are any.

    Args:
        device: As configured; with several GPUs, each process takes its own.

    Returns:
        The process group, and the device of this process.

    Raises:
        ValueError: More processes than GPUs on this machine.
    """
    if not under_torchrun():
        return World(), device
    if device.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(f"at most one process per GPU; this machine has {gpus}, so lower the "
                             f"number of processes (--processes), or use --device cpu")  # fmt: skip
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size()), device


def launch_processes(run: Run, *, say: Callable[[str], None]) -> None:
    """Train a run in `config.processes` processes on this machine, and wait for them.

    Where torchrun started this command on several machines, only rank 0 is started here.

    Args:
        run: A started run.
        say: Receives the lines of rank 0.

    Raises:
        ProcessError: Names the process that failed first, and its error; also in status.json.
    """
    count = run.config.processes
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = {"OMP_NUM_THREADS": str(threads), **openmp_settings(), **os.environ,
                   "GREFEL_PROGRESS": "0", PARENT: str(os.getpid())}  # fmt: skip
    with tempfile.TemporaryDirectory() as logs, tempfile.TemporaryFile("w+") as errors:
        command, who = ["-m", "grefel_lib.commands.worker", str(run.path)], "process 0"
        if LEADS in os.environ:
            Path(logs, "0").mkdir()
            environment |= {_ID: os.environ[LEADS],
                            "TORCHELASTIC_ERROR_FILE": f"{logs}/0/error.json"}  # fmt: skip
        else:
            who = "torchrun"
            command = ["-m", "torch.distributed.run", "--standalone",
                       f"--nproc-per-node={count}", f"--log-dir={logs}", *command]  # fmt: skip
        command = [sys.executable, *command]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process:
            try:
                for line in process.stdout:
                    say(line.rstrip("\n"))
            except BaseException:
                process.terminate()  # torchrun forwards it
                process.wait()
                run.write_ending({"status": "interrupted"})
                raise
        if process.returncode:
            errors.seek(0)
            message = f"{who} failed: it was killed by signal {-process.returncode}"
            if process.returncode > 0:  # else the processes failed only as a consequence
                message = _first_error(Path(logs), errors.read(), count)
            error = ProcessError(message)
            run.write_ending({"status": "failed", "error": str(error)})
            raise error


def _first_error(logs: Path, output: str, count: int) -> str:
    """The first failure; the other processes failed as a consequence."""
    ended = re.findall(r"rank\s*: (\d+)[^\n]*\n\s*exitcode\s*: -(\d+)", output)
    for rank, number in ended:
        if int(number) != signal.SIGTERM:  # torchrun's own, to the others
            return (f"process {rank} of {count} was killed by signal {number}; if memory ran out, "
                    f"lower micro_batch_size")  # fmt: skip
    files = sorted(logs.rglob("error.json"), key=lambda path: path.stat().st_mtime_ns)
    if files:
        message = json.loads(files[0].read_text())["message"]
        message = message["message"] if isinstance(message, Mapping) else message
        return f"process {files[0].parent.name} of {count}: {message}"
    return f"torchrun failed: {(output.strip().splitlines() or ['no output'])[-1]}"
