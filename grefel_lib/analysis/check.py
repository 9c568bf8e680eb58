"""What is on disk: layout, faces by class and split, what is dropped and why, copies, warnings."""

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from grefel_lib.config import Config
from grefel_lib.faces import FEWEST, SPLITS, FaceSet, load_faces
from grefel_lib.files import relative
from grefel_lib.labels import PUBLISHED
from grefel_lib.sources.layouts import IMAGE_SUFFIXES, find_source
from grefel_lib.sources.photo import open_image

SMALL, STRETCHED = 40, 1.25  # pixels of the shorter side; longer side / shorter side


def check_data(config: Config) -> dict[str, Any]:
    """Read a data set as training would, and say what was found.

    Args:
        config: dataset, data_dir, protocol and the other settings of group data.

    Returns:
        JSON content: dataset, layout, folder, pictures (files), sizes ("48 x 48": number of
        files), unreadable (files, with the error), counts (class -> split -> faces that training
        uses), dropped (reason -> split -> faces), copies ("train, test" -> faces of the first
        split with the pixels of a face of the second), subjects ("train, test" -> subjects of
        both splits), published and here (split -> hard labels, copies included; where known),
        warnings, and problems: why training could not start.
    """
    facts: dict[str, Any] = {"dataset": config.dataset, "warnings": [], "problems": []}
    try:
        source = find_source(config)
        facts |= {"layout": source.kind, "folder": relative(source.root)}
        _pictures([f for f in source.files if f.suffix.lower() in IMAGE_SUFFIXES], facts)
        if source.kind.endswith(("-original", "-lists")):  # pictures, of which boxes are cut out
            facts["warnings"].clear()
        if not facts["unreadable"]:
            with _unsaid():
                whole = load_faces(config.replace(
                    drop_leaks=False, use_soft_labels=False, train_protocol="", label_fixes=""
                ))  # fmt: skip
                _faces(load_faces(config), whole, facts)
            _published(config, whole, facts)
    except (ValueError, OSError) as error:
        facts["problems"].append(" ".join(str(error).split()))
    return facts


@contextmanager
def _unsaid() -> Iterator[None]:
    """Without the warnings of `load_faces`, which the facts hold; a damaged cache is an error."""
    log = logging.getLogger(load_faces.__module__)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _pictures(files: list[Path], facts: dict[str, Any]) -> None:
    def size(file: Path) -> tuple[int, int] | str:
        try:
            return open_image(file).size
        except ValueError as error:
            return str(error)

    sizes: list[tuple[int, int] | str] = []
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(files), 256):  # so that Ctrl-C seldom meets it handing out work
            sizes += pool.map(size, files[start : start + 256])
    unreadable = [text for text in sizes if isinstance(text, str)]
    common = Counter(pair for pair in sizes if not isinstance(pair, str)).most_common()
    facts |= {
        "pictures": len(files),
        "sizes": {f"{wide} x {high}": count for (wide, high), count in common},
        "unreadable": unreadable,
    }
    if unreadable:
        facts["problems"].append(
            f"unreadable pictures: {len(unreadable)}, the first: {unreadable[0]}"
        )
    stretched = sum(n for pair, n in common if max(pair) > STRETCHED * min(pair))
    small = sum(n for pair, n in common if min(pair) < SMALL)
    for count, what in (
        (stretched, "far from square, and stretched to a square (crop them to the face)"),
        (small, f"smaller than {SMALL} pixels"),
    ):
        if count:
            facts["warnings"].append(f"pictures {what}: {count} of {len(files)}")


