"""Run the benchmarks: python tests/benchmarks/run.py [--quick] [NAME ...]; JSON and a table.

Each is a ratio of two things timed in turn, in a process of its own: the median of several rounds,
told with the smallest and the largest. Rounds that differ by more than a factor of two are no
result. The load average is recorded before and after (then with the benchmark's own part).
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import bench_evaluation
import bench_inputs
import bench_training
import measure

from grefel_lib.environment import openmp_settings
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
    os.environ |= openmp_settings()  # as for any process that grefel starts
    for name in arguments.names or BENCHMARKS:
        before, load = time.perf_counter(), measure.load()
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:  # with a peak memory of its own
            found = alone.submit(BENCHMARKS[name], arguments.quick).result()
        content = {"name": name, "quick": arguments.quick, **found, "machine": measure.machine(),
                   "load_average": {"before": load, "after": measure.load()}}  # fmt: skip
        folder.write_json(content, f"{name}.json")
        print("\n".join(f"{row['what']} / {row['beside what']}: {row['ratio']}, "
                        f"wanted {row['wanted']}" for row in rows(found)),
              f"({time.perf_counter() - before:.0f} s)", flush=True)  # fmt: skip
    folder.write_text(table(folder), "table.md")
    print(f"wrote {folder.name}/*.json and table.md")


def rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """What a benchmark found, a ratio a row, told with its spread or refused."""
    parts = found.get("parts", {"": found})
    return [
        {"what": f"{found['ours']}, {part}" if part else found["ours"],
         "beside what": found["other"], "ratio": measure.told(pair["ratios"]),
         "wanted": found["wanted"]}
        for part, pair in parts.items()
    ]  # fmt: skip


def table(folder: Folder) -> str:
    """Every result of a folder as a Markdown table, a ratio a line."""
    lines = ["| what | beside what | ratio | wanted |", "|---|---|---|---|"]
    for path in (folder.path / f"{name}.json" for name in BENCHMARKS):
        if path.is_file():
            each = rows(json.loads(path.read_text()))
            lines += [f"| {' | '.join(row.values())} |" for row in each]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
