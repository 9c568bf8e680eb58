"""Several processes: the same training as one, shares, the true error, one writer."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.fit import fit
from grefel_lib.processes import ProcessError, World, launch_processes
from grefel_lib.run import LAST, open_run, start_run


def settings(faces_dir, folder, **changes):
    """A small training without batch norm and dropout, which see a process's own faces."""
    return Config.resolve(
        {"profile": "demo", "dataset": "ferplus", "data_dir": str(faces_dir), "epochs": 2,
         "backbone": "test_vit", "image_size": 48, "output_stride": 0, "drop_rate": 0,
         "batch_size": 31, "mix_prob": 0.5, "lr": 1e-3, "output_dir": str(folder),
         **changes}
    )  # fmt: skip


def train(config, say=None):
    faces = load_faces(config)
    run = start_run(config, faces.info)
    fit(faces, run, say=say)
    return run


@pytest.mark.parametrize(("total", "size"), [(64, 2), (31, 2), (7, 3), (5, 5)])
def test_the_shares_are_everything_once_and_differ_by_one_at_most(total, size):
    parts = [np.arange(total)[World(rank, size).share(total)] for rank in range(size)]
    assert np.concatenate(parts).tolist() == list(range(total))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_alone_there_is_nothing_to_add_up():
    world = World()
    values = torch.tensor([1.0, 2.0])
    assert world.total(values) is values
    assert world.gathered("a") == ["a"]
    before = torch.get_rng_state()
    with world.own_draws(torch.device("cpu"), 5):
        torch.rand(3)
    assert not torch.equal(torch.get_rng_state(), before)


def test_own_draws_leave_the_common_ones_in_step():
    before = torch.get_rng_state()
    drawn = []
    for rank in (0, 1):
        with World(rank, 2).own_draws(torch.device("cpu"), rank):
            drawn.append(torch.rand(8))
    assert not torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_processes_train_as_one(faces_dir, tmp_path):
    """The same losses, gradient norms and validation, up to the order of additions."""
    said = []
    alone = train(settings(faces_dir, tmp_path, run_name="alone"))
    pair = train(settings(faces_dir, tmp_path, run_name="pair", processes=2), said.append)
    assert pair.status() == "ok"
    ours, theirs = pair.history(), alone.history()
    same = [c for c in ours if c.startswith(("train_", "grad_norm", "lr", "val_loss", "ema_val_l"))]
    assert len(same) > 9
    np.testing.assert_allclose(ours[same], theirs[same], rtol=2e-4)
    mine, others = (run.load_checkpoint(LAST)[0] for run in (pair, alone))
    assert mine.keys() == others.keys()
    for name in ("model/head.anchors", "ema/head.anchors", "model/backbone.pos_embed"):
        torch.testing.assert_close(mine[name], others[name], rtol=1e-3, atol=1e-4)
    assert sum("epoch 1/2" in line for line in said) == 1  # one of them speaks


def test_processes_with_different_faces_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(World, "gathered", lambda self, item: [item, "content-0"])
    with pytest.raises(ValueError, match=r"different faces \(fingerprints content-\w+, content-0"):
        fit(load_faces(tiny), start_run(tiny))


def test_two_processes_go_on_from_a_run_of_one(faces_dir, tmp_path):
    config = settings(faces_dir, tmp_path, run_name="on", epochs=2)
    run = start_run(config, load_faces(config).info)
    fit(load_faces(config), run, say=lambda text: run.ask_to_stop())
    assert run.status() == "stopped"
    assert train(config.replace(processes=2)).history()["epoch"].tolist() == [1, 2]


