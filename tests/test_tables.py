"""Tables for papers: LaTeX is read back by a strict little parser."""

import numpy as np
import pandas as pd
import pytest
from strict_latex import parse

from grefel_lib.report.tables import (
    BEST,
    NO_BREAK,
    SPLITS,
    bracketed,
    class_table,
    difference_table,
    interval_table,
    latex_table,
    metric_table,
    split_title,
    with_intervals,
)

NASTY = r"100% of a_b & {c} $5 #1 ~x^2 \d <e> |f|"


def test_a_table_can_be_read_back_with_its_numbers():
    frame = pd.DataFrame(
        {"accuracy (%)": [87.123, 86.0], "images": [3153, 12], "note": ["good", "b_d"]},
        index=pd.Index(["best_model", "EMA & more"], name="check_point"),
    )
    found = parse(latex_table(frame, caption="The test split.", label="tab:test_1"))
    assert found["shape"] == "lrrl"
    assert found["rows"] == [
        [r"check\_point", r"accuracy (\%)", "images", "note"],
        [r"best\_model", "87.12", "3153", "good"],
        [r"EMA \& more", "86.00", "12", r"b\_d"],
    ]
    assert (found["caption"], found["label"]) == ("The test split.", "tab:test_1")


def test_the_re_split_test_faces_are_named_so():
    facts = {"dataset": "ferplus", "split": "test", "fingerprint": "content-8ebb9dea7e7eb1c9"}
    assert split_title(facts) == "re-split test set"
    assert split_title(facts | {"fingerprint": "content-0123456789abcdef"}) == "test split"
    assert split_title(facts | {"split": "val"}).startswith("validation split")


def test_special_characters_are_escaped_everywhere():
    frame = pd.DataFrame({NASTY: [NASTY]}, index=pd.Index([NASTY], name=NASTY))
    found = parse(latex_table(frame, caption=NASTY + "\n" + NASTY, label="tab:x"))
    escaped = (
        r"100\% of a\_b \& \{c\} \$5 \#1 \textasciitilde{}x\textasciicircum{}2 "
        r"\textbackslash{}d \textless{}e\textgreater{} \textbar{}f\textbar{}"
    )
    assert found["rows"] == [[escaped, escaped]] * 2
    assert found["caption"] == f"{escaped} {escaped}"


@pytest.mark.parametrize("name", ["[happy]", "*happy"])
def test_no_row_begins_with_what_belongs_to_the_line_break_before(name):
    latex = latex_table(pd.DataFrame({"a": [1.0]}, index=[name]), caption="c", label="t")
    assert f"\n{{}}{name} & 1.00" in latex


def test_the_parser_of_this_test_is_strict():
    good = latex_table(pd.DataFrame({"a": [1.0]}), caption="c", label="tab:x")
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
    found = parse(latex_table(frame, caption="c", label="tab:x", decimals=1))
    assert [row[1] for row in found["rows"][1:]] == ["$-0.5$", "--", "1.0"]


def test_a_wide_table_spans_both_columns():
    latex = latex_table(pd.DataFrame({"a": [1.0]}), caption="c", label="tab:x", wide=True)
    assert latex.startswith(r"\begin{table*}")
    assert latex.rstrip().endswith(r"\end{table*}")


def test_the_best_value_is_bold_with_all_that_print_like_it():
    frame = pd.DataFrame({"up": [1.001, 0.999, 0.5], "down": [3.0, np.nan, 2.0], "free": [1, 2, 3]})
    latex = latex_table(frame, caption="c", label="t", bold={"up": "max", "down": "min"})
    rows = parse(latex)["rows"][1:]
    assert [row[1] for row in rows] == [r"\textbf{1.00}", r"\textbf{1.00}", "0.50"]
    assert [row[2] for row in rows] == ["3.00", "--", r"\textbf{2.00}"]
    assert [row[3] for row in rows] == ["1", "2", "3"]


def test_text_is_bold_by_the_number_at_its_start_in_a_row_too():
    frame = pd.DataFrame({"raw": ["82.1 [80, 84]", "0.50"], "EMA": ["83.0 [81, 85]", "0.61"]},
                         index=["accuracy (%)", "NLL"])  # fmt: skip
    rows = parse(latex_table(frame, caption="c", label="t", bold=BEST))["rows"][1:]
    assert [row[1:] for row in rows] == [
        ["82.1 [80, 84]", r"\textbf{83.0} [81, 85]"], [r"\textbf{0.50}", "0.61"],
    ]  # fmt: skip


def test_of_error_detection_the_largest_auroc_and_the_smallest_aurc_are_bold():
    frame = pd.DataFrame({"AUROC": [0.8, 0.9], "AURC": [0.1, 0.2]}, ["confidence", "reliability"])
    rows = parse(latex_table(frame, caption="c", label="t", bold=BEST))["rows"][1:]
    assert [row[1:] for row in rows] == [["0.80", r"\textbf{0.10}"], [r"\textbf{0.90}", "0.20"]]


