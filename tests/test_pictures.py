"""Every picture is opened the same way; which files of a folder are pictures."""

import os
import shutil
import warnings

import numpy as np
import pytest
from drawn_layouts import write_layout
from PIL import Image

from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.sources import layouts
from grefel_lib.sources.layouts import IMAGE_SUFFIXES, decode, find_images, list_images
from grefel_lib.sources.photo import open_image, printable, read_photo

GREY = (np.arange(48 * 48).reshape(48, 48) * 255 // (48 * 48)).astype(np.uint8)
NOT_UTF8 = os.fsdecode(b"caf\xe9.png")


def read_both(path):
    """(48, 48) greys as predict and the panels read the file, and as the data sets do."""
    (in_data_set,) = decode([path], "L")
    photo = read_photo(path)
    assert photo.shape == (*in_data_set.shape, 3)
    return [photo[..., 0].astype(int), in_data_set.astype(int)]


def save_tree(path, *images, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, **options)
    return path


@pytest.mark.parametrize(
    ("values", "ending", "mode"),
    [
        (GREY.astype(np.uint16) * 257, "png", "I;16"),
        (GREY.astype(">u2") * 257, "tif", "I;16B"),
        (GREY.astype(np.uint16) * 257, "pgm", "I"),
        (GREY.astype(np.int32), "tif", "I"),
        (GREY.astype(np.int32) * 257, "tif", "I"),
        (GREY.astype(np.int32) * 2**22, "tif", "I"),
        (GREY.astype(np.float32) / 255, "tif", "F"),
        (GREY.astype(np.float32), "tif", "F"),
        (GREY.astype(np.float32) * 257, "tif", "F"),
    ],
)
def test_deep_pictures_are_scaled_to_8_bits(values, ending, mode, tmp_path):
    path = tmp_path / f"deep.{ending}"
    if mode == "I;16B":
        Image.frombytes("I;16B", (48, 48), values.tobytes()).save(path)
    else:
        Image.fromarray(values).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
    full = 1 if values.max() < 2 * 65535 else 255 / 254  # 2 ** 30 and more: up to the largest
    for read in read_both(path):
        assert abs(read - GREY * full).max() <= 1


def test_16_bits_keep_a_dark_picture_dark_and_what_is_no_number_is_black(tmp_path):
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "dark.png")
    assert (read_photo(tmp_path / "dark.png") == 1).all()
    values = np.array([[np.nan, -5, 0], [128, 255, -np.inf]], np.float32)
    Image.fromarray(values).save(tmp_path / "holes.tif")
    np.testing.assert_array_equal(
        read_photo(tmp_path / "holes.tif")[..., 0], [[0, 0, 0], [128, 255, 0]]
    )


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_says(orientation, deep, tmp_path):
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Image.Transpose
    upright = Image.fromarray(GREY[:, :32])
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    if deep:
        stored = Image.fromarray(np.asarray(stored).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "phone.png", exif=exif)
    for read in read_both(tmp_path / "phone.png"):
        np.testing.assert_array_equal(read, GREY[:, :32])


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM", b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x07", b"?"]
)
def test_damaged_exif_data_is_passed_over(exif, tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.png", exif=exif)
    for read in read_both(tmp_path / "x.png"):
        np.testing.assert_array_equal(read, GREY)


@pytest.mark.parametrize("ending", ["gif", "tif", "webp", "png", "mpo", "jpg"])
def test_of_several_pictures_in_a_file_the_first_is_read_and_that_is_said(ending, tmp_path, caplog):
    first, second = Image.new("L", (48, 48), 255), Image.new("L", (48, 48), 0)
    path = tmp_path / f"two.{ending}"
    more = {} if ending == "jpg" else {"save_all": True, "append_images": [second]}
    first.save(path, **more)
    assert (read_photo(path) == 255).all()
    told = f"{path} holds several pictures; the first is read"
    assert caplog.messages == [told] * (ending not in ("jpg", "mpo"))  # an mpo: a phone's photo


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "PA", "L"])
def test_what_is_transparent_is_white(mode, tmp_path):
    grey = Image.fromarray(np.array([[10, 10], [200, 10]], np.uint8))
    alpha = Image.fromarray(np.array([[255, 0], [255, 0]], np.uint8))
    options = {}
    if mode in ("L", "P"):
        image, options = (
            Image.fromarray(np.array([[10, 0], [200, 0]], np.uint8)),
            {"transparency": 0},
        )
        image = image.convert(mode)
    else:
        image = grey.convert("RGB" if mode == "RGBA" else "L")
        image.putalpha(alpha)
    path = tmp_path / "cut_out.png"
    if mode == "PA":
        image = image.convert("RGBA").quantize(8)
    image.save(path, **options)
    for read in read_both(path):
        np.testing.assert_array_equal(read, [[10, 255], [200, 255]])


