"""Confusion explorer: click a cell of the matrix to see its faces, votes and predictions."""

import html
from functools import partial
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from grefel_lib.analysis.evaluation import Evaluation
from grefel_lib.faces import FaceSet, read_label_fixes
from grefel_lib.files import Folder, relative
from grefel_lib.metrics import confusion_counts, normalise_rows, table_classes
from grefel_lib.panels.panel import (
    Pager,
    Panel,
    count_faces,
    dropdown,
    html_faces,
    row,
    share_range,
    table_name,
    vote_words,
)
from grefel_lib.report.figures import confusion_figure
from grefel_lib.report.style import BLUES, EMA, INK, Paper, percent, save_figure, short_name

ORDERS = {
    "most confident first": ("confidence", False), "least confident first": ("confidence", True),
    "most reliable first": ("reliability", False), "least reliable first": ("reliability", True),
}  # fmt: skip
PAGE = 12  # faces shown at once
CELL = {"width": "auto", "height": "30px", "padding": "0", "margin": "0"}
FRAME = f"2px solid {EMA}"
_CHOOSE = """const list = this.closest('.grefel-panel').querySelector('.grefel-chosen select');
list.selectedIndex = [...this.closest('.grefel-faces').children].indexOf(this.parentNode);
list.dispatchEvent(new Event('change', {bubbles: true}))"""


def select_cell(
    predictions: pd.DataFrame,
    true: str,
    predicted: str,
    *,
    order: str = "most confident first",
    between: tuple[float, float] = (0, 1),
) -> pd.DataFrame:
    """The faces of one cell of the confusion matrix.

    Args:
        predictions: See `predict`.
        true: Class of the label.
        predicted: Class of the prediction.
        order: A key of ORDERS; confidence here is the probability of the predicted class.
        between: Lowest and highest reliability; ignored if the head has no reliability.
    """
    rows = predictions[(predictions["label"] == true) & (predictions["predicted"] == predicted)]
    rows = rows.assign(confidence=rows[f"p_{predicted}"])
    column, ascending = ORDERS[order]
    if "reliability" in rows:
        rows = rows[rows["reliability"].between(*between)]
    return rows.sort_values(column, ascending=ascending, kind="stable")


