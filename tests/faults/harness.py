"""Faults put into real commands: kills, a full disk, flipped bits, two starts at once.

    python tests/faults/harness.py [KILLS] [SEED] [full_disk flips races]

Prints how many were injected and how many the project survived: the command ends in one line or
none, and the same command again gives the bytes of a run that nothing disturbed.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from grefel_lib.files import read_facts
from grefel_lib.run import LAST, open_run

ROOT = Path(tempfile.mkdtemp(prefix="faults-"))
SMALL = ["--synthetic-images", "200", "--epochs", "2"]
QUICK = ["--robustness-images", "0", "--no-inspect-labels"]
injected, survived, broken = Counter(), Counter(), []


def grefel(*words, cache="cache"):
    """Start a command, with the cache in a folder of the harness."""
    command = [sys.executable, "-m", "grefel_lib.commands.cli", *map(str, words)]
    environment = os.environ | {"GREFEL_CACHE": str(ROOT / cache), "GREFEL_PANELS": "0"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def ended(process):
    """Exit status and what was said on stderr."""
    said = process.communicate(timeout=600)[1]
    return process.returncode, said


def kill(process, rng):
    """Kill the command, its kernel, or both."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    who = rng.choice(["all", "command", "children"])
    chosen = {"all": family, "command": family[:1], "children": family[1:] or family}[who]
    for one in chosen:
        one.kill()
    psutil.wait_procs(family, timeout=20)  # what is left ends by itself
    return who


def record(kind, well, about):
    injected[kind] += 1
    survived[kind] += bool(well)
    if not well:
        broken.append(f"{kind}: {about}")
    print(f"{kind:<12} {'survived' if well else 'BROKEN'}  {about}", flush=True)


def weights(folder):
    """What a run has learned: the checksum of its last checkpoint, and its history."""
    history = open_run(folder).history().drop(columns=["seconds", "images_per_second"])
    path = open_run(folder).checkpoint(LAST)
    return read_facts(path)["sha256"], history.to_csv()


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())["checkpoints"]


def cached(folder):
    return sorted(path.read_text() for path in folder.glob("*/checksums.json"))


def litter(folder):
    return [str(p) for p in folder.rglob(".*.*.*")] + [str(p) for p in folder.rglob(".filling*")]


def kills(count, rng):
    """Kill each command at a random moment, start it again, and compare with the straight one."""
    out = ROOT / "kills"
    straight = out / "straight"
    sweep = ["sweep", "train", "--name", "swept", "--output-dir", out, "--seeds", "0", *SMALL]
    evaluate = ["evaluate", "--checkpoint-dir", straight, *QUICK]
    commands = {
        "train": (["train", "--output-dir", out, "--run-name", "killed", *SMALL],
                  out / "killed", lambda: weights(out / "killed")),
        "evaluate": (evaluate, None, lambda: metrics(straight)),
        "report": (["report", straight], None, lambda: metrics(straight)),
        "cache": (["data", "check", "--dataset", "synthetic"], ROOT / "own",
                  lambda: cached(ROOT / "own")),
        "sweep": (sweep, out / "swept", lambda: weights(out / "swept/seed=0")),
    }  # fmt: skip
    expected, seconds = {}, {}
    begin = ["train", "--output-dir", out, "--run-name", "straight", *SMALL]
    assert ended(grefel(*begin))[0] == 0
    assert ended(grefel(*evaluate))[0] == 0
    for number in range(count):
        kind = list(commands)[number % len(commands)]
        command, folder, result = commands[kind]
        cache = "own" if kind == "cache" else "cache"
        if kind not in expected:
            start = time.time()
            assert ended(grefel(*command, cache=cache))[0] == 0, kind
            expected[kind], seconds[kind] = result(), time.time() - start
        if folder:
            shutil.rmtree(folder)
        process = grefel(*command, cache=cache)
        moment = rng.uniform(0.2, seconds[kind])
        time.sleep(moment)
        about = f"killed {kill(process, rng)} after {moment:.1f} s"
        said = ended(process)[1]
        status, again = ended(grefel(*command, cache=cache))
        left = litter(folder or straight)
        wrong = ["a traceback"] * ("Traceback" in said + again) + [f"left {left}"] * bool(left)
        if status and "killed is finished" not in again:
            wrong.append(f"ends with {status}")
        if not wrong and result() != expected[kind]:
            wrong.append("another result")
        record(f"kill {kind}", not wrong, f"{about} {'; '.join(wrong)} {again[-200:].strip()}")


