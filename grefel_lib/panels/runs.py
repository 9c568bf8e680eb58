"""Compare chosen runs: means, intervals, paired differences."""

import html

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
        self.react(self._draw, self.reference)
        self.guard(self._open)()

    def _open(self) -> None:
        """List the evaluated runs of a folder; preselect those on the same faces as the first."""
        evaluations = evaluated_runs(self.folder.value)
        self.results = {_line(result): result for result in evaluations}
        alike = [k for k, r in self.results.items() if not differing_fact(evaluations[0], r)]
        with self.hushed():
            self.picked.options = list(self.results)
            self.picked.rows = min(max(len(evaluations), 3), ROWS)
            self.picked.value = alike
        self._pick()

    def _pick(self) -> None:
        """Compare the picked runs, and offer their variants as reference."""
        chosen = [self.results[line] for line in self.picked.value]
        if not chosen:
            raise ValueError("pick at least one run")
        groups, previous = group_variants(chosen), self.reference.value
        with self.hushed():
            self.reference.options = list(groups)
            self.reference.value = previous if previous in groups else next(iter(groups))
        self.groups, self.tables = groups, summarise_variants(groups)
        self._draw()

    def _draw(self) -> None:
        groups, tables, seeds = self.groups, self.tables, seed_table(self.groups)
        self.shown.value = html_picture(
            ablation(tables, seeds), "mean and every seed of each variant, four metrics"
        )
        if len(groups) > 1:
            figure = differences_figure(paired_differences(groups, self.reference.value))
            words = f"differences from {self.reference.value} on the same faces"
            self.shown.value += html_picture(figure, words)
        table = interval_table({metric: tables[metric] for metric in SHOWN})
        self.table.value = STYLE + _as_html(table)
        first = next(iter(groups.values()))[0]
        self.tell(
            f"{len(seeds)} runs, {len(groups)} variants, {len(first.table)} faces of "
            f"{first.saved['dataset']} ({first.saved['split']}); mean ± std over seeds, "
            f"[95% interval over faces]"
        )


def _as_html(table: pd.DataFrame) -> str:
    """The table as HTML, each interval below its mean and spread."""
    two_lines = table.map(lambda cell: cell.replace(" [", "<br>["))
    two_lines.index = [html.escape(name) for name in table.index]
    return two_lines.to_html(border=0, classes="grefel-runs", escape=False)


def _line(result: Evaluation) -> str:
    """One run as a line of the list."""
    accuracy = result.saved_headline["metrics"]["accuracy"]
    where = f"{result.saved['dataset']} ({result.saved['split']})"
    return f"{result.run.path.name} · {where} · {accuracy:.1%}"
