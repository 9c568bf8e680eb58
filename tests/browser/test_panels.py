"""Every panel, in a real JupyterLab: clicked, looked at, and (`make screenshots`) photographed.

With GREFEL_SCREENSHOTS the notebooks run with their own parameters and their panels are saved as
pictures; without it they get a small data set and a small run. Of a notebook only the cells run
that its panel needs (nbval runs them all), so that all of this takes two minutes.
"""

import ast
import base64
import io
import json
import os
import re
import shutil
import time
from pathlib import Path

import driving
import pytest
from PIL import Image

from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.faces import load_faces
from grefel_lib.fit import fit
from grefel_lib.run import LAST, open_run, outputs_folder, start_run
from grefel_lib.sources.photo import group_picture

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=60_000)
SHOTS = os.environ.get("GREFEL_SCREENSHOTS", "")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not driving.CHROMIUM, reason="no chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def small(faces_dir, tmp_path_factory):
    """What makes a notebook small: few faces, and results elsewhere."""
    outputs = tmp_path_factory.mktemp("outputs")
    return {"dataset": "ferplus", "data_dir": str(faces_dir), "profile": "demo",
            "output_dir": str(outputs)}  # fmt: skip


@pytest.fixture(scope="module")
def trained(small):
    """A run for the notebooks that read one."""
    config = Config.resolve(small | {"epochs": 2, "run_name": "small"})
    faces = load_faces(config)
    run = start_run(config, faces.info)
    fit(faces, run)
    return run


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The folder of the notebooks, and the address it is served at."""
    root, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("home")
    quiet = {"GREFEL_PROGRESS": "0", "OMP_NUM_THREADS": "1"}  # the browser wants a core, too
    with driving.jupyter(root, home, **quiet) as address:
        yield root, address


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=driving.CHROMIUM, args=driving.ARGUMENTS
        )
        yield chromium
        chromium.close()


@pytest.fixture
def opened(served, browser):
    """Open a notebook, its parameters changed; in the end no error, and no request abroad."""
    pages = []

    def call(name, cells, *, app="lab"):
        root, address = served
        blank = {"metadata": {}, "outputs": [], "execution_count": None, "cell_type": "code"}
        content = json.loads((PROJECT_ROOT / "notebooks/01_data_exploration.ipynb").read_text())
        content["cells"] = [
            cell | blank | {"metadata": cell["metadata"]} if cell["cell_type"] == "code" else cell
            for cell in cells
        ]
        (root / name).write_text(json.dumps(content))
        pages.append(driving.Page(browser, address, name, app=app))
        return pages[-1]

    yield call
    for page in pages:
        page.page.close()
        assert not page.errors
        assert not page.abroad


def needed(cells, wanted):
    """The texts, and the code cells that `wanted` ones need: found backwards by their names."""
    kept, names = [], set()
    for cell in reversed(cells):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            nodes = list(ast.walk(ast.parse(source)))
            used = [node for node in nodes if isinstance(node, ast.Name)]
            made = {node.id for node in used if isinstance(node.ctx, ast.Store)}
            made |= {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
            if not (made & names or any(call in source for call in wanted)):
                continue
            names |= {node.id for node in used}
            names |= {"dataset", "checkpoint_dir"}  # of the parameters cell
        kept.insert(0, cell)
    return kept


def committed(name, parameters, *, wanted=("show_panel(",), always=()):
    """What a panel needs of a committed notebook, other parameters; for pictures `always` alone."""
    cells = json.loads((PROJECT_ROOT / "notebooks" / name).read_text())["cells"]
    cells = needed(cells, wanted)
    for cell in cells:
        if "parameters" in cell["metadata"].get("tags", []):
            kept = {k: v for k, v in parameters.items() if not SHOTS or k in always}
            cell["source"] = [*cell["source"], *(f"\n{k} = {v!r}" for k, v in kept.items())]
    return cells


PICTURE = "img:not([alt=''])"  # of a panel; the others do work behind the scenes
FACE = "i[role=img]"


def photograph(panel, name, **how):
    """Keep a picture of a panel, or page, for the README."""
    if SHOTS:
        content = io.BytesIO(panel.screenshot(**how))
        Image.open(content).save(PROJECT_ROOT / SHOTS / f"{name}.webp", quality=90, method=6)


def shown(panel, number=0):
    """What one of a panel's pictures shows, in words."""
    return panel.locator(PICTURE).nth(number).get_attribute("alt")


def look_at_lab(page, panel):
    """The table of contents reads well in a dark theme."""
    page.command("toc:show-panel")
    change_theme(page, "Dark")
    expect(page.page.locator(".jp-TableOfContents-tree")).to_contain_text("Browse the data")
    if SHOTS:
        page.panel("Data browser")
        time.sleep(1)  # the new colours fade in
        photograph(page.page, "lab", clip={"x": 0, "y": 0, "width": 1250, "height": 900})
    change_theme(page, "Light")


