"""The built-in synthetic data: drawn faces with simulated votes, in FERPlus layout."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image

from grefel_lib.files import whole_folder
from grefel_lib.labels import EMOTIONS, VOTE_COLUMNS

# fmt: off
# Emotions that people confuse with each one, in the order of labels.EMOTIONS.
_CONFUSED = np.array([(3, 4, 7), (0, 0, 2), (6, 6, 0), (0, 0, 5), (5, 5, 0), (4, 4, 3), (2, 2, 3),
                      (0, 0, 1)])

# How often each class occurs in FERPlus.
_COUNTS = (8740, 7287, 3149, 3014, 2100, 119, 532, 119)
SIZE = 48  # side in pixels
_FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}


# fmt: on


def mix_emotions(emotions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn the emotion index (N,) of each face into its true mixture (N, 8).

    A share, usually small, goes to neutral and to an emotion that people confuse with the main one.
    """
    rows, mixtures = np.arange(len(emotions)), np.zeros((len(emotions), 8))
    share = 0.7 * rng.beta(1.2, 3.0, len(emotions))
    faint = share * rng.uniform(0, 1, len(emotions))
    mixtures[rows, emotions] = 1 - share
    mixtures[rows, _CONFUSED[emotions, rng.integers(0, 3, len(emotions))]] += share - faint
    mixtures[:, 0] += faint
    return mixtures


