"""Figures of a comparison: every seed, the mean, its interval."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from grefel_lib.labels import COLOURS
from grefel_lib.report.style import (
    EMA,
    FAINT,
    INK,
    QUIET,
    VAL,
    interval_ends,
    name_rows,
    paper_style,
)
from grefel_lib.report.tables import PERCENT, TITLES

SHOWN_METRICS = ("accuracy", "mean_class_accuracy", "macro_f1", "nll")


def ablation(
    tables: Mapping[str, pd.DataFrame], seeds: pd.DataFrame, *, width: float = 6.9
) -> Figure:
    """Plot each variant's mean with its interval, and every seed as a hollow dot, for four metrics.

    Args:
        tables: By metric, one row a variant: value, low, high (`summarise_variants`).
        seeds: One row a run: variant, and a column a metric (`seed_table`).
        width: Inches.
    """
    names = list(tables["accuracy"].index)
    below = pd.Series(np.arange(len(names)) + 0.28, index=names)
    with paper_style():
        fig = Figure(figsize=(width, 0.5 + 0.35 * len(names)))
        axes = fig.subplots(1, len(SHOWN_METRICS), sharey=True)
        for ax, metric in zip(axes, SHOWN_METRICS, strict=True):
            scale = 100 if metric in PERCENT else 1
            table = scale * tables[metric][["value", "low", "high"]].astype(float)
            name_rows(ax, names)
            ends = interval_ends(table, "value", "low", "high")
            ax.errorbar(table["value"], range(len(names)), xerr=ends, fmt="o", color=VAL, lw=1.4,
                        ms=4)  # fmt: skip
            ax.plot(scale * seeds[metric], seeds["variant"].map(below), "o", color=QUIET, ms=2.6,
                    mfc="none", mew=0.7)  # fmt: skip
            ax.axvline(table["value"].iloc[0], color=FAINT, lw=0.8, zorder=0)
            ax.xaxis.set_major_locator(MaxNLocator(3))
            ax.set_xlabel(TITLES[metric].replace(" (%)", "\n(%)"))
    return fig


def differences_figure(table: pd.DataFrame, *, width: float = 6.9) -> Figure | None:
    """Plot each variant's difference from the reference with its paired interval, for four metrics.

    A dot is hollow where the interval includes zero.

    Args:
        table: From `paired_differences`; if empty, there is no figure.
        width: Inches.
    """
    names = list(table["variant"].unique())
    if not names:
        return None
    with paper_style():
        fig = Figure(figsize=(width, 0.55 + 0.3 * len(names)))
        axes = fig.subplots(1, len(SHOWN_METRICS), sharey=True)
        for ax, metric in zip(axes, SHOWN_METRICS, strict=True):
            scale = 100 if metric in PERCENT else 1
            rows = table.loc[table["metric"] == metric, ["difference", "low", "high"]] * scale
            for row, (value, low, high) in enumerate(rows.to_numpy()):
                colour, inside = (QUIET, "white") if low <= 0 <= high else (INK, INK)
                ax.errorbar(value, row, xerr=[[value - low], [high - value]], fmt="o",
                            color=colour, mfc=inside, ms=4)  # fmt: skip
            name_rows(ax, names)
            ax.axvline(0, color=FAINT, lw=0.8, zorder=0)
            ax.set_xlabel("Δ " + TITLES[metric].replace(" (%)", "\n(points)"))
    return fig


def detection_curves(table: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Plot how well wrong labels are detected (`detection_table`), one panel per kind of noise.

    The band spans the seeds; an AUROC of one half is chance.
    """
    for ax, (kind, rows) in zip(axes, table.groupby("noise_kind", sort=False), strict=True):
        looks = zip(cycle(COLOURS.values()), cycle(("-", "--", ":")), cycle("os^D"))
        if rows["measure"].nunique() < 3:
            looks = zip((VAL, EMA), ("-", "--"), "os", strict=True)
        for (name, line), (colour, ls, marker) in zip(
            rows.groupby("measure", sort=False), looks, strict=False
        ):
            x = line["label_noise"]
            ax.fill_between(x, line["min"], line["max"], color=colour, alpha=0.2, lw=0)
            ax.plot(x, line["auroc"], color=colour, ls=ls, marker=marker, ms=3.5, label=name)
        ax.axhline(0.5, color=FAINT, lw=0.8, zorder=0)
        ax.set(title=f"{kind} noise", xlabel="corrupted training labels", ylim=(0.45, 1))
        ax.set_xticks(sorted(table["label_noise"].unique()))
        ax.xaxis.set_major_formatter("{x:.0%}")
        ax.grid(axis="y")
    axes[0].set_ylabel("AUROC of detecting wrong labels")
    axes[0].legend(title="measure", loc="lower left")
    return axes
