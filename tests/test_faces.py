"""Data sets: vote rules by hand, layouts, splits, leaks, the cache."""

import os
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from drawn_layouts import write_layout
from PIL import Image

from grefel_lib.analysis.evaluation import training_facts
from grefel_lib.commands.notebook import resolve_evaluation
from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.faces import SPLITS, ferplus_targets, load_faces
from grefel_lib.fit import fit
from grefel_lib.labels import CODES, EMOTIONS, VOTE_COLUMNS
from grefel_lib.run import check_same_data, start_run

NEU, HAP, SUR, SAD, ANG, DIS, FEA, CON, UNK, NF = range(10)


def row(**votes):
    counts = np.zeros(10)
    for name, number in votes.items():
        counts[VOTE_COLUMNS.index(name)] = number
    return counts


def hard(counts, protocol):
    targets, keep = ferplus_targets(counts[None], protocol, soft=False)
    return int(targets[0].argmax()) if keep[0] else None


def soft(counts, protocol):
    targets, keep = ferplus_targets(counts[None], protocol, soft=True)
    found = {EMOTIONS[i]: round(float(v), 4) for i, v in enumerate(targets[0]) if v}
    return found if keep[0] else None


# -- the rules, clause by clause


@pytest.mark.parametrize(
    ("votes", "official", "argmax", "every"),
    [
        (row(sadness=10), SAD, SAD, SAD),
        # single votes go: 4 of 6 is more than half, 4 of 10 is not
        (row(sadness=4, neutral=2, anger=1, fear=1, disgust=1, unknown=1), SAD, SAD, SAD),
        (row(sadness=4, neutral=2, anger=2, fear=2), None, SAD, SAD),
        # exactly half is not a majority
        (row(neutral=5, happiness=5), None, NEU, NEU),
        (row(unknown=6, happiness=4), None, None, HAP),
        (row(NF=6, happiness=4), None, None, HAP),
        # a tie takes the first column, so an emotion wins against unknown
        (row(happiness=4, unknown=4, fear=2), None, HAP, HAP),
        (row(unknown=5, NF=5), None, None, None),
        (row(), None, None, None),
        # a row of nine votes
        (row(surprise=5, fear=4), SUR, SUR, SUR),
    ],
)
def test_hard_labels_by_hand(votes, official, argmax, every):
    assert hard(votes, "official") == official
    assert hard(votes, "argmax") == argmax
    assert hard(votes, "all") == every


@pytest.mark.parametrize(
    ("votes", "found"),
    [
        (row(happiness=10), {"happiness": 1.0}),
        # 6 of 8 kept votes are 75%: the second column is not taken
        (row(sadness=6, neutral=2, anger=1, fear=1), {"sadness": 1.0}),
        (row(sadness=5, neutral=5), {"neutral": 0.5, "sadness": 0.5}),
        (row(neutral=4, anger=3, disgust=2, sadness=1), {"neutral": 0.5714, "anger": 0.4286}),
        # unknown ends the taking: happiness alone has half of the votes, which is too few
        (row(happiness=5, unknown=5), None),
        (row(happiness=6, unknown=4), {"happiness": 1.0}),
        (row(unknown=6, happiness=4), None),
        # three columns tie with a fourth: more than three are too many
        (row(neutral=2, happiness=2, surprise=2, sadness=2, anger=2), None),
        (row(neutral=4, fear=3, anger=3), {"neutral": 0.4, "fear": 0.3, "anger": 0.3}),
        (row(neutral=1, happiness=1), None),
    ],
)  # fmt: skip
def test_official_soft_targets_by_hand(votes, found):
    assert soft(votes, "official") == found


def test_other_protocols_keep_every_emotion_vote():
    votes = row(neutral=4, anger=1, unknown=5)
    assert soft(votes, "argmax") is None
    assert soft(votes, "all") == {"neutral": 0.8, "anger": 0.2}
    assert soft(row(neutral=4, anger=1, unknown=3), "argmax") == {"neutral": 0.8, "anger": 0.2}


