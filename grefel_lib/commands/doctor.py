"""`grefel doctor`: what is installed and found here, what is fast, what to do about the rest."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from timm import get_pretrained_cfg

from grefel_lib.config import DATA_DIRS, PRETRAINED, PROFILES, PROJECT_ROOT, Config
from grefel_lib.environment import autocast, describe_environment, memory_layout, pick_device
from grefel_lib.faces import cache_root, load_faces
from grefel_lib.files import relative
from grefel_lib.grefel import build_model
from grefel_lib.losses import total_loss
from grefel_lib.run import outputs_folder

LITTLE = 5e9  # bytes of free disk: less is mentioned


def examine() -> Iterator[str]:
    """The findings, a line each."""
    for name, value in describe_environment().items():
        yield f"{name:<14} {value}"
    device = pick_device("auto")
    yield f"{'device':<14} {device}" + "; a GPU trains ViT-Base, a CPU the profile lite" * (
        device.type == "cpu"
    )
    times = step_times(device)
    fastest = min(times, key=times.get)
    for name, seconds in times.items():
        mark = "  fastest" if name == fastest else ""
        yield f"{name:<38} {1000 * seconds:6.0f} ms a step{mark}"
    for dataset in DATA_DIRS:
        yield f"{dataset:<14} {_data(dataset)}"
    for backbone in dict.fromkeys(
        config.backbone for config in map(_profile, PROFILES) if config.backbone_weights == "hub"
    ):
        repository = get_pretrained_cfg(backbone).hf_hub_id or "-"
        here = isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)
        mend = "not here: go online once, or set backbone_weights to a file"
        yield f"weights of {backbone}: {'here' if here else mend}"
    names = sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))
    yield f"models that come with grefel: {', '.join(names)}"
    for folder, setting in ((outputs_folder(), "output_dir"), (cache_root(), "GREFEL_CACHE")):
        yield f"{relative(folder)}: {_room(folder, setting)}"


def step_times(device: torch.device, *, repeats: int = 3) -> dict[str, float]:
    """Seconds of a training step of the profile lite on 16 faces, by the settings it takes."""
    times = {}
    for precision in ("fp32", "bf16"):
        for last in (False, True):
            config = Config.resolve(
                {"profile": "lite", "backbone_weights": "none", "precision": precision,
                 "channels_last": last}
            )  # fmt: skip
            memory = torch.channels_last if last else torch.contiguous_format
            net = build_model(config, 8).to(device, memory_format=memory).train()
            faces = memory_layout(torch.randn(16, 3, 96, 96, device=device), config)
            targets, seconds = torch.full((16, 8), 1 / 8, device=device), []
            for _ in range(repeats + 1):  # the first one warms up
                start = time.perf_counter()
                with autocast(config, device):
                    output = net(faces)
                total_loss(output, targets, config, None)["loss"].backward()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - start)
            flag = "channels_last" if last else "no channels_last"
            times[f"precision {precision}, {flag}"] = statistics.median(seconds[1:])
    return times


def _profile(name: str) -> Config:
    return Config(**PROFILES[name])


def _data(dataset: str) -> str:
    if dataset != "synthetic" and not (PROJECT_ROOT / DATA_DIRS[dataset]).is_dir():
        return f"not in {DATA_DIRS[dataset]}: pass data_dir, or see data/README.md"
    try:
        counts = load_faces(Config(dataset=dataset)).table["split"].value_counts()
        return ", ".join(f"{counts.get(split, 0)} {split}" for split in ("train", "val", "test"))
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
    size = sum(os.stat(path).st_size for path in folder.rglob("*") if path.is_file())
    little = f"; little: free some, or set {setting} to another disk" * (free < LITTLE)
    return f"writable, {size / 1e9:.1f} GB there, {free / 1e9:.0f} GB free{little}"
