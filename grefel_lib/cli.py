"""`grefel`: the notebooks as commands, and the few things that need no notebook."""

import argparse
import difflib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grefel_lib import commands, runs, sweep
from grefel_lib.config import FIELDS, Config
from grefel_lib.folders import Folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors are one line on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if hasattr(signal, "SIGTERM"):  # Slurm's way to say stop: end like Ctrl-C, with everything kept
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    parser, known = _parser(argv)
    arguments, unknown = parser.parse_known_args(argv)
    try:
        if unknown:
            _refuse(unknown[0], known[arguments.command])
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("grefel: interrupted; run the same command with its --run-name to go on",
              file=sys.stderr)  # fmt: skip
        return 130
    except (ValueError, OSError, commands.NotebookError) as error:
        return _fail(arguments.command, str(error))
    return 0


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

    for name, (_, text) in commands.COMMANDS.items():
        command = add(name, text, _run_notebook)
        if argv[:1] == [name]:  # reading a notebook takes a moment: only the one that is asked for
            _add_flags(command, name)
    grid = add(
        "sweep", "train or fine-tune at every point of a grid, skipping finished ones", _sweep
    )
    grid.add_argument("notebook", metavar="train|finetune")
    grid.add_argument("--name", default="", help="the sweep's folder under outputs/")
    grid.add_argument("--grid", action="append", default=[], metavar="KEY=V1,V2",
                      help="values of one setting; give it once for each setting")  # fmt: skip
    grid.add_argument("--case", action="append", default=[], metavar="KEY=V,KEY=V",
                      help="settings that go together; give it once for each case")  # fmt: skip
    grid.add_argument("--seeds", default="", metavar="0,1,2")
    grid.add_argument("--evaluate", action="store_true", help="read the test split after each run")
    grid.add_argument("--cluster", default="", metavar="slurm|local",
                      help="run through submitit (install the extra: cluster)")  # fmt: skip
    grid.add_argument("--cluster-option", action="append", default=[], metavar="KEY=VALUE",
                      help="as timeout_min=600 or slurm_partition=gpu")  # fmt: skip
    if argv[:1] == ["sweep"]:
        asked = argv[1] if argv[1:2] and argv[1] in sweep.SWEEPABLE else "train"
        _add_flags(grid, asked, leave_out=("seed",))
    predict = add("predict", "predict single images or folders of face crops", _predict)
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="image files or folders")
    predict.add_argument("--checkpoint-path", "--checkpoint_path", default="",
                         help="run or checkpoint file (default: the newest run)")  # fmt: skip
    predict.add_argument("--output", default="", help="also write the table to this CSV file")
    predict.add_argument("--device", default="auto")
    rebuilt = add("report", "rebuild an evaluated run's figures, tables and model card", _report)
    rebuilt.add_argument("run_folder", metavar="RUN", help="run folder or its name")
    venues = "cvpr, icml, aaai, ieee, eccv, neurips"
    rebuilt.add_argument("--venue", default="paper", help=f"widths of the figures: {venues}")
    rebuilt.add_argument("--class-order", default="", metavar="A,B,C",
                         help="order of the classes in figures and tables")  # fmt: skip
    exported = add("export", "write a run as an ONNX file, checked against PyTorch", _export)
    exported.add_argument("run_folder", metavar="RUN", help="run or checkpoint file")
    exported.add_argument("--output", type=Path, help="the file (default: RUN/model.onnx)")
    data = add("data", "make data", None)
    kinds = data.add_subparsers(dest="kind", required=True, metavar="KIND")
    text = "write drawn faces in a published data set's file layout"
    drawn = kinds.add_parser("synthetic", help=text, description=text, allow_abbrev=False)
    drawn.add_argument("dest", type=Path, help="a new or empty folder")
    drawn.add_argument("--layout", default="ferplus")
    drawn.add_argument("--images", type=int, default=3000)
    drawn.add_argument("--seed", type=int, default=0)
    drawn.set_defaults(run=_synthetic)
    publish = add(
        "publish", "copy evaluated runs without weights and images, to be shared", _publish
    )
    publish.add_argument("source", metavar="RUNS", help="folder of evaluated runs")
    publish.add_argument("dest", type=Path, metavar="DEST", help="folder that gets a folder a run")
    text = "rename a checkpoint's tensors, for --backbone-weights and --landmark-weights"
    renaming = add("convert", text, _convert)
    renaming.add_argument("checkpoint", type=Path, help="a safetensors or state-dict file")
    renaming.add_argument("--map", type=Path, required=True, metavar="JSON",
                          help="patterns and what they become; null drops")  # fmt: skip
    renaming.add_argument("--output", type=Path, required=True, help="a new .safetensors file")
    add("demo", "run every notebook headless on the built-in faces", _demo)
    return parser, made


