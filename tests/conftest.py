"""Shared fixtures: small models, drawn faces on disk, one thread for bit-equal results."""

import html
from itertools import combinations

import ipywidgets as widgets
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.faces import load_faces
from grefel_lib.fit import fit
from grefel_lib.run import start_run
from grefel_lib.sources.synthetic import write_synthetic


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """On small models threads only wait for each other; another number gives other last bits."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for the processes that tests start
        yield


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - third-party code may still draw from it


@pytest.fixture(scope="session")
def faces_dir(tmp_path_factory):
    """A small built-in data set in the FERPlus layout."""

    return write_synthetic(tmp_path_factory.mktemp("data") / "FERPlus", images=400, seed=1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Decoded images go to a folder of the test session, not into data/cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREFEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tiny(faces_dir, tmp_path):
    """A config that trains in seconds: two epochs of a tiny network on the small data set."""

    return Config.resolve(
        {
            "dataset": "ferplus",
            "data_dir": str(faces_dir),
            "profile": "demo",
            "image_size": 48,
            "epochs": 2,
            "batch_size": 32,
            "output_dir": str(tmp_path / "outputs"),
            "run_name": "tiny",
        }
    )


@pytest.fixture(scope="session")
def small_run(faces_dir, tmp_path_factory):
    """A run of one epoch on the small data set, for tests that only read one."""

    outputs = tmp_path_factory.mktemp("outputs")
    config = Config.resolve(
        {"dataset": "ferplus", "data_dir": str(faces_dir), "profile": "demo", "epochs": 1,
         "output_dir": str(outputs), "run_name": "small"}
    )  # fmt: skip
    faces = load_faces(config)
    run = start_run(config, faces.info)
    fit(faces, run)
    return run


@pytest.fixture
def other_outputs(tmp_path, monkeypatch):
    """outputs/ is an empty folder while the test lasts."""

    monkeypatch.setattr("grefel_lib.run.PROJECT_ROOT", tmp_path)
    (tmp_path / "notebooks").symlink_to(PROJECT_ROOT / "notebooks")  # with the published runs
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


TAG = "<b>x</b>"  # what nobody writes but in a run that is not their own


@pytest.fixture
def assert_escaped():
    """What a panel shows as HTML holds TAG as text, and not as a tag."""

    def pages(widget):
        yield widget.value if isinstance(widget, widgets.HTML) else ""
        for child in getattr(widget, "children", ()):
            yield from pages(child)

    def look(panel) -> None:
        page = "".join(pages(panel))
        assert TAG not in page
        assert html.escape(TAG) in page

    return look


@pytest.fixture
def assert_readable(monkeypatch):
    """Every text that is drawn lies inside its figure and covers no other."""
    drawn = []  # matplotlib keeps ticks beyond the limits, and never draws them
    paint = Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, r: (drawn.append(text), paint(text, r))[1])

    def look(fig: Figure) -> None:
        for _ in range(3):
            fig.draw_without_rendering()
        drawn.clear()
        with matplotlib.rc_context({"text.hinting": "none"}):
            renderer = FigureCanvasAgg(fig).get_renderer()
            fig.draw(renderer)
            boxes = [(t, t.get_window_extent(renderer)) for t in drawn if t.get_text().strip()]
        assert len(boxes) >= 2
        for text, box in boxes:
            assert min(box.x0, box.y0) > -0.5, text
            assert box.x1 < fig.bbox.x1 + 0.5, text
            assert box.y1 < fig.bbox.y1 + 0.5, text
        for (one, a), (other, b) in combinations(boxes, 2):
            wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert wide < 1 or high < 2, f"{one} and {other} overlap by {wide:.1f} x {high:.1f}"

    return look
