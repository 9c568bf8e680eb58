"""Published runs: no path of this machine in any file; what older versions left out is added."""

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import pytest

from grefel_lib.analysis.compare import PUBLISHED, compare_runs, evaluated_runs, publish_runs
from grefel_lib.analysis.evaluation import evaluate_run, evaluation_folder, load_evaluation
from grefel_lib.commands.cli import main
from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.faces import load_faces
from grefel_lib.files import Folder, without_paths
from grefel_lib.fit import fit
from grefel_lib.report.card import model_card
from grefel_lib.report.everything import write_report
from grefel_lib.run import Run, open_run, start_run
from grefel_lib.sources.synthetic import write_synthetic


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A person's home folder, with a space in its name, as faces and weights lie in many."""
    home = tmp_path_factory.mktemp("homes") / "ann lee"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def disk(home):
    """Where the faces lie: outside the home folder, with a space in the name as well."""
    return home.parent / "my disk"


@pytest.fixture(scope="module")
def evaluated(home, disk):
    """An evaluated run whose settings, environment and numbers name the person's folders."""
    data = write_synthetic(disk / "FERPlus", images=200)
    config = Config.resolve(
        {"profile": "demo", "dataset": "ferplus", "data_dir": str(data), "epochs": 1,
         "robustness_images": 4, "inspect_labels": False, "output_dir": str(home / "outputs"),
         "run_name": "own"}
    )  # fmt: skip
    faces = load_faces(config)
    info = {**faces.info, "warnings": [f"no table in {data}/Images, nor in {PROJECT_ROOT}/data"]}
    run = start_run(config, info)
    fit(faces, run)
    named = {"landmark_weights": f"{home}/weights/marks.pth", "picture": "~/me.jpg",
             "checkpoint_path": f"{home}/outputs/parent", "resume": "/mnt/disk/run"}  # fmt: skip
    evaluation = evaluate_run(run, faces, config, run)
    run.write_json(evaluation.metrics | {"note": f"read from {data}"}, "metrics.json")
    run.write_json(config.to_dict() | named, "config.json")
    history = run.history().assign(file=str(data / "Images/a.png"))
    run.write_table(history, "history.csv")
    return run.path


