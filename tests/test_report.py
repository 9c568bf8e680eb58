"""Tables for papers: LaTeX is read back by a strict little parser; JSON by json."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from grefel_lib import metrics, report

NASTY = r"100% of a_b & {c} $5 #1 ~x^2 \d <e> |f|"
INFO = {"dataset": "ferplus", "fingerprint": "f", "protocol": "official", "leaks_dropped": 3}


def parse(latex: str) -> dict:
    """Read a table back; fails on anything that LaTeX or booktabs would stumble over."""
    opened = []
    for word, name in re.findall(r"\\(begin|end)\{(\w+)\}", latex):
        if word == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name, "environments cross"
    assert not opened, "an environment stays open"
    bare = re.sub(r"\\[\\%&#$_{}]", "", latex)  # without what is escaped
    assert bare.count("{") == bare.count("}")
    bare = re.sub(r"\\label\{[^}]*\}", "", bare)
    bare = re.sub(r"\$-[0-9.]+\$", "", bare)  # a negative number
    assert not re.search(r"[%#$_~^<>|]", bare), "a special character is not escaped"
    tabular = r"\\begin\{tabular\}\{([lr]+)\}\n(.*)\\end\{tabular\}"
    shape, body = re.search(tabular, latex, re.S).groups()
    lines = [line.strip() for line in body.strip().split("\n")]
    assert (lines[0], lines[2], lines[-1]) == (r"\toprule", r"\midrule", r"\bottomrule")
    rows = []
    for line in [lines[1], *lines[3:-1]]:
        assert line.endswith(r" \\")
        cells = re.split(r"(?<!\\)&", line.removesuffix(r"\\"))
        assert len(cells) == len(shape), "a row has another number of cells than columns"
        rows.append([cell.strip() for cell in cells])
    return {
        "shape": shape,
        "rows": rows,
        "caption": re.search(r"\\caption\{(.*)\}\n", latex)[1],
        "label": re.search(r"\\label\{(.*)\}\n", latex)[1],
    }


def predictions(seed: int, right: float) -> pd.DataFrame:
    """Fifty faces of three classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=50)
    probs = rng.dirichlet(np.ones(3), size=50) * (1 - right) + right * np.eye(3)[labels]
    names = np.array(["neutral", "happiness", "fear"])
    table = pd.DataFrame({"id": [f"face{i}" for i in range(50)], "label": names[labels]})
    table["predicted"] = names[probs.argmax(axis=1)]
    return table.assign(**{f"p_{name}": probs[:, i] for i, name in enumerate(names)})


@pytest.fixture
def record():
    facts = {
        "best_model": {"epoch": 4, "val_accuracy": 0.91},
        "best_ema_model": {"epoch": 6, "val_accuracy": 0.90},
    }
    tables = {"best_model": predictions(0, 0.1), "best_ema_model": predictions(0, 0.6)}
    return report.evaluation_record(tables, facts, INFO, "test"), tables


def test_a_table_can_be_read_back_with_its_numbers():
    frame = pd.DataFrame(
        {"accuracy (%)": [87.123, 86.0], "images": [3153, 12], "note": ["good", "b_d"]},
        index=pd.Index(["best_model", "EMA & more"], name="check_point"),
    )
    found = parse(report.latex_table(frame, caption="The test split.", label="tab:test_1"))
    assert found["shape"] == "lrrl"
    assert found["rows"] == [
        [r"check\_point", r"accuracy (\%)", "images", "note"],
        [r"best\_model", "87.12", "3153", "good"],
        [r"EMA \& more", "86.00", "12", r"b\_d"],
    ]
    assert (found["caption"], found["label"]) == ("The test split.", "tab:test_1")


def test_special_characters_are_escaped_everywhere():
    frame = pd.DataFrame({NASTY: [NASTY]}, index=pd.Index([NASTY], name=NASTY))
    found = parse(report.latex_table(frame, caption=NASTY + "\n" + NASTY, label="tab:x"))
    escaped = (
        r"100\% of a\_b \& \{c\} \$5 \#1 \textasciitilde{}x\textasciicircum{}2 "
        r"\textbackslash{}d \textless{}e\textgreater{} \textbar{}f\textbar{}"
    )
    assert found["rows"] == [[escaped, escaped]] * 2
    assert found["caption"] == f"{escaped} {escaped}"


def test_the_parser_of_this_test_is_strict():
    good = report.latex_table(pd.DataFrame({"a": [1.0]}), caption="c", label="tab:x")
    parse(good)
    for bad in (
        good.replace("1.00", "1_00"),
        good.replace("1.00", "1%"),
        good.replace("1.00", "1 & 2"),
        good.replace(r"\end{tabular}", ""),
        good.replace(r"1.00 \\", "1.00"),
        good.replace("{c}", "{{c}"),
    ):
        with pytest.raises((AssertionError, TypeError)):
            parse(bad)


