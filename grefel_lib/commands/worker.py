"""One process of multi-process training: `python -m grefel_lib.commands.worker RUN`."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import psutil
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from grefel_lib.commands.notebook import cell_parameters, resolve, run_command
from grefel_lib.config import Config
from grefel_lib.environment import pick_device
from grefel_lib.faces import FaceSet, load_faces
from grefel_lib.fit import fit
from grefel_lib.processes import PARENT, is_first_process, join_processes, lead
from grefel_lib.run import Run, open_run


@record
def train_worker(overrides: Mapping[str, Any]) -> None:
    """Run one process of multi-process training, on several machines, under torchrun.

    Rank 0 runs the notebook, whose training is its process.

    Args:
        overrides: Settings by name, as given to `grefel train`; run_name is required, so that all
            processes know the shared run folder.

    Raises:
        ValueError: No run_name, or bad settings.
    """
    config = resolve(cell_parameters("train") | overrides)
    if not (config.run_name or config.resume):
        raise ValueError("under torchrun, all processes must use the same folder: pass --run-name")
    if is_first_process():
        lead()
        run_command("train", {**overrides, "processes": int(os.environ["WORLD_SIZE"])})
    else:
        _watch_parents()
        _train(None, load_faces(config), config)


@record
def _work(path: str) -> None:
    _watch_parents()
    run = open_run(path)
    _train(run, load_faces(run.config), run.config)


def _train(run: Run | None, faces: FaceSet, config: Config) -> None:
    """Train with the others; rank 0 knows the run."""
    world, _ = join_processes(pick_device(config.device))
    [run, *_] = world.gathered(run)
    fit(faces, run, say=_print)
    dist.destroy_process_group()


def _watch_parents() -> None:
    pids = {os.getppid(), int(os.environ.get(PARENT, os.getppid()))}
    parents = [psutil.Process(pid) for pid in pids]
    threading.Thread(target=_end_with, args=parents, daemon=True).start()


def _end_with(*parents: psutil.Process) -> None:
    """End this process as soon as one of those that started it was killed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        while all(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in parents):
            time.sleep(1)
    if not is_first_process():
        time.sleep(2)  # rank 0 ends first, and does not take the loss of this one for a failure
    os._exit(1)


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # what started this process was killed, which is no failure of its own
        os._exit(1)


if __name__ == "__main__":
    _work(sys.argv[1])
