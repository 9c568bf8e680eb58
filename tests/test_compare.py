"""Runs compared: who belongs together, what is refused, what is published."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from scipy import stats

from grefel_lib.analysis.compare import (
    compare_runs,
    detection_table,
    evaluated_runs,
    group_variants,
    paired_differences,
    prediction_agreement,
    publish_runs,
    published_results,
    read_comparison,
    seed_ensembles,
    seed_table,
    summarise_variants,
    transfer_table,
)
from grefel_lib.analysis.evaluation import Evaluation, load_evaluation
from grefel_lib.commands.sweep import run_sweep, sweep_points
from grefel_lib.config import Config
from grefel_lib.files import FINGERPRINT, Folder
from grefel_lib.labels import EMOTIONS
from grefel_lib.metrics import compute_metrics, mcnemar_test
from grefel_lib.report.comparison import detection_curves
from grefel_lib.report.everything import write_report
from grefel_lib.report.style import paper_style
from grefel_lib.report.tables import interval_table, latex_table
from grefel_lib.run import BEST, Run, open_run, run_folder, start_run

FACES = 120


def evaluated(folder, name, *, skill=1.5, draw=0, info=(), **settings):
    """A run folder as evaluation leaves it, with predictions drawn at random."""
    labels = np.random.default_rng(9).integers(8, size=FACES)
    logits = np.random.default_rng(draw).normal(size=(FACES, 8)) + skill * np.eye(8)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table = pd.DataFrame({
        "id": [f"test_{i:05d}" for i in range(FACES)],
        "label": [EMOTIONS[i] for i in labels],
        "predicted": [EMOTIONS[i] for i in probs.argmax(axis=1)],
        **{f"p_{n}": probs[:, i] for i, n in enumerate(EMOTIONS)},
        "votes_neutral": 1,
    })  # fmt: skip
    told = {
        "dataset": "ferplus",
        "fingerprint": "f",
        "protocol": "official",
        "training_leaks_dropped": 3,
    }
    config = Config(run_name=name, data_dir="/secret/place", **settings)
    run = Run(folder / name, config)
    run.write_json(dataclasses.asdict(config), "config.json")
    facts = told | dict(info) | {
        "split": "test", "selection": "validation accuracy", "headline": "best_model",
        "checkpoints": {"best_model": {"epoch": 2, "val_accuracy": 0.8}},
    }  # fmt: skip
    found = Evaluation(run, config, facts, {"best_model": table}, {})
    run.write_json(found.metrics, "metrics.json")
    run.write_table(table, "predictions", "test_best_model.csv")
    run.write_table(pd.DataFrame({"epoch": [1, 2]}), "history.csv")
    return run


@pytest.fixture
def ablation_runs(tmp_path):
    """Three variants: two seeds each, but one of the last."""
    for seed in (1, 0):
        evaluated(tmp_path, f"l{seed}", seed=seed, head="linear", skill=1.0, draw=seed)
        evaluated(tmp_path, f"n{seed}", seed=seed, correction="none", draw=10 + seed)
    evaluated(tmp_path, "p0", seed=0, skill=3.0, draw=20)
    return tmp_path


def test_runs_that_differ_in_their_seed_belong_together(ablation_runs):
    groups = group_variants(evaluated_runs(str(ablation_runs)))
    found = {name: [r.config.seed for r in members] for name, members in groups.items()}
    assert found == {
        "linear head": [0, 1],
        "GReFEL, correction none": [0, 1],
        "GReFEL, correction paper": [0],
    }


def test_every_seed_is_shown_and_the_mean_has_interval_and_spread(ablation_runs):
    groups = group_variants(evaluated_runs(str(ablation_runs)))
    seeds = seed_table(groups)
    assert list(seeds["seed"]) == [0, 1, 0, 1, 0]
    table = summarise_variants(groups, draws=50)["accuracy"]
    mine = seeds.loc[seeds["variant"] == "linear head", "accuracy"]
    row = table.loc["linear head"]
    assert row["value"] == pytest.approx(mine.mean())
    assert row["spread"] == pytest.approx(mine.std(ddof=1))
    assert row["low"] <= row["value"] <= row["high"]
    assert np.isnan(table.loc["GReFEL, correction paper", "spread"])
    assert list(table["seeds"]) == [2, 2, 1]


def test_variants_are_compared_on_the_same_faces_seed_by_seed(ablation_runs):
    groups = group_variants(evaluated_runs(str(ablation_runs)))
    table = paired_differences(groups, "linear head", draws=50)
    better = table[
        (table["variant"] == "GReFEL, correction paper") & (table["metric"] == "accuracy")
    ]
    assert better["difference"].item() > 0.2
    assert better["low"].item() > 0
    told = table[table["metric"] == "accuracy"].set_index("variant")["mcnemar"]
    for name in list(groups)[1:]:
        by_hand = []
        for pair in zip(groups["linear head"], groups[name], strict=False):  # of one seed
            one, other = (r.table["label"] == r.table["predicted"] for r in pair)
            only = (one & ~other).sum(), (other & ~one).sum()
            by_hand.append(float(f"{stats.binomtest(only[0], sum(only)).pvalue:.2g}"))
        assert told[name] == by_hand
    with pytest.raises(ValueError, match="no variant 'resnet'; there are: linear head;"):
        paired_differences(groups, "resnet")


def test_agreement_within_and_between_variants_by_hand(ablation_runs):
    groups = group_variants(evaluated_runs(str(ablation_runs)))
    found = prediction_agreement(groups)
    linear = groups["linear head"]
    same = (linear[0].table["predicted"] == linear[1].table["predicted"]).mean()
    assert found.loc["two seeds of a variant", "max"] >= same
    assert found.loc["two seeds of a variant", "min"] <= same
    only = prediction_agreement({"a": linear})
    assert list(only.index) == ["two seeds of a variant"]
    assert only["mean"].item() == pytest.approx(same)


def test_the_seeds_averaged_are_one_model_better_than_their_mean(ablation_runs):
    groups = group_variants(evaluated_runs(str(ablation_runs)))
    name, members = max(groups.items(), key=lambda item: len(item[1]))
    found = seed_ensembles(groups)
    tables = [member.table for member in members]
    probs = np.mean([table.filter(like="p_").to_numpy() for table in tables], axis=0)
    right = np.array(EMOTIONS)[probs.argmax(axis=1)] == tables[0]["label"]
    one = found["accuracy"].loc[name]
    assert one["value"] == pytest.approx(right.mean())
    assert one["low"] < one["value"] < one["high"]
    assert one["seeds"] == len(members) > 1
    mean = summarise_variants(groups)["nll"].loc[name]
    assert found["nll"].loc[name, "value"] < mean["value"]  # the logarithm is concave
    assert "±" not in interval_table(found).loc[name, "accuracy (%)"]
    assert seed_ensembles({"alone": members[:1]}) == {}


def test_intervals_as_text_leave_out_a_spread_that_is_not_there(ablation_runs):
    groups = group_variants(evaluated_runs(str(ablation_runs)))
    told = interval_table(summarise_variants(groups, draws=20))
    assert next(iter(told.columns)) == "accuracy (%)"
    assert "±" in told.loc["linear head", "accuracy (%)"]
    assert "±" not in told.loc["GReFEL, correction paper", "accuracy (%)"]
    assert re.fullmatch(r"\d+\.\d\s±\s\d\.\d \[.*\]", told.loc["linear head", "ECE (%)"])
    assert re.fullmatch(r"\d\.\d{3}\s±\s\d\.\d{3} \[.*\]", told.loc["linear head", "NLL"])
    assert told.loc["linear head", "NLL"].count(" ") == 1  # in a narrow cell it breaks only there
    assert "~$\\pm$~" in latex_table(told, caption="", label="a")


@pytest.mark.parametrize(("info", "told"), [
    ({"protocol": "argmax"}, "protocol is 'official' in one and 'argmax' in the other"),
    ({"fingerprint": "other"}, "fingerprint"),
])  # fmt: skip
def test_other_protocols_or_data_are_never_put_beside_each_other(ablation_runs, info, told):
    evaluated(ablation_runs, "z", seed=5, info=info)
    runs = evaluated_runs(str(ablation_runs))
    for refuse in (group_variants, lambda runs: publish_runs(runs, ablation_runs / "published")):
        with pytest.raises(ValueError, match=told):
            refuse(runs)
    assert not (ablation_runs / "published").exists()


def test_the_same_seed_twice_is_refused(ablation_runs):
    evaluated(ablation_runs, "again", seed=0)
    with pytest.raises(ValueError, match="the same seed occurs twice"):
        group_variants(evaluated_runs(str(ablation_runs)))


PARENTS = {
    "runs": ("A", "B"),
    "their checkpoints": (f"A/checkpoints/{BEST}.safetensors", f"B/checkpoints/{BEST}.safetensors"),
    "a run and its fine-tuned one": ("A", "A/finetune_x"),
    "fine-tuned runs of one name": ("A/finetune_x", "B/finetune_x"),
}


@pytest.mark.parametrize("parents", PARENTS.values(), ids=PARENTS)
def test_the_run_that_others_start_from_sets_them_apart_published_or_not(tmp_path, parents):
    runs = tmp_path / "runs"
    for number, parent in enumerate(parents):
        for seed in (0, 1):
            where = {"checkpoint_path": str(runs / parent), "seed": seed}
            evaluated(runs, f"f{number}{seed}", draw=seed, **where)
    publish_runs(evaluated_runs(str(runs)), tmp_path / "published")
    labels = [parent.replace("checkpoints/", "").removesuffix(".safetensors") for parent in parents]
    for folder in (runs, tmp_path / "published"):
        groups = group_variants(evaluated_runs(str(folder)))
        found = {name: [r.run.path.name for r in members] for name, members in groups.items()}
        assert found == {
            f"GReFEL, parent {label}": [f"f{number}0", f"f{number}1"]
            for number, label in enumerate(labels)
        }
    configs = [p.read_text() for p in (tmp_path / "published").glob("*/config.json")]
    assert str(tmp_path) not in "".join(configs)


def test_files_of_fixes_with_one_name_and_other_content_are_two_variants(tmp_path):
    for seed, content in enumerate(("ab12cd", "ab12cd", "9f00aa")):
        fixes = {"relabelled": 1, "left_out": 0, "fingerprint": f"{FINGERPRINT}{content}"}
        evaluated(tmp_path, f"r{seed}", seed=seed, draw=seed, info={"label_fixes": fixes},
                  label_fixes=f"outputs/r{seed}/label_fixes.csv")  # fmt: skip
    publish_runs(evaluated_runs(str(tmp_path)), tmp_path / "published")
    for folder in (tmp_path, tmp_path / "published"):
        groups = group_variants(evaluated_runs(str(folder)))
        assert {name[-20:]: len(members) for name, members in groups.items()} == {
            "label_fixes.csv ab12": 2, "label_fixes.csv 9f00": 1
        }  # fmt: skip


def test_weight_files_of_one_name_in_two_folders_are_two_variants(tmp_path):
    for seed, place in enumerate(("a", "a", "b")):
        evaluated(tmp_path, f"r{seed}", seed=seed, draw=seed, backbone_weights=f"{place}/vit.pth")
    groups = group_variants(evaluated_runs(str(tmp_path)))
    assert {name: len(members) for name, members in groups.items()} == {
        "GReFEL, backbone_weights a/vit.pth": 2, "GReFEL, backbone_weights b/vit.pth": 1
    }  # fmt: skip


def test_a_run_from_scratch_is_no_seed_of_a_fine_tuned_one(tmp_path):
    evaluated(tmp_path, "A", seed=0)
    evaluated(tmp_path, "B", seed=1, checkpoint_path=str(tmp_path / "A"))
    groups = group_variants(evaluated_runs(str(tmp_path)))
    assert list(groups) == ["GReFEL, parent none", "GReFEL, parent A"]


def test_a_sweep_of_fine_tuning_is_compared_by_parent(tmp_path, monkeypatch):
    for name in ("A", "B"):
        config = Config(run_name=name, output_dir=str(tmp_path), backbone_weights="none")
        facts = {"config": config.to_dict(), "val_accuracy": 0.5}
        start_run(config).save_checkpoint(BEST, {"x": torch.zeros(1)}, facts)
    grid = f"checkpoint_path={tmp_path / 'A'},{tmp_path / 'B'}"
    todo = sweep_points("finetune", "s", grid=[grid], seeds="0,1",
                        given={"output_dir": str(tmp_path)})  # fmt: skip

    def trained(command, given):
        """Leave what training and evaluation of a point leave."""
        (config,) = (p.config() for p in todo if p.given == given)
        folder = run_folder(config)
        where = {"checkpoint_path": config.checkpoint_path, "seed": config.seed}
        evaluated(folder.parent, folder.name, draw=config.seed, **where)

    monkeypatch.setattr("grefel_lib.commands.sweep.run_command", trained)
    run_sweep(todo, Folder(tmp_path / "s"), say=lambda line: None)
    groups = group_variants(evaluated_runs(str(tmp_path / "s")))
    found = {name: [r.run.path.parent.name for r in members] for name, members in
             groups.items()}  # fmt: skip
    assert found == {"GReFEL, parent A": ["A", "A"], "GReFEL, parent B": ["B", "B"]}


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_one_variant_is_summed_up_without_differences_and_that_is_said(tmp_path, caplog, seeds):
    for seed in seeds:
        evaluated(tmp_path, f"l{seed}", seed=seed, head="linear", draw=seed)
    comparison = compare_runs(str(tmp_path))
    assert "one variant, linear head: there are no differences to show" in caplog.text
    apart = comparison.differences
    assert apart[apart["metric"] == "accuracy"].empty
    folder = Folder(tmp_path / "shared")
    tables = write_report(comparison, folder)
    assert list(tables["ablation"].index) == ["linear head"]
    assert not (folder.path / "figures/differences.pdf").exists()
    again = read_comparison(folder.path / "tables")
    assert list(again.seeds["seed"]) == list(seeds)
    assert list(again.differences) == list(apart)
    assert len(comparison.agreement) == len(seeds) - 1


def test_a_folder_without_evaluated_runs_is_refused(tmp_path):
    Run(tmp_path / "x", Config()).write_json(dataclasses.asdict(Config()), "config.json")
    with pytest.raises(FileNotFoundError, match="no evaluated run under"):
        evaluated_runs(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="was not evaluated"):
        load_evaluation(open_run(tmp_path / "x"))


def test_published_runs_compare_like_the_originals_and_name_no_path(ablation_runs, tmp_path):
    originals = evaluated_runs(str(ablation_runs))
    there = tmp_path / "published"
    publish_runs(originals, there)
    published = evaluated_runs(str(there))
    assert [r.run.path.name for r in published] == [r.run.path.name for r in originals]
    for ours, theirs in zip(published, originals, strict=True):
        assert mcnemar_test(ours.table, theirs.table)["p"] == 1
        a, b = compute_metrics(ours.table), compute_metrics(theirs.table)
        assert a == pytest.approx(b, abs=1e-4)
        assert "votes_neutral" not in ours.table
    assert "/secret" not in "".join(p.read_text() for p in there.rglob("*.json"))
    publish_runs(originals, there)  # again: nothing changes
    Folder(there / "p0").write_bytes(b"id", "predictions", "test_best_model.csv.gz")
    with pytest.raises(FileExistsError, match="other predictions"):
        publish_runs(originals, there)
    assert json.loads((there / "p0/config.json").read_text())["data_dir"] == "place"


def test_what_others_report_names_its_protocol_and_source():
    ferplus = published_results("ferplus")
    assert set(ferplus["dataset"]) == {"ferplus"}
    everything = published_results("synthetic")
    assert set(everything["dataset"]) == {"ferplus", "rafdb", "fer2013"}
    assert everything[["protocol", "source"]].notna().all(axis=None)
    numbers = everything["what others found"].str.contains(r"\d", na=False)
    assert numbers.sum() >= 4
    assert everything["where"][numbers].str.match(r"https://github\.com/\S+/issues/\d+$").all()


def test_two_folders_of_own_faces_are_two_test_sets(tmp_path):
    run = evaluated(tmp_path, "one", dataset="folder", info={"dataset": "folder", "protocol": ""})
    told = json.loads((run.path / "metrics.json").read_text())
    numbers = told["checkpoints"]["best_model"]
    for name, accuracy in (("a", 0.25), ("b", 0.5)):
        numbers["metrics"]["accuracy"] = accuracy
        run.write_json(told, f"evaluate_folder_{name}-12ab_test", "metrics.json")
    table = transfer_table(str(tmp_path))
    assert table.index.tolist() == ["folder place"]
    assert table["folder a-12ab"].tolist() == ["25.0"]
    assert table["folder b-12ab"].tolist() == ["50.0"]
    before = table["folder place"].tolist()
    run.write_json(told, "evaluate_again", "metrics.json")  # a place of one's own choice
    assert transfer_table(str(tmp_path))["folder place"].tolist() == before != ["50.0"]
    run.save_checkpoint(BEST, {"x": torch.zeros(1)}, {"epoch": 3, "val_accuracy": 0.8})
    assert transfer_table(str(tmp_path)).empty, "of another epoch than the numbers"


def test_a_run_that_was_not_evaluated_is_named(ablation_runs, caplog):
    config = Config(run_name="late")
    Run(ablation_runs / "late", config).write_json(dataclasses.asdict(config), "config.json")
    compare_runs(str(ablation_runs))
    assert re.search(r"left out, not evaluated: \S*late", caplog.text)


def test_a_run_that_did_not_end_is_named(ablation_runs, caplog):
    Folder(ablation_runs / "l1").write_json({"status": "stopped"}, "status.json")
    Folder(ablation_runs / "l0").write_json({"status": "ok"}, "status.json")
    compare_runs(str(ablation_runs))
    (line,) = [line for line in caplog.messages if "did not end, or was stopped" in line]
    assert line.endswith("l1")


def test_runs_that_learned_from_different_faces_are_no_seeds_of_each_other(tmp_path):
    for seed in (0, 1):
        run = evaluated(tmp_path, f"run{seed}", seed=seed)
        metrics = json.loads((run.path / "metrics.json").read_text())
        leaks = {"training_leaks_dropped": seed}
        run.write_json(metrics | leaks, "metrics.json")
        run.write_json({"data": {"leaks_dropped": seed}}, "environment.json")
    assert compare_runs(str(tmp_path)).about["training_leaks_dropped"] == "0 or 1"
    metrics |= {"training_fingerprint": f"{FINGERPRINT}1"}
    run.write_json(metrics, "metrics.json")
    assert compare_runs(str(tmp_path)).seeds["variant"].nunique() == 1, "of one it is not known"
    other = Folder(tmp_path / "run0")
    metrics = json.loads((other.path / "metrics.json").read_text())
    other.write_json(metrics | {"training_fingerprint": f"{FINGERPRINT}0"}, "metrics.json")
    with pytest.raises(ValueError, match=r"run0 and .*run1 have learned from different faces"):
        compare_runs(str(tmp_path))


def test_predictions_that_lost_rows_are_refused(ablation_runs):
    path = ablation_runs / "l1/predictions/test_best_model.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    run = open_run(ablation_runs / "l1")
    content = json.loads((run.path / "metrics.json").read_text())
    content["checkpoints"][BEST]["metrics"] = {"n": FACES}
    run.write_json(content, "metrics.json")
    with pytest.raises(ValueError, match=f"have {FACES - 1} rows, but metrics.json is of {FACES}"):
        load_evaluation(run)


def test_runs_with_their_classes_in_another_order_are_not_averaged(ablation_runs):
    path = ablation_runs / "l1/predictions/test_best_model.csv"
    table = pd.read_csv(path)
    first, last = [list(table)[:3], list(table)[:2:-1]]
    table[first + last].to_csv(path, index=False)
    with pytest.raises(
        ValueError, match=r"cannot be compared: class order is .neutral, .* in one and .contempt, "
    ):
        compare_runs(str(ablation_runs))


def test_an_evaluation_of_a_fine_tuned_run_is_no_run(tmp_path):
    evaluated(tmp_path, "parent")
    run = evaluated(tmp_path / "parent", "finetune_x", seed=1, draw=1)
    flips = evaluated(run.path, "evaluate_ferplus_official_test_flip", draw=2, info={"tta": "flip"})
    assert flips.path.is_dir()
    names = [result.run.path.name for result in evaluated_runs(str(tmp_path))]
    assert sorted(names) == ["finetune_x", "parent"]


def test_two_runs_of_one_name_are_not_published_into_one_folder(tmp_path):
    for parent in "AB":
        evaluated(tmp_path, parent, draw=3, seed=ord(parent))
        evaluated(tmp_path / parent, "finetune_x", draw=1, checkpoint_path=str(tmp_path / parent))
    with pytest.raises(ValueError, match="2 runs are called finetune_x, and would be one folder"):
        publish_runs(evaluated_runs(str(tmp_path)), tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_a_comparison_says_how_many_seeds_and_whether_faces_were_mirrored(tmp_path):
    for seed in (0, 1):
        evaluated(tmp_path, f"l{seed}", head="linear", seed=seed, draw=seed, info={"tta": "flip"})
    evaluated(tmp_path, "g", draw=5, info={"tta": "flip"})
    write_report(compare_runs(str(tmp_path)), Folder(tmp_path / "shared"))
    text = " ".join((tmp_path / "shared/tables/ablation.tex").read_text().split())
    assert "1 to 2 seeds of a variant." in text
    assert "Each face is averaged with its mirror image." in text


def noisy(folder, kind, share, seed, loss, reliability, **settings):
    """An evaluated run whose wrong labels were looked for."""
    draw = 100 * seed + round(10 * share) + len(settings)
    name = f"{kind}{share}-{seed}{''.join(map(str, settings.values()))}"
    settings |= {"label_noise": share, "noise_kind": kind}
    run = evaluated(folder, name, seed=seed, draw=draw, **settings)
    path = run.path / "metrics.json"
    content = json.loads(path.read_text())
    content["label_detection"] = {"loss": loss, "reliability": reliability}
    run.write_json(content, "metrics.json")


def test_detection_is_averaged_over_seeds_a_noise_at_a_time(tmp_path):
    for kind, share, values in (("symmetric", 0.1, (0.9, 0.8)), ("confusion", 0.4, (0.6, 0.7))):
        for seed, value in enumerate(values):
            noisy(tmp_path, kind, share, seed, value, value - 0.1)
    groups = group_variants(evaluated_runs(str(tmp_path)))
    table = detection_table(groups).set_index(["noise_kind", "label_noise", "measure"])
    assert len(table) == 4
    row = table.loc[("symmetric", 0.1, "loss")]
    assert row["auroc"] == pytest.approx(0.85)
    assert (row["min"], row["max"], row["seeds"]) == (0.8, 0.9, 2)
    assert table.loc[("confusion", 0.4, "reliability"), "auroc"] == pytest.approx(0.55)
    with paper_style():
        fig, axes = plt.subplots(1, 2)
    detection_curves(table.reset_index(), axes)
    drawn = {ax.get_title(): [line.get_ydata().item() for line in ax.lines[:2]] for ax in axes}
    assert drawn == {"symmetric noise": pytest.approx([0.85, 0.75]),
                     "confusion noise": pytest.approx([0.65, 0.55])}  # fmt: skip
    for ax in axes:
        assert [line.get_label() for line in ax.lines[:2]] == ["loss", "reliability"]
    plt.close(fig)


def test_one_kind_of_noise_is_one_panel_and_heads_are_not_seeds_of_each_other(tmp_path):
    for seed in (0, 1):
        noisy(tmp_path, "symmetric", 0.4, seed, 0.9, 0.8)
        noisy(tmp_path, "symmetric", 0.4, seed, 0.7, 0.6, head="linear")
    comparison = compare_runs(str(tmp_path))
    table = comparison.detection.set_index("measure")
    assert table["auroc"].round(6).to_dict() == {
        "loss, linear head": 0.7, "reliability, linear head": 0.6,
        "loss, GReFEL": 0.9, "reliability, GReFEL": 0.8,
    }  # fmt: skip
    assert (table["seeds"] == 2).all()
    write_report(comparison, Folder(tmp_path / "shared"))
    assert (tmp_path / "shared/figures/label_noise.pdf").is_file()


def test_a_comparison_is_written_without_faces_and_read_back_the_same(ablation_runs, tmp_path):
    comparison = compare_runs(str(ablation_runs))
    folder = Folder(tmp_path / "shared")
    tables = write_report(comparison, folder)
    assert list(tables["ablation"].index) == list(comparison.recall.index)
    assert (folder.path / "figures/ablation.pdf").is_file()
    again = read_comparison(folder.path / "tables")
    assert again.about == comparison.about
    assert (again.about["protocol"], again.about["faces"]) == ("official", FACES)
    assert again.detection.empty
    assert again.summary.keys() == comparison.summary.keys()
    for metric, table in comparison.summary.items():
        for column in ("value", "low", "high", "spread", "seeds"):
            values = again.summary[metric].loc[table.index, column]
            assert list(values) == pytest.approx(list(table[column]), nan_ok=True)
    text = "".join(p.read_text() for p in folder.path.rglob("tables/*"))
    assert "test_00000" not in text


def test_recall_of_a_comparison_by_hand(ablation_runs):
    comparison = compare_runs(str(ablation_runs))
    runs = evaluated_runs(str(ablation_runs))
    linear = [r.table for r in runs if r.config.head == "linear"]
    right = [(t["label"] == t["predicted"])[t["label"] == "fear"].mean() for t in linear]
    column = next(name for name in comparison.recall if name.startswith("fear ("))
    assert comparison.recall.loc["linear head", column] == pytest.approx(np.mean(right))


def test_the_table_of_training_sets_against_test_sets_by_hand(tmp_path):
    one = evaluated(tmp_path, "one", draw=1, dataset="ferplus")
    two = evaluated(tmp_path, "two", draw=2, dataset="ferplus")
    other = evaluated(tmp_path, "three", draw=3, dataset="fer2013", info={
        "dataset": "fer2013", "protocol": ""})  # fmt: skip
    elsewhere = json.loads((other.path / "metrics.json").read_text())
    one.write_json(elsewhere, "evaluate_fer2013_test", "metrics.json")
    elsewhere["split"] = "val"
    one.write_json(elsewhere, "evaluate_fer2013_val", "metrics.json")
    elsewhere |= {"split": "test", "tta": "flip"}
    one.write_json(elsewhere, "evaluate_fer2013_test_flip", "metrics.json")
    accuracy = {run.path.name: 100 * compute_metrics(load_evaluation(run).table)["accuracy"]
                for run in (one, two, other)}  # fmt: skip
    table = transfer_table(str(tmp_path))
    assert table.index.tolist() == ["fer2013", "ferplus official"]
    assert table.columns.tolist() == ["fer2013", "ferplus official"]
    mean = (accuracy["one"] + accuracy["two"]) / 2
    assert table.to_numpy().tolist() == [
        [f"{accuracy['three']:.1f}", ""], [f"{accuracy['three']:.1f}", f"{mean:.1f} (2 runs)"]
    ]  # fmt: skip
    metrics = json.loads((two.path / "metrics.json").read_text())
    for run, name in ((one, "1"), (two, "2")):
        run.write_json(metrics | {"fingerprint": FINGERPRINT + name}, "metrics.json")
    with pytest.raises(ValueError, match=r"two was scored on other files of ferplus official"):
        transfer_table(str(tmp_path))
