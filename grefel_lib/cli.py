"""`grefel`: the notebooks as commands, and the few things that need no notebook."""

import argparse
import contextlib
import difflib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grefel_lib import runs
from grefel_lib.config import PROJECT_ROOT, Config

NOTEBOOKS = PROJECT_ROOT / "notebooks"
COMMANDS = {
    "train": ("03_training.ipynb", "train a run"),
    "finetune": ("04_finetuning.ipynb", "go on from a checkpoint (default: the newest run)"),
    "evaluate": ("05_evaluation.ipynb", "read the test split once (default: the newest run)"),
}
_OWN_WORDS = (ValueError, OSError)  # errors whose message is written for the person


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors are one line on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if hasattr(signal, "SIGTERM"):  # Slurm's way to say stop: end like Ctrl-C, with everything kept
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    parser, commands = _parser(argv)
    arguments, unknown = parser.parse_known_args(argv)
    try:
        if unknown:
            _refuse(unknown[0], commands[arguments.command])
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("grefel: interrupted; run the same command with its --run-name to go on",
              file=sys.stderr)  # fmt: skip
        return 130
    except _OWN_WORDS as error:
        return _fail(arguments.command, str(error))
    except NotebookError as error:
        return _fail(arguments.command, str(error))
    return 0


class NotebookError(Exception):
    """A cell of an executed notebook failed."""


def _fail(command: str, message: str) -> int:
    line = " ".join(message.split())
    print(f"grefel {command}: error: {line}", file=sys.stderr)
    return 1


def _parser(argv: list[str]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="grefel",
        description="GReFEL for facial expression recognition. Every command runs its notebook; "
        "the executed notebook is the record of the run.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made: dict[str, argparse.ArgumentParser] = {}

    def add(name: str, text: str, run: Any) -> argparse.ArgumentParser:
        made[name] = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        made[name].set_defaults(run=run)
        return made[name]

    for name, (notebook, text) in COMMANDS.items():
        command = add(name, text, _run_notebook_command)
        if argv[:1] == [name]:  # reading a notebook takes a moment: only the one that is asked for
            for parameter in parameters(NOTEBOOKS / notebook).values():
                _add_flag(command, parameter)
    predict = add("predict", "predict single images or folders of face crops", _predict)
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="image files or folders")
    predict.add_argument("--checkpoint-path", "--checkpoint_path", default="",
                         help="run or checkpoint file (default: the newest run)")  # fmt: skip
    predict.add_argument("--output", default="", help="also write the table to this CSV file")
    predict.add_argument("--device", default="auto")
    data = add("data", "make data", None)
    kinds = data.add_subparsers(dest="kind", required=True, metavar="KIND")
    text = "write drawn faces in a published data set's file layout"
    drawn = kinds.add_parser("synthetic", help=text, description=text, allow_abbrev=False)
    drawn.add_argument("dest", type=Path, help="a new or empty folder")
    drawn.add_argument("--layout", default="ferplus")
    drawn.add_argument("--images", type=int, default=3000)
    drawn.add_argument("--seed", type=int, default=0)
    drawn.set_defaults(run=_synthetic)
    add("demo", "run every notebook headless on the built-in faces", _demo)
    return parser, made


def parameters(notebook: Path) -> dict[str, dict[str, Any]]:
    """What a notebook's parameters cell declares: name -> name, inferred_type_name, help."""
    import papermill

    if not notebook.is_file():
        raise FileNotFoundError(
            f"no notebook at {notebook}; grefel works from a checkout of the project, installed "
            f"with: pip install -e ."
        )
    return papermill.inspect_notebook(str(notebook))


def _add_flag(parser: argparse.ArgumentParser, parameter: dict[str, Any]) -> None:
    name = parameter["name"]
    flags = list(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))
    text = parameter["help"].replace("%", "%%")
    kind = Config.__dataclass_fields__[name].type
    if kind is bool:
        parser.add_argument(*flags, dest=name, nargs="?", const="true", default=None, help=text,
                            metavar="true|false")  # fmt: skip
        against = [f"--no{flag[1:]}" for flag in flags]
        parser.add_argument(*against, dest=name, action="store_const", const="false",
                            help=argparse.SUPPRESS)  # fmt: skip
    else:
        metavar = {int: "N", float: "X", str: "TEXT"}[kind]
        parser.add_argument(*flags, dest=name, default=None, metavar=metavar, help=text)


