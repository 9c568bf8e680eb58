"""Compare chosen runs: means, intervals, paired differences."""

import html

import ipywidgets as widgets
import pandas as pd

from grefel_lib.analysis.compare import (
    PUBLISHED,
    check_same_faces,
    evaluated_runs,
    group_variants,
    paired_differences,
    seed_table,
    summarise_variants,
)
from grefel_lib.analysis.evaluation import Evaluation
from grefel_lib.files import relative
from grefel_lib.panels.panel import Panel, html_picture, row
from grefel_lib.report.comparison import ablation, differences_figure
from grefel_lib.report.style import paper_style
from grefel_lib.report.tables import interval_table
from grefel_lib.run import outputs_folder

SHOWN = ("accuracy", "mean_class_accuracy", "macro_f1", "ece", "nll")
ROWS = 12  # of the list of runs, at most
STYLE = """<style>.grefel-runs {line-height: 1.4; font-size: 12px; border-collapse: collapse}
.grefel-runs :is(td, th) {padding: 2px 8px 2px 0; text-align: left; white-space: nowrap}</style>"""


def run_folders(first: str) -> list[str]:
    """The folder asked for, the published runs, and every folder of outputs with evaluated runs."""
    root = outputs_folder()
    holding = {path.parents[1] for path in root.glob("*/metrics.json")}
    holding |= {path.parents[1] for path in root.glob("*/*/metrics.json")}
    inside = [
        p for p in holding if not (p / "config.json").is_file()
    ]  # not a run's fine-tuned ones
    names = [relative(path) for path in sorted(inside)]
    first = relative(outputs_folder(first))
    return list(dict.fromkeys([first, PUBLISHED, *names]))


class ComparisonPanel(Panel):
    """A list of evaluated runs; the chosen ones are compared below."""

    title = "Run table: pick runs with Ctrl or Shift"

    def __init__(self, output_dir: str) -> None:
        super().__init__()
        self.results: dict[str, Evaluation] = {}
        self.groups: dict[str, list[Evaluation]] = {}  # what is picked, by variant
        self.tables: dict[str, pd.DataFrame] = {}  # and its means, by metric
        self.folder = widgets.Dropdown(
            options=run_folders(output_dir), description="folder", layout={"width": "420px"}
        )
        self.picked = widgets.SelectMultiple(
            options=[], description="runs", layout={"width": "720px"}
        )
        self.reference = widgets.Dropdown(
            options=[], description="against", layout={"width": "420px"}
        )
        self.shown, self.table = widgets.HTML(), widgets.HTML()
        self.fill(row(self.folder, self.reference), self.picked, self.shown, self.table)
        self.folder.observe(self.guard(self._open), names="value")
        self.picked.observe(self.guard(self._pick), names="value")
        self.reference.observe(self.guard(self._draw), names="value")
        self.guard(self._open)()

    def _open(self) -> None:
        """List the evaluated runs of a folder, and pick those that compare with the first."""
        with self.hushed():
            self.picked.options, self.reference.options = [], []
        self.shown.value = self.table.value = ""
        evaluations = evaluated_runs(self.folder.value)
        self.results = {_line(result): result for result in evaluations}
        with self.hushed():
            self.picked.options = list(self.results)
            self.picked.rows = min(max(len(evaluations), 3), ROWS)
            self.picked.value = [k for k, r in self.results.items() if _alike(r, evaluations[0])]
        self._pick()

    def _pick(self) -> None:
        """Offer the variants among the picked runs as reference."""
        groups, previous = self._groups(), self.reference.value
        with self.hushed():
            self.reference.options = list(groups)
            self.reference.value = previous if previous in groups else next(iter(groups))
        self.groups, self.tables = groups, summarise_variants(groups)
        self._draw()

    def _groups(self) -> dict[str, list[Evaluation]]:
        chosen = [self.results[line] for line in self.picked.value]
        if not chosen:
            raise ValueError("pick at least one run")
        check_same_faces(chosen)
        return group_variants(chosen)

    def _draw(self) -> None:
        groups, tables = self.groups, self.tables
        seeds = seed_table(groups)
        with paper_style("full"):
            fig = ablation(tables, seeds)
        self.shown.value = html_picture(fig, "mean and every seed of each variant, four metrics")
        apart = paired_differences(groups, self.reference.value) if len(groups) > 1 else None
        if apart is not None:
            words = f"differences to {self.reference.value} on the same faces"
            self.shown.value += html_picture(differences_figure(apart), words)
        table = interval_table({metric: tables[metric] for metric in SHOWN})
        self.table.value = STYLE + _as_html(table)
        first = next(iter(groups.values()))[0]
        self.tell(
            f"{len(seeds)} runs, {len(groups)} variants, {len(first.table)} faces of "
            f"{first.saved['dataset']} ({first.saved['split']}); mean ± spread over seeds, "
            f"[95% interval over faces]"
        )


def _as_html(table: pd.DataFrame) -> str:
    """The table, each interval below its mean and spread."""
    two_lines = table.map(lambda cell: cell.replace(" [", "<br>["))
    two_lines.index = [html.escape(name) for name in table.index]
    return two_lines.to_html(border=0, classes="grefel-runs", escape=False)


def _line(result: Evaluation) -> str:
    """One run as a line of the list."""
    accuracy = result.saved_headline["metrics"]["accuracy"]
    where = f"{result.saved['dataset']} ({result.saved['split']})"
    return f"{result.run.path.name} · {where} · {accuracy:.1%}"


def _alike(result: Evaluation, other: Evaluation) -> bool:
    try:
        check_same_faces([other, result])
    except ValueError:
        return False
    return True