def test_targets_are_distributions_or_dropped_for_any_votes():
    votes = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), size=3000)
    votes[:50] = 0
    for protocol in ("official", "argmax", "all"):
        for kind in (True, False):
            targets, keep = ferplus_targets(votes, protocol, soft=kind)
            assert np.isfinite(targets).all()
            np.testing.assert_allclose(targets.sum(axis=1), keep)
            assert 0 < keep.sum() < len(votes)


# -- FERPlus on disk


def load(folder, dataset="ferplus", **changes):
    return load_faces(Config(dataset=dataset, data_dir=str(folder), **changes))


@pytest.fixture
def mutable(faces_dir, tmp_path):
    return shutil.copytree(faces_dir, tmp_path / "FERPlus")


def same(ours, theirs):
    pd.testing.assert_frame_equal(
        ours.table.drop(columns="file"), theirs.table.drop(columns="file")
    )
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.targets, theirs.targets)


def test_the_three_image_locations_give_the_same_faces(faces_dir, mutable):
    straight = load(faces_dir)
    (mutable / "Images").rename(mutable / "data")
    same(load(mutable), straight)
    for folder in list((mutable / "data").iterdir()):
        folder.rename(mutable / folder.name)
    same(load(mutable), straight)
    same(load(mutable.parent), straight)  # the folder that holds FERPlus/