@pytest.mark.parametrize(("mode", "ending"), [("CMYK", "jpg"), ("CMYK", "tif"), ("P", "png"),
                                              ("YCbCr", "jpg"), ("1", "png")])  # fmt: skip
def test_colours_keep_their_meaning_in_every_mode(mode, ending, tmp_path):
    image = Image.new("RGB", (16, 8), "white")
    image.paste((255, 0, 0) if mode != "1" else (0, 0, 0), (0, 0, 8, 8))
    path = tmp_path / f"x.{ending}"
    image.convert(mode).save(path)
    left = (255, 0, 0) if mode != "1" else (0, 0, 0)
    read = read_photo(path).astype(int)
    assert abs(read[4, 2] - left).max() <= 4
    assert abs(read[4, 13] - 255).max() <= 4
    red = round(0.299 * left[0])
    assert abs(np.asarray(open_image(path, "L")).astype(int)[4, 2] - red) <= 4


def test_grey_pixels_are_read_bit_for_bit(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.png")
    for read in read_both(tmp_path / "x.png"):
        np.testing.assert_array_equal(read, GREY)


@pytest.mark.parametrize("size", [8, None])
def test_pictures_of_a_data_set_wait_in_memory_at_their_final_size(size, tmp_path, monkeypatch):
    waiting = []

    class Pool(layouts.ThreadPoolExecutor):
        def map(self, *given):
            for image in super().map(*given):
                waiting.append(image.size)
                yield image

    monkeypatch.setattr(layouts, "ThreadPoolExecutor", Pool)
    files = [tmp_path / f"{side}.png" for side in (48, 96)]
    for file in files:
        Image.fromarray(GREY).resize((int(file.stem),) * 2).save(file)
    side = size or 48
    assert [face.shape for face in decode(files, "L", size=size)] == [(side, side)] * 2
    assert size is None or waiting == [(8, 8)] * 2


def bomb(path):
    Image.new("1", (20_000, 18_000)).save(path)


def truncated(path):
    Image.fromarray(GREY).save(path, "jpeg")
    path.write_bytes(path.read_bytes()[:-80])


def no_tags(path):
    path.write_bytes(b"II*\0\x08\0\0\0\xff\xff")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (bomb, r"Image size \(360000000 pixels\) exceeds limit"),
        (truncated, "truncated"),
        (no_tags, ""),
        (lambda path: path.write_text("hello"), r"tif\)$"),
        (lambda path: path.write_bytes(b""), r"tif\)$"),
        (lambda path: path.mkdir(), "a folder or a special file"),
        (os.mkfifo, "a folder or a special file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(make, told, tmp_path):
    path = tmp_path / "bad.png"
    make(path)
    with pytest.raises(ValueError, match=rf"bad\.png cannot be read as a picture.*{told}") as error:
        open_image(path)
    assert "\n" not in str(error.value)


def test_a_photograph_of_100_million_pixels_is_read_without_a_warning(tmp_path):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_photo(tmp_path / "large.png").shape == (10_000, 10_000, 3)


# -- the files of a folder


@pytest.fixture(scope="module")
def drawn_folders(tmp_path_factory):
    return write_layout(tmp_path_factory.mktemp("d") / "f", "fer2013_folders", images=220)


@pytest.fixture
def folders(drawn_folders, tmp_path):
    return shutil.copytree(drawn_folders, tmp_path / "f")


def load(folder):
    return load_faces(Config(dataset="fer2013", data_dir=str(folder)))


def test_hidden_files_and_folders_are_no_images_of_a_data_set(folders):
    face = sorted((folders / "train/happy").iterdir())[0]
    face.with_name(f"._{face.name}").write_bytes(b"\0\x05\x16\x07 Mac OS X")
    save_tree(face.parent / ".ipynb_checkpoints/x-checkpoint.jpg", Image.open(face))
    save_tree(folders / "train/.trash/happy/x.jpg", Image.open(face))
    assert len(load(folders).images) == 220


def test_a_class_folder_that_is_a_link_is_read(folders, tmp_path):
    whole = load(folders).counts()
    (folders / "train/happy").rename(tmp_path / "happy")
    (folders / "train/happy").symlink_to(tmp_path / "happy")
    (tmp_path / "happy/again").symlink_to(folders)  # a loop
    moved = load(folders).counts()
    assert whole["train"]["happiness"] > 9
    assert moved.equals(whole)


def test_an_image_of_a_data_set_that_is_a_broken_link_is_named(folders):
    (folders / "train/happy/Training_999.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(FileNotFoundError, match=r"Training_999\.jpg"):
        load(folders)


def test_endings_in_capitals_and_linked_files_are_images_and_folders_are_not(tmp_path):
    image = Image.fromarray(GREY)
    save_tree(tmp_path / "a/X.JPG", image)
    save_tree(tmp_path / "a/deeper/y.TiFF", image)
    (tmp_path / "a/folder.png").mkdir()
    (tmp_path / "a/notes.txt").write_text("")
    (tmp_path / "a/link.png").symlink_to("X.JPG")
    assert [file.name for file in list_images(tmp_path / "a")] == ["X.JPG", "link.png"]
    deep = [file.name for file in list_images(tmp_path / "a", deep=True)]
    assert deep == ["X.JPG", "y.TiFF", "link.png"]


def test_a_name_that_is_not_utf8_is_refused_in_a_data_set_and_read_in_a_folder(folders):
    face = sorted((folders / "train/happy").iterdir())[0]
    save_tree(face.with_name(NOT_UTF8), Image.open(face))
    with pytest.raises(ValueError, match=r"caf\\xe9\.png: this name is not UTF-8; rename it"):
        load(folders)
    files, unread = find_images([face.parent])
    assert face.with_name(NOT_UTF8) in files
    assert unread == []


def test_files_are_found_by_name_pattern_and_folder_each_once(tmp_path):
    image = Image.fromarray(GREY)
    for name in ("b.png", "a.jpg", "deep/c.png", "deep/.hidden/d.png", "odd[1].png", "odd1.png"):
        save_tree(tmp_path / name, image)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "empty").mkdir()

    def names(*paths, **options):
        files, unread = find_images([tmp_path / path for path in paths], **options)
        return [str(file.relative_to(tmp_path)) for file in files], unread

    # a link to nothing and a pipe are told when they are read
    here = ["a.jpg", "b.png", "gone.png", "odd1.png", "odd[1].png", "pipe.png"]
    assert names("") == (here, [])
    every = ["b.png", "deep/c.png", *here[2:]]
    assert names("", recursive=True) == (["a.jpg", *every], [])
    assert names("?.png", "b.png", "") == (["b.png", "a.jpg", *here[2:]], [])
    assert names("**/*.png") == (every, [])
    assert names("odd[1].png") == (["odd[1].png"], [])  # a name, although it is a pattern too
    for name in ("deep/phone.HEIC", "deep/clip.MOV"):  # a phone's; to be named if unreadable
        (tmp_path / name).write_bytes(b"")
    assert names("deep") == (["deep/c.png", "deep/clip.MOV", "deep/phone.HEIC"], [])
    (tmp_path / "above").mkdir()
    (tmp_path / "above/x").mkdir()
    for recursive in (False, True):
        [line] = names("above", recursive=recursive)[1]
        assert line.endswith("above; --recursive reads its subfolders too") != recursive
    files, unread = names("empty", "none.png", "*.gif", "a.jpg")
    assert files == ["a.jpg"]
    assert [line.split(str(tmp_path))[0] for line in unread] == [
        f"no image ({', '.join(IMAGE_SUFFIXES)}) in folder ",
        "no image or folder at ", "no image or folder at "]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("plain/é 漢.png", "plain/é 漢.png"),
        ("=1+1.png", "./=1+1.png"),
        ("+x.png", "./+x.png"),
        ("-x.png", "./-x.png"),
        ("@x.png", "./@x.png"),
        ("a=b.png", "a=b.png"),
        ("a\n\x1b[31m\t.png", "a\\n\\x1b[31m\\t.png"),
        ("right\u202eleft.png", "right\\u202eleft.png"),
        (NOT_UTF8, "caf\\xe9.png"),
    ],
)
def test_a_path_is_printed_so_that_it_does_nothing(name, told):
    assert printable(name) == told
