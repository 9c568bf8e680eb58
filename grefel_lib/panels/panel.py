"""Base of all panels: error messages in place, pictures, paging."""

import base64
import contextlib
import html
import io
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets
import numpy as np
from ipykernel.comm.comm import BaseComm
from matplotlib.figure import Figure
from PIL import Image as PillowImage
from traitlets import TraitError

from grefel_lib.report.style import EMA, paper_style
from grefel_lib.run import Run

WRONG = "#D32F2F"  # readable on light and dark pages
BUSY = "working ..."
LARGEST = 5_000_000  # bytes of a file that a panel offers as a download

# ipykernel 7.4 hands a click to the shell that last changed the widget, which may be busy with a
# cell that trains; so it goes where JupyterLab sent it, to a shell of the panels' own
BaseComm._reply_subshell_for = lambda self, data, shell: shell

# JupyterLab's shortcuts, such as b for a new cell, do not fire while an element so marked has the
# focus. The pale cells of a matrix, disabled, stay pale in a dark theme.
_KEYS = """<img alt="" width="0" onload="const one = this, wait = setInterval(() => {
const panel = one.closest('.grefel-panel');
if (!panel) return;
clearInterval(wait);
panel.addEventListener('focusin', event =>
event.target.setAttribute('data-lm-suppress-shortcuts', '')); }, 50)"
src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7">
<style>.grefel-panel button:disabled {opacity: 1 !important}</style>"""


class Panel(widgets.VBox):
    """A column of widgets, built once and updated in place.

    A subclass calls `fill` once and connects its handlers with `react`. Figures are made without
    pyplot, whose figures belong to the cell that runs: Jupyter calls handlers in other threads.
    """

    title: ClassVar[str] = ""

    def __init__(self) -> None:
        self.message = widgets.HTML(layout={"min_height": "28px"})  # nothing moves when it fills
        self.quiet = False
        self.controls: dict[widgets.Widget, Any] = {}  # and their values in what is shown
        self.turn = threading.RLock()  # one handler at a time
        super().__init__([widgets.HTML(f"<b>{self.title}</b>{_KEYS}"), self.message])
        self.add_class("grefel-panel")
        self.layout.border_top = "1px solid #9E9E9E"
        self.layout.padding = "6px 0"

    def fill(self, *lines: widgets.Widget | list[widgets.Widget]) -> None:
        """Put widgets below the title and message; those in a list stand side by side."""
        rows = (row(line) if isinstance(line, list) else line for line in lines)
        self.children = (*self.children, *rows)

    def react(
        self, handler: Callable[[], Any], *controls: widgets.Widget, busy: str = BUSY
    ) -> None:
        """Call the guarded handler when a button is clicked or another control changes."""
        call = self.guard(handler, busy=busy)
        for control in controls:
            if isinstance(control, widgets.Button):
                control.on_click(call)
            else:
                if not isinstance(control, widgets.FileUpload | widgets.Textarea):
                    self.controls[control] = control.value
                control.observe(call, names="value")

    def guard(self, handler: Callable[[], Any], *, busy: str = BUSY) -> Callable[..., None]:
        """Wrap a handler as a callback that says it is `busy`, and shows its error in the panel.

        After an error the controls have the values of what is shown, as before the handler. A
        handler that is never `busy` takes back its own error only.
        """
        own = None

        def call(*_: Any) -> None:
            nonlocal own
            with self.turn:
                if self.quiet:
                    return
                if busy or self.message.value == own:
                    self.tell(busy)
                said = self.message.value
                try:
                    handler()
                    self.controls = {control: control.value for control in self.controls}
                    if busy and self.message.value == said:
                        self.message.value = ""
                except Exception as error:
                    with self.hushed():
                        for control, value in self.controls.items():
                            with contextlib.suppress(TraitError):  # it has other options now
                                control.value = value
                    expected = isinstance(error, (ValueError, OSError))
                    name = "" if expected else f"{type(error).__name__}: "
                    self.tell(f"{name}{error}", wrong=True)
                    own = self.message.value

        return call

    @contextlib.contextmanager
    def hushed(self) -> Iterator[None]:
        """Suspend guarded handlers while several controls are set at once."""
        self.quiet = True
        try:
            yield
        finally:
            self.quiet = False

    def tell(self, text: str, *, wrong: bool = False) -> None:
        """Show one line below the title; an error in red."""
        role, colour = ("alert", WRONG) if wrong else ("status", "inherit")
        self.message.value = (
            f'<span role="{role}" style="color:{colour}">{html.escape(text)}</span>'
        )

    def tell_files(self, text: str, *paths: Path) -> None:
        """Show one line that ends with a link to download each file."""
        self.tell(text)
        for path in paths:
            if path.stat().st_size < LARGEST:
                data = base64.b64encode(path.read_bytes()).decode()
                link = f"data:application/octet-stream;base64,{data}"
                name = html.escape(path.name)
                self.message.value += f' · <a download="{name}" href="{link}">download {name}</a>'


def html_picture(fig: Figure, words: str) -> str:
    """A figure as HTML with alt text, on a white background even in a dark theme."""
    content = io.BytesIO()
    with paper_style():
        fig.savefig(content, format="png", dpi=130, facecolor="white")
    width = round(120 * fig.get_figwidth())
    data = base64.b64encode(content.getvalue()).decode()
    style = f"width:{width}px; max-width:100%; background:white"
    return f'<img alt="{html.escape(words)}" style="{style}" src="data:image/png;base64,{data}">'


