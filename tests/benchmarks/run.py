"""Run the benchmarks: python tests/benchmarks/run.py [--quick] [NAME ...]; JSON and a table.

Each is a ratio of two things timed in turn, in a process of its own; the median of several rounds
counts.
"""

import argparse
import json
import logging
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import bench_evaluation
import bench_inputs
import bench_training
import measure

from grefel_lib.files import Folder
from grefel_lib.run import outputs_folder

BENCHMARKS = {
    call.__name__: call
    for call in (
        bench_training.fit_against_bare_loop,
        bench_inputs.input_pipeline,
        bench_training.head_against_backbone,
        bench_training.switches,
        bench_evaluation.predict_against_forward,
        bench_training.scale,
        bench_evaluation.numbers_of_many,
        bench_training.two_processes,
    )
}


def main() -> None:
    """Run those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--output", default="outputs/benchmarks", help="folder of the JSON files")
    parser.add_argument("--quick", action="store_true", help="only to see that they run")
    arguments = parser.parse_args()
    strange = sorted(set(arguments.names) - set(BENCHMARKS))
    if strange:
        parser.error(f"no benchmark {strange[0]!r}; there are {', '.join(BENCHMARKS)}")
    logging.disable(logging.WARNING)
    folder = Folder(outputs_folder(arguments.output))
    for name in arguments.names or BENCHMARKS:
        before = time.perf_counter()
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:  # with a peak memory of its own
            found = alone.submit(BENCHMARKS[name], arguments.quick).result()
        content = {"name": name, "quick": arguments.quick, **found, "machine": measure.machine()}
        folder.write_json(content, f"{name}.json")
        ratio = found["ratio"]
        told = ratio if isinstance(ratio, dict) else {"ratio": ratio}
        shown = ", ".join(f"{k} {v:.3f}" for k, v in told.items())
        print(f"{name}: {found['ours']} / {found['other']}: {shown} (wanted: {found['wanted']}; "
              f"{time.perf_counter() - before:.0f} s)", flush=True)  # fmt: skip
    folder.write_text(table(folder), "table.md")
    print(f"wrote {folder.name}/*.json and table.md")


def table(folder: Folder) -> str:
    """Every result of a folder as a Markdown table, a ratio a line."""
    lines = ["| what | beside what | ratio | wanted |", "|---|---|---|---|"]
    for name in BENCHMARKS:
        path = folder.path / f"{name}.json"
        if path.is_file():
            found = json.loads(path.read_text())
            ratio = found["ratio"]
            for part, value in (ratio if isinstance(ratio, dict) else {"": ratio}).items():
                what = f"{found['ours']}, {part}" if part else found["ours"]
                lines.append(f"| {what} | {found['other']} | {value:.3g} | {found['wanted']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
