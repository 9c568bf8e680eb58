"""Tables for notebooks and papers: intervals as text, LaTeX."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from grefel_lib.files import other_faces

TITLES = {
    "accuracy": "accuracy (%)", "mean_class_accuracy": "mean class accuracy (%)",
    "macro_f1": "macro F1 (%)", "weighted_f1": "weighted F1 (%)", "ece": "ECE (%)", "nll": "NLL",
    "brier": "Brier", "ece_plain": "ECE, not debiased (%)",
    "ece_mass": "ECE, equal mass (%)", "classwise_ece": "classwise ECE (%)",
    "soft_nll": "NLL of the votes", "soft_brier": "Brier of the votes",
}  # fmt: skip
PERCENT = tuple(name for name, title in TITLES.items() if title.endswith("(%)"))
BEST = {t: "max" if n.endswith(("accuracy", "f1")) else "min" for n, t in TITLES.items()}
BEST |= {"AUROC": "max", "AURC": "min"}
DATASETS = {
    "synthetic": "drawn faces", "ferplus": "FERPlus", "fer2013": "FER2013", "rafdb": "RAF-DB",
    "rafdb_compound": "RAF-DB compound", "affectnet7": "AffectNet-7", "affectnet8": "AffectNet-8",
    "folder": "our own faces",
}  # fmt: skip
SPLITS = {  # in words; on two of the three a number says little of new faces
    "test": "test split",
    "val": "validation split, which chose the checkpoint",
    "train": "training split, on which the model was trained",
}
RESPLIT = ("content-8ebb9dea7e7eb1c9", "content-df0580a9294ceda5")  # see data/README.md
NO_BREAK = "\N{NO-BREAK SPACE}"
NOTHING = "–"  # placeholder for undefined values, e.g. the recall of a class without faces
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "\n": " ", "±": r"$\pm$", "–": "--",
    NO_BREAK: "~",
}  # fmt: skip


def data_title(dataset: str, protocol: str) -> str:
    """A data set and its protocol in a caption: FERPlus (protocol official)."""
    words = protocol if " " in protocol else f"protocol {protocol}"  # some are said in words
    return DATASETS.get(dataset, dataset) + (f" ({words})" if protocol else "")


def with_intervals(
    checkpoints: Mapping[str, Mapping[str, Any]], *, split: str = "test"
) -> pd.DataFrame:
    """Checkpoints side by side, one row per metric: "82.1 [80.7, 83.4]"; NLL, Brier: 2 decimals.

    Args:
        checkpoints: By name, metrics and intervals as in metrics.json.
        split: The scored split; any other than test is named in the table header.
    """
    columns = {}
    for name, numbers in checkpoints.items():
        rows = pd.DataFrame(numbers["intervals"], index=["low", "high"]).T
        rows["value"] = pd.Series(numbers["metrics"])
        shares = rows.index.isin(PERCENT)
        texts = [bracketed(rows[shares], "value"),
                 bracketed(rows[~shares], "value", scale=1, decimals=2)]  # fmt: skip
        columns[name] = pd.concat(texts)[rows.index]
    return (
        pd.DataFrame(columns)
        .rename(index=TITLES)
        .rename_axis("metric" if split == "test" else f"metric ({split} split)")
    )


def split_title(facts: Mapping[str, Any]) -> str:
    """The scored split in words; that of other faces than a run's own had no part in its training.

    Args:
        facts: Of an evaluation or a comparison, or metrics.json.
    """
    words = SPLITS[facts["split"]]
    if facts["split"] == "test" and facts.get("fingerprint") in RESPLIT:
        words = "re-split test set"
    return words.partition(",")[0] if other_faces(facts) else words


def bracketed(
    table: pd.DataFrame, column: str, *, scale: float = 100, decimals: int = 1
) -> pd.Series:
    """A column with its interval as text: "82.1 [80.7, 83.4]", or "82.1" if the interval is NaN.

    A dash where the value is NaN.
    """
    values = scale * table[[column, "low", "high"]].to_numpy(dtype=float)
    numbers = [[f"{number:z.{decimals}f}" for number in row] for row in values]
    texts = [
        NOTHING if math.isnan(row[0]) else value + f" [{low}, {high}]" * (not math.isnan(row[1]))
        for row, (value, low, high) in zip(values, numbers, strict=True)
    ]
    return pd.Series(texts, index=table.index)


def class_table(per_class: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Faces, recall with its interval, precision and F1, one row per class.

    Args:
        per_class: The rows in metrics.json.
    """
    rows = pd.DataFrame(per_class).set_index("class")
    ends = rows.rename(columns={"recall_low": "low", "recall_high": "high"})
    return pd.DataFrame(
        {
            "faces": rows["count"],
            "recall (%)": bracketed(ends, "recall"),
            "precision (%)": 100 * rows["precision"],
            "F1 (%)": 100 * rows["f1"],
        }
    )