def change_theme(page, name):
    """Wait for Lab's splash screen to go: a second one before that is an error of Lab's own."""
    splash = page.page.locator("#jupyterlab-splash")
    expect(splash).to_have_count(0)
    page.command("apputils:change-theme", theme=f"JupyterLab {name}")
    light = str(name == "Light").lower()
    expect(page.page.locator("body")).to_have_attribute("data-jp-theme-light", light)
    expect(splash).to_have_count(0)


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_data_browser(opened, small, app):
    name = "01_data_exploration.ipynb"
    page = opened(name, committed(name, {k: small[k] for k in ("dataset", "data_dir")}), app=app)
    page.run_all()
    panel = page.panel("Data browser")
    first = panel.locator(FACE).first
    before = first.get_attribute("aria-label")
    panel.get_by_label("class").select_option("happiness")
    expect(first).not_to_have_attribute("aria-label", before)
    count = "() => window.jupyterapp.shell.currentWidget.content.model.cells.length"
    cells = page.page.evaluate(count) if app == "lab" else 0
    expect(panel).not_to_contain_text("working")  # its faces are drawn
    first.click()  # enlarges it; then a shortcut of the notebook, a new cell, does not fire
    expect(first).to_be_focused()
    page.page.keyboard.press("b")
    first.blur()
    assert app != "lab" or page.page.evaluate(count) == cells
    if app == "lab":
        photograph(panel, "data")
        look_at_lab(page, panel)
    panel.get_by_label("class").select_option("all")
    expect(first).to_have_attribute("aria-label", before)  # its faces are drawn
    expect(panel).not_to_contain_text("working")
    panel.get_by_label("copy in another split").check()
    jump = panel.locator("button", has_text="→").first
    target = jump.inner_text().split()[-1]
    jump.focus()
    page.page.keyboard.press("Enter")  # the keyboard is enough
    expect(panel.get_by_label("split", exact=True)).to_have_value(target.split("_")[0])
    expect(panel.locator(f"{FACE}[aria-label*='{target}']")).to_have_count(1)
    panel.get_by_role("button", name="export as CSV").click()
    expect(panel.get_by_role("status")).to_contain_text("wrote")
    written = re.search(r"outputs/selections/\S+\.csv", panel.inner_text())[0]
    assert target in (PROJECT_ROOT / written).read_text()
    (PROJECT_ROOT / written).unlink()
    if SHOTS:  # the notebook's own data
        return
    votes = Path(small["data_dir"]) / "fer2013new.csv"
    votes.rename(votes.with_suffix(".away"))
    try:
        panel.get_by_label("protocol").select_option("argmax")
        expect(panel.get_by_role("alert")).to_contain_text("fer2013new.csv")
        expect(panel.get_by_label("protocol")).to_have_value("official")  # what is shown
    finally:
        votes.with_suffix(".away").rename(votes)


def test_training_monitor(opened, small):
    """Watched here while the kernel is busy; the tab is closed; watched, and stopped, elsewhere."""
    name = "03_training.ipynb"
    changes = small | {"epochs": 400, "run_name": "watched", "batch_size": 8}  # many slow epochs
    wanted, always = ("show_panel(", "history = fit("), ("run_name",)
    page = opened(name, committed(name, changes, wanted=wanted, always=always))
    page.run_all(wait=False)
    panel = page.panel("Training monitor")
    seen = re.compile(r"running: epoch [1-9]\d* of \d+, \d.* left")
    expect(panel).to_contain_text(seen, timeout=90_000)
    if SHOTS:
        late = re.compile(r"epoch ([789]|1\d) of")
        expect(panel.locator(PICTURE)).to_have_attribute("alt", late, timeout=180_000)
        photograph(panel, "training")
        panel.get_by_role("button", name="stop after this epoch").click()
        expect(panel).to_contain_text(re.compile(r"(stopped|ok): epoch"))  # it may be done
        shutil.rmtree(outputs_folder() / "watched")
        return
    page.command("docmanager:save")
    page.page.close()  # the kernel goes on

    run = open_run("watched", small["output_dir"])
    before = len(run.history())
    lines = [
        "from grefel_lib import show_panel",
        "from grefel_lib.run import open_run",
        f"show_panel('training', open_run({str(run.path)!r}))",
    ]
    cell = {"cell_type": "code", "id": "watch", "metadata": {}, "source": "\n".join(lines)}
    other = opened("watch.ipynb", [cell], app="notebook")
    other.run_all()
    there = other.panel("Training monitor")
    expect(there).to_contain_text(seen)
    there.get_by_role("button", name="stop after this epoch").click()
    expect(there).to_contain_text("stopped: epoch")
    assert before < len(run.history()) < run.config.epochs
    assert run.load_checkpoint(LAST)[1]["epoch"] == len(run.history())
    assert not run.asked_to_stop

    page.open()  # the tab again
    expect(page.panel("Training monitor")).to_contain_text("stopped: epoch")


def test_a_run_is_stopped_from_the_notebook_that_trains_it(opened, small):
    name = "03_training.ipynb"
    changes = small | {"epochs": 400, "run_name": "stopped_here", "batch_size": 8}
    wanted, always = ("show_panel(", "history = fit("), ("run_name",)
    page = opened(name, committed(name, changes, wanted=wanted, always=always))
    page.run_all(wait=False)
    panel = page.panel("Training monitor")
    expect(panel).to_contain_text(re.compile(r"running: epoch [1-9]"), timeout=90_000)
    panel.get_by_role("button", name="stop after this epoch").click()
    expect(panel).to_contain_text("stopped: epoch")
    assert 0 < len(open_run("stopped_here", small["output_dir"]).history()) < 400


