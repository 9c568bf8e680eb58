"""What panels share: errors shown, handlers that take turns, pages, pictures, headless silence."""

import base64
import contextlib
import re
import threading
import time

import ipywidgets as widgets
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from grefel_lib.panels import show_panel
from grefel_lib.panels.panel import Pager, Panel, count_faces, html_picture


class Counter(Panel):
    title = "A counter"

    def __init__(self):
        super().__init__()
        self.count = 0


@pytest.mark.parametrize(
    ("error", "told"),
    [(ValueError("no <such> class"), "no &lt;such&gt; class"), (KeyError("x"), "KeyError: ")],
)
def test_an_error_is_shown_in_the_panel_and_goes_with_the_next_success(error, told):
    one, errors = Counter(), [error]

    def handler():
        if errors:
            raise errors.pop()

    one.guard(handler)({"name": "value"})  # as a widget calls it
    assert 'role="alert"' in one.message.value
    assert told in one.message.value
    one.guard(handler)()
    assert one.message.value == ""


def test_after_an_error_the_controls_are_those_of_what_is_shown():
    one, level, shown = Counter(), widgets.IntSlider(value=1), []

    def handler():
        if level.value > 5:
            raise ValueError("too high")
        shown.append((level.value, one.message.value))

    one.react(handler, level)
    level.value = 3
    level.value = 7
    assert level.value == 3
    assert "too high" in one.message.value
    level.value = 4
    assert [value for value, _ in shown] == [3, 4]
    assert all("working" in message for _, message in shown)  # while the handler works
    assert one.message.value == ""


def test_what_is_not_busy_leaves_all_messages_but_its_own_error():
    one, errors = Counter(), [ValueError("no such run")]

    def look():
        if errors:
            raise errors.pop()

    polled = one.guard(look, busy="")
    polled()
    assert "no such run" in one.message.value
    polled()
    assert "no such run" not in one.message.value
    for said in ("5 faces", "the folder is gone"):
        one.tell(said, wrong=said != "5 faces")
        polled()
        assert said in one.message.value


def test_a_file_is_offered_for_download(tmp_path):
    one, file = Counter(), tmp_path / "faces.csv"
    file.write_text("id\n7\n")
    one.tell_files("wrote 1 face", file)
    name, data = re.search(r'download="(.*?)" href=".*?base64,(.*?)"', one.message.value).groups()
    assert name == "faces.csv"
    assert base64.b64decode(data).decode() == "id\n7\n"


def test_handlers_take_turns():
    one, inside, most = Counter(), [], []

    def handler():
        inside.append(1)
        time.sleep(0.02)
        most.append(len(inside))
        inside.pop()

    threads = [threading.Thread(target=one.guard(handler)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_no_handler_answers_while_controls_are_set_even_when_that_fails():
    one = Counter()
    handler = one.guard(lambda: setattr(one, "count", one.count + 1))
    with contextlib.suppress(ValueError), one.hushed():
        handler()
        raise ValueError("no")
    assert one.count == 0
    handler()
    assert one.count == 1


def test_a_pager_shows_everything_once_and_stops_at_both_ends():
    pager = Pager(3, lambda: None)
    seen = list(range(8))[pager.page(8)]
    assert pager.back.disabled
    for _ in range(2):
        pager.on.click()
        seen += list(range(8))[pager.page(8)]
    assert seen == list(range(8))
    assert pager.on.disabled
    assert pager.where.value == "7 to 8 of 8"
    pager.back.click()
    assert pager.page(8) == slice(3, 6)
    for _ in range(2):  # a double click, before the page is drawn
        pager.back.click()
    assert pager.page(8) == slice(0, 3)
    pager.on.click()
    assert pager.page(2) == slice(0, 2)  # fewer things now
    assert pager.page(0) == slice(0, 0)
    assert (pager.back.disabled, pager.on.disabled, pager.where.value) == (True, True, "none")


def test_a_picture_has_words_and_white_paper_and_leaves_no_figure_behind():
    before = plt.get_fignums()
    shown = html_picture(Figure(figsize=(2, 1)), 'a "quoted" face')
    assert 'alt="a &quot;quoted&quot; face"' in shown
    assert "background:white" in shown
    assert "width:240px" in shown
    assert plt.get_fignums() == before


@pytest.mark.parametrize(("count", "told"), [(0, "0 faces"), (1, "1 face"), (2345, "2,345 faces")])
def test_faces_are_counted_in_words(count, told):
    assert count_faces(count) == told


def test_headless_a_panel_is_a_picture_and_no_widget(small_run, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("grefel_lib.panels.display", shown.append)
    monkeypatch.setenv("GREFEL_PANELS", "0")
    show_panel("training", small_run)
    assert capsys.readouterr().out.startswith("Training monitor: live when")
    assert [type(item).__name__ for item in shown] == ["Image"]
    monkeypatch.setenv("GREFEL_PANELS", "1")
    show_panel("training", small_run)
    assert type(shown[-1]).__name__ == "TrainingPanel"
    with pytest.raises(ValueError, match="no panel 'x'; there are: data, training"):
        show_panel("x")