def full_disk(rng):
    """Fill the disk at five places of a training, free it, and go on."""
    expected = weights(ROOT / "kills/straight")
    disk = ROOT / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1M", "none", disk], check=False
    ).returncode:
        print("no disk was filled: mounting a tmpfs is not allowed here")
        return
    try:
        size = sum(p.stat().st_size for p in (ROOT / "kills/straight").rglob("*.*") if p.is_file())
        for share in (0.01, 0.2, 0.4, 0.6, 0.9):
            for path in disk.iterdir():
                shutil.rmtree(path)
            room = max(16, int(share * size / 1024))
            subprocess.run(["mount", "-o", f"remount,size={room}k", disk], check=True)
            command = ["train", "--output-dir", disk, "--run-name", "full", *SMALL]
            status, said = ended(grefel(*command))
            well = "Traceback" not in said and (status == 0 or "No space left" in said)
            subprocess.run(["mount", "-o", "remount,size=1G", disk], check=True)
            again = ended(grefel(*command))[1]
            same = "Traceback" not in again and weights(disk / "full") == expected
            record("full disk", well and same, f"at {room} kB: {said.strip()[-160:]}")
    finally:
        subprocess.run(["umount", disk], check=False)


def flips(rng):
    """Flip one bit of files of a run and of a cache: noticed by name, or repaired."""
    run = ROOT / "kills/straight"
    header = len(json.dumps(read_facts(run / "checkpoints/best_model.safetensors"))) + 1000
    readers = {
        "checkpoints/best_model.safetensors": ["evaluate", "--checkpoint-dir", run, *QUICK],
        "checkpoints/best_ema_model.safetensors": ["evaluate", "--checkpoint-dir", run, *QUICK],
    }
    for name, command in readers.items():
        path = run / name
        content = path.read_bytes()
        for _ in range(2):
            damaged = bytearray(content)
            damaged[rng.randrange(header, len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            status, said = ended(grefel(*command))
            record("flipped bit", status == 1 and path.name in said and said.count("\n") == 1,
                   f"{path.name}: {said.strip()[-160:]}")  # fmt: skip
        path.write_bytes(content)
    before = cached(ROOT / "own")
    for path in (ROOT / "own").glob("*/images.npy"):
        damaged = bytearray(path.read_bytes())
        damaged[rng.randrange(200, len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
    status, said = ended(grefel("data", "check", "--dataset", "synthetic", cache="own"))
    record("flipped bit", status == 0 and "is damaged" in said and cached(ROOT / "own") == before,
           f"cache: {said.strip()[-160:]}")  # fmt: skip


def races(rng):
    """Two starts of one run at the same moment: one trains, the other is told in a line."""
    for number in range(2):
        out = ROOT / f"race{number}"
        command = ["train", "--output-dir", out, "--run-name", "one", *SMALL]
        both = [ended(process) for process in [grefel(*command), grefel(*command)]]
        won = [status == 0 for status, _ in both]
        [said] = [words for status, words in both if status] or [""]
        same = weights(out / "one") == weights(ROOT / "kills/straight")
        record("two starts", sum(won) == 1 and said.count("\n") == 1 and same, said.strip()[-160:])


if __name__ == "__main__":
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    try:
        kills(int(sys.argv[1]) if len(sys.argv) > 1 else 20, rng)
        for section in sys.argv[3:] or ("full_disk", "flips", "races"):
            {"full_disk": full_disk, "flips": flips, "races": races}[section](rng)
    except KeyboardInterrupt:
        print("interrupted; what was counted so far:")
    finally:
        shutil.rmtree(ROOT, ignore_errors=True)
    print("\n| fault | injected | survived |\n| --- | ---: | ---: |")
    for kind, count in injected.items():
        print(f"| {kind} | {count} | {survived[kind]} |")
    sys.exit(len(broken))