class ConfusionPanel(Panel):
    """The matrix of a checkpoint; a click on a cell shows its faces beside it."""

    title = "Confusion explorer: click a cell (rows true, columns predicted)"

    def __init__(self, evaluation: Evaluation, faces: FaceSet) -> None:
        super().__init__()
        self.evaluation, self.faces = evaluation, faces
        self.names = table_classes(evaluation.table)
        self.chosen: tuple[str, str, str] | None = None  # checkpoint, true, predicted
        reliable = "reliability" in evaluation.table
        orders = [o for o, (column, _) in ORDERS.items() if reliable or column == "confidence"]
        self.order = dropdown("order", orders, 260)
        self.between = share_range("reliability")
        self.between.disabled = not reliable
        self.pager = Pager(PAGE, self.guard(self._draw))
        self.shown = widgets.HTML()
        self.fixes = read_label_fixes(self._fixes) if self._fixes.is_file() else {}
        self.face = dropdown("face", width=300)
        self.right = dropdown("right label", ["none: leave it out", *self.names], 270)
        self.tag, self.untag = (widgets.Button(description=t) for t in ("label is wrong", "undo"))
        self.face.add_class("grefel-chosen")
        # shared: thousands of separate layout widgets would slow down the browser
        self.plain, self.framed = widgets.Layout(**CELL), widgets.Layout(**CELL, border=FRAME)
        self.text = {"layout": widgets.Layout(), "style": widgets.HTML().style}
        self.cells: dict[tuple[str, str, str], widgets.Button] = {}
        self.styles = [
            widgets.ButtonStyle(
                button_color=to_hex(BLUES(share)), text_color="white" if share > 0.5 else INK
            )
            for share in np.linspace(0, 1, 51)
        ]
        checkpoints = list(evaluation.predictions)
        self.checkpoint = widgets.ToggleButtons(options=checkpoints, value=evaluation.headline)
        self.cell_text = widgets.ToggleButtons(options=["percent", "counts"])
        for toggle in (self.checkpoint, self.cell_text):
            toggle.style.button_width = "auto"
        self.matrices = {name: self._matrix(name) for name in checkpoints}
        self.save = widgets.Button(description="save figure", icon="download")
        self.export = widgets.Button(description="faces as CSV", icon="download")
        left = widgets.VBox([*self.matrices.values(), row([self.cell_text, self.save])])
        tagging = row([self.face, self.right, self.tag, self.untag])
        right = widgets.VBox([row([self.pager.box, self.export]), self.shown, tagging])
        right.layout.flex, right.layout.align_self = "1 1 220px", "flex-start"
        self.fill([self.checkpoint, self.order, self.between], [left, right])
        self.react(self._select, self.order, self.between)
        self.react(self._show_checkpoint, self.checkpoint)
        self.react(self._write_cells, self.cell_text)
        self.react(self._save, self.save)
        self.react(self._export, self.export)
        self.react(self._show_fix, self.face, busy="")
        self.react(partial(self._fix, True), self.tag)
        self.react(partial(self._fix, False), self.untag)
        self.choose(evaluation.headline, *self._worst())

    def choose(self, checkpoint: str, true: str, predicted: str) -> None:
        """Show the faces of a cell, as clicking it does."""
        if self.chosen is not None:
            self.cells[self.chosen].layout = self.plain
        self.chosen = (checkpoint, true, predicted)
        self.cells[self.chosen].layout = self.framed
        with self.hushed():
            self.checkpoint.value = checkpoint
        for name, matrix in self.matrices.items():
            matrix.layout.display = None if name == checkpoint else "none"
        self._select()

    def _show_checkpoint(self) -> None:
        """Show the same cell of the other matrix, or its first one with faces."""
        name = self.checkpoint.value
        keys = [(name, *self.chosen[1:]), *(key for key in self.cells if key[0] == name)]
        self.choose(*next(key for key in keys if not self.cells[key].disabled))

    def _write_cells(self) -> None:
        for checkpoint, table in self.evaluation.predictions.items():
            counts = confusion_counts(table)
            shares = normalise_rows(counts)
            for (i, j), count in np.ndenumerate(counts):
                button = self.cells[checkpoint, self.names[i], self.names[j]]
                text = percent(shares[i, j], False) if self.cell_text.value == "percent" else count
                button.description = str(text) if count else ""

    def _save(self) -> None:
        """Write the matrix for a paper into figures/ of the evaluation."""
        name, cells = self.chosen[0], self.cell_text.value
        table = self.evaluation.predictions[name]
        fig = confusion_figure(
            table["label"], table["predicted"], self.names, paper=Paper(cells=cells)
        )
        stem = self._folder.file("figures", f"confusion_{name}_{cells}")
        paths = save_figure(fig, stem)
        self.tell_files(f"wrote {' and '.join(map(relative, paths))}", *paths)

    def _export(self) -> None:
        """Write the predictions of the faces of the chosen cell, all pages of them."""
        rows, name = self._rows(), table_name(*self.chosen)
        path = self._folder.write_table(rows, "selections", name)
        self.tell_files(f"wrote {count_faces(len(rows))} to {relative(path)}", path)

    @property
    def _folder(self) -> Folder:
        """Where to write; a deleted run is not created again."""
        if not self.evaluation.pooled:
            self.evaluation.run.check_folder()
        return self.evaluation.folder

    @property
    def _fixes(self) -> Path:
        return self.evaluation.folder.path / "label_fixes.csv"

    def _show_fix(self) -> None:
        """Offer what can be done with the label of the chosen face."""
        label = self.fixes.get(self.face.value)  # by hand perhaps of another data set
        self.right.value = label if label in self.names else self.right.options[0]
        self.untag.disabled, self.tag.disabled = label is None, self.face.value is None

    def _fix(self, wrong: bool) -> None:
        """Put the chosen face into the file that training reads, or take it out again."""
        face, right, folder = self.face.value, self.right.value, self._folder
        self.fixes = read_label_fixes(self._fixes) if self._fixes.is_file() else {}
        self.fixes.pop(face, None)
        if wrong:
            self.fixes[face] = right if right in self.names else ""
        table = pd.DataFrame(list(self.fixes.items()), columns=["id", "label"])
        path = folder.write_table(table, self._fixes.name)
        self._draw()
        self.face.value = face
        self._show_fix()
        split = self.evaluation.facts["split"]
        other = "" if split == "train" else f" (it leaves faces of the {split} split as they are)"
        self.tell_files(
            f"labels tagged as wrong: {len(table)}; grefel train --label-fixes "
            f"{relative(path)} reads them{other}", path
        )  # fmt: skip

    def _worst(self) -> tuple[str, str]:
        """The most frequent mistake; without mistakes, the first cell of the diagonal."""
        table = self.evaluation.table
        wrong = table[table["label"] != table["predicted"]]
        if wrong.empty:
            return self.names[0], self.names[0]
        return wrong.groupby(["label", "predicted"]).size().idxmax()

    def _matrix(self, checkpoint: str) -> widgets.VBox:
        counts = confusion_counts(self.evaluation.predictions[checkpoint])
        shares = normalise_rows(counts)
        short = [html.escape(short_name(name)) for name in self.names]
        children = [widgets.HTML(f"<center>{name}</center>", **self.text) for name in ("", *short)]
        for i, true in enumerate(self.names):
            children.append(widgets.HTML(short[i], **self.text))
            for j, predicted in enumerate(self.names):
                key = (checkpoint, true, predicted)
                count, share = counts[i, j], shares[i, j]
                self.cells[key] = button = widgets.Button(
                    description=percent(share, False) if count else "", disabled=bool(not count),
                    tooltip=f"{count_faces(count)}: {true} predicted as {predicted} ({checkpoint})",
                    layout=self.plain, style=self.styles[round(50 * share)],
                )  # fmt: skip
                self.react(partial(self.choose, *key), button)
                children.append(button)
        columns = {"grid_template_columns": f"34px repeat({len(self.names)}, 34px)"}
        grid = widgets.GridBox(children, layout=columns | {"grid_gap": "1px"})
        chosen = " (headline)" if checkpoint == self.evaluation.headline else ""
        accuracy = counts.trace() / max(counts.sum(), 1)
        title = f"{checkpoint}{chosen}, {self.evaluation.facts['split']} split: {accuracy:.1%}"
        title = widgets.HTML(html.escape(title))
        return widgets.VBox([title, grid], layout={"margin": "0 16px 8px 0"})

    def _select(self) -> None:
        self.pager.start = 0
        self._draw()

    def _rows(self) -> pd.DataFrame:
        checkpoint, true, predicted = self.chosen
        return select_cell(
            self.evaluation.predictions[checkpoint], true, predicted,
            order=self.order.value, between=self.between.value,
        )  # fmt: skip

    def _draw(self) -> None:
        (checkpoint, true, predicted), rows = self.chosen, self._rows()
        page_rows = rows.iloc[self.pager.page(len(rows))]
        text = f"{true} predicted as {predicted} by {checkpoint}: {count_faces(len(rows))}"
        with self.hushed():
            self.face.options = ids = list(page_rows["id"])
            self.face.value = ids[0] if ids else None
        self._show_fix()
        if page_rows.empty:
            self.shown.value = ""
            self.tell(f"{text} in this reliability range; widen it")
            return
        self.shown.value = self._cards(page_rows)
        self.tell(text)

    def _cards(self, rows: pd.DataFrame) -> str:
        """The faces; under the pointer their distributions and the other checkpoint's answer."""
        kinds = {"votes": "votes_", "primary": "primary_", "corrected": "p_"}
        details = []
        for index, face in rows.iterrows():
            lines = [str(face["id"])]
            for kind, prefix in kinds.items():
                columns = [prefix + name for name in self.names]
                if set(columns) <= set(rows) and (total := face[columns].sum()):
                    shares = face[columns].to_numpy(dtype=float) / total
                    lines.append(f"{kind}: {vote_words(self.names, shares)}")
            for name, table in self.evaluation.predictions.items():
                if name != self.chosen[0]:
                    lines.append(f"{name}: {table.loc[index, 'predicted']}")
            if face["id"] in self.fixes:
                lines.append(f"label tagged as wrong: {self.fixes[face['id']] or 'left out'}")
            details.append("\n".join(lines))
        words = [f"{'✗ ' * (i in self.fixes)}{a} → {b}"
                 for i, a, b in rows[["id", "label", "predicted"]].to_numpy()]  # fmt: skip
        if "reliability" in rows:
            words = [f"{a}, {b:.2f}" for a, b in zip(words, rows["reliability"], strict=True)]
        images = self.faces.gather(rows.index.to_numpy())
        return html_faces(images, words, details, on_focus=_CHOOSE)