def torchrun(*arguments):
    """`grefel train` as torchrun starts it, twice, on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               "-m", "grefel_lib.commands.cli", "train", *arguments]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_under_torchrun_the_command_is_one_of_the_processes(faces_dir, tmp_path):
    where = ["--dataset", "ferplus", "--data-dir", str(faces_dir), "--output-dir", str(tmp_path)]
    small = ["--profile", "demo", "--epochs", "1"]
    done = torchrun(*where, *small, "--run-name", "both")
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "both")
    assert run.status() == "ok"
    assert run.config.processes == 2
    assert len(run.history()) == 1
    assert done.stdout.count("epoch 1/1") == 1
    nameless = torchrun(*where, *small)
    assert nameless.returncode
    assert "pass --run-name" in nameless.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["both"]


def test_of_two_nodes_the_first_keeps_the_notebook_and_a_lost_one_ends_both(faces_dir, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = ["--dataset", "ferplus", "--data-dir", faces_dir, "--output-dir", tmp_path,
             "--profile", "demo", "--epochs", "3", "--run-name", "both"]  # fmt: skip

    def node(rank):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--master-addr",
                   "localhost", "--master-port", str(port), f"--node-rank={rank}",
                   "-m", "grefel_lib.commands.cli", "train", *map(str, words)]  # fmt: skip
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    first, second = nodes = node(0), node(1)
    while not (tmp_path / "both/history.csv").is_file():
        assert [node.poll() for node in nodes] == [None, None]
        time.sleep(0.1)
    second = psutil.Process(second.pid)
    for process in (*second.children(recursive=True), second):
        process.kill()
    told = first.communicate(timeout=120)[0]
    assert first.returncode
    assert "process 0 of 2: " in told
    run = open_run(tmp_path / "both")
    assert run.status() == "failed"
    ends = [node.communicate(timeout=300)[0] for node in (node(0), node(1))]
    assert run.status() == "ok", ends
    assert "continuing" in ends[0]
    assert run.history()["epoch"].tolist() == [1, 2, 3]
    record = json.loads((run.path / "03_training.ipynb").read_text())
    assert record["metadata"]["papermill"]["exception"] is None
    assert record["metadata"]["papermill"]["parameters"]["processes"] == 2


@pytest.mark.parametrize("who", ["parent", "torchrun"])
def test_no_process_outlives_what_started_it(faces_dir, tmp_path, who):
    config = settings(faces_dir, tmp_path, run_name="long", epochs=1000, processes=2)
    run = start_run(config, load_faces(config).info)
    code = f"""
from grefel_lib.processes import launch_processes
from grefel_lib.run import open_run
launch_processes(open_run({str(run.path)!r}), say=print)"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as parent:
        while not (run.path / "history.csv").is_file():
            assert parent.poll() is None
            time.sleep(0.2)
        others = psutil.Process(parent.pid).children(recursive=True)
        [torchrun] = [p for p in others if "torch.distributed.run" in p.cmdline()]
        (psutil.Process(parent.pid) if who == "parent" else torchrun).kill()
        _, alive = psutil.wait_procs(others, timeout=30)  # 5 s where nothing else runs
        assert not alive
        told = parent.communicate()[1]
    if who == "torchrun":
        assert "torchrun failed: it was killed by signal 9" in told
        assert run.status() == "failed"
    else:
        assert run.status() == "died"


def test_a_killed_torchrun_is_the_cause_whatever_its_processes_wrote(tiny, tmp_path, monkeypatch):
    """A process whose peer ended first fails of that, sometimes before it ends by itself."""
    script = tmp_path / "torchrun"
    script.write_text("""#!/bin/sh
for word; do case $word in --log-dir=*) logs=${word#*=};; esac; done
mkdir $logs/1
echo '{"message": "Connection closed by peer"}' > $logs/1/error.json
kill -9 $$
""")
    script.chmod(0o755)
    run = start_run(tiny.replace(processes=2))
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(ProcessError, match="torchrun failed: it was killed by signal 9"):
        launch_processes(run, say=print)
    assert run.status() == "failed"


SPOILED = """
import os
from grefel_lib import losses
total = losses.total_loss
def spoiled(*args):
    parts = total(*args)
    if os.environ.get("RANK") == "1":
        {what}
    return parts
losses.total_loss = spoiled
"""


@pytest.mark.parametrize(("what", "told"), [
    ("raise ZeroDivisionError('the disk is on fire')", r"process 1 of 2: ZeroDivisionError: the"),
    ("os.kill(os.getpid(), 9)", r"process 1 of 2 was killed by signal 9"),
    ("parts |= {'loss': parts['loss'] * float('nan')}", r"NonFiniteLossError: the loss is nan.*tr"),
])  # fmt: skip
def test_the_true_error_of_a_failing_process_is_told(faces_dir, tmp_path, monkeypatch, what, told):
    (tmp_path / "sitecustomize.py").write_text(SPOILED.format(what=what))
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    config = settings(faces_dir, tmp_path, run_name="bad", processes=2)
    with pytest.raises(ProcessError, match=told):
        train(config)
    run = open_run(tmp_path / "bad")
    assert run.status() == "failed"


def test_interrupted_it_ends_all_processes_and_says_so(faces_dir, tmp_path):
    config = settings(faces_dir, tmp_path, run_name="cut", processes=2, epochs=500)

    def interrupt(line):
        if line.startswith("epoch 1/"):
            raise KeyboardInterrupt  # what Ctrl-C, or a notebook's stop button, does here

    with pytest.raises(KeyboardInterrupt):
        train(config, interrupt)
    run = open_run(tmp_path / "cut")
    assert run.status() == "interrupted"
    assert len(run.history()) < 500


def test_too_small_a_batch_for_the_processes_is_refused(faces_dir, tmp_path):
    with pytest.raises(ValueError, match="batch_size 3 is too small for 2"):
        settings(faces_dir, tmp_path, processes=2, batch_size=3)