FACE = 92  # pixels of a face on a page
_FACES = f"""<style>.grefel-faces {{display:flex; flex-wrap:wrap; gap:6px 10px; margin:4px 0}}
.grefel-faces div {{width:{FACE}px; font-size:11px; line-height:1.25; text-align:center}}
.grefel-faces i {{display:block; width:{FACE}px; height:{FACE}px; cursor:zoom-in;
background-image:var(--sheet)}}
.grefel-faces i:focus {{transform:scale(2.5); position:relative; z-index:9; cursor:zoom-out}}
</style>"""


def html_faces(
    images: np.ndarray, captions: Sequence[str], details: Sequence[str], framed: int = -1,
    on_focus: str = "",
) -> str:  # fmt: skip
    """Faces as HTML: one picture cut into a grid, made without matplotlib.

    Args:
        images: (N, H, W) or (N, H, W, 3), uint8.
        captions: N texts below the faces.
        details: N texts that appear while the pointer is over a face; a click enlarges it.
        framed: Position of a face to frame.
        on_focus: JavaScript that runs when a face is clicked, or reached with the Tab key.
    """
    content = io.BytesIO()
    PillowImage.fromarray(np.concatenate(list(images), axis=1)).save(content, "png")
    data = base64.b64encode(content.getvalue()).decode()
    parts = []
    for place, (caption, detail) in enumerate(zip(captions, details, strict=True)):
        look = f"background-position:-{place * FACE}px 0; background-size:{len(images) * FACE}px"
        look += f"; outline:3px solid {EMA}" if place == framed else ""
        words = html.escape(detail)
        parts.append(f'<div><i tabindex="0" role="img" aria-label="{words}" title="{words}" '
                     f'onfocus="{html.escape(on_focus)}" style="{look}"></i>'
                     f'{html.escape(caption)}</div>')  # fmt: skip
    sheet = f"--sheet:url(data:image/png;base64,{data})"
    return f'{_FACES}<div class="grefel-faces" style="{sheet}">{"".join(parts)}</div>'


def vote_words(names: Sequence[str], shares: Sequence[float]) -> str:
    """What is above zero, the largest first: neutral 7, sadness 3; or as percent: neutral 70%."""
    parts = sorted(zip(shares, names, strict=True), key=lambda pair: -pair[0])
    whole = np.issubdtype(np.asarray(shares).dtype, np.integer)
    texts = ((n, str(s) if whole else f"{s:.0%}") for s, n in parts if s >= (1 if whole else 0.005))
    return ", ".join(f"{name} {text}" for name, text in texts)


def table_name(*parts: str) -> str:
    """The name of a CSV file, whatever characters a class name holds; empty parts are left out."""
    return re.sub(r"[^\w.+-]+", "_", "-".join(filter(None, parts))) + ".csv"


def count_faces(count: int) -> str:
    """A count of faces: 0 faces, 1 face, 2,345 faces."""
    return f"{count:,} face{'' if count == 1 else 's'}"


def row(children: list[widgets.Widget]) -> widgets.HBox:
    """Widgets side by side, wrapped where the page is narrow."""
    return widgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"})


def dropdown(
    label: str, options: Sequence[str] = (), width: int = 190, **settings: Any
) -> widgets.Dropdown:
    """A labelled dropdown; the width is in pixels."""
    layout = {"width": f"{width}px"}
    return widgets.Dropdown(options=options, description=label, layout=layout, **settings)


def share_range(label: str) -> widgets.FloatRangeSlider:
    """A slider for a range of shares, 0 to 1."""
    return widgets.FloatRangeSlider(
        value=(0, 1), min=0, max=1, step=0.05, description=label, continuous_update=False,
        layout={"width": "330px"},
    )  # fmt: skip


def run_dropdown(run: Run, others: Sequence[Run]) -> widgets.Dropdown:
    """A dropdown of this run, then all others, the newest first."""
    names = dict.fromkeys([run.name, *(other.name for other in reversed(others))])
    return dropdown("run", list(names), 520)


class Pager:
    """Previous and next buttons, and a label with the current position."""

    def __init__(self, size: int, turned: Callable[[], None]) -> None:
        """Call `turned` whenever a button has changed `start`."""
        self.size, self.start, self.total = size, 0, 0
        self.back = widgets.Button(description="previous", icon="arrow-left", disabled=True)
        self.on = widgets.Button(description="next", icon="arrow-right", disabled=True)
        self.where = widgets.Label()
        self.box = row([self.back, self.on, self.where])
        for button, pages in ((self.back, -1), (self.on, 1)):
            button.layout.width = "110px"
            button.on_click(lambda _, pages=pages: self._turn(pages, turned))

    def page(self, total: int) -> slice:
        """The items of the current page, out of `total`."""
        self.total = total
        self.start = min(self.start, max(0, (total - 1) // self.size * self.size))
        stop = min(self.start + self.size, total)
        self.back.disabled, self.on.disabled = self.start == 0, stop == total
        self.where.value = f"{self.start + 1} to {stop} of {total:,}" if total else "none"
        return slice(self.start, stop)

    def _turn(self, pages: int, turned: Callable[[], None]) -> None:
        self.start = max(0, self.start + pages * self.size)  # a second click may come too late
        turned()
