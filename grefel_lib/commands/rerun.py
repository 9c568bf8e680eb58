"""`grefel rerun`: repeat a run from its record, and compare the two bit by bit."""

from collections.abc import Callable

from grefel_lib.config import absolute_paths
from grefel_lib.environment import describe_environment
from grefel_lib.faces import load_faces
from grefel_lib.files import read_facts, read_json, reading, relative
from grefel_lib.fit import fit
from grefel_lib.run import (
    BEST,
    BEST_EMA,
    LAST,
    Run,
    check_same_data,
    open_run,
    results_folder,
    run_folder,
    start_run,
)

_CLOCK = ["seconds", "images_per_second"]  # columns of the history that no two runs share


def rerun(name: str, data_dir: str = "", *, say: Callable[[str], None]) -> list[str]:
    """Train a run again in a folder beside it, named <run>-rerun.

    Args:
        name: A run folder or its name.
        data_dir: Where its faces are now; empty: where they were.
        say: Receives the lines of the training.

    Returns:
        What differs, one line each; empty if every weight and every number is the same.

    Raises:
        ValueError: The run has no last checkpoint or has learned with a loss of its own, the data
            are not its own, or <run>-rerun has finished already.
    """
    run = open_run(name)
    if not run.has_checkpoint(LAST):
        raise ValueError(f"run {run.name} has no {LAST} checkpoint, so nothing shows whether a "
                         f"second training ends alike; shared models have none")  # fmt: skip
    if read_facts(run.checkpoint(LAST)).get("own_loss"):
        raise ValueError(f"run {run.name} has learned with a loss of its own, which its record "
                         f"does not hold; repeat it with its code")  # fmt: skip
    here = run.config.replace(**absolute_paths({"data_dir": data_dir}))
    faces = load_faces(here)
    check_same_data(run, faces.info)
    key = "finetune_name" if run.config.checkpoint_path else "run_name"
    again = {key: f"{run.config.folder_name or run.path.name}-rerun", "resume": ""}
    if not run.config.checkpoint_path:
        again["output_dir"] = str(results_folder(run.path).parent)
    config = here.replace(**again)
    there = run_folder(config)
    if (there / "config.json").is_file() and open_run(there).status() == "ok":
        raise ValueError(f"{relative(there)} has finished; move it away to repeat again")
    second = start_run(config, faces.info)
    fit(faces, second, say=say)
    return differences(run, second)


def differences(run: Run, other: Run) -> list[str]:
    """What differs in the histories and weights of two runs, and in their environments if so."""
    ours, theirs = (r.history().set_index("epoch") for r in (run, other))
    epochs, columns = ours.index.union(theirs.index), ours.columns.difference(_CLOCK, sort=False)
    there, here = (table.reindex(index=epochs, columns=columns) for table in (ours, theirs))
    lines = []
    for column, values in there.compare(here).T.groupby(level=0, sort=False):
        row = values.T.dropna(how="all").iloc[0]
        lines.append("{}: epoch {}: {} there, {} here".format(column, row.name, *row))
    for name in (BEST, BEST_EMA, LAST):
        with reading(run.path):
            sums = [read_facts(r.checkpoint(name))["sha256"] for r in (run, other)]
        if sums[0] != sums[1]:
            lines.append(f"weights of {name}: checksum {sums[0][:12]} there, {sums[1][:12]} here")
    if lines:
        there, here = read_json(run.path / "environment.json"), describe_environment()
        lines += [
            f"{k}: {there[k]} there, {v} here" for k, v in here.items() if there.get(k, v) != v
        ]
    return lines