def test_without_images_pixels_come_from_fer2013_csv_by_row(faces_dir, mutable):
    write_layout(mutable.parent / "fer", "fer2013", images=400, seed=1)
    shutil.move(mutable.parent / "fer/fer2013.csv", mutable.parent / "fer2013.csv")
    shutil.rmtree(mutable / "Images")
    faces = load(mutable)
    same(faces, load(faces_dir))
    assert "row by row" in faces.info["warnings"][0]
    lines = (mutable.parent / "fer2013.csv").read_text().splitlines()
    (mutable.parent / "fer2013.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"has 400 rows but .* has 399"):
        load(mutable)


def test_pixels_and_votes_stay_together(faces_dir):
    faces = load(faces_dir)
    for position in (0, len(faces) // 2, len(faces) - 1):
        picture = np.asarray(Image.open(faces_dir / faces.table["file"][position]))
        np.testing.assert_array_equal(faces.gather(np.array([position]))[0], picture)
    raw = pd.read_csv(faces_dir / "fer2013new.csv")
    numbers = faces.table["id"].str.split("_").str[1].astype(int)
    np.testing.assert_array_equal(raw["happiness"].to_numpy()[numbers], faces.table["happiness"])


def test_rows_without_a_name_are_dropped_and_repeated_names_stay(faces_dir):
    raw = pd.read_csv(faces_dir / "fer2013new.csv")
    assert raw["Image name"].isna().any()
    assert raw["Image name"].dropna().duplicated().any()
    faces = load(faces_dir, protocol="all", drop_leaks=False)
    votes = raw[list(EMOTIONS)].sum(axis=1)
    assert len(faces) == (raw["Image name"].notna() & (votes > 0)).sum()
    assert faces.table["id"].is_unique


def test_soft_labels_are_for_training_only(faces_dir):
    faces = load(faces_dir)
    assert ((faces.split("train").targets > 0).sum(axis=1) > 1).any()
    for split in ("val", "test"):
        part = faces.split(split)
        np.testing.assert_array_equal(part.targets.max(axis=1), 1)
        np.testing.assert_array_equal(part.targets.argmax(axis=1), part.table["label"])
    hard_ones = load(faces_dir, use_soft_labels=False)
    assert set(np.unique(hard_ones.targets)) == {0, 1}


def test_agreement_is_the_labels_share_of_the_emotion_votes(faces_dir):
    table = load(faces_dir).table
    votes = table[list(EMOTIONS)].to_numpy()
    mine = votes[np.arange(len(table)), table["label"]]
    np.testing.assert_allclose(table["agreement"], mine / votes.sum(axis=1))


def test_training_copies_of_held_out_faces_are_dropped_and_the_test_split_stays(faces_dir):
    dropped, whole = load(faces_dir), load(faces_dir, drop_leaks=False)
    held_out = set(whole.table["image_hash"][whole.table["split"] != "train"])
    before = whole.split("train").table
    assert dropped.info["leaks_dropped"] == before["image_hash"].isin(held_out).sum() > 0
    assert whole.info["leaks"] == dropped.info["leaks_dropped"]
    assert whole.info["leaks_dropped"] == 0
    assert not dropped.split("train").table["image_hash"].isin(held_out).any()
    pd.testing.assert_frame_equal(dropped.split("test").table, whole.split("test").table)
    pd.testing.assert_frame_equal(dropped.split("val").table, whole.split("val").table)


def test_validation_faces_that_are_test_faces_choose_no_checkpoint(faces_dir, tmp_path):
    shutil.copytree(faces_dir, tmp_path / "FERPlus")
    folder = {name: tmp_path / "FERPlus/Images" / name for name in ("FER2013Valid", "FER2013Test")}
    names = {name: sorted(p.glob("*.png")) for name, p in folder.items()}
    for val, test in zip(names["FER2013Valid"][:3], names["FER2013Test"][:3], strict=True):
        shutil.copy(test, val)
    dropped = load(tmp_path / "FERPlus", protocol="all")
    whole = load(tmp_path / "FERPlus", protocol="all", drop_leaks=False)
    in_test = set(whole.split("test").table["image_hash"])
    copies = int(whole.split("val").table["image_hash"].isin(in_test).sum())
    assert len(whole.split("val")) - len(dropped.split("val")) == copies >= 3
    assert dropped.info["validation_copies"] == dropped.info["validation_copies_dropped"] == copies
    assert (whole.info["validation_copies"], whole.info["validation_copies_dropped"]) == (copies, 0)
    shared = set(dropped.split("val").table["image_hash"])
    assert not shared & set(dropped.split("test").table["image_hash"])
    assert len(dropped.split("test")) == len(whole.split("test"))


# -- other sets


@pytest.mark.parametrize("layout", ["fer2013", "fer2013_folders"])
def test_fer2013_layouts_agree_on_labels(layout, tmp_path):
    folder = write_layout(tmp_path / "f", layout, images=200)
    write_layout(tmp_path / "p", "fer2013", images=200)
    codes = pd.read_csv(tmp_path / "p/fer2013.csv")
    faces = load(folder, "fer2013", drop_leaks=False)
    expected = codes["emotion"].map(CODES["fer2013"]).value_counts().to_dict()
    found = faces.table["label"].map(dict(enumerate(faces.class_names))).value_counts().to_dict()
    assert found == expected
    sizes = faces.table["split"].value_counts()
    assert sizes.to_dict() == {"train": 160, "val": 20, "test": 20}


def test_image_folders_without_prefixes_get_a_stratified_validation_split(tmp_path):
    folder = write_layout(tmp_path / "f", "fer2013_folders", images=300)
    for file in list(folder.glob("test/*/*")):
        file.rename(file.with_name("x" + file.name.split("_")[1]))
    faces = load(folder, "fer2013", drop_leaks=False)
    sizes = faces.table["split"].value_counts()
    assert sizes["val"] == pytest.approx(24, abs=2)
    assert sizes["test"] == 60
    assert any("training faces, stratified" in warning for warning in faces.info["warnings"])


def test_the_csv_itself_or_a_file_beside_the_folder_is_found(tmp_path):
    folder = write_layout(tmp_path / "f", "fer2013", images=120)
    sizes = {
        len(load(place, "fer2013"))
        for place in (folder, folder / "fer2013.csv", folder / "FERPlus")
    }
    assert len(sizes) == 1


def test_rafdbs_validation_split_is_stratified_and_the_same_for_every_seed(tmp_path):
    folder = write_layout(tmp_path / "r", "rafdb", images=400)
    one, other = load(folder, "rafdb", seed=1), load(folder, "rafdb", seed=2)
    pd.testing.assert_frame_equal(one.table, other.table)
    counts = load(folder, "rafdb", drop_leaks=False).counts()
    assert counts["val"].sum() == 32
    share = counts["val"] / (counts["val"] + counts["train"])
    assert share[counts["train"] > 20].between(0.05, 0.15).all()
    listed = (folder / "basic/EmoLabel/list_patition_label.txt").read_text()
    assert counts["test"].sum() == listed.count("test_")


def test_rafdb_mirror_and_original_layout_hold_the_same_labels(tmp_path):
    original = load(write_layout(tmp_path / "o", "rafdb", images=150), "rafdb")
    mirror = load(write_layout(tmp_path / "k", "rafdb_kaggle", images=150), "rafdb")
    ours = original.table.set_index("id")["label"]
    assert mirror.table.set_index("id")["label"].to_dict() == ours.to_dict()
    assert original.images.shape[1:] == mirror.images.shape[1:] == (100, 100, 3)


def test_original_rafdb_pictures_are_cropped_to_their_boxes(tmp_path):
    folder = write_layout(tmp_path / "o", "rafdb", images=150)
    aligned = load(folder, "rafdb")
    cropped = load(folder, "rafdb", rafdb_images="original")
    gap = np.abs(aligned.images.astype(int) - cropped.images).mean()
    shutil.rmtree(folder / "basic/Annotation/boundingbox")
    whole = load(folder, "rafdb", rafdb_images="original")
    assert gap < 6 < np.abs(aligned.images.astype(int) - whole.images).mean()
    assert any("using uncropped images" in warning for warning in whole.info["warnings"])


def test_an_original_picture_without_its_box_is_counted_and_a_box_outside_it_refused(tmp_path):
    folder = write_layout(tmp_path / "o", "rafdb", images=150)
    boxes = folder / "basic/Annotation/boundingbox"
    (boxes / "train_00002_boundingbox.txt").unlink()
    told = "images without a box, used uncropped: 1, the first: no train_00002_boundingbox.txt"
    assert load(folder, "rafdb", rafdb_images="original").info["warnings"] == [told]
    (boxes / "train_00003_boundingbox.txt").write_text("150 10 190 60")  # pictures are 150 x 140
    match = r"train_00003_boundingbox\.txt: the box \(150\.0, .*\) lies outside its picture of 150"
    with pytest.raises(ValueError, match=match):
        load(folder, "rafdb", rafdb_images="original")
    (boxes / "train_00003_boundingbox.txt").write_text("0 0 inf inf")
    with pytest.raises(ValueError, match=r"train_00003_boundingbox\.txt must contain left, top"):
        load(folder, "rafdb", rafdb_images="original")


# -- the cache


@pytest.mark.parametrize("damage", ["flip images.npy", "flip table.csv", "cut", "lose", "no sums"])
def test_a_damaged_cache_is_rebuilt_and_that_is_said(
    faces_dir, tmp_path, monkeypatch, caplog, damage
):
    monkeypatch.setenv("GREFEL_CACHE", str(tmp_path / "cache"))
    config = Config(dataset="ferplus", data_dir=str(faces_dir))
    before = load_faces(config)
    images_before = np.array(before.images)
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    images = folder / "images.npy"
    if damage.startswith("flip"):
        path = folder / damage.split()[1]
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        images.write_bytes(images.read_bytes()[:-1])
    elif damage == "lose":
        images.unlink()
    else:
        (folder / "checksums.json").unlink()
    folder.with_name(f".filling-{folder.name[:-16]}abc").mkdir()  # its process was killed
    after = load_faces(config)
    assert f"the cache {folder} is damaged" in caplog.text
    assert after.info == before.info
    assert np.array_equal(after.images, images_before)
    assert not list(tmp_path.glob("cache/.filling*"))
    caplog.clear()
    load_faces(config)
    assert not caplog.text


def test_a_second_load_reads_the_cache_and_images_stay_on_disk(faces_dir, monkeypatch):
    load(faces_dir)
    monkeypatch.setattr("grefel_lib.faces._fill", lambda *args: pytest.fail("decoded again"))
    faces = load(faces_dir, protocol="all", use_soft_labels=False)  # shared by all protocols
    assert isinstance(faces.images, np.memmap)
    assert not faces.images.flags.writeable


@pytest.mark.parametrize("change", ["edited", "removed", "added", "votes"])
def test_a_stale_cache_is_noticed_and_replaced(mutable, tmp_path, monkeypatch, change):
    monkeypatch.setenv("GREFEL_CACHE", str(tmp_path / "cache"))
    before = load(mutable)
    file = sorted((mutable / "Images/FER2013Train").iterdir())[7]
    if change == "edited":
        Image.fromarray(np.full((48, 48), 7, np.uint8)).save(file)
    elif change == "added":
        shutil.copy(file, file.with_name("extra.png"))
    elif change == "votes":
        os.utime(mutable / "fer2013new.csv", (time.time() + 9, time.time() + 9))
    else:
        file.unlink()
        with pytest.raises(FileNotFoundError, match="missing images: 1 of"):
            load(mutable)
        return
    after = load(mutable)
    same = after.info["fingerprint"] == before.info["fingerprint"]
    assert same == (change != "edited")  # a file that no row names and a newer time change nothing
    assert (change == "edited") == bool((np.asarray(after.images) == 7).all(axis=(1, 2)).any())
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 1


def test_an_unknown_split_is_refused(faces_dir):
    with pytest.raises(ValueError, match="train, val, test; got 'dev'"):
        load(faces_dir).split("dev")


# -- the real files


@pytest.mark.data
@pytest.mark.skipif(
    not (PROJECT_ROOT / "data/FERPlus/fer2013new.csv").is_file(), reason="no data/FERPlus here"
)
@pytest.mark.parametrize(
    ("protocol", "published", "ours"),
    [
        ("official", (25060, 3199, 3153), (21924, 3199, 3136)),
        ("argmax", (28389, 3553, 3546), (24845, 3553, 3544)),
        ("all", (28559, 3579, 3573), (24992, 3579, 3567)),
    ],
)
def test_the_real_counts_are_the_published_ones_or_those_of_the_development_copy(
    protocol, published, ours
):
    faces = load_faces(
        Config(dataset="ferplus", protocol=protocol, use_soft_labels=False, drop_leaks=False)
    )
    sizes = tuple(faces.table["split"].value_counts()[list(SPLITS)])
    assert sizes in (published, ours)
    if protocol == "official":
        assert faces.info["leaks"] == (614 if sizes == published else 492)


def test_rafdb_tells_who_the_people_are(tmp_path):
    folder = write_layout(tmp_path / "RAF", "rafdb", images=220)
    config = Config(dataset="rafdb", data_dir=str(folder))
    first = folder / "basic/Annotation/manual/test_0001_manu_attri.txt"
    *points, _, _, _ = first.read_text().splitlines()
    first.write_text("\n".join([*points, "1", "2", "4"]) + "\n")
    table = load_faces(config).table.set_index("id")
    found = table.loc["test_0001", ["gender", "race", "age_group"]]
    assert list(found) == ["female", "Asian", "70+"]
    first.unlink()  # and a face without an annotation is one of no group
    table = load_faces(config).table.set_index("id")
    assert table.loc["test_0001", ["gender", "race", "age_group"]].isna().all()
    first.write_text("\n".join([*points, "1", "9", "4"]) + "\n")
    with pytest.raises(ValueError, match=r"test_0001_manu_attri.txt must end .* with 1, 9, 4"):
        load_faces(config)
    first.write_bytes(b"\xe9" + b"\n1\n1\n")
    with pytest.raises(ValueError, match=r"test_0001_manu_attri.txt must end .* with \ufffd, 1, 1"):
        load_faces(config)


def test_a_sample_is_evenly_spaced_and_always_the_same(tiny):
    faces = load_faces(tiny).split("train")
    some = faces.sample(10)
    assert len(some) == len(some.targets) == 10
    assert list(some.table["id"])[::9] == [faces.table["id"].iloc[0], faces.table["id"].iloc[-1]]
    assert faces.sample(10**6) is faces
    np.testing.assert_array_equal(
        some.gather(np.arange(10)), faces.sample(10).gather(np.arange(10))
    )


# -- label fixes


@pytest.fixture
def fixed(tiny, tmp_path):
    """The faces of `tiny` with a file of label fixes, whose rows are given."""

    def load(*rows, head="id,label"):
        path = tmp_path / "fixes.csv"
        path.write_text("\n".join([head, *rows]))
        return load_faces(tiny.replace(label_fixes=str(path)))

    return load


def test_label_fixes_change_training_faces_alone(tiny, fixed, caplog):
    plain = load_faces(tiny)
    train, val, test = (plain.split(name) for name in SPLITS)
    one, two, three = train.table["id"][:3]
    rows = f"{one},fear", f"{two},", f"{val.table['id'][0]},fear", f"{test.table['id'][0]},"
    faces = fixed(*rows)
    after = faces.split("train").table.set_index("id")
    assert set(train.table["id"]) - set(after.index) == {two}
    fear = faces.class_names.index("fear")
    assert after.loc[one, "label"] == fear != train.table["label"][0]
    assert faces.split("train").targets[0].tolist() == np.eye(8)[fear].tolist()
    assert after.loc[three, "label"] == train.table["label"][2]
    for name, part in (("val", val), ("test", test)):
        pd.testing.assert_frame_equal(faces.split(name).table, part.table)
    assert "1 training faces take another label, 1 are left out; 2 of the file's 4" in caplog.text
    info = faces.info["label_fixes"]
    assert (info["relabelled"], info["left_out"]) == (1, 1)
    assert faces.info["fingerprint"] == plain.info["fingerprint"]  # the data set is the same
    assert fixed(*rows[::-1]).info["label_fixes"] == info  # the order of rows says nothing
    assert fixed(*rows[:3]).info["label_fixes"]["fingerprint"] != info["fingerprint"]
    assert "label_fixes" not in plain.info


def test_a_list_of_ids_alone_leaves_them_out(tiny, fixed):
    ids = load_faces(tiny).split("train").table["id"]
    left = fixed(*ids[:5], head="id").split("train").table["id"]
    assert left.tolist() == ids[5:].tolist()


@pytest.mark.parametrize("head", ["id,Label", "ID , label", "\ufeffId;LABEL", "sep=,\nid,label"])
def test_a_file_of_fixes_is_read_as_people_write_it(tiny, fixed, head):
    table = load_faces(tiny).split("train").table
    other = EMOTIONS[(table["label"][0] + 1) % 8]
    row = f" {table['id'][0]} , {other} ".replace(",", ";" if ";" in head else ",")
    after = fixed(row, head=head).split("train").table
    assert after["id"].tolist() == table["id"].tolist()
    assert EMOTIONS[after["label"][0]] == other


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("id,label\nother.png,fear", "fixes.csv: ferplus has no face 'other.png' (of 1 ids"),
        ("id,label\n{0},feer", "fixes.csv: 'feer'; did you mean 'fear'?"),
        ("id,label\n{0},fear\n{0},", "fixes.csv names the face '{0}' twice"),
        ("face\n{0}", "fixes.csv has no column id"),
        ("id,correct\n{0},fear", "fixes.csv has the columns id, correct; call that of the right"),
        ("ID;Label\n{0};feer", "fixes.csv: 'feer'; did you mean 'fear'?"),
        ("", "fixes.csv is empty"),
    ],
)
def test_a_bad_file_of_fixes_is_named_in_one_line(tiny, fixed, rows, told):
    face = load_faces(tiny).split("train").table["id"][0]
    with pytest.raises(ValueError, match=re.escape(told.format(face))) as error:
        fixed(head=rows.format(face))
    assert "\n" not in str(error.value)


def test_a_run_keeps_its_fixes_and_an_evaluation_does_without_them(tiny, fixed, tmp_path):
    one, two = load_faces(tiny).split("train").table["id"][:2]
    faces, file = fixed(one), tmp_path / "fixes.csv"
    config = tiny.replace(label_fixes=str(file), epochs=1)
    run = start_run(config, faces.info)
    fit(faces, run)
    with pytest.raises(ValueError, match=r"has learned from other data \(label_fixes"):
        check_same_data(run, fixed(one, two).info)
    assert training_facts(run)["label_fixes"] == faces.info["label_fixes"]
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"label_fixes: no file .*fixes\.csv"):
        load_faces(config)
    _, _, scored = resolve_evaluation({"checkpoint_dir": str(run.path)})
    assert len(load_faces(scored)) == len(faces) + 1
