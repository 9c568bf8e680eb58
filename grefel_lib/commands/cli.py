"""`grefel`: the notebooks as commands, and a few commands without a notebook."""

import argparse
import difflib
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from grefel_lib import __version__
from grefel_lib.commands import COMMANDS, SWEEPABLE, NotebookError
from grefel_lib.config import (
    FIELDS,
    FINETUNE_PROFILES,
    PROFILES,
    SETTINGS,
    command_settings,
    from_here,
)

# Everything else is imported where it is used, so that `grefel --help` does not load torch.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors are one line on stderr."""
    argv = [_with_dashes(word) for word in (sys.argv[1:] if argv is None else argv)]
    for number in (signal.SIGTERM, signal.SIGINT):  # of Slurm; ignored by jobs in the background
        signal.signal(number, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):  # of a terminal that knows ASCII only, say
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser(argv)
    arguments, unknown = parser.parse_known_args(argv)
    try:
        if unknown:
            _refuse(unknown[0], arguments.parser)
        arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        again = "with its --run-name " * (arguments.command in ("train", "finetune"))
        print(f"grefel: interrupted; run the same command {again}again", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, NotebookError) as error:
        line = " ".join(str(error).split())
        print(f"{arguments.parser.prog}: error: {line}", file=sys.stderr)
        return 1
    return 0


