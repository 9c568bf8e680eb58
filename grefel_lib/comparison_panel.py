"""Pick runs, and see the comparison change: means, intervals, paired differences."""

import html
from pathlib import Path

import ipywidgets as widgets
import pandas as pd
from matplotlib.figure import Figure

from grefel_lib import comparison, comparison_plots, plots, report, runs
from grefel_lib.comparison import Result
from grefel_lib.folders import relative
from grefel_lib.panel import Panel, picture, row

SHOWN = ("accuracy", "mean_class_accuracy", "macro_f1", "ece", "nll")
ROWS = 12  # of the list of runs, at most
STYLE = """<style>.grefel-runs {line-height: 1.4; font-size: 12px; border-collapse: collapse}
.grefel-runs :is(td, th) {padding: 2px 8px 2px 0; text-align: left; white-space: nowrap}</style>"""


def folders(first: str) -> list[str]:
    """The folder asked for, the published runs, and every folder of outputs with evaluated runs."""
    root = runs.outputs()
    holding = {path.parents[1] for path in root.glob("*/metrics.json")}
    holding |= {path.parents[1] for path in root.glob("*/*/metrics.json")}
    inside = [
        p for p in holding if not (p / "config.json").is_file()
    ]  # not a run's fine-tuned ones
    found = [relative(path) for path in sorted(inside)]
    first = relative(runs.outputs(first))
    return list(dict.fromkeys([first, comparison.PUBLISHED, *found]))


def differences(apart: pd.DataFrame) -> Figure | None:
    """Draw what each variant gains over the reference, with paired intervals, four metrics wide."""
    rows = apart["variant"].nunique()
    if not rows:
        return None
    metrics = comparison_plots.METRICS
    with plots.paper_style("full"):
        fig = Figure(figsize=(6.9, 0.55 + 0.3 * rows))
        axes = fig.subplots(1, len(metrics), sharey=True)
        for ax, metric in zip(axes, metrics, strict=True):
            percent = metric in report.PERCENT
            comparison_plots.differences(apart[apart["metric"] == metric], ax, percent=percent)
            ax.set_xlabel("Δ " + report.TITLES[metric].replace(" (%)", "\n(points)"))
    return fig


class ComparisonPanel(Panel):
    """A list of evaluated runs; what is picked is compared below."""

    title = "Run table: pick runs with Ctrl or Shift"

    def __init__(self, output_dir: str) -> None:
        super().__init__()
        self.results: dict[str, Result] = {}
        self.groups: dict[str, list[Result]] = {}  # what is picked, by variant
        self.tables: dict[str, pd.DataFrame] = {}  # and its means, by metric
        self.folder = widgets.Dropdown(
            options=folders(output_dir), description="folder", layout={"width": "420px"}
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
        found = comparison.evaluated_runs(self.folder.value)
        self.results = {_line(result): result for result in found}
        with self.hushed():
            self.picked.options = list(self.results)
            self.picked.rows = min(max(len(found), 3), ROWS)
            self.picked.value = [k for k, r in self.results.items() if _alike(r, found[0])]
        self._pick()

    def _pick(self) -> None:
        """Offer the variants among the picked runs as reference."""
        groups, kept = self._groups(), self.reference.value
        with self.hushed():
            self.reference.options = list(groups)
            self.reference.value = kept if kept in groups else next(iter(groups))
        self.groups, self.tables = groups, comparison.summary(groups)
        self._draw()

    def _groups(self) -> dict[str, list[Result]]:
        chosen = [self.results[line] for line in self.picked.value]
        if not chosen:
            raise ValueError("pick at least one run")
        comparison.same_faces(chosen)
        return comparison.variants(chosen)

    def _draw(self) -> None:
        groups, tables = self.groups, self.tables
        seeds = comparison.seed_table(groups)
        with plots.paper_style("full"):
            fig = comparison_plots.ablation(tables, seeds)
        self.shown.value = picture(fig, "mean and every seed of each variant, four metrics")
        apart = comparison.against(groups, self.reference.value) if len(groups) > 1 else None
        if apart is not None:
            words = f"differences to {self.reference.value} on the same faces"
            self.shown.value += picture(differences(apart), words)
        shown = report.interval_table({metric: tables[metric] for metric in SHOWN})
        self.table.value = STYLE + _as_html(shown)
        first = next(iter(groups.values()))[0]
        self.tell(
            f"{len(seeds)} runs, {len(groups)} variants, {len(first.predictions)} faces of "
            f"{first.record['dataset']} ({first.record['split']}); mean ± spread over seeds, "
            f"[95% interval over faces]"
        )


def _as_html(shown: pd.DataFrame) -> str:
    """The table, each interval below its mean and spread."""
    two_lines = shown.map(lambda cell: cell.replace(" [", "<br>["))
    two_lines.index = [html.escape(name) for name in shown.index]
    return two_lines.to_html(border=0, classes="grefel-runs", escape=False)


def _line(result: Result) -> str:
    """One run as a line of the list."""
    accuracy = result.headline["metrics"]["accuracy"]
    return f"{Path(result.name).name} · {result.record['dataset']} · {accuracy:.1%}"


def _alike(result: Result, other: Result) -> bool:
    try:
        comparison.same_faces([other, result])
    except ValueError:
        return False
    return True
