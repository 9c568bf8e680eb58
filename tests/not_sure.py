"""What the shipped model says of what is no face: python tests/not_sure.py [RUN DATA].

Counted are the answers (not "not sure") of `grefel predict --whole` for validation rows of FERPlus
that people called unknown or not a face, for 200 pictures without a face that pass as face crops,
and, as the cost, for validation faces. The pictures are patches of the photographs and textures
that come with scikit-image and scikit-learn, of 48 to 160 pixels, in which the detector finds no
face.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import skimage
import sklearn
from PIL import Image

from grefel_lib.config import PRETRAINED, Config
from grefel_lib.faces import load_faces
from grefel_lib.labels import VOTE_COLUMNS
from grefel_lib.predict import NOT_SURE, predict_files
from grefel_lib.restore import Trained, load_model
from grefel_lib.run import open_run
from grefel_lib.sources.layouts import find_source
from grefel_lib.sources.photo import find_faces, is_crop, read_photo

PATCHES = 200
PHOTOGRAPHS = (
    "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png",
    "retina.jpg", "rocket.jpg", "text.png", "logo.png", "color.png", "horse.png", "china.jpg",
    "flower.jpg",
)  # fmt: skip


def patches(count: int = PATCHES, *, seed: int = 0) -> list[np.ndarray]:
    """Squares of 48 to 160 pixels without a face, from all photographs in turn."""
    folders = (Path(skimage.__file__).parent / "data",
               Path(sklearn.__file__).parent / "datasets/images")  # fmt: skip
    paths = [next(f / n for f in folders if (f / n).is_file()) for n in PHOTOGRAPHS]
    pictures, rng, found = [read_photo(path) for path in paths], np.random.default_rng(seed), []
    while len(found) < count:
        picture = pictures[len(found) % len(pictures)]
        side = int(rng.integers(48, min(160, *picture.shape[:2]), endpoint=True))
        top, left = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
        patch = picture[top : top + side, left : left + side]
        if is_crop(patch) and not find_faces(patch):
            found.append(np.ascontiguousarray(patch))
    return found


def answered(trained: Trained, images: list[np.ndarray]) -> tuple[float, float]:
    """Share of the pictures that get a label, and that would by their confidence alone."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.png" for number in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(path)
        table, _, _ = predict_files(trained, paths, whole=True)
    labelled, sure = table["predicted"] != NOT_SURE, table["probability"] >= trained.not_sure_below
    return labelled.mean(), sure.mean()


def main(run: str | Path, data_dir: str = "") -> pd.DataFrame:
    """A row for each kind of picture: how many there are, and the shares of `answered`."""
    trained = load_model(open_run(run))
    config = trained.config.replace(data_dir=data_dir)
    val = load_faces(config).split("val")
    votes = ferplus_votes(config)
    images = {"validation faces": list(val.gather(np.arange(len(val))))}
    chosen = votes[["unknown", "NF"]].sum(axis=1) > votes[list(VOTE_COLUMNS)].sum(axis=1) / 2
    paths = votes.loc[chosen, "path"]
    images["rows that most people called unknown or no face"] = [read_photo(p) for p in paths]
    images["patches without a face"] = patches()
    rows = {name: (len(some), *answered(trained, some)) for name, some in images.items()}
    columns = ["pictures", "labelled", "by confidence alone"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def ferplus_votes(config: Config) -> pd.DataFrame:
    """The votes of FERPlus's validation rows that have a picture, and its path."""
    root = find_source(config).root
    table = pd.read_csv(root / "fer2013new.csv").dropna(subset="Image name")
    table = table[table["Usage"] == "PublicTest"]
    return table.assign(path=[root / "Images/FER2013Valid" / n for n in table["Image name"]])


if __name__ == "__main__":
    print(main(*(sys.argv[1:] or [PRETRAINED / "ferplus"])).round(3).to_string())
