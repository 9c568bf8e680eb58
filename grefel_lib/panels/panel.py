"""What all panels share: errors shown in place, pictures, paging."""

import base64
import contextlib
import html
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import ipywidgets as widgets
from matplotlib.figure import Figure

WRONG = "#D32F2F"  # readable on a light and on a dark page


class Panel(widgets.VBox):
    """A column of widgets, built once and updated in place.

    A subclass calls `fill` once and wraps its handlers in `guard`. Figures are made without pyplot,
    whose figures belong to the cell that runs: Jupyter calls handlers in threads of their own.
    """

    title: ClassVar[str] = ""

    def __init__(self) -> None:
        self.message, self.quiet = widgets.HTML(), False
        self.turn = threading.RLock()  # one handler at a time
        super().__init__([widgets.HTML(f"<b>{self.title}</b>"), self.message])
        self.layout.border_top = "1px solid #9E9E9E"
        self.layout.padding = "6px 0"

    def fill(self, *children: widgets.Widget) -> None:
        """Put the panel's own widgets below its title and message."""
        self.children = (*self.children, *children)

    def guard(self, handler: Callable[[], Any]) -> Callable[..., None]:
        """A callback that runs the handler and shows its error, if any, in the panel."""

        def call(*_: Any) -> None:
            with self.turn:
                if self.quiet:
                    return
                self.message.value = ""
                try:
                    handler()
                except Exception as error:
                    expected = isinstance(error, (ValueError, OSError))
                    name = "" if expected else f"{type(error).__name__}: "
                    self.tell(f"{name}{error}", wrong=True)

        return call

    @contextlib.contextmanager
    def hushed(self) -> Iterator[None]:
        """While several controls are set at once: guarded handlers do nothing."""
        self.quiet = True
        try:
            yield
        finally:
            self.quiet = False

    def tell(self, text: str, *, wrong: bool = False) -> None:
        """Show one line below the title."""
        role, colour = ("alert", WRONG) if wrong else ("status", "inherit")
        self.message.value = (
            f'<span role="{role}" style="color:{colour}">{html.escape(text)}</span>'
        )


def html_picture(fig: Figure, words: str, *, dpi: int = 130) -> str:
    """A figure as HTML, with words for those who cannot see it.

    It keeps its white paper on a dark page.
    """
    content = io.BytesIO()
    fig.savefig(content, format="png", dpi=dpi, facecolor="white")
    width = round(120 * fig.get_figwidth())
    data = base64.b64encode(content.getvalue()).decode()
    style = f"width:{width}px; max-width:100%; background:white"
    return f'<img alt="{html.escape(words)}" style="{style}" src="data:image/png;base64,{data}">'


def count_faces(count: int) -> str:
    """A count of faces, in words."""
    return f"{count:,} face{'' if count == 1 else 's'}"


def row(*children: widgets.Widget) -> widgets.HBox:
    """Widgets side by side, wrapped where the page is narrow."""
    return widgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"})


class Pager:
    """Two buttons and a text: the page that is shown."""

    def __init__(self, size: int, turned: Callable[[], None]) -> None:
        """Call `turned` whenever a button changed `start`."""
        self.size, self.start, self.total = size, 0, 0
        self.back = widgets.Button(description="previous", icon="arrow-left", disabled=True)
        self.on = widgets.Button(description="next", icon="arrow-right", disabled=True)
        self.where = widgets.Label()
        self.box = row(self.back, self.on, self.where)
        for button, pages in ((self.back, -1), (self.on, 1)):
            button.layout.width = "110px"
            button.on_click(lambda _, pages=pages: self._turn(pages, turned))

    def page(self, total: int) -> slice:
        """Which of `total` things are to be shown now."""
        self.total = total
        self.start = min(self.start, max(0, (total - 1) // self.size * self.size))
        stop = min(self.start + self.size, total)
        self.back.disabled, self.on.disabled = self.start == 0, stop == total
        self.where.value = f"{self.start + 1} to {stop} of {total:,}" if total else "none"
        return slice(self.start, stop)

    def _turn(self, pages: int, turned: Callable[[], None]) -> None:
        self.start += pages * self.size
        turned()
