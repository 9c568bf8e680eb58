"""Training: accumulation, checkpoints, resume, refusals."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from drawn_layouts import write_layout
from safetensors.torch import load_file
from torch import nn

from grefel_lib.analysis.evaluation import evaluate_run, load_evaluation
from grefel_lib.commands.notebook import resolve
from grefel_lib.config import Config
from grefel_lib.faces import FaceSet, load_faces
from grefel_lib.fit import (
    NonFiniteLossError,
    backward,
    epoch_lines,
    fit,
    start_training,
    train_epoch,
    validate,
)
from grefel_lib.grefel import GReFEL, Output
from grefel_lib.losses import total_loss
from grefel_lib.predict import predict
from grefel_lib.report.everything import write_report
from grefel_lib.restore import load_model
from grefel_lib.run import (
    BEST,
    BEST_EMA,
    LAST,
    Run,
    check_run,
    checkpoint_file,
    event_writer,
    open_run,
    start_run,
)

# -- whole runs


@pytest.fixture(scope="module")
def straight(faces_dir, tmp_path_factory):
    """The small run, trained to its end without a break."""
    return train(small(faces_dir, tmp_path_factory.mktemp("straight")))


def small(faces_dir, folder, **changes):
    return Config.resolve(
        {"profile": "demo", "dataset": "ferplus", "data_dir": str(faces_dir), "epochs": 3,
         "batch_size": 32, "warmup_epochs": 0.5, "output_dir": str(folder), "run_name": "small",
         "save_every": 2, **changes}
    )  # fmt: skip


def train(config, say=None):
    faces = load_faces(config)
    run = start_run(config, faces.info)
    fit(faces, run, say=say)
    return run


def weights(run, name=LAST):
    return load_file(run.path / "checkpoints" / f"{name}.safetensors")


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


def test_a_run_leaves_everything_it_promises(straight):
    assert straight.status() == "ok"
    history = straight.history()
    assert history["epoch"].tolist() == [1, 2, 3]
    assert np.isfinite(history.to_numpy(dtype=float)).all()
    files = {p.name for p in (straight.path / "checkpoints").iterdir()}
    assert files == {
        f"{n}.safetensors" for n in ("last", "best_model", "best_ema_model", "epoch_0002")
    }
    facts = json.loads((straight.path / "environment.json").read_text())
    assert facts["torch"] == torch.__version__.split("+")[0]
    assert facts["data"]["fingerprint"]


def test_the_best_checkpoints_are_those_of_the_best_validation_accuracy(straight):
    history = straight.history()
    for name, column in ((BEST, "val_accuracy"), (BEST_EMA, "ema_val_accuracy")):
        _, facts = straight.load_checkpoint(name)
        assert facts["val_accuracy"] == pytest.approx(history[column].max(), abs=1e-12)
        assert facts["epoch"] == history["epoch"][history[column].idxmax()]


def test_a_saved_checkpoint_scores_validation_as_training_did(straight):
    trained = load_model(checkpoint_file(straight.path, which=BEST_EMA))
    faces = load_faces(straight.config).split("val")
    table = predict(trained.model, faces, trained.config)
    accuracy = (table["label"] == table["predicted"]).mean()
    assert accuracy == pytest.approx(trained.facts["val_accuracy"], abs=1e-12)


def test_the_moving_average_by_hand(faces_dir, tmp_path):
    """It warms up: 0.9999 from the start would leave it where it began."""
    config = small(faces_dir, tmp_path, ema_decay=0.6)
    training = start_training(load_faces(config), start_run(config))
    name = "head.primary.0.weight"
    weights, step = [], training.optimizer.step
    by_hand = training.net.get_parameter(name).detach().clone()

    def watched(*arguments):
        step(*arguments)
        weights.append(training.net.get_parameter(name).detach().clone())

    training.optimizer.step = watched
    train_epoch(training, print)
    for update, value in enumerate(weights):  # timm counts from the second
        decay = min(0.6, 1 - (1 + update) ** -0.9)
        by_hand = decay * by_hand + (1 - decay) * value
    torch.testing.assert_close(training.ema.module.get_parameter(name), by_hand)
    assert decay == 0.6


def test_the_same_seed_gives_bit_identical_weights_and_another_seed_others(
    straight, faces_dir, tmp_path
):
    again = train(small(faces_dir, tmp_path))
    assert_same(weights(again), weights(straight))
    other = train(small(faces_dir, tmp_path, seed=1, run_name="other", epochs=1))
    key = "model/head.reduce.weight"
    assert not torch.equal(weights(other)[key], weights(straight)[key])


def test_killed_in_mid_epoch_the_same_command_ends_with_the_same_weights(
    straight, faces_dir, tmp_path
):
    config = small(faces_dir, tmp_path)
    flags = [f"--{k}={v}" for k, v in straight.config.differences(Config()).items() for v in v[:1]]
    flags = [f for f in flags if not f.startswith(("--output_dir", "--profile"))]
    command = [sys.executable, "-m", "grefel_lib.commands.cli", "train", "--profile", "demo"]
    command += [*flags, "--output-dir", str(tmp_path)]
    run = Run(tmp_path / "small", config)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (run.path / "history.csv").is_file():  # written last in an epoch
            assert process.poll() is None, "the command ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        kernel = json.loads((run.path / "status.json").read_text())["pid"]
        for pid in (kernel, process.pid):
            os.kill(pid, signal.SIGKILL)
    assert len(run.history()) < 3
    for _ in range(100):
        if run.status() == "died":
            break
        time.sleep(0.1)
    assert run.status() == "died"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "continuing" in done.stdout
    assert run.status() == "ok"
    assert_same(weights(run), weights(straight))
    for name in (BEST, BEST_EMA, "epoch_0002"):
        assert_same(weights(run, name), weights(straight, name))


def test_a_finished_run_is_not_trained_again_and_a_changed_one_is_refused(straight):
    with pytest.raises(ValueError, match="is finished"):
        start_run(straight.config)
    with pytest.raises(ValueError, match="is finished"):
        start_run(straight.config.replace(lr=0.5))


@pytest.mark.parametrize(
    "what", ["", "config.json", "checkpoints", "checkpoints/best_model.safetensors"]
)
def test_what_is_deleted_during_training_ends_it_in_one_line(tiny, what):
    config = tiny.replace(epochs=4, lr=1e-12)  # never better than the first epoch
    faces = load_faces(config)
    run = start_run(config, faces.info)

    def delete(line):
        if line.startswith("epoch 1/"):
            path = run.path / what
            path.unlink() if path.is_file() else shutil.rmtree(path)

    with pytest.raises(FileNotFoundError, match=f"^{run.path}/.* is not there"):
        fit(faces, run, say=delete)
    assert run.path.exists() == bool(what)
    if what.startswith("checkpoints"):
        assert run.status() == "failed"


def test_data_that_vanish_during_training_were_read_already(tiny, tmp_path, monkeypatch):
    straight = fit(load_faces(tiny), start_run(tiny.replace(run_name="straight")))
    monkeypatch.setenv("GREFEL_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny.data_dir, tmp_path / "faces")
    config = tiny.replace(data_dir=str(tmp_path / "faces"))
    faces = load_faces(config)
    run = start_run(config, faces.info)

    def delete(line):
        if line.startswith("epoch 1/"):
            for name in ("faces", "cache"):
                shutil.rmtree(tmp_path / name)

    assert fit(faces, run, say=delete)["val_loss"].tolist() == straight["val_loss"].tolist()
    assert run.status() == "ok"
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path}/faces for ferplus"):
        load_faces(config)


def test_an_unfinished_run_refuses_other_settings_and_names_them(faces_dir, tmp_path):
    config = small(faces_dir, tmp_path)
    start_run(config)
    with pytest.raises(ValueError, match=r"lr .* there, 0\.5 here"):
        start_run(config.replace(lr=0.5))
    assert start_run(config.replace(num_workers=1)).path == tmp_path / "small"


def test_micro_batches_give_the_gradient_of_the_whole_batch(faces_dir, tmp_path):
    options = {"backbone": "test_vit", "image_size": 64, "drop_rate": 0.0, "output_stride": 0}
    config = small(faces_dir, tmp_path, **options)  # no batch norm: it sees the micro-batch
    training = start_training(load_faces(config), start_run(config))
    images, targets = torch.randn(32, 3, 64, 64), torch.rand(32, 8).softmax(1)
    found = {}
    for micro in (32, 12, 1):
        training.micro = micro
        training.optimizer.zero_grad()
        parts = {k: v.item() for k, v in backward(training, images, targets, 32, print).items()}
        gradients = {n: p.grad.clone() for n, p in training.net.named_parameters()}
        found[micro] = (parts, gradients)
    for micro in (12, 1):
        assert found[micro][0] == pytest.approx(found[32][0], rel=1e-4)
        for name, gradient in found[32][1].items():
            torch.testing.assert_close(found[micro][1][name], gradient, rtol=1e-3, atol=1e-5)


def test_out_of_memory_halves_the_micro_batch_and_says_so(faces_dir, tmp_path, monkeypatch):
    forward = GReFEL.forward

    def small_memory(self, images):
        if self.training and len(images) > 8:
            raise torch.OutOfMemoryError("pretend")
        return forward(self, images)

    monkeypatch.setattr(GReFEL, "forward", small_memory)
    said = []
    run = train(small(faces_dir, tmp_path, epochs=1), say=said.append)
    assert run.status() == "ok"
    assert sum("out of memory: micro-batches of 16" in line for line in said) == 1
    assert sum("out of memory: micro-batches of 8" in line for line in said) == 1


def test_a_non_finite_loss_stops_with_the_image_ids_and_keeps_the_last_epoch(
    faces_dir, tmp_path, monkeypatch
):
    total = total_loss
    calls = []

    def spoiled(*args):
        calls.append(1)
        parts = total(*args)
        return parts if len(calls) != 14 else parts | {"loss": parts["loss"] * float("nan")}

    monkeypatch.setattr("grefel_lib.fit.total_loss", spoiled)
    config = small(faces_dir, tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"epoch 2, update 14.*train_\d+"):
        train(config)
    run = open_run(tmp_path / "small")
    assert run.status() == "failed"
    assert len(run.history()) == 1
    assert all(torch.isfinite(v).all() for v in weights(run).values() if v.is_floating_point())


def test_a_non_finite_gradient_of_a_finite_loss_updates_nothing_and_names_its_own_batch(
    faces_dir, tmp_path, monkeypatch
):
    total, seen = total_loss, []

    def spoiled(output, targets, *others):
        parts = total(output, targets, *others)
        seen.append(1)
        if len(seen) == 3:  # sqrt(0): a finite value with an infinite slope
            parts["loss"] = parts["loss"] + (output.log_probs.mean() * 0).sqrt()
        return parts

    config = small(faces_dir, tmp_path, variant="spoiled")
    faces = load_faces(config)
    before = {}

    def watch(training, *others):
        if len(seen) == 2:
            before.update({k: v.clone() for k, v in training.net.named_parameters()})
            before["batch"] = others[2]
        return backward(training, *others)

    made = []
    start = start_training
    monkeypatch.setattr("grefel_lib.fit.backward", watch)
    monkeypatch.setattr(
        "grefel_lib.fit.start_training", lambda *a, **k: made.append(start(*a, **k)) or made[-1]
    )
    with pytest.raises(NonFiniteLossError, match=r"norm of its gradient nan in epoch 1, update 3;"):
        fit(faces, start_run(config, faces.info), loss=spoiled)
    for name, parameter in made[0].net.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.grad is None
    assert made[0].update == 2


def test_no_micro_batch_has_one_face_where_batch_norm_needs_two(faces_dir, tmp_path):
    config = small(faces_dir, tmp_path, backbone="mobilenetv3_small_050")
    training = start_training(load_faces(config), start_run(config))
    sizes = []
    forward = training.forward
    training.forward = lambda faces: (sizes.append(len(faces)), forward(faces))[1]
    images, targets = torch.randn(35, 3, 64, 64), torch.rand(35, 8).softmax(1)
    for micro, wanted in ((32, [18, 17]), (2, [3] + [2] * 16), (17, [12, 12, 11])):
        sizes.clear()
        training.micro = micro
        backward(training, images, targets, 35, print)
        assert sizes == wanted
    with pytest.raises(ValueError, match=r"micro_batch_size is 1, but mobilenetv3_small_050 has"):
        train(small(faces_dir, tmp_path, run_name="one", micro_batch_size=1,
                    backbone="mobilenetv3_small_050"))  # fmt: skip


def test_validation_takes_what_fits_into_memory(faces_dir, tmp_path, monkeypatch, caplog):
    forward, sizes = GReFEL.forward, []

    def small_memory(self, images):
        if not self.training:
            sizes.append(len(images))
            if len(images) > 5:
                raise torch.OutOfMemoryError("pretend")
        return forward(self, images)

    config = small(faces_dir, tmp_path)
    training = start_training(load_faces(config), start_run(config))
    whole = validate(training)
    monkeypatch.setattr(GReFEL, "forward", small_memory)
    assert validate(training) == pytest.approx(whole, abs=1e-5)
    assert "out of memory: batches of 4 faces from here on" in caplog.text
    assert sizes.count(32) == 1  # and not once for each batch
    training.micro = 3
    sizes.clear()
    validate(training)
    assert max(sizes) == 3


def test_early_stopping_ends_when_validation_stands_still(faces_dir, tmp_path):
    said = []
    run = train(small(faces_dir, tmp_path, lr=1e-12, epochs=30, early_stopping=2), say=said.append)
    assert len(run.history()) < 30
    assert run.status() == "ok"
    assert "no better validation accuracy for 2 epochs" in said[-1]


def test_training_never_reads_the_test_split(faces_dir, tmp_path, monkeypatch):
    split = FaceSet.split

    def watched(self, name):
        assert name != "test"
        return split(self, name)

    monkeypatch.setattr(FaceSet, "split", watched)
    assert train(small(faces_dir, tmp_path, epochs=1)).status() == "ok"


def test_a_disk_that_fills_up_keeps_the_old_checkpoint(straight, monkeypatch):
    before = (straight.path / "checkpoints" / "last.safetensors").read_bytes()

    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        straight.save_checkpoint("last", {"a": torch.zeros(1)}, {})
    assert (straight.path / "checkpoints" / "last.safetensors").read_bytes() == before
    assert not list((straight.path / "checkpoints").glob(".last*"))


@pytest.mark.parametrize("changes", [
    {"head": "linear"},
    {"correction": "none"},
    {"correction": "trust"},
    {"class_weights": "balanced", "balanced_sampling": 3, "use_soft_labels": False},
    {"precision": "bf16", "channels_last": True, "augmentation": "heavy"},
    {"branches": "anchors", "lambda_center": 0, "num_anchors": 1, "primary": "mlp"},
    {"branches": "attention", "lambda_rel": 0, "lambda_branch": 0, "ema_decay": 0},
    {"mix_prob": 1, "drop_leaks": False, "delta": 0.5, "embedding_dim": 32},
])  # fmt: skip
def test_with_every_option_a_few_faces_are_learned_by_heart(faces_dir, tmp_path, changes):
    plain = {"epochs": 20, "batch_size": 8, "drop_rate": 0, "augmentation": "none"}
    config = small(faces_dir, tmp_path, **plain | {"save_every": 0} | changes)
    faces = load_faces(config)
    few = faces.table.groupby(["split", "label"]).head(3)
    faces = faces.take(few[few["split"] != "test"].index.to_numpy())
    run = start_run(config, faces.info)
    fit(faces, run)
    history = run.history()
    trained = load_model(run.path / "checkpoints/last.safetensors")
    table = predict(trained.model, faces.split("train"), config)
    assert table["label"].value_counts().tolist() == [3] * 8  # by chance an eighth is right
    right = (table["label"] == table["predicted"]).mean()
    assert right > (0.35 if config.augmentation == "heavy" else 0.8)
    grefel = changes.get("head") != "linear" and changes.get("correction") != "none"
    if changes.get("correction") == "trust":
        assert run.load_checkpoint(LAST)[1]["trust"] == 1.0
    if changes.get("ema_decay") == 0:
        assert (history["ema_val_accuracy"] == history["val_accuracy"]).all()
    names = weights(run, BEST).keys()
    parts = {name.split(".")[1] for name in names if name.startswith("head.")}
    assert ("anchors" in parts) == (changes.get("branches", "both") != "attention" and grefel)
    assert ("attention" in parts) == (changes.get("branches", "both") != "anchors" and grefel)
    assert ("reliability" in parts) == (changes.get("lambda_rel") != 0 and bool(parts))


# -- fine-tuning


def finetune(straight, tmp_path, **changes):
    namespace = {"checkpoint_path": str(straight.path), "finetune_name": "f", "epochs": 1} | changes
    config = resolve(namespace, command="finetune")
    said = []
    faces = load_faces(config)
    run = start_run(config, faces.info)
    fit(faces, run, say=said.append)
    return run, "\n".join(said)


def test_fine_tuning_starts_from_the_checkpoint_and_names_its_parent(straight, tmp_path):
    run, said = finetune(straight, tmp_path, lr=1e-9)
    assert run.path == straight.path / "finetune_f"
    assert "reinitialised" not in said
    ours, theirs = (
        weights(run, BEST),
        weights(straight, checkpoint_file(straight.path).stem),
    )
    torch.testing.assert_close(
        ours["head.reduce.weight"], theirs["head.reduce.weight"], atol=1e-6, rtol=0
    )
    assert run.config.checkpoint_path == str(straight.path)


def test_fine_tuning_on_other_classes_says_which_class_layers_it_keeps(straight, tmp_path):

    data = write_layout(tmp_path / "fer2013", "fer2013", images=300, seed=3)
    run, said = finetune(
        straight, tmp_path, dataset="fer2013", data_dir=str(data), finetune_name="seven", lr=1e-9
    )
    kept = "class layers kept for neutral, happiness, surprise, sadness, anger, disgust, fear; "
    assert kept + "reinitialised for none" in said
    ours, theirs = weights(run, BEST), weights(straight, checkpoint_file(straight.path).stem)
    torch.testing.assert_close(ours["head.anchors"], theirs["head.anchors"][:7])


def test_an_epoch_is_told_with_the_best_so_far():
    shared = {"lr": 5e-5, "grad_norm": 1.25, "seconds": 60, "images_per_second": 400}
    shared |= {"train_loss": 1.5, "val_loss": 1.0, "ema_val_loss": 0.9, "train_accuracy": 0.6}
    history = [
        {"epoch": e, "val_accuracy": v, "ema_val_accuracy": m, "ema_val_accuracy_fear": 0.4}
        | shared
        for e, v, m in ((1, 0.7, 0.2), (2, 0.6, 0.65))
    ]
    text = epoch_lines(history, 150)
    assert text.startswith("epoch 2/150  lr 5.0e-05  grad norm 1.25")
    assert "val 60.00% (best 70.00%, epoch 1)" in text
    assert "EMA 65.00% (best 65.00%, epoch 2)" in text
    assert "fear 40" in text


# -- one's own network and loss


class Pixels(nn.Module):
    """A linear classifier of pixels, as somebody might try in a notebook."""

    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Linear(3 * 48 * 48, classes)

    def forward(self, images):
        return Output(self.layer(images.flatten(1)).log_softmax(dim=1))


def test_a_network_of_ones_own_trains_resumes_and_is_read_back(faces_dir, tmp_path):
    config = small(faces_dir, tmp_path, variant="pixels")
    faces = load_faces(config)
    classes = len(faces.class_names)
    run = start_run(config, faces.info)
    history = fit(faces, run, net=Pixels(classes))
    assert len(history) == config.epochs
    trained = load_model(run, net=Pixels(classes))
    state = run.load_checkpoint(run.best_checkpoint().stem)[0]
    assert torch.equal(trained.model.layer.weight, state["layer.weight"])
    with pytest.raises(ValueError, match=r"of a custom network \(pixels\), to be passed as net"):
        load_model(run)
    config = config.replace(robustness_images=4)
    told = evaluate_run(run, faces, config, run, net=Pixels(classes))
    assert set(told.predictions) == {"best_model", "best_ema_model"}
    for name, table in told.predictions.items():  # each with its own weights
        model = load_model(run.checkpoint(name), net=Pixels(classes)).model
        again = predict(model, faces.split("test"), config)
        np.testing.assert_allclose(table["p_fear"], again["p_fear"], atol=1e-6)
    write_report(told)
    assert load_evaluation(run).headline == told.headline


def test_another_network_than_the_one_that_was_trained_is_refused(faces_dir, tmp_path):
    config = small(faces_dir, tmp_path, variant="pixels")
    faces = load_faces(config)
    run = start_run(config, faces.info)
    fit(faces, run, net=Pixels(8), say=lambda line: run.ask_to_stop())
    with pytest.raises(
        ValueError,
        match=r"last\.safetensors is of another network than this one; pass the same net",
    ):
        fit(faces, run)
    child = Config.resolve(
        {"checkpoint_path": str(run.path), "finetune_name": "f", "variant": "pixels"},
        parent=run.config,
    )
    assert Config.resolve({"checkpoint_path": "x"}, parent=run.config).variant == ""
    other = dataclasses.replace(faces, class_names=(*faces.class_names[:-1], "boredom"))
    with pytest.raises(
        ValueError, match=r"knows the classes .* contempt, not .* boredom; which layers"
    ):
        fit(other, start_run(child, faces.info), net=Pixels(8))


def test_a_larger_micro_batch_after_a_stop_is_taken(faces_dir, tmp_path):
    config = small(faces_dir, tmp_path, micro_batch_size=4)
    faces = load_faces(config)
    run = start_run(config, faces.info)
    fit(faces, run, say=lambda line: run.ask_to_stop())
    larger = start_run(config.replace(micro_batch_size=16), faces.info)
    assert start_training(faces, larger).micro == 16
    tensors, facts = run.load_checkpoint(LAST)
    run.save_checkpoint(LAST, tensors, facts | {"micro": 2})  # memory ran out at 4
    assert start_training(faces, larger).micro == 2


def test_an_epoch_without_a_batch_is_refused(faces_dir, tmp_path):
    config = small(faces_dir, tmp_path, balanced_sampling=1)
    faces = load_faces(config)
    train = np.flatnonzero(faces.table["split"] == "train")
    one = train[faces.table["label"].to_numpy()[train] == 0][:2]
    val = np.flatnonzero(faces.table["split"] == "val")
    few = faces.take(np.concatenate([one, val]))
    run = start_run(config, faces.info)
    with pytest.raises(ValueError, match=r"2 training and \d+ validation faces are too few for 1"):
        start_training(few, run)


def test_the_share_of_an_epoch_is_of_the_faces_it_has(faces_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("grefel_lib.fit.SECONDS_BETWEEN_LINES", 0)
    config, said = small(faces_dir, tmp_path, balanced_sampling=20, epochs=1), []
    train(config.replace(warmup_epochs=0.1), said.append)
    shares = [int(line.partition(", ")[2].partition("%")[0]) for line in said if "%: loss" in line]
    assert shares == sorted(shares)
    assert shares[-1] == 100


def test_a_loss_of_ones_own_is_the_one_that_is_minimised(faces_dir, tmp_path):
    config = small(faces_dir, tmp_path, variant="constant", weight_decay=0)
    faces = load_faces(config)
    seen = []

    def constant(output, targets, config, class_weights=None):
        seen.append(len(targets))
        return {"loss": 0 * output.log_probs.sum() + 7, "half": torch.tensor(3.5)}

    run = start_run(config, faces.info)
    before = start_training(faces, run).net.state_dict()
    history = fit(faces, run, loss=constant)
    assert seen
    assert history["train_loss"].tolist() == [7.0] * config.epochs
    assert history["train_loss_half"].tolist() == [3.5] * config.epochs  # its own part is kept
    after = run.load_checkpoint(LAST)[0]
    assert torch.equal(after["model/head.anchors"], before["head.anchors"])


def test_what_is_ones_own_needs_a_name(faces_dir, tmp_path):
    config = small(faces_dir, tmp_path)
    faces = load_faces(config)
    run = start_run(config, faces.info)
    with pytest.raises(ValueError, match="needs a name: set variant"):
        fit(faces, run, net=Pixels(8))
    assert run.status() == "new"


def test_tensorboard_has_each_epoch_once_and_the_results(tiny):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def scalars(path):
        events = reading.EventAccumulator(str(path)).Reload()
        return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}

    config = tiny.replace(log="tensorboard", epochs=3, num_anchors=2)
    faces = load_faces(config)
    run = start_run(config, faces.info)
    fit(faces, run, say=lambda line: run.ask_to_stop())
    with event_writer(run, step=2) as killed:  # in its second epoch, before the checkpoint
        killed.add_scalar("train_loss", 99.0, 2)
    history = fit(faces, run)
    written = scalars(run.path / "tensorboard")
    assert written.keys() == set(history.columns)
    for tag in ("train_loss", "ema_val_accuracy", "lr"):
        assert [event.step for event in written[tag]] == [1, 2, 3]
        values = [event.value for event in written[tag]]
        np.testing.assert_allclose(values, history[tag], rtol=1e-6)

    quick = config.replace(robustness_images=0, inspect_labels=False)
    evaluation = evaluate_run(run, faces, quick, run)
    for _ in range(2):  # a report again
        write_report(evaluation)
    for name, numbers in evaluation.metrics["checkpoints"].items():
        written = scalars(run.path / "tensorboard" / name)
        (accuracy,) = written["test_accuracy"]
        assert accuracy.value == pytest.approx(numbers["metrics"]["accuracy"])
        assert accuracy.step == numbers["epoch"]


def test_without_tensorboard_one_line_before_training(tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[tensorboard\]'$"):
        check_run(tiny.replace(log="tensorboard"))
    check_run(tiny)
