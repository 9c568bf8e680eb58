"""The classes of each data set, the meaning of its label codes, and the colour of each class."""

from collections.abc import Iterable

# FERPlus column order. Every seven-class set uses the first seven.
EMOTIONS = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
)  # fmt: skip
BASIC = EMOTIONS[:7]
COMPOUND = (
    "happily surprised", "happily disgusted", "sadly fearful", "sadly angry", "sadly surprised",
    "sadly disgusted", "fearfully angry", "fearfully surprised", "angrily surprised",
    "angrily disgusted", "disgustedly surprised",
)  # fmt: skip
VOTE_COLUMNS = (*EMOTIONS, "unknown", "NF")  # fer2013new.csv, after Usage and Image name
_FER2013 = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
_RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
_AFFECTNET = (
    "neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt",
)  # fmt: skip
RAFDB_ATTRIBUTES = {  # codes of RAF-DB's manual annotation files, in the order of their lines
    "gender": {"0": "male", "1": "female", "2": "unsure"},
    "race": {"0": "Caucasian", "1": "African-American", "2": "Asian"},
    "age_group": {"0": "0-3", "1": "4-19", "2": "20-39", "3": "40-69", "4": "70+"},
}

# Folder names seen in the wild, for image folders sorted by emotion.
FOLDER_NAMES = {
    "angry": "anger", "anger": "anger", "disgust": "disgust", "disgusted": "disgust",
    "fear": "fear", "fearful": "fear", "happy": "happiness", "happiness": "happiness",
    "sad": "sadness", "sadness": "sadness", "surprise": "surprise", "surprised": "surprise",
    "neutral": "neutral", "contempt": "contempt", "contemptuous": "contempt",
}  # fmt: skip
CLASS_NAMES = {  # of the published sets; those of a user's own set come from its files
    "synthetic": EMOTIONS,
    "ferplus": EMOTIONS,
    "fer2013": BASIC,
    "rafdb": BASIC,
    "rafdb_compound": COMPOUND,
    "affectnet7": BASIC,
    "affectnet8": EMOTIONS,
}
CODES = {  # label code in the published files -> class
    "fer2013": dict(enumerate(_FER2013)),
    "rafdb": dict(enumerate(_RAFDB, start=1)),
    "rafdb_compound": dict(enumerate(COMPOUND, start=1)),
    "affectnet7": dict(enumerate(_AFFECTNET[:7])),
    "affectnet8": dict(enumerate(_AFFECTNET)),
}
NO_CLASS = -1  # label of a face that belongs to none of the classes
LEFT_OUT = {  # codes of such faces: none, uncertain, no face; of seven classes also contempt
    "affectnet7": (7, 8, 9, 10),
    "affectnet8": (8, 9, 10),
}

# Format of each set's faces: side of the square in pixels, and Pillow mode (grey or colour).
FORMATS = {
    "synthetic": (48, "L"), "ferplus": (48, "L"), "fer2013": (48, "L"),
    "rafdb": (100, "RGB"), "rafdb_compound": (100, "RGB"),
    "affectnet7": (112, "RGB"), "affectnet8": (112, "RGB"),
}  # fmt: skip

VALIDATION_AS_TEST = "validation set as test"  # AffectNet's: it has no public test split

# Faces of the published files in train, validation and test, with hard labels and all copies, by
# data set and protocol. Without a validation split, ours is part of train.
PUBLISHED = {
    ("ferplus", "official"): (25060, 3199, 3153),
    ("ferplus", "argmax"): (28389, 3553, 3546),
    ("ferplus", "all"): (28559, 3579, 3573),
    ("fer2013", ""): (28709, 3589, 3589),
    ("rafdb", ""): (12271, 0, 3068),
    ("affectnet7", VALIDATION_AS_TEST): (283901, 0, 3500),
    ("affectnet8", VALIDATION_AS_TEST): (287651, 0, 3999),
}

# Okabe and Ito's colour-blind-safe palette; the compound classes take Paul Tol's "muted" one.
_OKABE_ITO = (
    "#7F7F7F", "#E69F00", "#56B4E9", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000",
)  # fmt: skip
_TOL_MUTED = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255",
    "#AA4499", "#555555", "#BBBBBB",
)  # fmt: skip
COLOURS = dict(zip(EMOTIONS + COMPOUND, _OKABE_ITO + _TOL_MUTED, strict=True))


def own_classes(names: Iterable[str]) -> dict[str, str]:
    """Name in a user's own files -> class, in the order of the classes.

    If all are emotions, under whichever of their names, these in the order of `EMOTIONS`;
    otherwise the names themselves, sorted.
    """
    names = sorted(set(names))
    emotions = {name: FOLDER_NAMES.get(name.lower(), "") for name in names}
    if not all(emotions.values()):
        return {name: name for name in names}
    return dict(sorted(emotions.items(), key=lambda pair: EMOTIONS.index(pair[1])))


def check_names(names: Iterable[str], place: str) -> None:
    """Reject two names of one class, such as Happy and happiness.

    Raises:
        ValueError: Names them, and the place.
    """
    meant: dict[str, str] = {}
    for name in names:
        other = meant.setdefault(FOLDER_NAMES.get(name.lower(), name.lower()), name)
        if other != name:
            raise ValueError(
                f"{place} has the classes {other} and {name}, which mean one; give them one name"
            )


def class_index(dataset: str, code: int) -> int:
    """Translate a data set's own label code to its index in `CLASS_NAMES[dataset]`.

    A code in `LEFT_OUT` gives NO_CLASS.

    Raises:
        ValueError: The data set has no such code; the message lists those it has.
    """
    codes = CODES[dataset]
    if code in LEFT_OUT.get(dataset, ()):
        return NO_CLASS
    if code not in codes:
        known = ", ".join(f"{number} {name}" for number, name in codes.items())
        raise ValueError(f"{dataset} has no label code {code!r}; it has: {known}")
    return CLASS_NAMES[dataset].index(codes[code])