def _with_dashes(word: str) -> str:
    """--batch_size=64 -> --batch-size=64: both spellings are accepted."""
    if not word.startswith("--"):
        return word
    flag, sign, value = word.partition("=")
    return flag.replace("_", "-") + sign + value


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="grefel",
        description="GReFEL for facial expression recognition. Every command runs its notebook; "
        "the executed notebook is the record of the run.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"grefel {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        command = _add(subparsers, name, text, _run_notebook)
        command.usage = f"grefel {name} [--SETTING VALUE ...]"
        _add_settings(command, name)
    _add_sweep(subparsers, argv)
    _add_others(subparsers)
    return parser


def _add(
    subparsers: Any, name: str, text: str, run: Callable[[argparse.Namespace], None] | None
) -> argparse.ArgumentParser:
    command = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
    command.set_defaults(run=run, parser=command)
    return command


def _add_sweep(subparsers: Any, argv: list[str]) -> None:
    text = "train or fine-tune at every point of a grid, skipping finished points"
    sweep = _add(subparsers, "sweep", text, _sweep)
    sweep.usage = "grefel sweep train|finetune --name NAME [--SETTING VALUE ...]"
    sweep.add_argument("notebook", metavar="train|finetune")
    sweep.add_argument("--name", default="", help="the sweep's folder under outputs/")
    sweep.add_argument("--grid", action="append", default=[], metavar="KEY=V1,V2",
                       help="values of one setting; repeat for each setting")  # fmt: skip
    sweep.add_argument("--case", action="append", default=[], metavar="KEY=V,KEY=V",
                       help="a combination of settings; repeat for each case")  # fmt: skip
    sweep.add_argument("--seeds", default="", metavar="0,1,2")
    sweep.add_argument("--evaluate", action="store_true", help="read the test split after each run")
    sweep.add_argument("--cluster", default="", metavar="slurm|local",
                       help="run through submitit (install the extra: cluster)")  # fmt: skip
    sweep.add_argument("--cluster-option", action="append", default=[], metavar="KEY=VALUE",
                       help="e.g. timeout_min=600 or slurm_partition=gpu")  # fmt: skip
    command = next((word for word in argv if word in SWEEPABLE), "train")
    _add_settings(sweep, command, hidden=("seed", "run_name", "finetune_name", "resume"))


def _add_others(subparsers: Any) -> None:
    """Add the commands without a notebook."""
    add = partial(_add, subparsers)
    predict = add("predict", "find the faces in pictures and videos and predict each", _predict)
    predict.add_argument("images", nargs="+", metavar="IMAGE",
                         help="image and video files, folders or patterns")  # fmt: skip
    predict.add_argument("--recursive", action="store_true", help="also read subfolders")
    predict.add_argument("--whole", action="store_true",
                         help="take every picture whole, as a face crop")  # fmt: skip
    predict.add_argument("--every", type=float, default=1.0, metavar="SECONDS",
                         help="time between two frames of a video (default 1)")  # fmt: skip
    predict.add_argument("--checkpoint-path", default="",
                         help="run, its folder or a checkpoint file (default: the model that "
                         "comes with grefel, trained on FERPlus)")  # fmt: skip
    predict.add_argument("--output", default="", metavar="FILE",
                         help="also write the table to this .csv or .json file")  # fmt: skip
    predict.add_argument("--annotate", default="", metavar="DIR",
                         help="write pictures and frames with boxes and labels here")  # fmt: skip
    predict.add_argument("--features", default="", metavar="FILE",
                         help="write the embeddings to this .npz or .csv file")  # fmt: skip
    predict.add_argument("--device", default="auto")
    report = add("report", "rebuild an evaluated run's figures, tables and model card", _report)
    report.add_argument(
        "run_folder",
        metavar="RUN",
        help="run folder or its name; a sweep of --folds: its folds as one",
    )
    figure = add("figure", "draw a figure from the labels and predictions of any model", _figure)
    figure.add_argument("figure", choices=("confusion",), metavar="confusion")
    figure.add_argument("predictions", metavar="FILE", type=Path,
                        help="CSV with the columns label, predicted")  # fmt: skip
    figure.add_argument("--output", type=Path, default=Path("confusion"),
                        help="writes this .pdf and .png (default: %(default)s)")  # fmt: skip
    for command in (report, figure):
        venues = "cvpr, icml, aaai, ieee, eccv, neurips"
        command.add_argument("--venue", default="paper", help=f"widths and font for: {venues}")
        command.add_argument("--class-order", default="", metavar="A,B,C",
                             help="order of the classes in figures and tables")  # fmt: skip
        command.add_argument("--class-names", default="", metavar="A=NAME,B=NAME",
                             help="names of classes in figures and tables")  # fmt: skip
        command.add_argument("--cells", default="both", help="of a confusion matrix: counts, "
                             "percent or both (default)")  # fmt: skip
    report.add_argument("--model-name", default="", help="in titles and captions")
    export = add("export", "write a run as an ONNX file, or as a small folder to share", _export)
    export.add_argument("run_folder", metavar="RUN", help="run or checkpoint file")
    export.add_argument("--output", type=Path, help="an .onnx file, checked against PyTorch "
                        "(default: RUN/model.onnx); or a folder, for weights in half precision, "
                        "calibrated on validation")  # fmt: skip
    again = add("rerun", "repeat a run from its record, and compare bit by bit", _rerun)
    again.add_argument("run_folder", metavar="RUN", help="run folder or its name")
    for command in (export, again):
        command.add_argument("--data-dir", default="", help="where the faces are now, if not "
                             "there any more")  # fmt: skip
    kinds = add("data", "check or generate data", None).add_subparsers(
        dest="kind", required=True, metavar="KIND"
    )
    text = "write drawn faces in the file layout of FERPlus"
    drawn = _add(kinds, "synthetic", text, _synthetic)
    drawn.add_argument("dest", type=Path, help="a new or empty folder")
    drawn.add_argument("--images", type=int, default=3000)
    drawn.add_argument("--seed", type=int, default=0)
    text = "read a data set as training would, and print what was found"
    check = _add(kinds, "check", text, _check)
    for name in ("dataset", "data_dir", "protocol", "rafdb_images"):
        check.add_argument(f"--{name.replace('_', '-')}", help=SETTINGS[name].help,
                           metavar="|".join(SETTINGS[name].choices) or None)  # fmt: skip
    check.add_argument("--json", action="store_true", help="print JSON")
    text = "write the face of each photograph under a folder to the same place under another"
    crop = _add(kinds, "crop", text, _crop)
    crop.add_argument("source", type=Path, metavar="SRC",
                      help="holds <class>/ or train/<class>/ with photographs")  # fmt: skip
    crop.add_argument("dest", type=Path, metavar="DEST", help="a new or empty folder outside SRC")
    text = "copy evaluated runs for sharing, without weights and images"
    publish = add("publish", text, _publish)
    publish.add_argument("source", metavar="RUNS", help="folder of evaluated runs, or one of them")
    publish.add_argument("dest", type=Path, metavar="DEST", help="receives one folder per run")
    add("doctor", "check the installation: packages, data, weights, speed", _doctor)
    add("demo", "run every notebook headless on the built-in faces", _demo)


def _add_settings(
    parser: argparse.ArgumentParser, command: str, *, hidden: Sequence[str] = ()
) -> None:
    """Add a flag for each setting of a command, in their groups; the help leaves out the hidden."""
    groups: dict[str, Any] = {}
    for name, setting in command_settings(command).items():
        if setting.group not in groups:
            groups[setting.group] = parser.add_argument_group(setting.group)
        flag = name.replace("_", "-")
        about = "; ".join(filter(None, (setting.range, _default(name, command))))
        text = f"{setting.help} ({about})" if about else setting.help
        text = argparse.SUPPRESS if name in hidden else text
        add, kind = groups[setting.group].add_argument, FIELDS[name].type
        if kind is bool:
            add(f"--{flag}", dest=name, nargs="?", const="true", help=text, metavar="true|false")
            add(f"--no-{flag}", dest=name, action="store_const", const="false",
                help=argparse.SUPPRESS)  # fmt: skip
        else:
            metavar = (
                "|".join(map(str, setting.choices)) or {int: "N", float: "X", str: "TEXT"}[kind]
            )
            add(f"--{flag}", dest=name, metavar=metavar, help=text)


def _default(name: str, command: str) -> str:
    """The default of a setting as text, and the values of the profiles."""
    default, profiles = FIELDS[name].default, PROFILES
    default = "auto" if name == "profile" else default
    own = f"default {default}" if default != "" else ""
    if command == "finetune" and name in command_settings("train"):
        own, profiles = "default: as in the run", FINETUNE_PROFILES
    elif command == "evaluate" and name in command_settings("train"):
        own, profiles = "default: as in the run", {}
    elif command == "compare":
        own = "default notebooks/published_runs"
    others = [f"{profile} {values[name]}" for profile, values in profiles.items() if name in values]
    return "; ".join(filter(None, (own, ", ".join(others))))


def _refuse(flag: str, parser: argparse.ArgumentParser) -> None:
    known = [option for option in parser._option_string_actions if option.startswith("--")]
    places = ["--checkpoint-dir", "--checkpoint-path"]
    if parser.prog.endswith(" compare"):
        places = ["--output-dir"]
    elif flag in SETTINGS["dataset"].choices:
        places.append("--dataset")
    near = [f"{place} {flag}" for place in places if place in known]
    if flag.startswith("-") or not near:  # else: a run, as in `grefel report RUN`
        near = difflib.get_close_matches(flag.split("=")[0], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "see --help"
    many = [action.metavar for action in parser._actions if action.nargs == "+"]
    if many and not flag.startswith("-"):
        hint = f"put every {many[0]} before the options"
    raise ValueError(f"unknown argument {flag}; {hint}")


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings among the arguments that were given."""
    settings = {k: v for k, v in vars(arguments).items() if k in FIELDS and v is not None}
    if "output_dir" in settings:
        settings["output_dir"] = str(Path(settings["output_dir"]).expanduser().absolute())
    return settings


def _run_notebook(arguments: argparse.Namespace) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:  # one of many
        if arguments.command != "train":
            raise ValueError(
                f"torchrun starts training only; run grefel {arguments.command} without it"
            )
        from grefel_lib.commands.worker import train_worker

        train_worker(_settings(arguments))
        return
    from grefel_lib.commands.notebook import run_command

    run_command(arguments.command, _settings(arguments))


def _sweep(arguments: argparse.Namespace) -> None:
    from grefel_lib.commands.sweep import over_seeds, run_sweep, sweep_points
    from grefel_lib.files import Folder
    from grefel_lib.run import outputs_folder

    overrides = _settings(arguments)
    todo = sweep_points(
        arguments.notebook,
        arguments.name,
        grid=arguments.grid,
        cases=arguments.case,
        seeds=arguments.seeds,
        given=overrides,
        evaluate=arguments.evaluate,
    )
    options = dict(option.partition("=")[::2] for option in arguments.cluster_option)
    folder = Folder(outputs_folder(overrides.get("output_dir", "outputs")) / arguments.name)
    table = run_sweep(
        todo,
        folder,
        say=lambda line: print(f"grefel sweep: {line}", flush=True),
        cluster=arguments.cluster,
        options=options,
    )
    print(table.drop(columns="error").round(4).to_string(index=False))
    if 0 < len(means := over_seeds(table)) < len(table):
        print(f"\nmean over seeds\n{means.round(4).rename_axis(None).to_string()}\n")
    print(f"wrote {folder.name}/table.csv")
    failed = table.loc[table["error"] != "", "point"]
    if len(failed):
        raise ValueError(f"{len(failed)} of {len(table)} points failed: {', '.join(failed)}")


def _predict(arguments: argparse.Namespace) -> None:
    from grefel_lib.config import PRETRAINED
    from grefel_lib.files import Folder, check_place, relative
    from grefel_lib.predict import annotate_files, predict_files, write_features
    from grefel_lib.restore import load_model
    from grefel_lib.run import checkpoint_file
    from grefel_lib.sources.layouts import find_images

    target, features = Path(arguments.output), Path(arguments.features)
    for flag, path, kinds in (("output", target, (".csv", ".json")),
                              ("features", features, (".npz", ".csv"))):  # fmt: skip
        if path.name and path.suffix.lower() not in kinds:
            raise ValueError(f"--{flag} {path} must end in {' or '.join(kinds)}")
        if path.name and path.is_dir():
            raise ValueError(f"--{flag} {path} is a folder; name a file in it")
    if target.name and target.resolve() == features.resolve():
        raise ValueError(f"--output and --features both name {target}; name two files")
    if arguments.annotate and Path(arguments.annotate).is_file():
        raise ValueError(f"--annotate {arguments.annotate} is a file; name a folder")
    if not 0 < arguments.every < float("inf"):
        raise ValueError(f"--every must be a number of seconds above 0; got {arguments.every}")
    paths, unread = find_images(arguments.images, recursive=arguments.recursive)
    folder = Path(arguments.annotate)
    if arguments.annotate and folder.resolve() in {path.resolve().parent for path in paths}:
        raise ValueError(f"--annotate {folder} holds the pictures themselves; name another folder")
    for place in (target, features, folder / "x.jpg" if arguments.annotate else Path()):
        if place.name:
            check_place(place)
    if paths:
        name = arguments.checkpoint_path or PRETRAINED / "ferplus"
        trained = load_model(checkpoint_file(name), device=arguments.device)
        if features.name and getattr(trained.model.head, "reduce", None) is None:
            raise ValueError(f"--features: the head of {trained.path} has no embeddings")
        table, embeddings, damaged = predict_files(
            trained, paths, whole=arguments.whole, every=arguments.every
        )
        unread += damaged
        if len(table):
            print(_face_lines(table))
            print(f"answered by {table['run'].iloc[0] or relative(trained.path)}, "
                  f"{table['checkpoint'].iloc[0]}")  # fmt: skip
        if len(table) and target.name:
            if target.suffix.lower() == ".csv":
                text = table.to_csv(index=False)
            else:
                text = table.to_json(orient="records", indent=2, force_ascii=False) + "\n"
            Folder(target.parent).write_bytes(text.encode(), target.name)
            print(f"wrote {target}")
        if embeddings is not None and features.name:
            write_features(features, table, embeddings)
            print(f"wrote {features}")
        elif features.name and len(table):
            print(f"no face was found: {features} is not written")
        if len(table) and arguments.annotate:
            count = annotate_files(table, paths, folder, every=arguments.every)
            print(f"wrote {count} picture{'s' * (count != 1)} to {folder}")
    for line in unread[:-1]:
        print(f"grefel predict: error: {line}", file=sys.stderr)
    if unread:
        raise ValueError(unread[-1])


def _face_lines(table: Any) -> str:
    """The table of `predict_files` for a terminal of 100 columns; long paths lose their start."""
    from grefel_lib.predict import FOUND, NO_FACE, WHOLE

    known = ["reliability"] if table["reliability"].notna().any() else []
    short = table[["predicted", "probability", *known]].fillna({"predicted": NO_FACE})
    boxes = table[["face", "left", "top", "width", "height"]].itertuples(index=False)
    words = {NO_FACE: "", WHOLE: "whole"}
    short.insert(0, "box", [f"{b.left},{b.top} {b.width}x{b.height}" if b.face == FOUND else
                            words.get(b.face, b.face) for b in boxes])  # fmt: skip
    if "second" in table:
        seconds = table["second"].map("{:.1f}".format, na_action="ignore")
        short.insert(0, "second", seconds.astype(object).fillna(""))  # none of a picture
    lines = short.to_string(index=False, float_format="{:.3f}".format, na_rep="").splitlines()
    room = max(20, 99 - len(lines[0]))
    files = [n if len(n) <= room else f"…{n[1 - room :]}" for n in ("file", *table["file"])]
    width = max(map(len, files))
    return "\n".join(f"{file:<{width}} {line}" for file, line in zip(files, lines, strict=True))


def _report(arguments: argparse.Namespace) -> None:
    from grefel_lib.analysis.compare import evaluated_runs, pooled_folds
    from grefel_lib.analysis.evaluation import load_evaluation, scored_faces
    from grefel_lib.report.everything import write_report
    from grefel_lib.run import open_run

    paper = _paper(arguments)
    folder = _folder_of_runs(arguments.run_folder)
    if any(folder.glob("*/config.json")) and not (folder / "config.json").is_file():
        [evaluation, *others] = pooled_folds(evaluated_runs(str(folder)))
        if others or not evaluation.config.folds:
            raise ValueError(
                f"{folder} holds several runs; name one of them, or see: grefel compare"
            )
    else:
        evaluation = load_evaluation(open_run(arguments.run_folder))
    faces = scored_faces(evaluation)
    write_report(evaluation, paper=paper, faces=faces)
    print(f"wrote metrics.json, model_card.md, figures/ and tables/ in {evaluation.run.name}")
    if faces is None:
        print("the data set is not here as it was: figures that show faces are left as they were")


def _figure(arguments: argparse.Namespace) -> None:
    from grefel_lib.files import Folder
    from grefel_lib.labels import check_names
    from grefel_lib.metrics import table_classes
    from grefel_lib.report.figures import confusion_figure
    from grefel_lib.report.style import save_figure
    from grefel_lib.sources.layouts import read_csv

    columns = ("label", "predicted")
    whole = read_csv(arguments.predictions, columns, dtype=str, as_written=True)
    table = whole[[*columns]].apply(lambda column: column.str.strip().replace("", None))
    table = table.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)  # numbers that pandas wrote: 1.0
    if (empty := table.isna().any(axis=1)).any():
        raise ValueError(
            f"{arguments.predictions}, line {empty.idxmax()}: label or predicted is empty"
        )
    occurring = set(table.to_numpy().ravel())
    check_names(sorted(occurring), str(arguments.predictions))
    classes = table_classes(whole)  # of a table of ours: p_<class>, in their order
    names = _listed(arguments.class_order) or (classes if occurring <= set(classes) else [])
    paper, path = _paper(arguments), arguments.output
    fig = confusion_figure(table["label"], table["predicted"], names, paper=paper)
    if path.suffix.lower() not in ("", ".pdf", ".png"):
        raise ValueError(f"--output {path} must end in .pdf or .png, or have no ending")
    stem = path.with_suffix("")
    written = save_figure(fig, Folder(stem.parent).file(stem.name))
    print(f"wrote {' and '.join(map(str, written))}")


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _paper(arguments: argparse.Namespace) -> Any:
    """The `Paper` that the arguments of report and figure describe."""
    from grefel_lib.report.style import Paper

    pairs = [pair.partition("=")[::2] for pair in _listed(arguments.class_names)]
    if bad := next((old for old, new in pairs if not new), ""):
        raise ValueError(f"--class-names {bad!r} has no name; write {bad}=NAME")
    return Paper(arguments.venue, arguments.cells, getattr(arguments, "model_name", ""),
                 dict(pairs), _listed(arguments.class_order))  # fmt: skip


def _export(arguments: argparse.Namespace) -> None:
    from grefel_lib.commands.export import export_onnx, export_weights
    from grefel_lib.config import Config, absolute_paths
    from grefel_lib.faces import load_faces
    from grefel_lib.files import relative
    from grefel_lib.restore import load_model
    from grefel_lib.run import checkpoint_file, open_run, results_folder

    here = absolute_paths({"data_dir": arguments.data_dir}) | {"label_fixes": ""}
    if arguments.output and not arguments.output.suffix:
        run = open_run(arguments.run_folder)
        faces = load_faces(run.config.replace(**here))
        release = export_weights(run, faces, arguments.output)
        print(f"wrote {arguments.output}; chosen on validation: temperature "
              f"{release['temperature']:.2f}, class offsets of strength {release['tau']:.2f}, "
              f"not sure below {release['not_sure_below']:.2f}")  # fmt: skip
        return
    if arguments.output and arguments.output.suffix != ".onnx":
        raise ValueError(f"--output {arguments.output} must end in .onnx, or be a folder's name "
                         f"without a dot")  # fmt: skip
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it logs every skipped folding
    trained = load_model(checkpoint_file(arguments.run_folder), device="cpu")
    try:
        faces = load_faces(trained.config.replace(**here)).split("val")
    except FileNotFoundError:
        if arguments.data_dir:
            raise
        print(f"no data of {trained.config.dataset} here: checking on drawn faces")
        faces = load_faces(Config()).split("val")
    path = arguments.output or results_folder(trained.folder) / "model.onnx"
    done = export_onnx(trained, faces, path)
    print(f"wrote {relative(done.path)} ({done.path.stat().st_size / 1e6:.1f} MB); largest "
          f"difference from PyTorch: {done.largest_difference:.0e}")  # fmt: skip
    print(f"time per face (CPU): onnxruntime {done.onnx_ms:.1f} ms, PyTorch {done.torch_ms:.1f} ms")


def _synthetic(arguments: argparse.Namespace) -> None:
    from grefel_lib.sources.synthetic import write_synthetic

    folder = write_synthetic(arguments.dest, images=arguments.images, seed=arguments.seed)
    print(f"wrote {arguments.images} drawn faces to {folder}")


def _crop(arguments: argparse.Namespace) -> None:
    from grefel_lib.sources.crops import crop_faces
    from grefel_lib.sources.layouts import LEFT_OUT
    from grefel_lib.sources.photo import printable

    count, left_out = crop_faces(arguments.source, arguments.dest)
    for row in left_out.itertuples():
        print(f"left out: {row.file}: {row.reason}")
    if not count:
        raise ValueError(f"no photograph in {arguments.source} has exactly one face")
    print(f"wrote {count} crops to {arguments.dest}, left out {len(left_out)} ({LEFT_OUT})")
    if tables := sorted(arguments.source.rglob("*.csv")):
        print(f"{tables[0]} is not copied: the crops end in .png, so its column image must too")
    source = printable(arguments.source)
    folders = {Path(file).parent.relative_to(source) for file in left_out["file"]}
    for folder in sorted(folder for folder in folders if not (arguments.dest / folder).is_dir()):
        print(f"no face is left of {folder}: add photographs of it, one face each")


def _check(arguments: argparse.Namespace) -> None:
    from grefel_lib.analysis.check import check_data, describe
    from grefel_lib.config import Config

    facts = check_data(Config.resolve(_settings(arguments)))
    print(json.dumps(facts, indent=2, ensure_ascii=False) if arguments.json else describe(facts))
    if facts["problems"]:
        other = f"; for a set other than {facts['dataset']} pass --dataset"
        raise ValueError("training could not start: see the problems printed above"
                         + other * (not arguments.dataset))  # fmt: skip


def _publish(arguments: argparse.Namespace) -> None:
    from grefel_lib.analysis.compare import evaluated_runs, publish_runs
    from grefel_lib.analysis.evaluation import load_evaluation
    from grefel_lib.run import open_run

    source = _folder_of_runs(arguments.source)
    if source.is_dir() and not (source / "config.json").is_file():
        results = evaluated_runs(str(source))
    else:
        results = [load_evaluation(open_run(arguments.source), headline_only=True)]
    folders = publish_runs(results, arguments.dest)
    print(f"wrote {len(folders)} run{'s' * (len(folders) > 1)} to {arguments.dest}")


def _folder_of_runs(name: str) -> Path:
    """A folder here, in the project root or under outputs/, preferably one that holds runs."""
    from grefel_lib.run import outputs_folder

    folders = [Path(from_here(name)), outputs_folder() / name]
    return next((path for path in folders if any(path.glob("*/config.json"))), folders[0])


def _rerun(arguments: argparse.Namespace) -> None:
    from grefel_lib.commands.rerun import rerun

    say = partial(print, flush=True)
    if different := rerun(arguments.run_folder, arguments.data_dir, say=say):
        print("\n".join(different))
        count = f"{len(different)} difference{'s' * (len(different) > 1)}"
        raise ValueError(f"{count} from {arguments.run_folder}, printed above")
    print(f"every weight and every number of {arguments.run_folder} is the same")


def _doctor(arguments: argparse.Namespace) -> None:
    from grefel_lib.commands.doctor import examine

    for line in examine():
        print(line, flush=True)


def _demo(arguments: argparse.Namespace) -> None:
    from grefel_lib.commands.notebook import NOTEBOOKS, execute_notebook, unpack_notebooks
    from grefel_lib.files import relative
    from grefel_lib.run import outputs_folder

    unpack_notebooks()
    folder = outputs_folder() / "demo_notebooks"
    for notebook in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        print(f"grefel demo: {notebook.name}", flush=True)
        execute_notebook(notebook, folder / notebook.name, {})
    print(f"all notebooks ran; the executed copies are in {relative(folder)}{os.sep}")


if __name__ == "__main__":
    sys.exit(main())