def test_what_is_missing_is_a_dash_and_a_negative_number_has_a_minus():
    frame = pd.DataFrame({"change": [-0.456, np.nan, 1.0]}, index=list("abc"))
    found = parse(report.latex_table(frame, caption="c", label="tab:x", decimals=1))
    assert [row[1] for row in found["rows"][1:]] == ["$-0.5$", "--", "1.0"]


def test_the_best_value_is_bold_with_all_that_print_like_it():
    frame = pd.DataFrame({"up": [1.001, 0.999, 0.5], "down": [3.0, np.nan, 2.0], "free": [1, 2, 3]})
    latex = report.latex_table(frame, caption="c", label="t", bold={"up": "max", "down": "min"})
    rows = parse(latex)["rows"][1:]
    assert [row[1] for row in rows] == [r"\textbf{1.00}", r"\textbf{1.00}", "0.50"]
    assert [row[2] for row in rows] == ["3.00", "--", r"\textbf{2.00}"]
    assert [row[3] for row in rows] == ["1", "2", "3"]


def test_an_empty_table_and_a_label_latex_cannot_take_are_refused():
    with pytest.raises(ValueError, match="the table has 0 rows"):
        report.latex_table(pd.DataFrame({"a": []}), caption="c", label="t")
    with pytest.raises(ValueError, match=r"label 'tab:\{x\}'; use letters"):
        report.latex_table(pd.DataFrame({"a": [1]}), caption="c", label="tab:{x}")


def test_a_comparison_has_a_row_a_checkpoint_and_shares_in_percent():
    frame = report.comparison(
        {
            "EMA": {"n": 3, "accuracy": 0.5, "ece": 0.02, "nll": 1.5, "per_class": []},
            "best": {"n": 3, "accuracy": 0.25, "ece": 0.04, "nll": 2.5},
        }
    )
    assert list(frame.index) == ["EMA", "best"]
    assert frame.to_dict("list") == {
        "accuracy (%)": [50, 25],
        "ECE (%)": [2, 4],
        "NLL": [1.5, 2.5],
    }


def test_nothing_to_compare_is_refused():
    for nothing in ({}, {"EMA": {"loss": 3.0}}):
        with pytest.raises(ValueError, match="no metric to compare; give dicts with some of: acc"):
            report.comparison(nothing)


def test_every_metric_of_an_evaluation_reaches_the_comparison(record):
    content, tables = record
    frame = report.comparison({n: c["metrics"] for n, c in content["checkpoints"].items()})
    found = metrics.evaluate(tables["best_model"])
    assert len(frame.columns) == len(found) - 1  # all but the number of faces
    assert frame.loc["best_model", "accuracy (%)"] == pytest.approx(100 * found["accuracy"])
    parse(report.latex_table(frame, caption="c", label="tab:x"))


def test_a_record_survives_json_and_carries_every_number(record):
    content, tables = record
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again == content
    assert (again["dataset"], again["protocol"], again["split"]) == ("ferplus", "official", "test")
    for name, table in tables.items():
        assert again["checkpoints"][name]["metrics"] == metrics.evaluate(table)
        rows = pd.DataFrame(again["checkpoints"][name]["per_class"])
        pd.testing.assert_frame_equal(rows, metrics.per_class(table))


def test_the_headline_is_chosen_on_validation_whatever_the_test_split_says(record):
    content, _ = record
    found = {name: c["metrics"]["accuracy"] for name, c in content["checkpoints"].items()}
    assert found["best_ema_model"] > found["best_model"]
    assert content["headline"] == "best_model"
    assert "validation" in content["selection"]


def test_checkpoints_scored_on_different_images_are_not_compared():
    facts = {name: {"epoch": 1, "val_accuracy": 0.5} for name in ("a", "b")}
    tables = {"a": predictions(0, 0.5), "b": predictions(0, 0.5).iloc[1:]}
    with pytest.raises(ValueError, match=r"different images were scored \(a 50, b 49\)"):
        report.evaluation_record(tables, facts, INFO, "test")


def test_an_epoch_is_told_with_the_best_so_far():
    shared = {"lr": 5e-5, "grad_norm": 1.25, "seconds": 60, "images_per_second": 400}
    shared |= {"train_loss": 1.5, "val_loss": 1.0, "ema_val_loss": 0.9, "train_accuracy": 0.6}
    history = [
        {"epoch": e, "val_accuracy": v, "ema_val_accuracy": m, "ema_val_accuracy_fear": 0.4}
        | shared
        for e, v, m in ((1, 0.7, 0.2), (2, 0.6, 0.65))
    ]
    text = report.epoch_lines(history, 150)
    assert text.startswith("epoch 2/150  lr 5.0e-05  grad norm 1.25")
    assert "val 60.00% (best 70.00%, epoch 1)" in text
    assert "EMA 65.00% (best 65.00%, epoch 2)" in text
    assert "fear 40" in text
