"""From files to the backbone's input, beside a conventional Dataset of single images."""

import tempfile
from pathlib import Path

import measure
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from grefel_lib.batches import augment, prepare_input, to_float
from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.sources.synthetic import write_synthetic

SIZE, BATCH = 224, 64
HALF = (0.5, 0.5, 0.5)


class Conventional(Dataset):
    """Opens, augments, enlarges and normalises one picture at a time."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.change = v2.Compose([
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(15, translate=(0.08, 0.08), scale=(0.9, 1.1)),
            v2.ColorJitter(brightness=0.2, contrast=0.2),
            v2.Resize((SIZE, SIZE)),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(HALF, HALF),
            v2.RandomErasing(0.25),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            return self.change(image.convert("RGB"))


def input_pipeline(quick: bool) -> dict:
    """The same faces and augmentations, by this library and one picture at a time, same cores.

    `host` is what stays on the CPU where a GPU augments: gathering uint8 faces from the cache.
    """
    with tempfile.TemporaryDirectory() as root:
        data = write_synthetic(Path(root) / "FERPlus", images=200 if quick else 1000)
        faces = load_faces(Config(dataset="ferplus", data_dir=str(data)))
        order = np.random.default_rng(0).permutation(len(faces))
        batches = np.array_split(order, range(BATCH, len(order), BATCH))
        paths = [data / file for file in faces.table["file"]]
        workers = torch.get_num_threads()
        loader = DataLoader(Conventional([paths[i] for i in order]), BATCH, num_workers=workers)

        def ours() -> None:
            for chosen in batches:
                floats = augment(to_float(faces.gather(chosen)), "standard")
                prepare_input(floats, SIZE, HALF, HALF)

        def host() -> None:
            for chosen in batches:
                torch.from_numpy(faces.gather(chosen))

        def conventional() -> None:
            for _ in loader:
                pass

        rounds = 1 if quick else 5
        whole = measure.ratio(ours, conventional, rounds=rounds)
        alone = measure.ratio(host, conventional, rounds=rounds)
    return {
        "ours": "this library", "other": "PIL and torchvision, an image at a time",
        "wanted": "5 times faster; 50 times on the host alone", "faces": len(order),
        "images_per_second": {
            "ours": len(order) / whole["ours_seconds"],
            "host": len(order) / alone["ours_seconds"],
            "conventional": len(order) / whole["other_seconds"],
        },
        "parts": {"whole": whole, "host": alone},
    }  # fmt: skip
