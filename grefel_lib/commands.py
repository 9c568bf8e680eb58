"""A command is a notebook: its parameters are the flags, its executed copy is the record."""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grefel_lib import runs
from grefel_lib.config import PROJECT_ROOT, Config

NOTEBOOKS = PROJECT_ROOT / "notebooks"
COMMANDS = {
    "train": ("03_training.ipynb", "train a run"),
    "finetune": ("04_finetuning.ipynb", "go on from a checkpoint (default: the newest run)"),
    "evaluate": ("05_evaluation.ipynb", "read the test split once (default: the newest run)"),
    "compare": ("06_comparing_runs.ipynb", "compare evaluated runs (default: the published ones)"),
}


class NotebookError(Exception):
    """A cell of an executed notebook failed."""


_FRIENDLY = (
    "ValueError", "FileNotFoundError", "NotADirectoryError", "IsADirectoryError", "OSError",
    "PermissionError", "ConnectionError", "NonFiniteLossError", "FileExistsError",
    "ProcessError",
)  # fmt: skip


def notebook(command: str) -> Path:
    """The notebook behind a command."""
    return NOTEBOOKS / COMMANDS[command][0]


def parameters(notebook: Path) -> dict[str, dict[str, Any]]:
    """What a notebook's parameters cell declares: name -> name, inferred_type_name, help."""
    import papermill

    if not notebook.is_file():
        raise FileNotFoundError(
            f"no notebook at {notebook}; grefel works from a checkout of the project, installed "
            f"with: pip install -e ."
        )
    return papermill.inspect_notebook(str(notebook))


def run(command: str, given: Mapping[str, Any]) -> Path:
    """Check everything that can be checked now, then run a command's notebook.

    Args:
        command: A key of COMMANDS.
        given: Values by parameter name; text is converted as the parameter's type asks.

    Returns:
        The run folder.

    Raises:
        ValueError, OSError: Bad settings, a run folder in the way, bad data, no weights.
        NotebookError: See `execute`.
    """
    given = dict(given)
    if "output_dir" in given:
        given["output_dir"] = str(Path(given["output_dir"]).expanduser().absolute())
    folder = _compared(given) if command == "compare" else _prepared(command, given)
    for key, value in given.items():  # typed: papermill would pass text as text
        given[key] = value if key == "profile" else getattr(Config(**{key: value}), key)
    source = notebook(command)
    print(f"grefel {command}: {runs.relative(folder)}", flush=True)
    execute(source, folder / source.name, given)
    return folder


def _prepared(command: str, given: dict[str, Any]) -> Path:
    """Check settings, run folder, data and weights; the run's name, which may hold the time, is
    fixed in `given`. Returns the folder."""
    from grefel_lib import backbone, datasets  # they take a moment to import

    outputs = given.get("output_dir", "outputs")
    if command == "finetune" and not given.get("checkpoint_path"):
        given["checkpoint_path"] = str(runs.newest(outputs, finetuned=False).path)
    if command == "evaluate":
        if not given.get("checkpoint_dir"):
            given["checkpoint_dir"] = str(runs.newest().path)
        _, results, config = runs.resolve_evaluation(given)
        datasets.load(config)  # bad data is told now, in one line; good data is cached
        return results.path
    config = runs.resolve(given)
    folder = runs.check(config)
    if not given.get("resume"):
        name = "finetune_name" if config.checkpoint_path else "run_name"
        given[name] = folder.name
        if config.checkpoint_path:
            given[name] = folder.name.removeprefix("finetune_")
    datasets.load(config)
    backbone.check(config)
    return folder


def _compared(given: dict[str, Any]) -> Path:
    from grefel_lib import comparison

    output_dir = given.get("output_dir", comparison.PUBLISHED)
    comparison.collect(output_dir)
    return comparison.folder(output_dir).path


def execute(notebook: Path, output: Path, given: dict[str, Any]) -> None:
    """Run a notebook headless through papermill, its printed lines passed on.

    Args:
        notebook: The source.
        output: Where the executed copy goes; its folder is made, and removed again if the
            notebook fails before it has written anything else there.
        given: Parameters, plain scalars.

    Raises:
        NotebookError: A cell failed; one line says how.
        OSError: The output folder cannot be made.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config as TraitConfig

    os.environ |= {"GREFEL_PANELS": "0"}  # also when this command runs inside an open notebook
    fresh = not output.parent.exists()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {output.parent}: {error.strerror}") from error
    try:
        papermill.execute_notebook(
            str(notebook),
            str(output),
            parameters=given,
            kernel_name="python3",
            progress_bar=sys.stderr.isatty(),
            stdout_file=_Unbuffered(sys.stdout),
            stderr_file=_Unbuffered(sys.stderr),
            coalesce_streams=True,
            store_widget_state=False,
            autosave_cell_every=30,
            config=TraitConfig(KernelManager={"transport_encryption": "auto"}),
        )
    except PapermillExecutionError as error:
        known = error.ename in _FRIENDLY
        kept = _remove_if_empty(output, fresh)
        where = f" (see {runs.relative(output)})" if kept and not known else ""
        message = error.evalue if known else f"{error.ename}: {error.evalue}"
        raise NotebookError(f"{message}{where}") from error


def _remove_if_empty(output: Path, fresh: bool) -> bool:
    if not fresh or {p.name for p in output.parent.iterdir()} - {output.name}:
        return True
    output.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        output.parent.rmdir()
    return False


class _Unbuffered:
    """Passes text on at once, so that a log file can be followed."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def flush(self) -> None:
        self.stream.flush()
