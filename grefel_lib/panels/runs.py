"""Compare chosen runs: means, intervals, paired differences."""

import html
import os
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from grefel_lib.analysis.compare import (
    PUBLISHED,
    differing_fact,
    evaluated_runs,
    group_variants,
    paired_differences,
    seed_table,
    summarise_variants,
)
from grefel_lib.analysis.evaluation import Evaluation
from grefel_lib.files import relative
from grefel_lib.metrics import interval_unit
from grefel_lib.panels.panel import Panel, dropdown, html_picture
from grefel_lib.report.comparison import ablation, differences_figure
from grefel_lib.report.tables import interval_table
from grefel_lib.run import outputs_folder

SHOWN = ("accuracy", "mean_class_accuracy", "macro_f1", "ece", "nll")
ROWS = 12  # of the list of runs, at most
STYLE = """<style>.grefel-runs {line-height: 1.4; font-size: 12px; border-collapse: collapse}
.grefel-runs :is(td, th) {padding: 2px 8px 2px 0; text-align: left; white-space: normal}
.grefel-runs td {white-space: nowrap}</style>"""


def run_folders(first: str) -> list[str]:
    """The given folder, the published runs, and every folder of outputs with evaluated runs."""
    root = outputs_folder()
    inside = {p.parents[1] for deep in ("*", "*/*") for p in root.glob(f"{deep}/metrics.json")}
    folders = sorted(p for p in inside if not (p / "config.json").is_file())  # not runs themselves
    return list(
        dict.fromkeys([relative(outputs_folder(first)), PUBLISHED, *map(relative, folders)])
    )


class ComparisonPanel(Panel):
    """A list of evaluated runs; the chosen ones are compared below."""

    title = "Run table: pick runs with Ctrl or Shift"

    def __init__(self, output_dir: str) -> None:
        super().__init__()
        self.results: dict[str, Evaluation] = {}
        self.groups: dict[str, list[Evaluation]] = {}  # picked runs by variant
        self.tables: dict[str, pd.DataFrame] = {}  # their means by metric
        self.folder = dropdown("folder", run_folders(output_dir), 420)
        self.picked = widgets.SelectMultiple(
            description="runs", layout={"width": "720px", "max_width": "99%"}
        )
        self.reference = dropdown("baseline", width=420)
        self.shown, self.table = widgets.HTML(), widgets.HTML()
        self.fill([self.folder, self.reference], self.picked, self.shown, self.table)
        self.react(self._open, self.folder)
        self.react(self._pick, self.picked)
        self.react(self._refer, self.reference)
        self.guard(self._open)()

    def _open(self) -> None:
        """List the evaluated runs of a folder; preselect those on the same faces as the first."""
        evaluations = evaluated_runs(self.folder.value)
        here = outputs_folder(self.folder.value)
        results = {_line(result, here): result for result in evaluations}
        alike = [k for k, r in results.items() if not differing_fact(evaluations[0], r)]
        try:
            self._compare_runs([results[line] for line in alike])
        except ValueError as error:  # such as a seed that occurs twice; the user may pick others
            alike = alike[:1]
            self._compare_runs([results[alike[0]]])
            self.tell(str(error), wrong=True)
        self.results = results
        with self.hushed():
            self.picked.options = list(results)
            self.picked.rows = min(max(len(evaluations), 3), ROWS)
            self.picked.value = alike

    def _pick(self) -> None:
        if not self.picked.value:
            raise ValueError("pick at least one run")
        self._compare_runs([self.results[line] for line in self.picked.value])

    def _compare_runs(self, chosen: list[Evaluation]) -> None:
        """Compare runs, and offer their variants as reference."""
        groups, previous = group_variants(chosen), self.reference.value
        reference = previous if previous in groups else next(iter(groups))
        self._draw(groups, summarise_variants(groups), reference)
        with self.hushed():
            self.reference.options = list(groups)
            self.reference.value = reference

    def _refer(self) -> None:
        self._draw(self.groups, self.tables, self.reference.value)

    def _draw(
        self,
        groups: dict[str, list[Evaluation]],
        tables: dict[str, pd.DataFrame],
        reference: str,
    ) -> None:
        """Show a comparison; what cannot be compared leaves the one before."""
        seeds = seed_table(groups)
        words = "mean and every seed of each variant, four metrics"
        shown = html_picture(ablation(tables, seeds), words)
        if len(groups) > 1:
            figure = differences_figure(paired_differences(groups, reference))
            shown += html_picture(figure, f"differences from {reference} on the same faces")
        table = interval_table({metric: tables[metric] for metric in SHOWN})
        self.shown.value, self.table.value = shown, STYLE + _as_html(table)
        self.groups, self.tables = groups, tables
        first = next(iter(groups.values()))[0]
        self.tell(
            f"{len(seeds)} runs, {len(groups)} variants, {len(first.table)} faces of "
            f"{first.saved['dataset']} ({first.saved['split']}); mean ± std over seeds, "
            f"[95% interval over {interval_unit(first.table)}]"
        )


def _as_html(table: pd.DataFrame) -> str:
    """The table as HTML, each interval below its mean and spread."""
    two_lines = table.map(lambda cell: cell.replace(" [", "<br>["))
    two_lines.index = [html.escape(name) for name in table.index]
    return two_lines.to_html(border=0, classes="grefel-runs", escape=False)


def _line(result: Evaluation, folder: Path) -> str:
    """One run as a line of the list; its path tells it from one of the same name."""
    accuracy = result.saved_headline["metrics"]["accuracy"]
    where = f"{result.saved['dataset']} ({result.saved['split']})"
    return f"{os.path.relpath(result.run.path, folder)} · {where} · {accuracy:.1%}"
