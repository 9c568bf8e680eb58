"""One process of a training that several share: `python -m grefel_lib.commands.worker RUN`."""

import sys
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from grefel_lib.commands.notebook import cell_parameters, resolve
from grefel_lib.environment import pick_device
from grefel_lib.faces import load_faces
from grefel_lib.fit import fit
from grefel_lib.processes import join_processes
from grefel_lib.run import open_run, start_run


@record
def train_worker(overrides: Mapping[str, Any]) -> None:
    """Be one process of a training: on several machines, under torchrun.

    Args:
        overrides: Settings by name, as `grefel train` gets them; run_name is needed, so that all
            processes know the folder, which they share.

    Raises:
        ValueError: No run_name, or bad settings.
    """

    config = resolve(cell_parameters("train") | overrides)
    if not (config.run_name or config.resume):
        raise ValueError("under torchrun all processes must know the run folder: pass --run-name")
    world, _ = join_processes(pick_device(config.device))
    faces = load_faces(config)
    config = config.replace(processes=world.size)
    run = start_run(config, faces.info) if world.rank == 0 else None
    [run, *_] = world.gathered(run)
    fit(faces, run, say=_print)
    dist.destroy_process_group()


@record
def _work(path: str) -> None:

    run = open_run(path)
    fit(load_faces(run.config), run, say=_print)
    dist.destroy_process_group()


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    _work(sys.argv[1])