def contents(folder):
    """Every file of a folder as text, by its path; what is gzipped is unzipped."""
    raw = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {
        str(path): (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        for path, content in raw.items()
    }


def test_no_published_file_holds_a_path_of_this_machine(evaluated, home, disk, tmp_path):
    for name in ("config.json", "metrics.json", "environment.json", "history.csv"):
        assert str(disk) in (evaluated / name).read_text()
    assert main(["publish", str(evaluated.parent), str(tmp_path / "shared")]) == 0
    files = contents(tmp_path / "shared")
    headline = json.loads(files["own/metrics.json"])["headline"]
    assert files.keys() == {
        *(f"own/{n}" for n in ("config.json", "environment.json", "history.csv", "metrics.json")),
        f"own/predictions/test_{headline}.csv.gz",
        "own/robustness.csv",
    }
    for name, text in files.items():
        for leak in (home, home.name, disk, disk.name, "~/", "/mnt/", PROJECT_ROOT, tmp_path):
            assert str(leak) not in text, name
    config = json.loads(files["own/config.json"])
    assert (config["data_dir"], config["picture"]) == ("FERPlus", "me.jpg")
    assert config["backbone_weights"] == "none"
    assert json.loads(files["own/environment.json"])["torch"]


def test_the_model_card_names_no_folder_of_this_machine(evaluated, home):
    evaluation = load_evaluation(open_run(evaluated))
    assert str(home) in evaluation.config.checkpoint_path
    card = model_card(evaluation)
    assert "weights: the run parent" in " ".join(card.split())
    assert str(home) not in card


def test_of_an_absolute_path_the_last_part_is_left_and_nothing_else_changes(home):
    texts = {
        "read from /mnt/d/FER, or (/srv/a)": "read from FER, or (a)",
        r"C:\Users\ann\faces": "faces",
        f"'{home}/x/z.png' and {home}": "'z.png' and ~",
        f"{PROJECT_ROOT}/data/x: none": f"{PROJECT_ROOT.name}/data/x: none",
        "~/faces/1.png": "1.png",
        "file:///mnt/faces": "faces",
        "no picture in /my disk/faces": "no picture in faces",
    }
    for text, shared in texts.items():
        assert without_paths(text, "/my disk/faces") == shared
    for text in ("notebooks/published_runs", "https://arxiv.org/abs/2410.15927", "and/or", "1 / 2"):
        assert without_paths({"a": [text, 1, None]}) == {"a": [text, 1, None]}


def test_a_published_run_gets_what_an_older_version_did_not_write(evaluated, tmp_path):
    there = tmp_path / "shared"
    assert main(["publish", str(evaluated.parent), str(there)]) == 0
    now = json.loads((there / "own/metrics.json").read_text())
    headline, old = now["headline"], json.loads(json.dumps(now))
    for checkpoint in old["checkpoints"].values():
        for name in ("intervals", "calibration", "sureness", "temperature", "calibration_after"):
            del checkpoint[name]
        for row in checkpoint["per_class"]:
            del row["recall_low"], row["recall_high"]
    old["checkpoints"][headline]["metrics"]["accuracy"] = 0.123  # not what the predictions give
    (there / "own/metrics.json").write_text(json.dumps(old))
    (there / "own/environment.json").unlink()
    before = (there / "own/predictions" / f"test_{headline}.csv.gz").read_bytes()
    assert main(["publish", str(there), str(there)]) == 0
    filled = json.loads((there / "own/metrics.json").read_text())["checkpoints"]
    accuracy = now["checkpoints"][headline]["metrics"]["accuracy"]
    assert filled[headline]["metrics"]["accuracy"] == accuracy
    ours, theirs = filled[headline], now["checkpoints"][headline]
    assert ours["per_class"] == theirs["per_class"]
    assert ours["intervals"]["accuracy"] == theirs["intervals"]["accuracy"]
    assert ours.keys() == theirs.keys()
    assert filled[headline]["temperature"] is None  # fitted on faces that are not published
    [other] = filled.keys() - {headline}
    assert "intervals" not in filled[other]  # its predictions are not published
    assert not (there / "own/environment.json").exists()
    assert (there / "own/predictions" / f"test_{headline}.csv.gz").read_bytes() == before


def test_the_committed_runs_hold_the_settings_and_numbers_of_today():
    for result in evaluated_runs(PUBLISHED):
        config = json.loads((result.run.path / "config.json").read_text())
        assert config == result.config.to_dict(), f"grefel publish {PUBLISHED} {PUBLISHED} mends it"
        computed = result.metrics["checkpoints"][result.headline]
        assert result.saved_headline.keys() == computed.keys()
        assert result.saved_headline["per_class"] == computed["per_class"]


def test_one_run_is_published_from_among_others(evaluated, tmp_path, capsys):
    dest = tmp_path / "shared"
    assert main(["publish", str(evaluated), str(dest)]) == 0
    assert "wrote 1 run to" in capsys.readouterr().out
    assert sorted(p.name for p in dest.iterdir()) == ["own"]
    published = load_evaluation(open_run(dest / "own"), headline_only=True)
    expected = load_evaluation(open_run(evaluated), headline_only=True)
    assert published.table["predicted"].tolist() == expected.table["predicted"].tolist()
    for name in ("agreed", "reliability"):  # with five digits
        values = expected.table[name].tolist()
        assert published.table[name].tolist() == pytest.approx(values, rel=1e-4)


def test_names_of_ones_own_faces_are_published_as_they_are(evaluated, tmp_path):
    result = load_evaluation(open_run(evaluated), headline_only=True)
    ids = [f"New folder (2)/{name}/1.jpg" for name in result.table["id"]]
    ids[0] = f"{tmp_path}/secret/1.jpg"
    who = [f"Ann {i // 4}" for i in range(len(ids) - 2)] + [None, None]
    table = result.table.assign(id=ids, subject=who)
    mine = dataclasses.replace(result, predictions={result.headline: table})
    [folder] = publish_runs([mine], tmp_path / "shared")
    shared = load_evaluation(open_run(folder), headline_only=True).table
    assert shared["id"].tolist() == ["1.jpg", *ids[1:]]
    people = [int(name) for name in shared["subject"]]  # who it is is not told, who is whom is
    last = people[-3]
    assert people == [*(i // 4 for i in range(len(ids) - 2)), last + 1, last + 2]
    compared = compare_runs(str(tmp_path / "shared"))
    write_report(dataclasses.replace(compared, folder=Folder(tmp_path / "compared")))
    text = (tmp_path / "compared/tables/ablation.tex").read_text()
    assert "95\\% interval over people" in text
    shutil.copytree(evaluated, tmp_path / "copy")
    mine = load_evaluation(open_run(tmp_path / "copy"))
    tables = {name: t.assign(subject=who) for name, t in mine.predictions.items()}
    write_report(dataclasses.replace(mine, predictions=tables))
    text = (tmp_path / "copy/tables/comparison.tex").read_text()
    assert "95\\% intervals over people (ECE: faces)." in text
    assert "95\\% intervals over faces." in (tmp_path / "copy/tables/per_class.tex").read_text()


def test_an_evaluation_apart_is_published_with_the_record_of_its_run(evaluated, tmp_path):
    run = open_run(evaluated)
    config = run.config.replace(split="val")
    results = Run(evaluation_folder(run, config).path, run.config)
    evaluation = evaluate_run(run, load_faces(config), config, results)
    results.write_json(evaluation.metrics, "metrics.json")
    assert main(["publish", str(results.path), str(tmp_path / "shared")]) == 0
    published = open_run(tmp_path / "shared" / results.path.name)
    assert len(published.history()) == len(run.history())
    assert (published.path / "environment.json").is_file()
    [result] = evaluated_runs(str(tmp_path / "shared"))
    assert result.facts["split"] == "val"


def saved_numbers(content, path=()):
    """Every number and text of metrics.json by its place."""
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    else:
        return {path: content}
    return {k: v for key, value in items for k, v in saved_numbers(value, (*path, key)).items()}


@pytest.mark.parametrize("name", ["ferplus_model/pretrained_ferplus", "fer2013_model/facenet",
                                  "published_runs/correction=paper-seed=0"])  # fmt: skip
def test_a_report_of_a_published_run_keeps_every_number(name, tmp_path):
    there = tmp_path / Path(name).name
    shutil.copytree(PROJECT_ROOT / "notebooks" / name, there)
    before = saved_numbers(json.loads((there / "metrics.json").read_text()))
    assert main(["report", str(there)]) == 0
    after = saved_numbers(json.loads((there / "metrics.json").read_text()))
    assert before.keys() <= after.keys()
    for place, value in before.items():
        if isinstance(value, float):
            assert after[place] == pytest.approx(value, rel=1e-3, abs=5e-3), place
        else:
            assert after[place] == value or value is None, place
    card = (there / "model_card.md").read_text()
    assert ("Annotators, judged by the same labels" in card) == any("people" in p for p in before)
