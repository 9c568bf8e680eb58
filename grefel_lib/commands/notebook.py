"""Running notebooks as commands: flags become parameters, the executed copy is the record."""

from __future__ import annotations

import ast
import contextlib
import inspect
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill
from filelock import FileLock
from IPython import get_ipython
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io
from traitlets import default
from traitlets.config import Config as TraitConfig

from grefel_lib.analysis.compare import PUBLISHED, comparison_folder, evaluated_runs, group_variants
from grefel_lib.analysis.evaluation import evaluation_folder
from grefel_lib.backbone import check_backbone
from grefel_lib.commands import COMMANDS, SWEEPABLE, NotebookError
from grefel_lib.config import (
    PACKAGED,
    PRETRAINED,
    PROJECT_ROOT,
    SETTINGS,
    Config,
    absolute_paths,
    check_name,
    convert,
)
from grefel_lib.environment import openmp_settings, pick_device
from grefel_lib.faces import load_faces
from grefel_lib.files import Folder, atomic, only_one, read_facts, read_json, reading, relative
from grefel_lib.fit import fit
from grefel_lib.report.tables import (
    SPLITS,
    TITLES,
    class_table,
    data_title,
    split_title,
    with_intervals,
)
from grefel_lib.run import (
    Run,
    check_run,
    check_same_data,
    checkpoint_file,
    new_folder,
    newest_run,
    open_run,
    outputs_folder,
    run_folder,
    start_run,
)

log = logging.getLogger(__name__)
_MORE = "may hold nothing but lines like lr: float = 0.001; move everything else to another cell"
NOTEBOOKS = PROJECT_ROOT / "notebooks"
_FRIENDLY = (
    "ValueError", "FileNotFoundError", "NotADirectoryError", "IsADirectoryError", "OSError",
    "PermissionError", "ConnectionError", "NonFiniteLossError", "FileExistsError",
    "ProcessError",
)  # fmt: skip


def notebook_path(command: str) -> Path:
    """The notebook behind a command."""
    return NOTEBOOKS / COMMANDS[command][0]


def cell_parameters(command: str) -> dict[str, Any]:
    """Current values in the parameters cell of a command's notebook: the command's defaults.

    Raises:
        ValueError: The cell cannot be run, or see `check_parameters`.
        FileNotFoundError: The notebook is not there.
    """
    path = notebook_path(command)
    _check_notebook(path)
    with reading(path):
        cells = read_json(path)["cells"]
        tagged = [c["source"] for c in cells if "parameters" in c["metadata"].get("tags", [])]
    source = "".join(tagged[0]) if tagged else ""
    values: dict[str, Any] = {}
    try:
        exec(source, values)  # assignments, which the notebook runs as well
    except Exception as error:
        raise ValueError(
            f"the parameters cell of {relative(path)} fails: {type(error).__name__}: {error}"
        ) from error
    if (assignments := _assignments(source)) is None:
        raise ValueError(f"the parameters cell of {relative(path)} {_MORE}")
    return check_parameters(command, {name: values[name] for name in assignments})


def run_command(command: str, overrides: Mapping[str, Any]) -> Path:
    """Check settings, data and weights, then run a command's notebook.

    Args:
        command: A key of COMMANDS.
        overrides: Values by parameter name, overriding the parameters cell; strings are converted
            to the parameter's type.

    Returns:
        The run folder.

    Raises:
        ValueError, OSError: Bad settings, a conflicting run folder, bad data, no weights.
        NotebookError: See `execute_notebook`.
    """
    cell, overrides = cell_parameters(command), dict(overrides)
    if "output_dir" in overrides:
        overrides["output_dir"] = str(Path(overrides["output_dir"]).expanduser().absolute())
    overrides |= absolute_paths(overrides)
    settings = cell | overrides
    folder = _prepared(command, settings)
    # typed: papermill would pass text as text
    overrides = {k: convert(k, value) for k, value in settings.items() if cell.get(k) != value}
    source = notebook_path(command)
    split = settings.get("split", "test")
    where = "" if split == "test" else f", {SPLITS[split]}"
    print(f"grefel {command}: {relative(folder)}{where}", flush=True)
    try:
        execute_notebook(source, folder / source.name, overrides)
    except (KeyboardInterrupt, NotebookError) as error:
        run = Run(folder, Config())
        if command in SWEEPABLE and run.status() == "died":  # it could not record its own end
            ending = {"status": "failed", "error": str(error)}
            interrupted = isinstance(error, KeyboardInterrupt)
            run.write_ending({"status": "interrupted"} if interrupted else ending)
        raise
    if command == "evaluate" and (folder / "metrics.json").is_file():
        print(evaluation_lines(folder))
    return folder