def _faces(faces: FaceSet, whole: FaceSet, facts: dict[str, Any]) -> None:
    counts, info = faces.counts(), faces.info
    facts["counts"] = {name: row.to_dict() for name, row in counts.iterrows()}
    facts["dropped"] = {
        "no label": info["no_label"],
        "copy of a validation or test face": {"train": info["leaks_dropped"]},
        "copy of a test face": {"val": info["validation_copies_dropped"]},
    }
    facts["copies"] = _shared(whole, "image_hash")
    held_out = whole.table["image_hash"][whole.table["split"] != "train"]
    unlabelled = whole.info["leaks"] - whole.split("train").table["image_hash"].isin(held_out).sum()
    if unlabelled:
        facts["copies"]["train, faces without a label"] = int(unlabelled)
    facts["subjects"] = _shared(whole, "subject") if "subject" in whole.table else {}
    facts["warnings"] += [*info["warnings"], *_warnings(counts, facts["subjects"])]
    torn = whole.table.groupby("image_hash")["label"].transform("nunique") > 1
    if torn.any():
        facts["warnings"].append(
            f"faces with the same pixels and different labels: {torn.sum()}, the first: "
            f"{whole.table['id'][torn].iloc[0]}"
        )
    for split in ("train", "val"):
        if counts[split].sum() < FEWEST:
            facts["problems"].append(
                f"the {split} split has {counts[split].sum()} faces; at least {FEWEST} are needed"
            )


def _shared(faces: FaceSet, column: str) -> dict[str, int]:
    """For each two splits: rows of the first (or different subjects) that occur in the second."""
    values = {name: faces.split(name).table[column].dropna() for name in SPLITS}
    if column == "subject":
        values = {name: part.drop_duplicates() for name, part in values.items()}
    return {
        f"{one}, {other}": int(values[one].isin(values[other]).sum())
        for one, other in combinations(SPLITS, 2)
    }


def _warnings(counts: pd.DataFrame, subjects: dict[str, int]) -> Iterator[str]:
    for split in SPLITS:
        empty = counts.index[counts[split] == 0]
        if len(empty) == len(counts):
            yield f"no {split} faces"
        elif len(empty):
            yield f"no {split} faces of {', '.join(empty)}"
    for splits, count in subjects.items():
        if count:
            yield f"subjects in both {splits.replace(', ', ' and ')}: {count}"


def _published(config: Config, whole: FaceSet, facts: dict[str, Any]) -> None:
    """Counts of the published files and of those here; our own split of train counts as train."""
    protocol = whole.info["protocol"]
    published = PUBLISHED.get((config.dataset, protocol))
    if not published:
        return
    here = whole.counts().sum().to_dict()
    if not published[1]:
        here |= {"train": here["train"] + here["val"], "val": 0}
    facts["published"], facts["here"] = dict(zip(SPLITS, published, strict=True)), here
    if here != facts["published"]:
        facts["warnings"].append("the numbers of faces differ from those of the published files")


def describe(facts: dict[str, Any]) -> str:
    """The facts of `check_data` as aligned text."""
    lines = [f"{name:<9}{facts[name]}" for name in ("dataset", "layout", "folder") if name in facts]
    if facts.get("pictures"):
        sizes = [f"{size} ({count:,})" for size, count in facts["sizes"].items()]
        others = len(sizes) - 3
        sizes[3:] = [f"and {others} other size{'s' * (others > 1)}"] if others > 0 else []
        lines.append(f"pictures {facts['pictures']:,}: {', '.join(sizes)}")
    rows = list(facts.get("counts", {}).items())  # a class may be called "all"
    if rows:
        rows.append(("all", {split: sum(row[split] for _, row in rows) for split in SPLITS}))
        dropped = facts["dropped"].items()
        rows += [(f"dropped: {why}", n) for why, n in dropped if any(n.values())]
    if "published" in facts:
        rows += [("published", facts["published"]), ("here, counted alike", facts["here"])]
    width = max((len(name) for name, _ in rows), default=0) + 2
    if rows:
        lines.append("class".ljust(width) + "".join(f"{split:>9}" for split in SPLITS))
    for name, row in rows:
        lines.append(name.ljust(width) + "".join(f"{row.get(split, 0):>9,}" for split in SPLITS))
    for pair, count in facts.get("copies", {}).items():
        one, other = pair.split(", ")
        lines.append(f"{one} faces with an exact copy in {other}: {count:,}")
    for kind in ("warning", "problem"):
        lines += [f"{kind}: {text}" for text in facts[f"{kind}s"]]
    return "\n".join(lines)