def _refuse(flag: str, parser: argparse.ArgumentParser) -> None:
    known = [option for option in parser._option_string_actions if option.startswith("--")]
    near = difflib.get_close_matches(flag.split("=")[0], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "see --help"
    raise ValueError(f"unknown argument {flag}; {hint}")


def _run_notebook_command(arguments: argparse.Namespace) -> None:
    from grefel_lib import backbone, datasets  # they take a moment to import

    command = arguments.command
    given = {
        k: v for k, v in vars(arguments).items() if k not in ("command", "run") and v is not None
    }
    if "output_dir" in given:
        given["output_dir"] = str(Path(given["output_dir"]).expanduser().absolute())
    outputs = given.get("output_dir", "outputs")
    if command == "finetune" and not given.get("checkpoint_path"):
        given["checkpoint_path"] = str(runs.newest(outputs, finetuned=False).path)
    if command == "evaluate":
        if not given.get("checkpoint_dir"):
            given["checkpoint_dir"] = str(runs.newest().path)
        _, results, config = runs.resolve_evaluation(given)
        folder = results.path
    else:
        config = runs.resolve(given)
        folder = runs.check(config)
        name = "finetune_name" if config.checkpoint_path else "run_name"
        if not given.get("resume"):  # fix the name now: it holds the time
            given[name] = (
                folder.name.removeprefix("finetune_") if config.checkpoint_path else folder.name
            )
    datasets.load(config)  # bad data is told now, in one line; good data is cached for the notebook
    if command != "evaluate":
        backbone.check(config)
    for key, value in given.items():  # typed: papermill would pass text as text
        given[key] = value if key == "profile" else getattr(Config(**{key: value}), key)
    notebook = COMMANDS[command][0]
    print(f"grefel {command}: {runs.relative(folder)}", flush=True)
    execute(NOTEBOOKS / notebook, folder / notebook, given)


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


class _Unbuffered:
    """Passes text on at once, so that a log file can be followed."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def flush(self) -> None:
        self.stream.flush()


_FRIENDLY = (
    "ValueError", "FileNotFoundError", "NotADirectoryError", "IsADirectoryError", "OSError",
    "PermissionError", "ConnectionError", "NonFiniteLossError", "FileExistsError",
)  # fmt: skip


def _remove_if_empty(output: Path, fresh: bool) -> bool:
    if not fresh or {p.name for p in output.parent.iterdir()} - {output.name}:
        return True
    output.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        output.parent.rmdir()
    return False


def _predict(arguments: argparse.Namespace) -> None:
    from grefel_lib import evaluation, reading

    paths = reading.find_images(arguments.images)
    name = arguments.checkpoint_path or runs.newest().path
    trained = evaluation.load(runs.checkpoint_file(name), device=arguments.device)
    table = evaluation.predict_files(trained, paths)
    shown = table[["file", "predicted", "probability", "reliability"]]
    print(shown.to_string(index=False, float_format="{:.3f}".format))
    if arguments.output:
        target = Path(arguments.output)
        target.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(target, index=False)
        print(f"wrote {target}")


def _synthetic(arguments: argparse.Namespace) -> None:
    from grefel_lib import synthetic

    made = synthetic.write(
        arguments.dest, layout=arguments.layout, images=arguments.images, seed=arguments.seed
    )
    print(f"wrote {arguments.images} drawn faces to {made}")


def _demo(arguments: argparse.Namespace) -> None:
    folder = runs.outputs() / "demo_notebooks"
    for notebook in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        print(f"grefel demo: {notebook.name}", flush=True)
        execute(notebook, folder / notebook.name, {})
    print(f"all notebooks ran; open them in {runs.relative(folder)}{os.sep}")


if __name__ == "__main__":
    sys.exit(main())
