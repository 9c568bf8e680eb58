"""The run table: what is picked is what is compared."""

import json
import re
import shutil

import pandas as pd
import pytest
from conftest import TAG
from matplotlib.figure import Figure

from grefel_lib.analysis.compare import (
    PUBLISHED,
    evaluated_runs,
    group_variants,
    paired_differences,
)
from grefel_lib.config import PROJECT_ROOT
from grefel_lib.metrics import _resampled
from grefel_lib.panels.runs import ComparisonPanel, differences_figure, run_folders
from grefel_lib.report.comparison import SHOWN_METRICS


@pytest.fixture
def table(other_outputs, monkeypatch):
    """The published runs, nothing drawn, and few resamples."""
    for name in ("ablation", "differences_figure"):
        monkeypatch.setattr(f"grefel_lib.panels.runs.{name}", lambda *_: Figure(figsize=(1, 1)))
    drawn = _resampled
    monkeypatch.setattr(
        "grefel_lib.metrics._resampled",
        lambda tables, _, *people, **options: drawn(tables, 20, *people, **options),
    )
    return ComparisonPanel(PUBLISHED)


def lines(table, *words):
    return tuple(line for line in table.picked.options if any(word in line for word in words))


def test_all_published_runs_are_listed_picked_and_compared(table):
    assert len(table.picked.value) == len(table.picked.options) == 12
    for line, result in table.results.items():
        right = (result.table["label"] == result.table["predicted"]).mean()
        assert line.endswith(f" · synthetic (test) · {right:.1%}")
    assert "12 runs, 4 variants" in table.message.value
    variants = [f"GReFEL, correction {name}" for name in ("none", "paper", "trust")]
    assert list(table.reference.options) == ["linear head", *variants]
    cells = re.findall(r"<td>(.*?)</td>", table.table.value)
    assert len(cells) == 4 * 5
    assert all(re.fullmatch(r"[\d.]+\s±\s[\d.]+<br>\[[\d.]+,\s[\d.]+\]", cell) for cell in cells)


def test_what_is_picked_is_compared_and_the_reference_stays_while_it_can(table):
    table.reference.value = "GReFEL, correction none"
    assert "differences from GReFEL, correction none" in table.shown.value
    table.picked.value = lines(table, "correction=none", "correction=paper", "linear")
    assert "9 runs, 3 variants" in table.message.value
    assert table.reference.value == "GReFEL, correction none"
    assert "trust" not in table.table.value
    table.picked.value = lines(table, "linear")
    assert table.reference.options == ("linear head",)
    assert "differences" not in table.shown.value  # one variant alone


def test_names_in_shared_runs_are_text_and_no_tags(table, other_outputs, assert_escaped):
    shared = other_outputs / "shared"
    for name in ("head=linear-seed=0", "correction=none-seed=0"):
        folder = shared / name.replace("head", "<b>x<")
        shutil.copytree(PROJECT_ROOT / PUBLISHED / name, folder)
        for file, changes in (
            ("config.json", {"variant": TAG} if "linear" in name else {}),
            ("metrics.json", {"dataset": TAG, TAG: TAG}),
        ):
            content = json.loads((folder / file).read_text()) | changes
            (folder / file).write_text(json.dumps(content))
    assert_escaped(ComparisonPanel(str(shared)))


def test_nothing_picked_is_said_and_picking_again_works(table):
    table.picked.value = ()
    assert "pick at least one run" in table.message.value
    table.picked.value = lines(table, "seed=0")
    assert "4 runs, 4 variants" in table.message.value


def test_runs_on_other_faces_are_named_not_compared(table):
    line = table.picked.options[0]
    result = table.results[line]
    result.facts["split"] = "val"
    table.picked.value = table.picked.options[:2]
    assert 'role="alert"' in table.message.value
    assert "split" in table.message.value


def test_two_runs_of_one_name_are_two_lines(table, other_outputs):
    for place in ("first", "second"):
        shutil.copytree(PROJECT_ROOT / PUBLISHED / "head=linear-seed=0",
                        other_outputs / place / "finetune_a")  # fmt: skip
        shutil.copy(other_outputs / place / "finetune_a/config.json", other_outputs / place)
    both = ComparisonPanel(str(other_outputs))
    names = [line.partition(" · ")[0] for line in both.picked.options]
    assert names == ["first/finetune_a", "second/finetune_a"]
    assert "linear head: the same seed occurs twice" in both.message.value
    assert both.picked.value == both.picked.options[:1]
    both.picked.value = both.picked.options[1:]
    assert "1 runs, 1 variants" in both.message.value


def test_a_folder_that_cannot_be_compared_leaves_everything_as_it_was(
    table, other_outputs, monkeypatch
):
    before = (table.folder.value, table.picked.options, table.picked.value, table.shown.value)
    groups, other = table.groups, other_outputs / "other"
    shutil.copytree(PROJECT_ROOT / PUBLISHED / "head=linear-seed=0", other / "one")

    def refuse(_):
        raise ValueError("these runs cannot be compared")

    table.folder.options = (*table.folder.options, str(other))
    with monkeypatch.context() as patch:
        patch.setattr("grefel_lib.panels.runs.summarise_variants", refuse)
        table.folder.value = str(other)
    assert "these runs cannot be compared" in table.message.value
    after = (table.folder.value, table.picked.options, table.picked.value, table.shown.value)
    assert after == before
    assert table.groups is groups
    table.picked.value = lines(table, "linear")
    assert "3 runs, 1 variants" in table.message.value


def test_an_empty_folder_says_what_to_do(other_outputs):
    table = ComparisonPanel(str(other_outputs))
    assert "grefel evaluate" in table.message.value
    assert table.picked.options == ()


def test_folders_with_evaluated_runs_are_offered_but_no_run_is_one(other_outputs):
    for path in ("one/metrics.json", "one/config.json", "one/finetune_a/metrics.json",
                 "sweep/point/metrics.json", "empty/point/config.json"):  # fmt: skip
        (other_outputs / path).parent.mkdir(parents=True, exist_ok=True)
        (other_outputs / path).touch()
    offered = run_folders(PUBLISHED)
    assert offered[0] == PUBLISHED
    assert set(offered[1:]) == {str(other_outputs), str(other_outputs / "sweep")}


def test_each_variant_but_the_reference_has_a_row_of_differences():
    groups = group_variants(evaluated_runs(PUBLISHED)[::3])
    first = next(iter(groups))
    fig = differences_figure(paired_differences(groups, first))
    assert len(fig.axes) == len(SHOWN_METRICS)
    ticks = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert sorted(ticks) == sorted(list(groups)[1:])
    assert differences_figure(paired_differences({first: groups[first]}, first)) is None


def test_a_difference_that_may_be_zero_is_a_hollow_dot():
    ends = {"a": (0.01, 0.03), "b": (-0.01, 0.03), "c": (-0.03, -0.01)}
    rows = [(n, m, sum(pair) / 2, *pair) for m in SHOWN_METRICS for n, pair in ends.items()]
    columns = ["variant", "metric", "difference", "low", "high"]
    fig = differences_figure(pd.DataFrame(rows, columns=columns))
    dots = [[bar.lines[0] for bar in ax.containers] for ax in fig.axes]
    for some in dots:
        assert [dot.get_markerfacecolor() == "white" for dot in some] == [False, True, False]
    assert [dot.get_xdata().item() for dot in dots[0]] == pytest.approx([2, 1, -2])  # points