def evaluation_lines(folder: Path) -> str:
    """Both checkpoints' results with intervals, recall by class, and where the figures are."""
    content = read_json(folder / "metrics.json")
    headline, split = content["headline"], content["split"]
    table = with_intervals(content["checkpoints"], split=split)
    classes = class_table(content["checkpoints"][headline]["per_class"])
    shown = [TITLES[name] for name in ("accuracy", "mean_class_accuracy", "macro_f1")]
    lines = [
        f"\n{data_title(content['dataset'], content['protocol'])}, {split_title(content)}; "
        f"95% intervals in brackets",
        table.loc[shown].to_string(),
        f"\n{headline}, chosen by {content['selection']}",
        classes[["faces", "recall (%)"]].to_string(),
        "",
    ]
    for words, name in (
        ("confusion matrix for your paper", "figures/confusion_matrix.pdf"),
        ("all figures", "figures"),
        ("LaTeX tables", "tables"),
        ("model card", "model_card.md"),
        ("everything on one page", f"{Path(COMMANDS['evaluate'][0]).stem}.html"),
    ):
        lines.append(f"{words + ':':<33}{relative(folder / name)}")
    return "\n".join(lines)


def _prepared(command: str, overrides: dict[str, Any]) -> Path:
    """Check settings, run folder, data and weights; fix the run's name, which may contain the time,
    in `overrides`. Returns the folder."""
    if command == "compare":
        output_dir = resolve_comparison(overrides)
        group_variants(evaluated_runs(output_dir))  # that they can be compared
        return comparison_folder(output_dir).path
    outputs = overrides.get("output_dir", "outputs")
    if command == "finetune" and not overrides.get("checkpoint_path"):
        overrides["checkpoint_path"] = str(latest_parent(outputs).path)
    if command == "evaluate":
        if not overrides.get("checkpoint_dir"):
            overrides["checkpoint_dir"] = str(newest_run().path)
        _, results, config = resolve_evaluation(overrides)
        pick_device(config.device, occupy=False)
        load_faces(config)  # bad data is reported now, in one line; good data is cached
        return results.path
    config = resolve(overrides, command=command)
    folder = check_run(config)
    pick_device(config.device, occupy=False)
    faces = load_faces(config)
    check_backbone(config)
    folder = folder if config.folder_name else new_folder(folder)
    check_same_data(Run(folder, config), faces.info)
    if command == "finetune":
        overrides["finetune_name"] = folder.name.removeprefix("finetune_")
    elif not overrides.get("resume"):
        overrides["run_name"] = folder.name
    return folder


def latest_parent(output_dir: str) -> Run:
    """The run that fine-tuning starts from if none is named."""
    try:
        return newest_run(output_dir, finetuned=False)
    except FileNotFoundError:  # output_dir may be new: where the fine-tuned run goes
        return newest_run(finetuned=False)