def _add_flags(
    parser: argparse.ArgumentParser, command: str, *, leave_out: Sequence[str] = ()
) -> None:
    for parameter in commands.parameters(commands.notebook(command)).values():
        if parameter["name"] not in leave_out:
            _add_flag(parser, parameter)


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


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings among the arguments, as far as they were given."""
    return {k: v for k, v in vars(arguments).items() if k in FIELDS and v is not None}


def _run_notebook(arguments: argparse.Namespace) -> None:
    if arguments.command == "train" and "TORCHELASTIC_RUN_ID" in os.environ:  # one of many
        from grefel_lib import distributed

        distributed.train(_given(arguments))
        return
    commands.run(arguments.command, _given(arguments))


def _sweep(arguments: argparse.Namespace) -> None:
    given = _given(arguments)
    todo = sweep.points(
        arguments.notebook,
        arguments.name,
        grid=arguments.grid,
        cases=arguments.case,
        seeds=arguments.seeds,
        given=given,
        evaluate=arguments.evaluate,
    )
    options = dict(option.partition("=")[::2] for option in arguments.cluster_option)
    folder = Folder(runs.outputs(given.get("output_dir", "outputs")) / arguments.name)
    table = sweep.run(
        todo,
        folder,
        say=lambda line: print(f"grefel sweep: {line}", flush=True),
        cluster=arguments.cluster,
        options=options,
    )
    print(table.drop(columns="error").round(4).to_string(index=False))
    if 0 < len(means := sweep.over_seeds(table)) < len(table):
        print(f"\nmean over seeds\n{means.round(4).rename_axis(None).to_string()}\n")
    print(f"wrote {folder.name}/table.csv")
    failed = table.loc[table["error"] != "", "point"]
    if len(failed):
        raise ValueError(f"{len(failed)} of {len(table)} points failed: {', '.join(failed)}")


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


def _report(arguments: argparse.Namespace) -> None:
    from grefel_lib import evaluated, rebuild

    run = runs.open_run(arguments.run_folder)
    found = evaluated.load(run)
    if arguments.class_order:
        found = found.in_order([name.strip() for name in arguments.class_order.split(",")])
    rebuild.everything(found, run, venue=arguments.venue)
    print(f"wrote metrics.json, model_card.md, figures/ and tables/ in {run.name}")


def _export(arguments: argparse.Namespace) -> None:
    from grefel_lib import datasets, evaluation, export

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells of every fold it left out
    trained = evaluation.load(runs.checkpoint_file(arguments.run_folder), device="cpu")
    faces = datasets.load(trained.config).split("val")
    path = arguments.output or trained.path.parents[1] / "model.onnx"
    done = export.export(trained, faces, path)
    print(f"wrote {runs.relative(done.path)} ({done.path.stat().st_size / 1e6:.1f} MB); it differs "
          f"from PyTorch by {done.largest_difference:.0e} at the most")  # fmt: skip
    print(
        f"one face on this CPU: onnxruntime {done.onnx_ms:.1f} ms, PyTorch {done.torch_ms:.1f} ms"
    )


def _synthetic(arguments: argparse.Namespace) -> None:
    from grefel_lib import synthetic

    made = synthetic.write(
        arguments.dest, layout=arguments.layout, images=arguments.images, seed=arguments.seed
    )
    print(f"wrote {arguments.images} drawn faces to {made}")


def _publish(arguments: argparse.Namespace) -> None:
    from grefel_lib import comparison

    made = comparison.publish(comparison.collect(arguments.source), arguments.dest)
    print(f"wrote {len(made)} runs to {arguments.dest}")


def _convert(arguments: argparse.Namespace) -> None:
    from grefel_lib import convert

    counts = convert.convert(arguments.checkpoint, arguments.map, arguments.output)
    told = ", ".join(f"{count} {done}" for done, count in counts.items())
    print(f"wrote {arguments.output}: {told}")


def _demo(arguments: argparse.Namespace) -> None:
    folder = runs.outputs() / "demo_notebooks"
    for notebook in sorted(commands.NOTEBOOKS.glob("[0-9]*.ipynb")):
        print(f"grefel demo: {notebook.name}", flush=True)
        commands.execute(notebook, folder / notebook.name, {})
    print(f"all notebooks ran; open them in {runs.relative(folder)}{os.sep}")


if __name__ == "__main__":
    sys.exit(main())
