"""Browse a data set by split, class, protocol and agreement; jump between copies."""

import html
from functools import partial

import ipywidgets as widgets
import pandas as pd

from grefel_lib.analysis.check import check_data, describe
from grefel_lib.config import SETTINGS, Config
from grefel_lib.faces import SPLITS, FaceSet, load_faces
from grefel_lib.files import Folder
from grefel_lib.labels import VOTE_COLUMNS
from grefel_lib.panels.panel import (
    Pager,
    Panel,
    count_faces,
    dropdown,
    html_faces,
    share_range,
    table_name,
    vote_words,
)
from grefel_lib.run import outputs_folder, relative
from grefel_lib.sources.layouts import find_source

ALL = "all"
PAGE = 20  # faces shown at once
READ, FACES = "what was read", "show the faces"  # of a button, by what is shown


def select_faces(
    faces: FaceSet,
    *,
    split: str = ALL,
    label: str = ALL,
    agreement: tuple[float, float] = (0, 1),
    copies: bool = False,
) -> pd.DataFrame:
    """Select rows of a data set.

    Args:
        faces: A whole data set.
        split: train, val, test or all.
        label: A class name, or all.
        agreement: Lowest and highest share of the emotion votes for the label; ignored if the data
            set has no votes.
        copies: Only faces with a pixel-identical copy in another split.

    Returns:
        Rows of `faces.table`, with their index.
    """
    table = faces.table
    keep = pd.Series(True, index=table.index)
    if split != ALL:
        keep &= table["split"] == split
    if label != ALL:
        keep &= table["label"] == faces.class_names.index(label)
    if "agreement" in table:
        keep &= table["agreement"].between(*agreement)
    if copies:
        keep &= table.groupby("image_hash")["split"].transform("nunique") > 1
    return table[keep]


def faces_page(faces: FaceSet, rows: pd.DataFrame, *, framed: str = "") -> str:
    """Faces as HTML, with class and split below, and their ids and votes under the pointer.

    Args:
        faces: The data set.
        rows: Some rows of its table.
        framed: Id of a face to frame.
    """
    names = [faces.class_names[label] for label in rows["label"]]
    captions = [f"{a} · {b}" for a, b in zip(names, rows["split"], strict=True)]
    details = list(rows["id"])
    if "unknown" in rows:
        votes = rows[list(VOTE_COLUMNS)].to_numpy(dtype=int)
        details = [f"{name}: {vote_words(VOTE_COLUMNS, row)}"
                   for name, row in zip(details, votes, strict=True)]  # fmt: skip
    place = list(rows["id"]).index(framed) if framed in set(rows["id"]) else -1
    return html_faces(faces.gather(rows.index.to_numpy()), captions, details, place)


def data_sets_here(config: Config) -> list[str]:
    """The data sets whose files are found, and the config's own."""
    here = []
    for name in SETTINGS["dataset"].choices:
        try:
            if name not in ("synthetic", config.dataset):  # drawn when needed
                find_source(config.on_data(dataset=name))
        except (ValueError, OSError):
            continue
        here.append(name)
    return here