def interval_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Means as text, one column per metric: "82.1 ± 0.2 [80.7, 83.4]".

    NLL and Brier have three decimals: variants often differ only in the third. Lines break only
    before the bracket.

    Args:
        tables: By metric, one row a variant: value, low, high, and spread (left out where NaN).
    """
    columns = {}
    for metric, table in tables.items():
        scale, decimals = (100, 1) if metric in PERCENT else (1, 3)
        cells = bracketed(table, "value", scale=scale, decimals=decimals)
        cells = cells.str.replace(", ", f",{NO_BREAK}")
        for name, spread in table["spread"].dropna().items():
            between = f"{NO_BREAK}±{NO_BREAK}{scale * spread:z.{decimals}f} ["
            cells[name] = cells[name].replace(" [", between)
        columns[TITLES[metric]] = cells
    return pd.DataFrame(columns).rename_axis("variant")


def metric_table(table: pd.DataFrame) -> pd.DataFrame:
    """Metrics as text under their titles: percent with one decimal, NLL and Brier with three.

    `val_<metric>` is one of the validation split, `ema_val_<metric>` that of the EMA weights; other
    columns stay as they are.
    """
    columns = {}
    for name, column in table.items():
        ema, val, metric = re.fullmatch("(ema_)?(val_)?(.*)", str(name)).groups()
        if metric not in TITLES:
            columns[name] = column
            continue
        scale, decimals = (100, 1) if metric in PERCENT else (1, 3)
        texts = [NOTHING if pd.isna(v) else f"{scale * v:z.{decimals}f}" for v in column]
        columns["EMA, " * bool(ema) + "validation " * bool(val) + TITLES[metric]] = texts
    return pd.DataFrame(columns, index=table.index)


def difference_table(differences: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Differences as text, a row for each variant: "-0.4 [-0.9, 0.1]", in points or as they are.

    Args:
        differences: From `paired_differences`.
        metrics: The columns; after accuracy follow the McNemar p-values of the seeds.
    """
    columns = {}
    for metric in metrics:
        table = differences[differences["metric"] == metric].set_index("variant")
        scale, decimals = (100, 1) if metric in PERCENT else (1, 3)
        title = TITLES[metric].replace("%", "points")
        columns[title] = bracketed(table, "difference", scale=scale, decimals=decimals)
        if metric == "accuracy":
            columns["McNemar p"] = table["mcnemar"].map(lambda p: str(p).strip("[]"))
    return pd.DataFrame(columns)


def latex_table(
    table: pd.DataFrame,
    *,
    caption: str,
    label: str,
    decimals: int = 2,
    bold: Mapping[str, str] | None = None,
    wide: bool = False,
) -> str:
    """A booktabs table, with headers, index, cells and caption escaped.

    Args:
        table: Any frame; floats are rounded, whole numbers are kept, NaN becomes a dash.
        caption: Plain text.
        label: For `\\ref`, letters, digits and `: . _ / -`.
        decimals: Digits after the point of floats.
        bold: "max" or "min" by column or row, to set its best value in bold, with all others that
            print the same; a cell of text counts by the number at its start.
        wide: Span both columns of a page.

    Raises:
        ValueError: An empty frame, or an invalid LaTeX label.
    """
    if table.empty:
        raise ValueError(f"the table has {len(table)} rows and {table.shape[1]} columns; need both")
    if not re.fullmatch(r"[A-Za-z0-9:._/-]+", label):
        raise ValueError(f"bad label {label!r}; use letters, digits and : . _ / -, as in tab:test")
    cells = table.astype(object).map(lambda value: _cell(value, decimals)).astype(object)
    for name, which in (bold or {}).items():
        line = (slice(None), name) if name in cells else (name, slice(None))
        if name in cells or name in cells.index:
            cells.loc[line] = _bold(cells.loc[line], which)
    numbers = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    rows = [" & ".join([escape(name), *row]) + r" \\" for name, row in zip(cells.index,
            cells.to_numpy(), strict=True)]  # fmt: skip
    rows = ["{}" * row.startswith(("[", "*")) + row for row in rows]  # else read as part of \\
    head = " & ".join(map(escape, [table.index.name or "", *table.columns]))
    place = "table*" if wide else "table"
    return "\n".join(
        [
            rf"\begin{{{place}}}[t]",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(caption)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{l{''.join('r' if number else 'l' for number in numbers)}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\end{{{place}}}",
            "",
        ]
    )


def _bold(cells: pd.Series, which: str) -> pd.Series:
    """LaTeX cells, of which the largest or smallest number is bold if there are others."""
    number = re.compile(r"^\$?(-?\d+\.?\d*)\$?")
    values = cells.str.extract(number)[0].astype(float)
    best = (values == values.agg(which)) & (values.nunique() > 1)
    return cells.mask(best, cells.str.replace(number, lambda m: rf"\textbf{{{m[0]}}}", regex=True))


def escape(text: object) -> str:
    """Plain text for LaTeX: every special character escaped."""
    return "".join(_LATEX.get(character, character) for character in str(text))


def _cell(value: Any, decimals: int) -> str:
    if pd.isna(value):
        return "--"
    if not pd.api.types.is_float(value):
        return escape(value)
    text = f"{value:z.{decimals}f}"
    return f"${text}$" if text.startswith("-") else text  # a minus, not a hyphen
