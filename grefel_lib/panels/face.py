"""Drop in a photograph to see its faces explained by any run; no data leaves the machine."""

import base64
import binascii
import io

import ipywidgets as widgets
import numpy as np

from grefel_lib.analysis.explain import Memory, explain_face, remember_faces
from grefel_lib.panels.panel import Panel, count_faces, html_picture, run_dropdown
from grefel_lib.predict import UNLIKE, WHOLE
from grefel_lib.report.faces import detected_faces, explanation_figure
from grefel_lib.restore import Trained, load_model
from grefel_lib.run import BEST, Run, checkpoint_file, every_run, open_run, shipped_runs
from grefel_lib.sources.photo import Photo, read_photo

# Core widgets have no drop event: the zone writes the file into a hidden text area.
_ZONE = """<div class="grefel-drop" style="border:2px dashed #9E9E9E; padding:10px 24px"
ondragover="event.preventDefault(); this.style.borderColor='#D55E00'"
ondragleave="this.style.borderColor='#9E9E9E'"
ondrop="event.preventDefault(); event.stopPropagation(); this.style.borderColor='#9E9E9E';
const files = event.dataTransfer.files, reader = new FileReader();
const area = this.closest('.grefel-face').querySelector('.grefel-dropped textarea');
const send = text => { area.value = text;
for (const kind of ['input', 'change']) area.dispatchEvent(new Event(kind, {bubbles: true})); };
reader.onload = () => send(files[0].name + '|' + reader.result);
if (files.length == 1) reader.readAsDataURL(files[0]);
else send('|');">drop a photograph here</div>"""


class FacePanel(Panel):
    """Upload or drop a picture; choose a run and one of the faces found."""

    title = "Try a face (it stays on this machine)"

    def __init__(self, run: Run, picture: np.ndarray | None = None) -> None:
        super().__init__()
        self.add_class("grefel-face")
        self.picture, self.photo = picture, None
        self.trained: Trained | None = None
        self.memory: Memory | None = None
        self.note = ""  # why no training faces are shown
        runs = [r for r in every_run() if r.has_checkpoint(BEST)]
        self.chosen = run_dropdown(run, [*runs, *shipped_runs()])
        self.upload = widgets.FileUpload(
            accept="image/*", description="choose a picture", layout={"width": "180px"}
        )
        self.dropped = widgets.Textarea(continuous_update=False, layout={"display": "none"})
        self.dropped.add_class("grefel-dropped")
        self.face = widgets.ToggleButtons(options=[], style={"button_width": "110px"})
        self.found, self.shown = widgets.HTML(), widgets.HTML()
        upload = [self.upload, widgets.HTML(_ZONE), self.dropped]
        self.fill([self.chosen], upload, self.found, self.face, self.shown)
        self.react(self._choose_run, self.chosen)
        self.react(self._take_upload, self.upload)
        self.react(self._take_drop, self.dropped)
        self.react(self._explain, self.face)
        self.guard(self._choose_run)()

    def look_at(self, picture: np.ndarray) -> None:
        """Find the faces of a picture (H, W, 3) uint8, and explain the first."""
        if self.trained is None:
            self.picture = picture  # for the next run
            raise ValueError(f"run {self.chosen.value} could not be loaded; choose another run")
        self.photo = Photo.of(picture)
        found = self.photo.boxes[: self.photo.found]
        with self.hushed():
            self.face.options = [*(f"face {n}" for n in range(1, len(found) + 1)), WHOLE]
            self.face.value = self.face.options[0] if self.photo.boxes else None
        words = f"a picture with {count_faces(len(found))}"
        self.shown.value = ""
        self.found.value = html_picture(detected_faces(picture, found), words)
        self._explain()

    def _choose_run(self) -> None:
        run = open_run(self.chosen.value)
        notes: list[str] = []
        trained = load_model(checkpoint_file(run.path), device="auto")
        self.memory = remember_faces(trained, run.config, say=notes.append)
        self.trained, self.note = trained, "".join(f"; {note}" for note in notes)
        if self.photo is not None:
            self._explain()
        elif self.picture is not None:
            self.look_at(self.picture)

    def _take_upload(self) -> None:
        if self.upload.value:
            file = self.upload.value[0]
            with self.hushed():
                self.upload.value = ()  # the same file may come again
            self.look_at(read_photo(io.BytesIO(file["content"]), file["name"]))

    def _take_drop(self) -> None:
        """Open a dropped picture, encoded as its name, "|" and a data URL."""
        if not self.dropped.value:
            return
        name, _, content = self.dropped.value.partition("|")
        with self.hushed():
            self.dropped.value = ""
        if not content:
            raise ValueError("drop one picture file; a picture on a page must be saved first")
        try:
            content = base64.b64decode(content.partition(",")[2], validate=True)
        except binascii.Error:
            raise ValueError(f"{name} was not received completely; drop it again") from None
        self.look_at(read_photo(io.BytesIO(content), name))

    def _explain(self) -> None:
        if self.photo is None or self.trained is None:
            return
        if self.face.value is None:
            self.shown.value = ""
            self.tell(f"no face was found; to judge the picture as one face, press {WHOLE}")
            return
        found, number = self.face.value != WHOLE, self.face.options.index(self.face.value)
        crop = self.photo.crop(number) if found else self.photo.picture
        explained = explain_face(self.trained, crop, self.memory, found=found)
        drawn = "this model has seen drawings only: its answers on photographs mean nothing; "
        none = drawn if self.trained.config.dataset == "synthetic" else ""
        sure = "" if explained.reliability is None else f", reliability {explained.reliability:.2f}"
        unlike = f" ({UNLIKE})" if explained.strange else ""
        text = f"{self.face.value}: {explained.predicted}{unlike}{sure}"
        self.shown.value = html_picture(explanation_figure(explained), text)
        self.tell(f"{none}{text}{self.note}")