class DataPanel(Panel):
    """Select faces, see their votes, jump to their copies, export the selection."""

    title = "Data browser"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.faces: FaceSet | None = None
        self.rows = pd.DataFrame()
        self.framed = ""
        protocols = SETTINGS["protocol"].choices
        self.dataset = dropdown("data set", data_sets_here(config), value=config.dataset)
        self.protocol = dropdown("protocol", protocols, value=config.protocol)
        self.split = dropdown("split", (ALL, *SPLITS))
        self.label = dropdown("class", (ALL,))
        self.agreement = share_range("agreement")
        self.copies = widgets.Checkbox(
            description="only faces with a copy in another split", indent=False,
            layout={"width": "330px", "margin": "2px 2px 2px 24px"},
        )  # fmt: skip
        self.pager = Pager(PAGE, self.guard(self._draw))
        self.export = widgets.Button(description="export as CSV", icon="download", disabled=True)
        self.check = widgets.Button(description=READ, icon="list")
        self.shown = widgets.HTML()
        hidden = {"display": "none", "width": "auto"}
        self.jumps = [widgets.Button(layout=hidden) for _ in range(PAGE)]
        self.targets: list[str] = []
        self.fill(
            [self.dataset, self.protocol, self.split, self.label],
            [self.agreement, self.copies],
            [self.pager.box, self.export, self.check],
            self.shown,
            self.jumps,
        )
        self.react(self._load, self.dataset, self.protocol)
        self.react(self._select, self.split, self.label, self.agreement, self.copies)
        self.react(self._export, self.export)
        self.react(self._check, self.check)
        for position, button in enumerate(self.jumps):
            self.react(partial(self._jump, position), button)
        self.guard(self._load)()

    def _load(self) -> None:
        """Read the chosen data set, including the copies that training drops."""
        changes = {"dataset": self.dataset.value, "protocol": self.protocol.value}
        self.faces = load_faces(self.config.on_data(**changes, drop_leaks=False, label_noise=0))
        self.protocol.disabled = self.faces.votes is None
        self.agreement.disabled = "agreement" not in self.faces.table
        with self.hushed():
            self.label.options = (ALL, *self.faces.class_names)
        self._select()

    def _check(self) -> None:
        """Show what `grefel data check` prints, in place of the faces; then the faces again."""
        if self.check.description == FACES:
            self._draw()
            return
        facts = check_data(self.config.on_data(dataset=self.dataset.value,
                                               protocol=self.protocol.value))  # fmt: skip
        self.shown.value = f"<pre>{html.escape(describe(facts))}</pre>"
        self._offer_jumps(self.rows.head(0))
        self.check.description = FACES

    def _select(self, framed: str = "") -> None:
        """Apply the selection; show its first page, or the page of the framed face."""
        if self.faces is None:
            raise ValueError("no data set is loaded; choose another")
        self.rows = select_faces(
            self.faces, split=self.split.value, label=self.label.value,
            agreement=self.agreement.value, copies=self.copies.value,
        )  # fmt: skip
        ids = self.rows["id"].tolist()
        self.pager.start = ids.index(framed) // PAGE * PAGE if framed else 0
        self.framed = framed
        self._draw()

    def _draw(self) -> None:
        page_rows = self.rows.iloc[self.pager.page(len(self.rows))]
        self.export.disabled = page_rows.empty
        self.check.description = READ
        self._offer_jumps(page_rows)
        if page_rows.empty:
            self.shown.value = ""
            self.tell("no face matches; widen the agreement, or choose another class or split")
            return
        self.shown.value = faces_page(self.faces, page_rows, framed=self.framed)

    def _offer_jumps(self, page_rows: pd.DataFrame) -> None:
        """Show a button for each face on the page that has a copy in another split."""
        self.targets, texts = [], []
        for face in page_rows.itertuples():
            same = self.faces.table[self.faces.table["image_hash"] == face.image_hash]
            for other in same[same["split"] != face.split].head(1).itertuples():
                self.targets.append(other.id)
                texts.append(f"{face.split} {face.id} → {other.split} {other.id}")
        for button, text in zip(self.jumps, [*texts, *[""] * PAGE], strict=False):
            button.description, button.tooltip = text, "go to the copy" if text else ""
            button.layout.display = None if text else "none"

    def _jump(self, position: int) -> None:
        """Show the copy among the faces of its own split and class."""
        target = self.targets[position]
        face = self.faces.table[self.faces.table["id"] == target].iloc[0]
        with self.hushed():
            self.split.value, self.agreement.value = face["split"], (0, 1)
            self.label.value = self.faces.class_names[face["label"]]
        self._select(framed=target)

    def _export(self) -> None:
        """Write all pages of the selection under outputs/selections."""
        agreement = "agreement-{:.2f}-{:.2f}".format(*self.agreement.value)
        parts = [
            self.dataset.value, self.faces.info["protocol"], self.split.value, self.label.value,
            "" if self.agreement.disabled else agreement, "copies" if self.copies.value else "",
        ]  # fmt: skip
        labels = [self.faces.class_names[label] for label in self.rows["label"]]
        table = self.rows.assign(label=labels).drop(columns="row")
        folder = Folder(outputs_folder(self.config.output_dir))
        path = folder.write_table(table, "selections", table_name(*parts))
        self.tell_files(f"wrote {count_faces(len(table))} to {relative(path)}", path)
