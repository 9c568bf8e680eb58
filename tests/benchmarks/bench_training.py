"""What training costs beside the bare arithmetic of the backbone."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import measure
import numpy as np
import pandas as pd
import torch

from grefel_lib.config import Config
from grefel_lib.environment import autocast, memory_format, pick_device
from grefel_lib.faces import load_faces
from grefel_lib.fit import Training, fit, start_training, train_epoch
from grefel_lib.grefel import build_model
from grefel_lib.losses import total_loss
from grefel_lib.predict import to_input
from grefel_lib.run import start_run
from grefel_lib.sources.layouts import FERPLUS_FOLDERS, USAGES
from grefel_lib.sources.synthetic import write_synthetic


def silent(line: str) -> None:
    """Takes the lines of a training, and drops them."""


LITE = {"profile": "lite", "dataset": "ferplus", "backbone_weights": "none", "epochs": 1}


@contextlib.contextmanager
def drawn(images: int, **settings) -> Iterator[Config]:
    """The config of a run on as many drawn faces; everything is gone afterwards.

    Beyond a thousand the faces repeat: drawing them would take longer than what is measured.
    """
    with tempfile.TemporaryDirectory() as root:
        data = write_synthetic(Path(root) / "FERPlus", images=min(images, 1000))
        _repeat(data, images)
        places = {"data_dir": str(data), "output_dir": root, "run_name": "bench"}
        yield Config.resolve(LITE | settings | places)


def _repeat(data: Path, images: int) -> None:
    """Add copies of the faces, in files of their own, until there are as many as asked for."""
    path = data / "fer2013new.csv"
    table = pd.read_csv(path)
    copies = [table]
    for number in range(1, -(-images // len(table))):
        more = table.copy()
        more["Image name"] = f"{number}_" + table["Image name"]
        copies.append(more)
        for usage, old, new in zip(
            table["Usage"], table["Image name"], more["Image name"], strict=True
        ):
            folder = data / "Images" / FERPLUS_FOLDERS[USAGES[usage]]
            if isinstance(old, str):
                shutil.copyfile(folder / old, folder / new)
    pd.concat(copies).head(images).to_csv(path, index=False)


def started(config: Config) -> Training:
    """A training before its first epoch."""
    faces = load_faces(config)
    return start_training(faces, start_run(config, faces.info), say=silent)


def fit_against_bare_loop(quick: bool) -> dict:
    """An epoch of `fit`, without validation, against forward, backward and step alone.

    Ours gathers, augments, mixes, enlarges, clips, averages weights and keeps count; the bare loop
    has its batches ready on the device.
    """
    small = {"backbone": "test_resnet", "image_size": 48} if quick else {}
    with drawn(300 if quick else 1000, **small) as config:
        training = started(config)
        device, order = training.device, training.batches()
        batches = [
            (to_input(torch.from_numpy(training.train.gather(chosen)), training.net,
                                 config, device), torch.from_numpy(training.train.targets[chosen]))
            for chosen in order
        ]  # fmt: skip

        def bare() -> None:
            training.net.train()
            for images, targets in batches:
                with autocast(config, device):
                    output = training.net(images)
                total_loss(output, targets.to(device), config)["loss"].backward()
                training.optimizer.step()
                training.optimizer.zero_grad(set_to_none=True)

        found = measure.ratio(lambda: train_epoch(training, silent), bare, rounds=1 if quick else 5)
    return found | {"ours": "fit", "other": "bare loop", "wanted": "at most 1.05",
                    "backbone": config.backbone, "faces": sum(map(len, order))}  # fmt: skip


def head_against_backbone(quick: bool) -> dict:
    """GReFEL's head and losses for 64 faces against a step of ViT-Base with a linear head.

    The backbone's step is timed on 4 faces and counted 16 times, to fit into a small machine.
    """
    name, size, few = ("test_vit", 64, 4) if quick else ("vit_base_patch16_224", 224, 4)
    config = Config(backbone=name, image_size=size, backbone_weights="none")
    net = build_model(config, 8).train()
    plain = build_model(config.replace(head="linear"), 8).train()
    width = plain.backbone.num_features
    tokens = plain.backbone.forward_features(torch.rand(1, 3, size, size)).shape[1]
    tokens -= plain.backbone.num_prefix_tokens
    targets = torch.rand(64, 8).softmax(1)
    faces = torch.rand(few, 3, size, size)

    def head() -> None:
        pooled = torch.rand(64, width, requires_grad=True)
        output = net.head(pooled, torch.rand(64, tokens, width, requires_grad=True))
        total_loss(output, targets, config)["loss"].backward()

    def backbone() -> None:
        total_loss(plain(faces), targets[:few], config)["loss"].backward()

    found = measure.ratio(head, backbone, rounds=1 if quick else 5)
    found["ratios"] = (np.asarray(found["ratios"]) * few / 64).tolist()
    found["other_seconds"] *= 64 / few
    classes, anchors, inner = 8, config.num_anchors, config.embedding_dim
    keys_values = 2 * tokens * width * inner
    attention = keys_values + 2 * inner * inner + 2 * tokens * inner
    branches = width * inner + classes * anchors * inner + (width + inner) * classes
    return found | {
        "ours": "head and losses", "other": name, "wanted": "at most 0.02", "faces": 64,
        "multiplications_per_face": attention + branches, "of_keys_and_values": keys_values,
    }  # fmt: skip


def switches(quick: bool) -> dict:
    """bf16, channels-last and torch.compile against plain float32, a training step each."""
    found: dict[str, dict] = {}
    backbones = {"test_resnet": (48, 8)} if quick else {
        "tf_efficientnet_lite0": (96, 32), "vit_base_patch16_224": (224, 2)}  # fmt: skip
    ways = {"bf16": {"precision": "bf16"}, "channels_last": {"channels_last": True}}
    if not quick:
        ways |= {"compile": {"compile": True}}
    for name, (size, few) in backbones.items():
        stride = {"output_stride": 32} if name.startswith("tf") else {}
        plain = Config(backbone=name, image_size=size, backbone_weights="none", precision="fp32",
                       **stride)  # fmt: skip
        for way, change in ways.items():
            pair = (_step(plain.replace(**change), few), _step(plain, few))
            found[f"{name} {way}"] = measure.ratio(*pair, rounds=1 if quick else 3)
    return {
        "ours": "with the switch", "other": "float32", "wanted": "below 1 where a profile has it",
        "parts": found,
    }  # fmt: skip


def _step(config: Config, few: int):
    net = build_model(config, 8).train()
    device = pick_device("auto")
    memory = memory_format(config)
    net.to(device, memory_format=memory)
    forward = torch.compile(net) if config.compile else net
    images = torch.rand(few, 3, config.image_size, config.image_size)
    images = images.contiguous(memory_format=memory)
    images, targets = images.to(device), torch.rand(few, 8).softmax(1).to(device)

    def step() -> None:
        with autocast(config, device):
            output = forward(images)
        total_loss(output, targets, config)["loss"].backward()
        net.zero_grad(set_to_none=True)

    return step


def two_processes(quick: bool) -> dict:
    """Seconds of the training part of an epoch, two processes of a thread against one of two."""
    small = {"backbone": "test_resnet", "image_size": 48} if quick else {}
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with drawn(300 if quick else 700, **small) as config:
        faces = load_faces(config)
        for number in range(1 if quick else 3):
            for count in (2, 1):
                run = start_run(
                    config.replace(processes=count, run_name=f"p{count}-{number}"), faces.info
                )
                fit(faces, run)
                speed = run.history()["images_per_second"].iloc[-1]
                seconds[count].append(len(faces.split("train")) / speed)
    ratios = [a / b for a, b in zip(seconds[2], seconds[1], strict=True)]
    return {
        "ours": "two processes", "other": "one process", "wanted": "near 1 on the same cores",
        "ours_seconds": float(np.median(seconds[2])), "other_seconds": float(np.median(seconds[1])),
        "ratios": ratios, "backbone": config.backbone,
    }  # fmt: skip


def scale(quick: bool) -> dict:
    """1,000, 10,000 and 100,000 drawn faces: an epoch per face, memory, warm start, numbers."""
    import resource

    rows = {}
    for images in (300, 600) if quick else (1000, 10_000, 100_000):
        with drawn(images, profile="demo", epochs=1) as config:
            load_faces(config)  # fills the cache
            warm = measure.seconds(lambda config=config: load_faces(config))
            training = started(config)
            before = time.perf_counter()
            train_epoch(training, silent)
            rows[images] = {
                "warm_start_seconds": warm,
                "milliseconds_per_face": 1000 * (time.perf_counter() - before)
                / len(training.train),
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }  # fmt: skip
    first, last = rows[min(rows)], rows[max(rows)]
    return {"ours": f"{max(rows):,} faces", "other": f"{min(rows):,} faces", "rows": rows,
            "ratios": [last["milliseconds_per_face"] / first["milliseconds_per_face"]],
            "wanted": "near 1 a face; warm start under 2 s"}  # fmt: skip
