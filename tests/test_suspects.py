"""Labels made wrong on purpose, and found again."""

import numpy as np
import pandas as pd
import pytest
from drawn_layouts import write_layout
from sklearn.metrics import roc_auc_score

from grefel_lib.analysis.suspects import label_detection, most_suspect, suspicion
from grefel_lib.config import Config
from grefel_lib.faces import flip_labels, load_faces
from grefel_lib.metrics import rename_classes
from grefel_lib.report.faces import suspect_faces
from grefel_lib.sources.synthetic import write_synthetic


def table(labels, probs, **columns):
    names = np.array(["neutral", "happiness", "fear"])
    probs = np.asarray(probs)
    frame = pd.DataFrame({"id": [f"f{i}" for i in range(len(probs))], "label": labels})
    frame["predicted"] = names[probs.argmax(axis=1)]
    frame = frame.assign(**{f"p_{name}": probs[:, i] for i, name in enumerate(names)})
    return frame.assign(**columns)


def test_exactly_the_share_is_flipped_and_never_into_itself():
    labels = np.random.default_rng(0).integers(8, size=1000)
    flipped, changed = flip_labels(labels, 0.2, np.ones((8, 8)))
    assert changed.sum() == 200
    assert (flipped[changed] != labels[changed]).all()
    np.testing.assert_array_equal(flipped[~changed], labels[~changed])
    share = np.bincount(flipped[changed], minlength=8) / 200
    assert share.max() < 0.25  # spread over all classes
    again, _ = flip_labels(labels, 0.2, np.ones((8, 8)))
    np.testing.assert_array_equal(flipped, again)
    other, _ = flip_labels(labels, 0.2, np.ones((8, 8)), seed=1)
    assert (flipped != other).any()


def test_confusions_follow_their_chances():
    chances = np.array([[9.0, 3, 1], [1, 0, 0], [0, 1, 0]])  # the diagonal does not count
    labels = np.repeat([0, 1, 2], 4000)
    flipped, changed = flip_labels(labels, 0.9, chances)
    from_first = flipped[changed & (labels == 0)]
    assert (from_first == 1).mean() == pytest.approx(0.75, abs=0.02)
    assert set(flipped[changed & (labels == 1)]) == {0}
    assert set(flipped[changed & (labels == 2)]) == {1}


def test_a_class_without_a_confusion_is_refused():
    with pytest.raises(ValueError, match="class 1 is never confused with another"):
        flip_labels(np.array([0, 1]), 0.9, np.array([[0, 1], [0, 1]]))


def test_suspicion_by_hand():
    probs = [[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]
    frame = table(["neutral", "happiness"], probs, reliability=[0.8, 0.8])
    found = suspicion(frame)
    np.testing.assert_allclose(found["loss"], -np.log([0.7, 0.2]))
    # agreed: 1 - 0.8; else the label's share 0.2/0.3 of the other 20% is left to agree with it
    np.testing.assert_allclose(found["reliability"], [0.2, 1 - 0.2 * 2 / 3])


def test_detection_is_the_auroc_of_each_measure():
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.ones(3), size=300)
    names = np.array(["neutral", "happiness", "fear"])
    truth = names[probs.argmax(axis=1)]
    labels = np.where(rng.random(300) < 0.3, names[rng.integers(3, size=300)], truth)
    frame = table(labels, probs, true_label=truth, reliability=probs.max(axis=1))
    found = label_detection(frame)
    scores = suspicion(frame)
    for name in ("loss", "reliability"):
        assert found[name] == pytest.approx(roc_auc_score(labels != truth, scores[name]))
        assert found[name] > 0.9
    assert label_detection(frame.drop(columns="true_label")) == {}
    assert label_detection(frame.assign(true_label=frame["label"])) == {}


def test_the_worst_come_first_with_what_a_person_needs_to_judge():
    probs = [[0.9, 0.05, 0.05], [0.98, 0.01, 0.01], [0.4, 0.3, 0.3]]
    frame = table(["neutral", "fear", "fear"], probs, votes_neutral=[9, 8, 4], reliability=0.9)
    found = most_suspect(frame, 2)
    assert list(found.index) == [1, 2]
    wanted = ["id", "label", "predicted", "confidence", "reliability", "loss", "votes_neutral"]
    assert list(found.columns) == wanted
    assert found["confidence"].iloc[0] == 0.98


@pytest.mark.parametrize("kind", ["symmetric", "confusion"])
def test_only_training_labels_are_made_wrong_and_the_truth_is_kept(tiny, kind):
    clean = load_faces(tiny)
    noisy = load_faces(tiny.replace(label_noise=0.2, noise_kind=kind))
    changed = (noisy.table["label"] != noisy.table["true_label"]).to_numpy()
    np.testing.assert_array_equal(noisy.table["true_label"], clean.table["label"])
    assert set(noisy.table["split"][changed]) == {"train"}
    assert (
        changed.sum() == noisy.info["labels_made_wrong"] == round(0.2 * len(clean.split("train")))
    )
    np.testing.assert_allclose(noisy.targets.sum(axis=1), 1, atol=1e-6)
    rows = np.flatnonzero(changed)
    old, new = (noisy.table[name].to_numpy()[rows] for name in ("true_label", "label"))
    np.testing.assert_array_equal(noisy.targets[rows, new], clean.targets[rows, old])
    np.testing.assert_array_equal(noisy.targets[rows, old], clean.targets[rows, new])
    np.testing.assert_array_equal(noisy.targets[~changed], clean.targets[~changed])


def test_confusion_noise_needs_votes(tmp_path):

    folder = write_layout(tmp_path / "RAF", "rafdb", images=220)
    config = Config(dataset="rafdb", data_dir=str(folder), label_noise=0.1, noise_kind="confusion")
    told = "needs the votes of FERPlus, and rafdb has none; use symmetric"
    with pytest.raises(ValueError, match=told):
        load_faces(config)


def test_the_votes_under_a_suspect_face_have_its_classes_names(tmp_path):
    data = write_synthetic(tmp_path / "FERPlus", images=120)
    faces = load_faces(Config(dataset="ferplus", data_dir=str(data))).split("train").sample(8)
    table = faces.votes.add_prefix("votes_").reset_index(drop=True)
    table = table.assign(label="happiness", predicted="fear", p_happiness=0.0)
    fig = suspect_faces(rename_classes(table, {"happiness": "Freude"}), faces)
    [legend] = fig.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert "Freude" in words
    assert "happiness" not in words
    assert len(words) == 10
    bars = [len(ax.patches) for ax in fig.axes if ax.patches]
    assert bars == [10] * 8
