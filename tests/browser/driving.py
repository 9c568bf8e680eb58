"""A real JupyterLab or Notebook 7, driven by Debian's Chromium, for the tests and the README."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--hide-scrollbars", "--force-color-profile=srgb"]  # fmt: skip
CONNECTED = """() => { const w = window.jupyterapp.shell.currentWidget, s = w && w.sessionContext;
    const kernel = s && s.session && s.session.kernel;
    return kernel && kernel.connectionStatus === 'connected'; }"""
IDLE = """() => { const w = window.jupyterapp.shell.currentWidget, s = w && w.sessionContext;
    return s && s.session && s.session.kernel && s.session.kernel.status === 'idle'; }"""
DONE = """() => { const w = window.jupyterapp.shell.currentWidget;
    const cells = [...w.content.model.cells].filter(c => c.type === 'code');
    return cells.length && cells.every(c => c.executionCount !== null)
        && w.sessionContext.session.kernel.status === 'idle'; }"""
TO_PANEL = """() => { const n = window.jupyterapp.shell.currentWidget.content;
    const at = n.widgets.findIndex(c => c.model.sharedModel.getSource().includes('panel.show('));
    return n.scrollToItem(at, 'start'); }"""
OWN_ERRORS = ("reading 'schema'", "'filebrowser:open-path' not registered")  # of Notebook 7.6


@contextlib.contextmanager
def jupyter(root: Path, home: Path, **variables: str) -> Iterator[str]:
    """Serve Lab (and Notebook 7, under /notebooks) on a free port of this machine; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {"CONFIG": "JUPYTER_CONFIG_DIR", "DATA": "JUPYTER_DATA_DIR",
               "RUN": "JUPYTER_RUNTIME_DIR", "SET": "JUPYTERLAB_SETTINGS_DIR",
               "WS": "JUPYTERLAB_WORKSPACES_DIR"}  # fmt: skip
    environment = os.environ | {name: str(home / key) for key, name in folders.items()} | variables
    environment.pop("MPLBACKEND", None)
    news = home / "SET/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True, exist_ok=True)  # no question about news
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--port={port}",
               "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1",
               "--IdentityProvider.token=", "--ServerApp.allow_root=True",
               f"--ServerApp.root_dir={root}",
               "--LabApp.expose_app_in_browser=True",
               "--JupyterNotebookApp.expose_app_in_browser=True"]  # fmt: skip
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            assert server.poll() is None, (home / "server.log").read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api/status", timeout=1)
                break
            time.sleep(0.2)
        else:
            raise TimeoutError("jupyter did not answer in 40 s")
        yield address
    finally:
        server.terminate()  # it ends its kernels itself
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


class Page:
    """One notebook in one page of the browser."""

    def __init__(self, browser, address: str, notebook: str, *, app: str = "lab") -> None:
        path = {"lab": f"lab/workspaces/{app}-{notebook[:2]}/tree/{notebook}?reset",
                "notebook": f"notebooks/{notebook}"}[app]  # fmt: skip
        self.browser, self.address = browser, f"{address}/{path}"
        self.errors: list[str] = []
        self.abroad: list[str] = []  # requests that leave this machine
        self.open()

    def open(self) -> None:
        """Open the notebook in a new page, and wait for its kernel to answer."""
        self.page = self.browser.new_page(viewport={"width": 1250, "height": 1300})
        self.page.set_default_timeout(60_000)
        self.page.on("pageerror", self._failed)
        self.page.on("request", self._asked)
        self.page.goto(self.address)
        self.page.wait_for_function("() => window.jupyterapp && window.jupyterapp.commands")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        self.page.wait_for_function(CONNECTED)

    def command(self, name: str, **arguments) -> None:
        """Execute one of Jupyter's commands."""
        call = "([name, args]) => window.jupyterapp.commands.execute(name, args)"
        self.page.evaluate(call, [name, arguments])

    def run_all(self, *, wait: bool = True) -> None:
        """Run every cell, and wait for the last one."""
        self.page.wait_for_function(IDLE)
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        if wait:
            self.finish()

    def finish(self) -> None:
        """Wait until every cell has run, and none has failed."""
        self.page.wait_for_function(DONE, timeout=120_000)
        said = self.page.locator("[data-mime-type*='stderr'], [data-mime-type*='.error']")
        assert not said.count(), said.all_inner_texts()

    def panel(self, title: str):
        """The panel of this title; cells that are far away are not even in the page."""
        self.page.evaluate(TO_PANEL)
        found = self.page.locator(".widget-vbox", has_text=title).first
        found.scroll_into_view_if_needed()
        return found

    def _failed(self, error) -> None:
        if not any(known in str(error) for known in OWN_ERRORS):
            self.errors.append(f"{error}\n{error.stack}")

    def _asked(self, request) -> None:
        if "127.0.0.1" not in request.url and not request.url.startswith(("data:", "blob:")):
            self.abroad.append(request.url)
