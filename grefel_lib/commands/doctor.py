"""`grefel doctor`: what is installed and found here, what is fast, what to do about the rest."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.benchmark import Timer

from grefel_lib.backbone import check_backbone
from grefel_lib.config import DATA_DIRS, PRETRAINED, PROFILES, Config
from grefel_lib.environment import autocast, describe_environment, memory_format, pick_device
from grefel_lib.faces import cache_root, load_faces
from grefel_lib.files import relative
from grefel_lib.grefel import build_model
from grefel_lib.losses import total_loss
from grefel_lib.run import outputs_folder

LITTLE = 5e9  # bytes of free disk: less is mentioned


def examine() -> Iterator[str]:
    """The findings, a line each."""
    device = pick_device("auto")
    facts = {**describe_environment(), "device": device}
    yield from (f"{name:<14} {value}" for name, value in facts.items())
    times = step_times(device)
    for name, seconds in times.items():
        mark = "  fastest" * (seconds == min(times.values()))
        yield f"{name:<38} {1000 * seconds:6.0f} ms a step{mark}"
    yield from (f"{dataset:<14} {_data(dataset)}" for dataset in DATA_DIRS)
    for name, values in PROFILES.items():
        yield f"profile {name:<8} {_weights(Config(**values))}"
    names = sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))
    yield f"models that come with grefel: {', '.join(names)}"
    for folder, setting in ((outputs_folder(), "output_dir"), (cache_root(), "GREFEL_CACHE")):
        yield f"{relative(folder)}: {_room(folder, setting)}"


def step_times(device: torch.device, *, repeats: int = 3) -> dict[str, float]:
    """Seconds of a training step of the profile lite on 16 faces, by the settings it takes."""
    times = {}
    for precision, last in itertools.product(("fp32", "bf16"), (False, True)):
        settings = {"backbone_weights": "none", "precision": precision, "channels_last": last}
        config = Config.resolve({"profile": "lite", **settings})
        memory = memory_format(config)
        net = build_model(config, 8).to(device, memory_format=memory).train()
        faces = torch.randn(16, 3, 96, 96, device=device).contiguous(memory_format=memory)
        targets = torch.full((16, 8), 1 / 8, device=device)

        def step(config=config, net=net, faces=faces, targets=targets) -> None:
            with autocast(config, device):
                output = net(faces)
            total_loss(output, targets, config, None)["loss"].backward()

        timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
        flag = "channels_last" if last else "no channels_last"
        times[f"precision {precision}, {flag}"] = timer.timeit(repeats).median  # warmed up
    return times


def _data(dataset: str) -> str:
    try:
        counts = load_faces(Config(dataset=dataset)).counts().sum()
        return ", ".join(f"{count} {split}" for split, count in counts.items())
    except (ValueError, OSError) as error:
        return str(error)


def _weights(config: Config) -> str:
    try:
        check_backbone(config)
        return f"weights of {config.backbone}: {config.backbone_weights}"
    except (ValueError, OSError) as error:
        return str(error)


def _room(folder: Path, setting: str) -> str:
    """Whether a folder can be written, and the free space there."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        return f"cannot be written ({error.strerror}): set {setting} to another folder"
    little = f"; little: free some, or set {setting} to another disk" * (free < LITTLE)
    return f"writable, {free / 1e9:.0f} GB free{little}"