def test_an_empty_table_and_a_label_latex_cannot_take_are_refused():
    with pytest.raises(ValueError, match="the table has 0 rows"):
        latex_table(pd.DataFrame({"a": []}), caption="c", label="t")
    with pytest.raises(ValueError, match=r"label 'tab:\{x\}'; use letters"):
        latex_table(pd.DataFrame({"a": [1]}), caption="c", label="tab:{x}")


def test_intervals_stand_in_brackets_behind_their_value():
    found = {"metrics": {"accuracy": 0.82104, "nll": 0.5}, "intervals": {"accuracy": [0.8, 0.84],
             "nll": [0.4, 0.61]}}  # fmt: skip
    table = with_intervals({"best_model": found})
    assert table.loc["accuracy (%)", "best_model"] == "82.1 [80.0, 84.0]"
    assert table.loc["NLL", "best_model"] == "0.50 [0.40, 0.61]"


def test_a_spread_has_the_unit_of_its_mean():
    row = pd.DataFrame({"value": 0.82104, "low": 0.8, "high": 0.84, "spread": 0.0123}, ["a"])
    told = interval_table({"accuracy": row, "nll": row}).loc["a"].str.replace(NO_BREAK, " ")
    assert told.tolist() == ["82.1 ± 1.2 [80.0, 84.0]", "0.821 ± 0.012 [0.800, 0.840]"]


def test_a_class_is_listed_with_recall_precision_and_f1():
    fear = {"class": "fear", "count": 8, "precision": 0.8, "recall": 0.5, "recall_low": 0.22,
            "recall_high": 0.78, "f1": 0.615}  # fmt: skip
    assert class_table([fear]).loc["fear"].to_dict() == {
        "faces": 8, "recall (%)": "50.0 [22.0, 78.0]", "precision (%)": pytest.approx(80),
        "F1 (%)": pytest.approx(61.5),
    }  # fmt: skip


def test_metrics_are_printed_under_their_titles_in_percent():
    table = pd.DataFrame(
        {"epoch": [3, 4], "accuracy": [0.89436, float("nan")], "nll": [0.35061, -0.0001],
         "val_macro_f1": [0.5, 1.0], "ema_val_nll": [1.0, 2.0]}, index=["a", "b"],
    )  # fmt: skip
    assert metric_table(table).to_dict(orient="list") == {
        "epoch": [3, 4], "accuracy (%)": ["89.4", "–"], "NLL": ["0.351", "0.000"],
        "validation macro F1 (%)": ["50.0", "100.0"], "EMA, validation NLL": ["1.000", "2.000"],
    }  # fmt: skip
    assert list(metric_table(table).index) == ["a", "b"]


def test_differences_are_printed_in_points_with_their_p_values():
    rows = [("b", "accuracy", -0.01168, -0.027, 0.0037, [0.75, 0.013]),
            ("b", "nll", 0.0266, 0.0051, 0.0512, None),
            ("c", "accuracy", 0.0, -0.01, 0.01, [1.0]),
            ("c", "nll", 0.0, 0.0, 0.0, None)]  # fmt: skip
    columns = ["variant", "metric", "difference", "low", "high", "mcnemar"]
    told = difference_table(pd.DataFrame(rows, columns=columns), ["nll", "accuracy"])
    assert list(told) == ["NLL", "accuracy (points)", "McNemar p"]
    assert told.loc["b"].tolist() == ["0.027 [0.005, 0.051]", "-1.2 [-2.7, 0.4]", "0.75, 0.013"]
    assert told.loc["c", "McNemar p"] == "1.0"


def test_a_zero_has_no_minus():
    tiny = pd.DataFrame({"value": [-0.0004], "low": [-0.02], "high": [0.0004]}, index=["a"])
    assert bracketed(tiny, "value").tolist() == ["0.0 [-2.0, 0.0]"]
    found = {"metrics": {"nll": -0.001}, "intervals": {"nll": [-0.0, 0.001]}}
    assert with_intervals({"a": found}).loc["NLL", "a"] == "0.00 [0.00, 0.00]"
    nll = tiny.assign(spread=-0.0, seeds=2)
    assert (
        interval_table({"nll": nll}).loc["a", "NLL"].startswith(f"0.000{NO_BREAK}±{NO_BREAK}0.000")
    )
    rows = parse(latex_table(tiny, caption="c", label="t", decimals=2))["rows"]
    assert rows[1] == ["a", "0.00", "$-0.02$", "0.00"]


def test_what_is_not_known_is_a_dash_in_text_and_in_latex():
    nothing = pd.DataFrame({"value": [np.nan, 0.5], "low": [np.nan, 0.0], "high": [np.nan, 1.0]})
    cells = bracketed(nothing, "value")
    assert cells.tolist() == ["–", "50.0 [0.0, 100.0]"]
    rows = parse(latex_table(cells.to_frame("recall (%)"), caption="c", label="t"))["rows"]
    assert rows[1][1] == "--"


def test_any_split_but_test_stands_in_the_head():
    found = {"metrics": {"accuracy": 0.8}, "intervals": {"accuracy": [0.7, 0.9]}}
    heads = [with_intervals({"a": found}, split=split).index.name for split in SPLITS]
    assert heads == ["metric", "metric (val split)", "metric (train split)"]
