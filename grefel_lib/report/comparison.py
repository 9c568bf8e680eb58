"""Figures of a comparison: every seed, the mean, its interval."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from grefel_lib.report.style import EMA, FAINT, INK, QUIET, VAL, paper_style
from grefel_lib.report.tables import PERCENT, TITLES

SHOWN_METRICS = ("accuracy", "mean_class_accuracy", "macro_f1", "nll")


def ablation(tables: Mapping[str, pd.DataFrame], seeds: pd.DataFrame) -> Figure:
    """Draw `variant_dots` of four metrics at full width, from `summarise_variants` and seeds."""
    shown = {metric: tables[metric] for metric in SHOWN_METRICS}
    with paper_style("full"):
        fig = Figure(figsize=(6.9, 0.5 + 0.35 * len(tables["accuracy"])))
        variant_dots(shown, seeds, fig.subplots(1, len(shown)), TITLES, PERCENT)
    return fig


def detection_curves(table: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Draw how well wrong labels are found (`detection_table`), a kind of noise a panel.

    The band spans the seeds; at one half nothing is found.
    """
    for ax, (kind, rows) in zip(axes, table.groupby("noise_kind", sort=False), strict=True):
        looks = zip((VAL, EMA), ("-", "--"), "os", strict=True)
        for (name, line), (colour, ls, marker) in zip(
            rows.groupby("measure", sort=False), looks, strict=False
        ):
            x = line["label_noise"]
            ax.fill_between(x, line["min"], line["max"], color=colour, alpha=0.2, lw=0)
            ax.plot(x, line["auroc"], color=colour, ls=ls, marker=marker, ms=3.5, label=name)
        ax.axhline(0.5, color=FAINT, lw=0.8, zorder=0)
        ax.set(title=f"{kind} noise", xlabel="training labels made wrong", ylim=(0.45, 1))
        ax.set_xticks(sorted(table["label_noise"].unique()))
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.grid(axis="y")
    axes[0].set_ylabel("AUROC of finding them")
    axes[0].legend(title="measure", loc="lower left")
    return axes


def variant_dots(
    tables: Mapping[str, pd.DataFrame],
    seeds: pd.DataFrame,
    axes: Sequence[Axes],
    titles: Mapping[str, str],
    percent: Sequence[str] = (),
) -> Sequence[Axes]:
    """Draw each variant's mean with its interval, and every seed as a hollow dot, a metric a panel.

    Args:
        tables: By metric, one row a variant: value, low, high (`summarise_variants`).
        seeds: One row a run: variant, and a column a metric (`seed_table`).
        axes: One a metric, side by side; only the first names the variants.
        titles: By metric, the words under its axis.
        percent: Metrics drawn times 100.
    """
    for column, (ax, (metric, table)) in enumerate(zip(axes, tables.items(), strict=True)):
        scale = 100 if metric in percent else 1
        names = list(table.index)
        for row, name in enumerate(names):
            value, low, high = (scale * table.loc[name, key] for key in ("value", "low", "high"))
            ax.plot([low, high], [row, row], color=VAL, linewidth=1.4, solid_capstyle="butt")
            ax.plot(value, row, "o", color=VAL, markersize=4)
            each = scale * seeds.loc[seeds["variant"] == name, metric].to_numpy()
            spread = row + 0.28 * np.ones(len(each))
            ax.plot(each, spread, "o", color=QUIET, markersize=2.6, markerfacecolor="none",
                    markeredgewidth=0.7)  # fmt: skip
        ax.axvline(scale * table["value"].iloc[0], color=FAINT, linewidth=0.8, zorder=0)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_yticks(range(len(names)), names if column == 0 else [])
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.set_xlabel(titles[metric].replace(" (%)", "\n(%)"))
    return axes


def difference_dots(table: pd.DataFrame, ax: Axes, *, percent: bool = True) -> Axes:
    """Draw how far each variant lies from the reference, with its paired interval.

    Args:
        table: One row a variant: variant, difference, low, high (`paired_differences`, one metric).
        ax: Where to draw; zero is the reference.
        percent: Times 100.
    """
    scale = 100 if percent else 1
    for row, (_, line) in enumerate(table.iterrows()):
        clear = line["low"] > 0 or line["high"] < 0  # the interval leaves zero out
        colour = INK if clear else QUIET
        ax.plot([scale * line["low"], scale * line["high"]], [row, row], color=colour)
        ax.plot(scale * line["difference"], row, "o", color=colour, markersize=4,
                markerfacecolor=colour if clear else "white")  # fmt: skip
    ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_yticks(range(len(table)), table["variant"])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax


def differences_figure(apart: pd.DataFrame) -> Figure | None:
    """Draw what each variant gains over the reference, with paired intervals, four metrics wide."""
    rows = apart["variant"].nunique()
    if not rows:
        return None
    metrics = SHOWN_METRICS
    with paper_style("full"):
        fig = Figure(figsize=(6.9, 0.55 + 0.3 * rows))
        axes = fig.subplots(1, len(metrics), sharey=True)
        for ax, metric in zip(axes, metrics, strict=True):
            percent = metric in PERCENT
            difference_dots(apart[apart["metric"] == metric], ax, percent=percent)
            ax.set_xlabel("Δ " + TITLES[metric].replace(" (%)", "\n(points)"))
    return fig
