"""From photographs to a set of face crops, by the detector that `grefel predict` uses."""

from pathlib import Path

import pandas as pd
from PIL import Image

from grefel_lib.environment import progress_bar
from grefel_lib.files import Folder, whole_folder
from grefel_lib.sources.layouts import IMAGE_SUFFIXES, LEFT_OUT, PHONE_SUFFIXES, list_images
from grefel_lib.sources.photo import crop_box, find_faces, is_crop, printable, read_photo


def crop_faces(source: Path, dest: Path) -> tuple[int, pd.DataFrame]:
    """Write the face of every photograph under a folder to the same place under another, as PNG.

    A photograph without a face or with several is left out; a face crop (`is_crop`) in which none
    is found is taken whole. What was left out is listed in LEFT_OUT. `dest` stays as it was until
    all is written.

    Args:
        source: <class>/, or train/<class>/ and test/<class>/, with photographs.
        dest: A new or empty folder that does not lie in `source`, nor `source` in it.

    Returns:
        How many crops were written; and file, reason of every picture that was left out.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: One folder lies in the other, `dest` is not empty, or there is no image in
            `source`.
    """
    inside, outside = source.resolve(), dest.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise ValueError(
            f"one of {dest} and {source} lies inside the other; name a folder beside {source}"
        )
    files = list_images(source, deep=True, endings=IMAGE_SUFFIXES + PHONE_SUFFIXES)
    if not files:
        raise ValueError(f"no image in {source} or its subfolders")
    written, rows = set(), []
    with whole_folder(dest) as whole:
        bar = progress_bar(len(files), "finding faces", unit=" pictures")
        for file in files:
            bar.update()
            try:
                picture = read_photo(file)
            except (ValueError, OSError) as error:
                rows.append((printable(file), str(error).removeprefix(f"{printable(file)} ")))
                continue
            boxes = find_faces(picture)
            if len(boxes) != 1 and (boxes or not is_crop(picture)):
                rows.append((printable(file), f"{len(boxes) or 'no'} face{'s' * (len(boxes) > 1)}"))
                continue
            path = file.relative_to(source).with_suffix(".png")
            if path in written:  # of a picture with the same name and another ending
                path = path.with_name(f"{file.name}.png")
            crop = crop_box(picture, boxes[0]) if boxes else picture
            Image.fromarray(crop).save(Folder(whole).file(*path.parts))
            written.add(path)
        bar.close()
        left_out = pd.DataFrame(rows, columns=["file", "reason"])
        if written:
            Folder(whole).write_table(left_out, LEFT_OUT)
    return len(written), left_out