def execute_notebook(notebook: Path, output: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook headless through papermill; its output is printed.

    Args:
        notebook: The source.
        output: Where the executed copy goes; its folder is created, and removed again if the
            notebook fails before it has written anything else there.
        parameters: Parameters, plain scalars.

    Raises:
        NotebookError: A cell failed, or the kernel was killed; the message is one line.
        ValueError: Another command is writing this output.
        OSError: The output cannot be written.
    """
    _check_notebook(notebook)
    # papermill warns about settings missing from the parameters cell, but passes them on; a dead
    # kernel is reported below
    logging.getLogger("papermill").addFilter(
        lambda r: not any(words in r.getMessage() for words in ("unknown parameter", "Kernel died"))
    )
    fresh = not output.parent.exists() or not any(output.parent.iterdir())
    Folder(output.parent).file(output.name)  # makes the folder
    papermill_io.register(os.path.abspath(os.sep), writer := _Whole())
    message = f"another command is writing {relative(output)}; wait until it ends"
    try:
        with only_one(_lock(output), message):
            papermill.execute_notebook(
                _without_fields(notebook),
                _without_fields(output),
                parameters=parameters,
                kernel_name="python3",
                progress_bar=False,  # it counts cells
                stdout_file=_Unbuffered(sys.stdout),
                stderr_file=_Unbuffered(sys.stderr),
                coalesce_streams=True,
                store_widget_state=False,
                autosave_cell_every=30,
                kernel_manager_class=_ThisPython,
                extra_arguments=["--IPKernelApp.log_level=50"],  # no traceback when interrupted
                config=TraitConfig(KernelManager={"transport_encryption": "auto"}),
            )
    except DeadKernelError as error:
        raise NotebookError(
            f"the process that ran {notebook.name} was killed: memory ran out (lower "
            f"micro_batch_size), or a file it read was cut or its disk is gone (look at the data "
            f"and their cache); run the same command again"
        ) from error
    except RuntimeError as error:
        raise NotebookError(f"Python did not start for {notebook.name}: {error}") from error
    except PapermillExecutionError as error:
        expected = error.ename in _FRIENDLY
        notebook_kept = _remove_if_empty(output, fresh)
        where = f" (see {relative(output)})" if notebook_kept and not expected else ""
        message = error.evalue if expected else f"{error.ename}: {error.evalue}"
        raise NotebookError(f"{message}{where}") from error
    if writer.error:
        raise writer.error
    _write_page(output)


class _ThisPython(AsyncKernelManager):
    """Its kernel python3 is the Python that runs this, whatever is installed under that name.

    It shows no panels, even when this process runs inside an open notebook.
    """

    @default("kernel_spec_manager")
    def _own_kernel(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

    async def start_kernel(self, **settings: Any) -> None:
        more = {"GREFEL_PANELS": "0", **openmp_settings()}
        if sys.stderr.isatty() and hasattr(os, "ttyname"):
            more["GREFEL_TERMINAL"] = os.ttyname(sys.stderr.fileno())  # for its progress bars
        environment = {**(settings.pop("env", None) or os.environ), **more}
        await super().start_kernel(env=environment, **settings)


class _Whole(LocalHandler):
    """Writes notebooks whole or not at all; keeps the error, which papermill would trip over."""

    error: OSError | None = None

    def write(self, buf: str, path: str) -> None:
        self.error = None
        try:
            atomic(Path(path), lambda temporary: temporary.write_text(buf, encoding="utf-8"))
        except OSError as error:
            self.error = error


def _without_fields(path: Path) -> str:
    """A path for papermill, which would fill in {braces}."""
    return str(path.absolute()).replace("{", "{{").replace("}", "}}")


def _write_page(notebook: Path) -> None:
    """Write an executed notebook as one HTML page, with the model card if there is one."""
    import nbformat  # slow to import, and needed by commands alone
    from nbconvert import HTMLExporter

    content = nbformat.read(notebook, as_version=4)
    card = notebook.with_name("model_card.md")
    if card.is_file():
        content.cells.append(nbformat.v4.new_markdown_cell(card.read_text(encoding="utf-8")))
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(
        content, {"metadata": {"name": notebook.stem}}
    )
    Folder(notebook.parent).write_text(page, f"{notebook.stem}.html")


def unpack_notebooks() -> None:
    """Write the notebooks into the current folder, if an ordinary install holds them."""
    if PACKAGED.is_dir() and not NOTEBOOKS.exists():
        shutil.copytree(PACKAGED, NOTEBOOKS, ignore=shutil.ignore_patterns("__pycache__"))
        log.warning("wrote the notebooks to %s; outputs/ and data/ go beside them", NOTEBOOKS)


def _check_notebook(path: Path) -> None:
    unpack_notebooks()
    if not path.is_file():
        raise FileNotFoundError(
            f"no notebook at {path}; restore it, or install the project again: pip install ."
        )


def _lock(output: Path) -> Path:
    return output.with_name(f".{output.stem}.lock")


def _remove_if_empty(output: Path, fresh: bool) -> bool:
    if not fresh or set(output.parent.glob("*")) - {output, _lock(output)}:
        return True
    output.unlink(missing_ok=True)
    _lock(output).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        output.parent.rmdir()
    return False


class _Unbuffered:
    """Flushes after every write, so that a log file can be followed; in a terminal, a line takes
    the place of the kernel's bar."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.clear = stream, "\r\x1b[K" if stream.isatty() else ""
        self.at_start = True

    def write(self, text: str) -> None:
        self.stream.write(self.clear * self.at_start + text)
        self.stream.flush()
        self.at_start = text.endswith("\n")

    def flush(self) -> None:
        self.stream.flush()


def notebook_parameters(command: str) -> dict[str, Any]:
    """The values that this notebook's parameters cell assigns, and papermill's cell below it.

    The same in a script that nbconvert has made of the notebook.

    No other name in the kernel counts. The parameters cell is the last cell run that holds nothing
    but assignments, at least one of them annotated and to a setting; papermill's begins with
    "# Parameters".

    Args:
        command: Whose settings are allowed; see `check_parameters`.

    Raises:
        ValueError: An unknown name, or this does not run in a notebook or such a script.
    """
    main, shell = sys.modules["__main__"], get_ipython()
    if shell is not None:
        cells = shell.history_manager.input_hist_parsed
    else:
        script = inspect.getsource(main) if hasattr(main, "__file__") else ""
        cells = [part.strip() for part in re.split(r"^# In\[.*\]:$", script, flags=re.M)]
        if len(cells) == 1:
            raise ValueError("outside a notebook, pass the parameters as a dict")
    parameters: dict[str, Any] = {}
    for source in cells:
        assignments, tagged = _assignments(source), bool(_annotated(source) & SETTINGS.keys())
        if tagged and assignments is None:
            raise ValueError(f"a cell that assigns settings {_MORE}")
        if assignments is None or not (tagged or source.startswith("# Parameters")):
            continue
        parameters = {} if tagged else parameters
        for name, line in assignments.items():
            try:
                parameters[name] = ast.literal_eval(line.value)
            except ValueError:  # an expression: use its current value
                parameters[name] = vars(main)[name]
    return check_parameters(command, parameters)


def _assignments(source: str) -> dict[str, ast.Assign | ast.AnnAssign] | None:
    """Name -> statement of a cell that consists of assignments to names; None of any other."""
    assignments = {}
    for line in _statements(source):
        targets = getattr(line, "targets", [getattr(line, "target", None)])
        simple = isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None
        if not (simple and len(targets) == 1 and isinstance(targets[0], ast.Name)):
            return None
        assignments[targets[0].id] = line
    return assignments


def _annotated(source: str) -> set[str]:
    """The names that a cell annotates, as `lr: float = 0.1` does."""
    lines = [line for line in _statements(source) if isinstance(line, ast.AnnAssign)]
    return {line.target.id for line in lines if isinstance(line.target, ast.Name)}


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:
        return [ast.Pass()]  # some other cell


def check_parameters(command: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The given (not None) parameters, all of which must be settings the command accepts.

    Raises:
        ValueError: An unknown setting (the closest is suggested), or one of other commands only.
    """
    for name in parameters:
        check_name(name, SETTINGS, "parameter")
        if command not in SETTINGS[name].commands:
            raise ValueError(
                f"{name} is not a setting of {command}, but of {', '.join(SETTINGS[name].commands)}"
            )
    return {name: value for name, value in parameters.items() if value is not None}


def _given(command: str, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """The checked parameters; without any, those of the notebook that runs this."""
    if parameters is None:
        return notebook_parameters(command)
    return check_parameters(command, parameters)


def resolve(parameters: Mapping[str, Any] | None = None, *, command: str = "train") -> Config:
    """The config defined by a notebook's parameters.

    `resume` takes the stored config of the run it names; `checkpoint_path` takes that run's
    config under the fine-tuning profile. Fine-tuning without it starts from the demo run.

    Args:
        parameters: Values by name; without them, those of the notebook that calls this.
        command: train, finetune or explore.

    Raises:
        ValueError: A bad value, an unknown name, or a setting that conflicts with `resume`.
        FileNotFoundError: The run or checkpoint is not there.
    """
    overrides = _given(command, parameters)
    if command == "finetune" and not overrides.get("checkpoint_path"):
        overrides["checkpoint_path"] = str(demo_run().path)
    config = Config.resolve(overrides)
    if config.resume:
        run = open_run(config.resume, config.output_dir)
        for name, (stored, value) in run.config.differences(config).items():
            given = name, overrides.get(name)  # of these two the value in every parameters cell
            free = given in (("profile", "auto"), ("dataset", "synthetic"))
            if name in overrides and not (free or SETTINGS[name].may_change):
                raise ValueError(
                    f"run {run.name} was started with {name}={stored!r} and cannot continue with "
                    f"{value!r}; leave it out, or start a new run"
                )
        values = {name: getattr(config, name) for name in overrides if SETTINGS[name].may_change}
        values |= {"run_name": run.path.name, "output_dir": str(run.path.parent), "resume": ""}
        return run.config.replace(**values)
    if config.checkpoint_path:
        source = checkpoint_file(config.checkpoint_path, config.output_dir).absolute()
        with reading(source):
            parent = Config.from_dict(read_facts(source)["config"])
        outputs = source.parents[2] if (source.parents[1] / "config.json").is_file() else "outputs"
        outputs = "outputs" if outputs == PRETRAINED else relative(outputs)
        config = Config.resolve({"output_dir": outputs} | overrides, parent=parent)
        if Path(config.checkpoint_path).suffix != ".safetensors":  # a run, not one of its files
            source = source.parent.parent
        return config.replace(checkpoint_path=relative(source))
    return config


def resolve_evaluation(
    parameters: Mapping[str, Any] | None = None, *, command: str = "evaluate"
) -> tuple[Run, Run, Config]:
    """The run to evaluate, where the results go, and the config with the given parameters.

    The default is the built-in demo run. The results go into the run's folder, see
    `evaluation_folder`, or into `output_dir` if given.

    Args:
        parameters: Values by name; without them, those of the notebook that calls this.
        command: evaluate or explain.

    Raises:
        ValueError: A bad value or an unknown name.
        FileNotFoundError: No such run.
    """
    overrides = _given(command, parameters)
    checked = Config.resolve(overrides)
    run = open_run(checked.checkpoint_dir) if checked.checkpoint_dir else demo_run()
    values = {name: getattr(checked, name) for name in overrides if name != "output_dir"}
    config = run.config.on_data(**values, label_fixes="")  # they are for training
    results = evaluation_folder(run, config).path
    if "output_dir" in overrides:
        results = outputs_folder(checked.output_dir)
        _check_not_of_another(run, results)
    return run, Run(results, run.config), config


def _check_not_of_another(run: Run, folder: Path) -> None:
    """Refuse to write an evaluation over another run, or its evaluation, or between runs."""
    if any(folder.glob("*/status.json")):
        raise ValueError(
            f"output_dir {relative(folder)} is a folder of run folders; give a new folder for the "
            f"results, or leave output_dir out: they are then in the run folder"
        )
    if not (folder / "config.json").is_file() or folder.resolve() == run.path.resolve():
        return
    if (folder / "checkpoints").exists() or open_run(folder).config != run.config:
        raise ValueError(
            f"output_dir {relative(folder)} holds another run than {run.name}, or its evaluation; "
            f"give a new folder"
        )


def resolve_comparison(parameters: Mapping[str, Any] | None = None) -> str:
    """The folder whose evaluated runs are compared; by default the published runs."""
    return str(_given("compare", parameters).get("output_dir", PUBLISHED))


def demo_run() -> Run:
    """The small built-in run that notebooks use by default; trained on first use.

    A run of that name with other settings, a user's own or of an older profile, is renamed.

    Raises:
        ValueError: It is being trained.
    """
    config = Config.resolve({"profile": "demo", "run_name": "demo"})
    path = run_folder(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if (path / "config.json").is_file():
            run = open_run(path)
            if any(not SETTINGS[name].may_change for name in run.config.differences(config)):
                old_run = _set_aside(run)
                log.warning("%s is another run, now called %s", run.name, old_run.name)
            elif run.status() == "ok":
                return run
        log.info("training the built-in demo run once ...")
        faces = load_faces(config)
        run = start_run(config, faces.info)
        fit(faces, run)
    return run


def _set_aside(run: Run) -> Run:
    if run.still_running():
        raise ValueError(f"{run.name}, where the built-in run belongs, is being trained; wait")
    place = new_folder(run.path)
    place.rmdir()
    return Run(run.path.rename(place), run.config)