def test_confusion_explorer(opened, small, trained):
    name = "05_evaluation.ipynb"
    changes = {"checkpoint_dir": str(trained.path), "robustness_images": 0, "inspect_labels": False}
    page = opened(name, committed(name, changes, always=("robustness_images", "inspect_labels")))
    page.run_all()
    panel = page.panel("Confusion explorer")
    cell = panel.locator("button[title*=' faces: ']:enabled:visible").last  # more than one
    how = r"(\d+) faces: (\w+) predicted as (\w+) \((\w+)\)"
    count, true, predicted, checkpoint = re.fullmatch(how, cell.get_attribute("title")).groups()
    cell.focus()
    page.page.keyboard.press("Enter")
    told = f"{true} predicted as {predicted} by {checkpoint}: {count} faces"
    expect(panel.get_by_role("status")).to_contain_text(told)
    before = panel.locator(FACE).first.get_attribute("aria-label")
    panel.get_by_label("order").select_option("least reliable first")
    expect(panel.locator(FACE).first).not_to_have_attribute("aria-label", before)
    if SHOTS:
        panel.locator("button[title*='anger predicted as neutral']:enabled:visible").first.click()
        expect(panel.get_by_role("status")).to_contain_text("anger predicted as neutral")
    photograph(panel, "confusion")
    panel.locator(FACE).nth(1).click()
    face = panel.locator(FACE).nth(1).get_attribute("aria-label").splitlines()[0]
    expect(panel.get_by_label("face", exact=True)).to_have_value(face)
    panel.get_by_role("button", name="label is wrong").click()
    expect(panel.get_by_role("status")).to_contain_text("labels tagged as wrong: 1")
    expect(panel).to_contain_text("✗")
    with page.page.expect_download() as download:
        panel.get_by_role("link", name="download label_fixes.csv").click()
    assert Path(download.value.path()).read_text() == f"id,label\n{face},\n"


def test_run_table(opened):
    name = "06_comparing_runs.ipynb"
    page = opened(name, committed(name, {}))
    page.run_all()
    panel = page.panel("Run table")
    expect(panel.get_by_role("status")).to_contain_text("12 runs, 4 variants")
    photograph(panel, "runs")
    size = page.page.viewport_size
    page.page.set_viewport_size({"width": 1000, "height": 900})
    last = panel.locator("table tbody td:last-child").first.bounding_box()
    whole = panel.bounding_box()
    assert last["x"] + last["width"] <= whole["x"] + whole["width"]
    page.page.set_viewport_size(size)
    lines = panel.get_by_label("runs").locator("option").all_text_contents()
    some = [line for line in lines if "correction=none" in line or "linear" in line]
    panel.get_by_label("runs").select_option(some)
    expect(panel.get_by_role("status")).to_contain_text("6 runs, 2 variants")
    expect(panel.locator("table")).not_to_contain_text("correction trust")
    panel.get_by_label("baseline").select_option(index=1)
    expect(panel.locator(PICTURE).nth(1)).to_have_attribute("alt", re.compile("from GReFEL"))


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_face_panel(opened, small, trained, tmp_path, app):
    name = "07_try_a_face.ipynb"
    page = opened(name, committed(name, {"checkpoint_dir": str(trained.path)}), app=app)
    page.run_all()
    panel = page.panel("Try a face")
    assert "2 faces" in shown(panel)
    photograph(panel, "face")
    faces = load_faces(trained.config).split("val").gather(range(3))
    file = tmp_path / "three.png"
    Image.fromarray(group_picture(faces)).save(file)
    with page.page.expect_file_chooser() as chooser:
        panel.get_by_role("button", name="choose a picture").click()
    chooser.value.set_files(file)
    expect(panel.locator(PICTURE).first).to_have_attribute("alt", re.compile("3 faces"))
    panel.get_by_role("button", name="whole picture").click()
    expect(panel.get_by_role("status")).to_contain_text("whole picture: ")
    Image.new("RGB", (300, 200), "navy").save(tmp_path / "none.png")
    drop(page.page, panel.locator(".grefel-drop"), tmp_path / "none.png")
    expect(panel.get_by_role("status")).to_contain_text("no face was found")
    (tmp_path / "text.png").write_text("not an image")
    drop(page.page, panel.locator(".grefel-drop"), tmp_path / "text.png")
    expect(panel.get_by_role("alert")).to_contain_text("text.png cannot be read as a picture")


def drop(page, zone, file):
    """Let a file fall on an element."""
    content = base64.b64encode(file.read_bytes()).decode()
    script = """([content, name]) => { const transfer = new DataTransfer();
        const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
        transfer.items.add(new File([bytes], name, {type: 'image/png'})); return transfer; }"""
    transfer = page.evaluate_handle(script, [content, file.name])
    zone.dispatch_event("drop", {"dataTransfer": transfer})