def simulate_votes(mixtures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let ten simulated annotators vote on each face.

    Args:
        mixtures: (N, 8) true emotions of each face; rows sum to one.
        rng: Source of the annotators' choices.

    Returns:
        (N, 10) counts in the order of `labels.VOTE_COLUMNS`.
    """
    confusion = np.array([np.bincount(others, minlength=8) / 3 for others in _CONFUSED])
    seen = mixtures**1.5 / (mixtures**1.5).sum(axis=1, keepdims=True)
    shares = np.tile([0.0] * 8 + [0.02, 0.005], (len(mixtures), 1))
    shares[:, :8] = 0.975 * (0.9 * seen + 0.1 * seen @ confusion)
    return rng.multinomial(10, shares)


def write_synthetic(dest: Path, *, images: int = 3000, seed: int = 0) -> Path:
    """Write drawn faces in the file layout of FERPlus; a seed fixes every byte.

    Args:
        dest: A new or empty folder; left unchanged if writing fails.
        images: Rows of the data set, 100 to 1,000,000.
        seed: Random seed; another seed draws other people.

    Returns:
        `dest`.

    Raises:
        NotADirectoryError: `dest` is a file.
        ValueError: Too few or too many images, a negative seed, or `dest` is not empty.
    """
    dest = Path(dest)
    if not 100 <= images <= 1_000_000:
        raise ValueError(f"images={images} is not within 100 and 1000000")
    if seed < 0:
        raise ValueError(f"seed={seed} is negative; use 0 or more")
    with whole_folder(dest) as whole:
        rows = []
        for usage, name, votes, face in ferplus_rows(images, seed):
            rows.append((usage, name, *votes))
            if name:
                path = whole / "Images" / _FOLDERS[usage] / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(face).save(path)
        table = pd.DataFrame(rows, columns=["Usage", "Image name", *VOTE_COLUMNS])
        table.to_csv(whole / "fer2013new.csv", index=False, lineterminator="\n")
    return dest


def deal_classes(counts: Sequence[int], total: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffled class indices (N,), imbalanced like the counts, but with a few of each class."""
    shares = np.array(counts) / sum(counts)
    dealt = np.rint(shares * total).astype(int)
    dealt = np.maximum(dealt, max(total // 50, min(total // (2 * len(shares)), 8), 1))
    dealt[np.argmax(shares)] += total - dealt.sum()
    return rng.permutation(np.repeat(np.arange(len(shares)), dealt))


def ferplus_rows(images: int, seed: int) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yield each row's usage, image name (empty: not a face), votes (10,) and image (48, 48)."""
    rng, tenth, rows = np.random.default_rng([seed, 1]), images // 10, np.arange(images)
    sizes, emotions = (images - 2 * tenth, tenth, tenth), []
    for size in sizes:
        odd = [-2] + [-1] * (size // 200 + 1)  # a face without an emotion vote, and non-faces
        emotions.append(rng.permutation([*deal_classes(_COUNTS, size - len(odd), rng), *odd]))
    emotions, split, source = np.concatenate(emotions), np.repeat([0, 1, 2], sizes), rows.copy()
    mixtures = mix_emotions(np.maximum(emotions, 0), rng)

    # Copies replace only faces of common classes, so that rare classes keep their few faces.
    common, count = np.isin(emotions, (0, 1)), max(6, images // 50)
    copies = rng.choice(rows[common & (split == 0)], count - 1, replace=False)
    copies = [*copies, rng.choice(rows[common & (split == 2)])]
    origins = [0, 1, 2, *rng.choice(3, count - 4, p=(0.5, 0.2, 0.3)), 1]
    original = (emotions >= 0) & ~np.isin(rows, copies)
    for copy, origin in zip(copies, origins, strict=True):
        source[copy] = rng.choice(rows[original & (split == origin)])
    mixtures = mixtures[source]

    votes = simulate_votes(mixtures, rng)
    unsure = np.where(emotions == -2, 6, rng.integers(0, 3, images))[emotions < 0]
    votes[emotions < 0] = 0
    votes[emotions < 0, 8:] = np.stack([unsure, 10 - unsure], axis=1)
    twin, short = copies[0], rows[(emotions == 0) & (split == 0) & original][0]
    if np.array_equal(votes[twin], votes[source[twin]]):  # one name, two different rows of votes
        votes[twin] = np.roll(votes[twin], 1)
    votes[short, np.argmax(votes[short])] -= 1  # one row of nine votes

    usages = tuple(_FOLDERS)
    for row in rows:
        own = np.random.default_rng([seed, 2, source[row]])
        face = draw_non_face(own) if emotions[row] == -1 else draw_face(mixtures[row], own)
        number = source[row] if row == twin else row
        name = "" if emotions[row] == -1 else f"fer{number:07d}.png"
        yield usages[split[row]], name, votes[row], face


# fmt: off
# What a full expression adds to a neutral face: lengths in half face widths, or fractions.
EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "happiness": {"corner": 0.27, "width": 0.15, "gap": 0.15, "teeth": 1.0, "squint": 0.6,
                  "fold": 0.8, "outer_brow": 0.04},
    "surprise": {"inner_brow": 0.20, "outer_brow": 0.22, "lid": 0.11, "gap": 0.30, "width": -0.12,
                 "forehead": 0.8, "jaw": 0.14},
    "sadness": {"inner_brow": 0.18, "outer_brow": -0.12, "knit": 0.05, "lid": -0.06,
                "corner": -0.21, "width": -0.04, "frown": 0.3},
    "anger": {"inner_brow": -0.18, "outer_brow": 0.07, "knit": 0.09, "lid": 0.03, "squint": 0.3,
              "corner": -0.09, "gap": 0.09, "teeth": 1.0, "frown": 0.9, "press": 0.6},
    "disgust": {"inner_brow": -0.12, "outer_brow": -0.05, "knit": 0.05, "lid": -0.07, "squint": 0.7,
                "corner": -0.14, "gap": 0.09, "teeth": 0.5, "upper_lip": 0.16, "wrinkle": 0.9,
                "fold": 0.9},
    "fear": {"inner_brow": 0.25, "outer_brow": 0.05, "knit": 0.10, "lid": 0.12, "corner": -0.11,
             "gap": 0.16, "teeth": 0.8, "width": 0.15, "forehead": 0.5, "frown": 0.4, "jaw": 0.05},
    "contempt": {"one_sided": 0.26, "lid": -0.06, "squint": 0.25, "cocked": 0.15, "press": 0.4,
                 "fold": 0.2},
}
PARTS = tuple(sorted({part for parts in EXPRESSIONS.values() for part in parts}))
_VECTORS = np.array([[EXPRESSIONS[e].get(part, 0.0) for part in PARTS] for e in EMOTIONS])

# One person in one pose and lighting: every value is uniform between its two bounds.
_RANGES = {
    "tone": (0, 4), "dye": (0, 4.4), "style": (0, 6), "beard": (-1.6, 0.8), "age": (-0.5, 1),
    "jaw": (0.10, 0.28), "chin": (1.18, 1.32), "top": (1.25, 1.38), "hairline": (-0.95, -0.74),
    "part": (-0.5, 0.5), "phase": (0, 6.3), "side": (-1, 1), "glasses": (0, 1), "iris": (20, 100),
    "eye_x": (0.37, 0.45), "eye_w": (0.20, 0.25), "eye_h": (0.085, 0.12), "tilt": (-0.03, 0.05),
    "brow_y": (-0.45, -0.37), "brow_w": (0.028, 0.062), "arch": (0.03, 0.10),
    "nose_w": (0.15, 0.22), "nose_y": (0.28, 0.38), "lips": (0.05, 0.10), "red": (0.6, 0.85),
    "mouth_w": (0.32, 0.41), "mouth_y": (0.68, 0.76), "smile": (-0.04, 0.04), "ajar": (0.45, 1.15),
    "roll": (-0.22, 0.22), "yaw": (-0.20, 0.20), "pitch": (-0.06, 0.06), "scale": (0.86, 1.10),
    "right": (-0.17, 0.17), "down": (-0.15, 0.15), "light": (0, 6.3), "contrast": (0.10, 0.50),
    "exposure": (0.75, 1.15), "grain": (1.5, 7.0), "blur": (0, 0.5),
}
_LOW, _HIGH = np.array(list(_RANGES.values())).T
_SKINS = np.array([(246, 216, 196), (226, 180, 150), (196, 146, 112), (148, 102, 74),
                   (104, 70, 52)])
_HAIRS = np.array([(30, 26, 26), (62, 42, 30), (112, 76, 46), (196, 160, 98), (168, 166, 164)])
_STYLES = {"short": 0.05, "parted": 0.08, "fringe": 0.09, "long": 0.09, "curly": 0.14, "bald": 0.0}


# fmt: on


def draw_face(mixture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one face. The same generator state gives the same person, pose and light.

    Args:
        mixture: (8,) weight of each of `labels.EMOTIONS`; 1 is the full expression, all zeros a
            neutral face.
        rng: Source of identity, pose, light and noise.

    Returns:
        (48, 48) uint8.
    """
    return Sketch(mixture, rng, (SIZE, SIZE), (SIZE / 2, SIZE / 2), 0.385 * SIZE).picture()


class Sketch:
    """One drawn face. Lengths are in half face widths, x to the right and y down."""

    def __init__(self, mixture, rng, shape, centre, radius, colour=False):
        p = SimpleNamespace(**dict(zip(_RANGES, rng.uniform(_LOW, _HIGH).tolist(), strict=True)))
        gains = rng.uniform(0.75, 1.2, len(PARTS)) * np.where(np.isin(PARTS, "gap"), p.ajar, 1)
        parts = dict(zip(PARTS, (mixture @ _VECTORS * gains).tolist(), strict=True))
        self.p, self.rng, self.channels = p, rng, 3 if colour else 1
        p.style, p.side, p.age = list(_STYLES)[int(p.style)], 1 if p.side > 0 else -1, max(p.age, 0)
        p.skin = np.array([np.interp(p.tone, range(5), channel) for channel in _SKINS.T])
        p.hair = _HAIRS[min(int(p.dye), 4 if p.tone < 2.5 else 1)]
        self.radius = radius * p.scale
        self.pixel, self.turn = 1 / self.radius, (float(np.cos(p.roll)), float(np.sin(p.roll)))
        self.centre = (centre[0] + p.right * radius, centre[1] + p.down * radius)
        rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
        bx = (columns + 0.5 - self.centre[0]) * self.pixel
        by = (rows + 0.5 - self.centre[1]) * self.pixel
        self.x = x = bx * self.turn[0] + by * self.turn[1]
        self.y = y = by * self.turn[0] - bx * self.turn[1]
        # Turning the head moves the features but hardly the outline.
        u, v = x - p.yaw * np.maximum(1 - (x / 1.1) ** 2, 0), y - p.pitch
        tint = rng.uniform(50, 215) + rng.uniform(-18, 18, 3)
        self.values = np.ones((self.channels, *shape), dtype=np.float32) * self.tone(tint)
        for fx, fy, phase in rng.uniform((-2, -2, 0), (2, 2, 6.28), (3, 3)).tolist():
            self.values *= 1 + 0.12 * np.sin(fx * bx + fy * by + phase)
        self.head(p, parts.get("jaw", 0), bx, by)
        for draw in (self.eyes, self.nose, self.mouth, self.hair, self.brows, self.glasses):
            draw(p, SimpleNamespace(**parts), u, v, np.abs(u), (u * p.side > 0).astype(np.float32))

    def tone(self, rgb):
        if np.ndim(rgb) == 0:
            return float(rgb)
        if self.channels == 1:
            return float(0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2])
        return np.asarray(rgb, dtype=np.float32)[:, None, None]

    def cover(self, distance, soft=1.1):
        return np.clip(0.5 - distance * (1 / (soft * self.pixel)), 0, 1)

    def paint(self, mask, rgb):
        self.values += mask * (self.tone(rgb) - self.values)

    def shade(self, mask, amount):
        self.values *= 1 - float(amount) * mask

    def crease(self, distance, amount):
        self.shade(self.cover(distance, 1.6), min(max(amount, 0), 0.6))

    def picture(self):
        p, x, y = self.p, self.x, self.y
        depth = np.sqrt(np.maximum(1.15 - (x / 1.1) ** 2 - (y / 1.45) ** 2, 0.02))
        slope = float(np.cos(p.light)) * x + float(np.sin(p.light)) / 1.3 * y
        lit = np.clip(0.72 + 0.30 * depth + p.contrast * slope, 0.35, 1.35)
        values = self.values * ((1 + self.face * (lit - 1)) * p.exposure)
        near = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode="edge")
        around = near[:, :-2, 1:-1] + near[:, 2:, 1:-1] + near[:, 1:-1, :-2] + near[:, 1:-1, 2:]
        values += p.blur * (around / 4 - values)
        values += p.grain * self.rng.standard_normal(values.shape[1:], dtype=np.float32)
        values = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(values.transpose(1, 2, 0)) if len(values) == 3 else values[0]

    def head(self, p, jaw, bx, by):
        x, y, ears = self.x, self.y, _oval(np.abs(self.x), self.y, 1.0, 0.08, 0.13, 0.26)
        if p.style == "long":
            self.paint(self.cover(_oval(bx, by, 0, 0.2, 1.22, 1.75)), 0.75 * p.hair)
        elif p.style == "curly":
            bumps = 0.05 * np.sin(11 * x + p.phase) * np.sin(9 * y)
            self.paint(self.cover(_oval(x, y, 0, -0.45, 1.26, 1.18) + bumps), 0.85 * p.hair)
        self.paint(self.cover(np.maximum(np.abs(bx) - 0.55, 0.3 - by)), 0.62 * p.skin)
        self.paint(self.cover(1.50 + 0.16 * bx * bx - by), 235 - p.hair[::-1])
        self.paint(self.cover(ears) * (p.style != "long"), 0.85 * p.skin)
        self.face = self.cover(_outline(p, x, y, jaw))
        self.paint(self.face, p.skin)
        if p.beard > 0 and p.style not in ("long", "fringe"):
            cheek = np.clip(3 * (y - 0.30 - 0.45 * np.maximum(1 - np.abs(x), 0)), 0, 1)
            self.paint(self.face * cheek * (0.2 + p.beard), 0.9 * p.hair + 12)

    def eyes(self, p, e, u, v, x, sided):
        cx, w = p.eye_x, p.eye_w
        lid = np.clip(p.eye_h + 0.75 * e.lid + 0.09 * e.cocked * sided, 0.025, 0.25)
        low = max(p.eye_h * (0.75 - 0.5 * e.squint) + 0.2 * max(e.lid, 0), 0.015)
        droop, t = 0.25 * max(-e.outer_brow, 0) - 0.8 * p.tilt, (x - cx) / w
        bow, line, ends = np.maximum(1 - t * t, 0), v + 0.1 - droop * t, np.abs(x - cx) - w
        upper, lower = -lid * np.sqrt(bow), low * bow
        self.shade(_blob(x, v, cx - 0.04, -0.14, 0.34, 0.24), 0.20)
        self.shade(_blob(x, v, cx, 0.1 + low, 0.22, 0.06), 0.10 + 0.14 * p.age)
        eye, disc = self.cover(_between(upper, line, lower, ends)), _oval(x, v, cx, -0.1, 0.1, 0.1)
        self.paint(eye, 232)
        self.paint(eye * self.cover(disc), p.iris * np.array([0.75, 1.0, 1.1]))
        self.paint(eye * self.cover(disc + 0.05), 8)
        self.paint(eye * self.cover(_oval(x, v, cx + 0.03, -0.145, 0.026, 0.026)), 255)
        lash = self.cover(np.maximum(np.abs(line - upper) - 0.024, ends - 0.01))
        self.paint(0.85 * lash, 0.18 * p.skin)
        self.paint(0.5 * self.cover(np.maximum(np.abs(line - lower) - 0.008, ends)), 0.3 * p.skin)
        hood, bag = (-0.1, -0.2 - 1.3 * lid, -0.1 + droop), (0.05 + low, 0.12 + low, low)
        self.crease(_stroke(x, v, cx - w, cx + 1.05 * w, hood, 0.006), 0.25)
        self.crease(_stroke(x, v, cx - 0.18, cx + 0.24, bag, 0.012), 0.4 * e.squint)

    def nose(self, p, e, u, v, x, sided):
        y, w = p.nose_y - 0.06 * e.wrinkle, p.nose_w
        self.shade(_blob(u, v, 0.13 * p.side, 0.08, 0.07, 0.3), 0.20)
        self.shade(_blob(u, v, -0.02 * p.side, 0.05, 0.07, 0.3), -0.10)
        self.shade(_blob(u, v, 0, y - 0.02, 0.1, 0.09), -0.10)
        self.shade(_blob(u, v, 0, y + 0.12, 1.2 * w, 0.05), 0.28)
        wing = (y - 0.08, y - 0.1, y + 0.07)
        self.crease(_stroke(x, v, 0.7 * w, (1.25 + 0.2 * e.wrinkle) * w, wing, 0.012), 0.3)
        self.paint(0.75 * self.cover(_oval(x, v, 0.52 * w, y + 0.065, 0.065, 0.033)), 0.22 * p.skin)
        wide = 0.06 * e.fold + 0.5 * max(e.width, 0)
        fold = _stroke(v, x, y - 0.02, y + 0.40, (1.3 * w, 0.37 + wide, 0.44 + wide), 0.014)
        self.crease(fold, 0.10 + 0.2 * p.age + 0.4 * max(e.fold, 0))
        self.shade(_blob(x, v, 0.55, 0.30 - 0.05 * e.fold, 0.2, 0.16), -0.12 * e.fold)
        self.crease(_stroke(v, x, -0.55, -0.22, (0.05, 0.09, 0.07), 0.014), 0.55 * e.frown)
        for step in (0, 1, 2):
            down, level = 0.1 * step - 0.12, p.brow_y - 0.36 + 0.11 * step - 0.08 * e.forehead
            wrinkle = _stroke(x, v, 0.02, 0.19, (down, down + 0.01, down + 0.09), 0.014)
            self.crease(wrinkle, 0.45 * e.wrinkle)
            line = _stroke(u, v, -0.55, 0.55, (level + 0.04, level - 0.04, level + 0.04), 0.012)
            self.crease(line, 0.42 * e.forehead + 0.12 * p.age)

    def mouth(self, p, e, u, v, x, sided):
        wide, gap, lift = max(p.mouth_w + e.width, 0.12), max(e.gap, 0), p.smile + e.corner
        t, y = u / wide, p.mouth_y - 0.02 + 0.25 * e.jaw
        bow, ends = np.maximum(1 - t * t, 0), (np.abs(t) - 1) * wide
        arch, pull = np.sqrt(bow), np.clip(0.5 + 0.5 * p.side * t, 0, 1) ** 3
        line = y - lift * (t * t - 0.45) - e.one_sided * (pull - 0.15)
        top = line - (0.35 * gap + 0.5 * e.upper_lip) * arch
        bottom = line + (gap + 0.15 * e.upper_lip) * arch
        full = p.lips * (1 - 0.7 * min(max(e.press, 0), 1)) * bow
        if p.beard > 0.3 and p.style not in ("long", "fringe"):
            moustache = _stroke(u, v, -0.4, 0.4, (y - 0.06, y - 0.36, y - 0.06), 0.08)
            self.paint(0.85 * self.cover(moustache, 1.8), 0.9 * p.hair + 8)
        self.shade(_blob(u, v, 0, y + gap + 0.26, 0.22, 0.07), 0.22)
        dip = 1 - 0.35 * np.exp(-((t / 0.22) ** 2))
        lips = self.cover(_between(top - 0.8 * full * dip, v, bottom + 1.15 * full, ends))
        self.paint(0.85 * lips, p.skin * p.red * np.array([1, 0.72, 0.72]))
        inside = self.cover(_between(top, v, bottom, ends)) * min(gap / 0.03, 1)
        self.paint(inside, (52, 22, 24))
        tongue = _oval(u, v, 0, y + 1.05 * gap, 0.55 * wide, 0.45 * gap + 0.02)
        self.paint(0.7 * inside * self.cover(tongue), (130, 62, 62))
        teeth = self.cover(v - top - (0.06 + 0.62 * gap) * np.sqrt(arch))
        self.paint(inside * teeth * min(max(e.teeth, 0), 1), 236)
        seam = self.cover(np.maximum(np.abs(v - line) - 0.018, ends - 0.02))
        self.paint(0.9 * seam * max(1 - gap / 0.05, 0), 0.22 * p.skin)
        end = y - 0.55 * lift - 0.85 * e.one_sided * sided
        self.shade(_blob(x, v, wide, end, 0.05, 0.05), 0.4)
        dent = _stroke(v - end, x, -0.16, 0.10, (wide + 0.06, wide + 0.13, wide + 0.07), 0.014)
        self.shade(self.cover(dent, 1.6) * sided, min(1.6 * max(e.one_sided, 0), 0.5))

    def hair(self, p, e, u, v, x, sided):
        x, y, thick = self.x, self.y, _STYLES[p.style]
        if p.style == "bald":
            return self.shade(self.face * _blob(x, y, -0.25, -1.0, 0.3, 0.2), -0.15)
        fall = {
            "short": 0.75 * np.abs(x) ** 3,
            "parted": 0.65 * np.abs(x - p.part) ** 1.5 - 0.1,
            "fringe": 0.20 + 0.25 * x**6 + 0.03 * np.sin(14 * x + p.phase),
            "long": 0.95 * np.abs(x - 0.5 * p.part) ** 2 - 0.05,
            "curly": 0.06 * np.sin(11 * x + p.phase) + 0.8 * np.abs(x) ** 3,
        }
        line = p.hairline + fall[p.style]
        skull = _outline(p, x / (1 + thick), (y + 0.3 * thick) / (1 + thick))
        low = 0.6 if p.style == "long" else 0.9 * (1.12 - np.abs(x))
        hair = self.cover(np.maximum(np.maximum(skull, y - line), y - low), 1.6)
        if p.style == "long":
            locks = np.abs(np.abs(x) - 1.06 - 0.04 * np.sin(4 * y)) - 0.16
            hair = np.maximum(hair, self.cover(_between(-0.5, y, 1.5, locks), 1.6))
        self.shade(self.face * (1 - hair) * np.clip(1 - 5 * (y - line), 0, 1) * (y < 0), 0.18)
        self.paint(hair, p.hair)
        gloss = 0.08 * np.sin(20 * (x - p.part) / (1.5 + y * (y < 0)) + p.phase)
        self.shade(hair * (gloss + 0.3 * _blob(x, y, -0.3, -1.05, 0.7, 0.16)), -1)

    def brows(self, p, e, u, v, x, sided):
        cocked = e.cocked * (1.3 * sided - 0.3)
        inner = p.brow_y - e.inner_brow - 0.4 * cocked
        outer = p.brow_y - e.outer_brow - 0.9 * cocked
        middle = 0.45 * inner + 0.55 * outer - p.arch - 0.35 * max(e.outer_brow, 0)
        heights = (inner + 0.02, middle, outer + 0.03)
        brow = _stroke(x, v, 0.15 - e.knit, p.eye_x + 0.32, heights, p.brow_w)
        self.paint(0.9 * self.cover(brow, 1.4), np.minimum(0.75 * p.hair, 0.55 * p.skin))

    def glasses(self, p, e, u, v, x, sided):
        if p.glasses < 0.14:
            lens, arm = _oval(x, v, p.eye_x, -0.06, 0.33, 0.27), np.abs(x - 0.88) - 0.14
            bridge = _stroke(u, v, -0.12, 0.12, (-0.08, -0.14, -0.08), 0.02)
            frame = np.minimum(np.abs(lens) - 0.02, _between(-0.14, v, -0.10, arm))
            self.paint(self.cover(np.minimum(frame, bridge)), 28)


def _oval(x, y, cx, cy, rx, ry):
    """Approximate signed distance to an ellipse, accurate near its edge."""
    return (np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2) - 1) * min(rx, ry)


def _blob(x, y, cx, cy, rx, ry):
    return np.exp(-(((x - cx) / rx) ** 2) - ((y - cy) / ry) ** 2)


def _between(low, value, high, ends):
    return np.maximum(np.maximum(low - value, value - high), ends)


def _stroke(x, y, start, stop, heights, width):
    """Signed distance to a tapered stroke from x = start to stop, through three heights."""
    first, middle, last = heights
    t = (x - start) / (stop - start)
    rise, bend = 4 * middle - 3 * first - last, 2 * first - 4 * middle + 2 * last
    slope = (rise + 2 * bend * t) / (stop - start)
    taper = 0.45 + 0.55 * np.clip(4 * t * (1 - t), 0, 1)
    band = np.abs(y - first - t * (rise + bend * t)) / np.sqrt(1 + slope * slope) - width * taper
    return np.maximum(band, (np.abs(t - 0.5) - 0.5) * abs(stop - start))


def _outline(p, x, y, jaw=0.0):
    wide = 1 - p.jaw * np.clip(y / p.chin, 0, 1.1) ** 1.8
    tall = np.where(y > 0, p.chin + jaw, p.top)
    return (np.abs(x / wide) ** 2.2 + np.abs(y / tall) ** 2.4) ** 0.45 - 1


def draw_non_face(rng: np.random.Generator) -> np.ndarray:
    """Draw something other than a face, (48, 48) uint8: a blank, a texture or an object."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    kind, (tone, fx, fy) = rng.integers(3), rng.uniform((60, 4, 4), (160, 12, 12))
    texture = 50 * np.sin(fx * x + fy * y) * np.sin(fy * x * y)
    box = 60 * np.tanh(20 * (np.maximum(np.abs(x) * fx, np.abs(y) * fy) - 3))
    picture = tone + (0, texture, box)[kind] + rng.normal(0, 4, (SIZE, SIZE)) * (kind > 0)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
