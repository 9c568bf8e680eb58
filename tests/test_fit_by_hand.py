"""One training on a few grey faces: every number of its history, and every file, by hand."""

import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from grey_faces import grey_faces, new_run

from grefel_lib import fit as fitting
from grefel_lib.config import Config
from grefel_lib.fit import (
    NonFiniteLossError,
    backward,
    epoch_lines,
    fit,
    save,
    start_training,
    train_epoch,
    validate,
)
from grefel_lib.losses import total_loss
from grefel_lib.metrics import compute_metrics, per_class_metrics
from grefel_lib.predict import predict
from grefel_lib.processes import World
from grefel_lib.run import BEST, BEST_EMA, LAST

CLASSES = 4


@pytest.fixture
def config(tmp_path):
    return Config(
        backbone="test_resnet", backbone_weights="none", image_size=32, embedding_dim=16,
        attention_heads=2, num_anchors=2, batch_size=8, epochs=3, warmup_epochs=0, drop_rate=0,
        augmentation="none", mix_prob=0, lr=1e-3, ema_decay=0.5, save_every=0, grad_clip=0,
        output_dir=str(tmp_path), run_name="r",
    )  # fmt: skip


@pytest.fixture
def faces():
    return grey_faces(18, 7, classes=CLASSES)  # batches of 8, 8 and 2


def start(config, faces, tmp_path, **options):
    return start_training(faces, new_run(tmp_path / "r", config), **options)


# -- an epoch


def test_the_history_holds_means_over_faces_not_over_batches(config, faces, tmp_path):
    training = start(config, faces, tmp_path)
    seen, norms, step = [], [], training.optimizer.step

    def watched(output, targets, *rest):
        parts = total_loss(output, targets, *rest)
        right = (output.log_probs.argmax(dim=1) == targets.argmax(dim=1)).sum().item()
        seen.append((len(targets), right, {k: v.item() for k, v in parts.items()}))
        return parts

    def stepped(*arguments):
        norms.append(
            math.sqrt(sum(p.grad.square().sum().item() for p in training.net.parameters()))
        )
        assert training.net.training
        return step(*arguments)

    training.loss, training.optimizer.step = watched, stepped
    row = train_epoch(training, print)
    sizes = [size for size, *_ in seen]
    assert sorted(sizes) == [2, 8, 8]

    def mean(values):
        return sum(n * v for n, v in zip(sizes, values, strict=True)) / 18

    assert row["epoch"] == training.epoch == 1
    assert training.update == 3
    assert row["lr"] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 2 / 9)) / 2)
    assert row["train_loss"] == pytest.approx(mean([parts["loss"] for *_, parts in seen]))
    for part in ("cls", "branch", "anchor", "center", "rel"):
        by_hand = mean([parts[part] for *_, parts in seen])
        assert row[f"train_loss_{part}"] == pytest.approx(by_hand)
    assert row["train_accuracy"] == sum(right for _, right, _ in seen) / 18
    assert row["grad_norm"] == pytest.approx(mean(norms), rel=1e-4)
    assert row["images_per_second"] > 0
    assert len(row) == 11
    row = train_epoch(training, print)
    assert row["epoch"] == training.epoch == 2
    assert row["lr"] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 5 / 9)) / 2)
    assert all(p.grad is None for p in training.net.parameters())


def test_the_speed_is_that_of_the_epoch(config, faces, tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    row = train_epoch(start(config, faces, tmp_path), print)
    assert row["images_per_second"] == pytest.approx(18 / 8)  # start, three batches, end


def test_averaged_weights_start_as_copies_and_are_averaged_ever_longer(config, faces, tmp_path):
    """EMA warm-up, worked by hand: decay 0 at the first update, then 1 - (1 + n) ** -0.9."""
    training = start(config.replace(ema_decay=0.9999), faces, tmp_path)
    seen, update = [], training.ema.update

    def watched(net, **step):
        seen.append(net.head.primary[-1].weight.detach().clone())
        update(net, **step)

    training.ema.update = watched
    for _ in range(2):
        train_epoch(training, print)
    by_hand = seen[0]
    for n, weight in enumerate(seen[1:], start=1):
        decay = 1 - (1 + n) ** -0.9
        by_hand = decay * by_hand + (1 - decay) * weight
    averaged = training.ema.module.head.primary[-1].weight
    assert len(seen) == 6
    torch.testing.assert_close(averaged, by_hand, rtol=1e-5, atol=1e-8)


def test_the_time_left_is_that_of_all_faces_still_to_come(config, faces, tmp_path, monkeypatch):
    told, clock = [], iter(range(100, 1000, 2))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    bar = SimpleNamespace(
        disable=False, format_interval=lambda seconds: told.append(seconds), update=print,
        set_postfix_str=lambda *words: None, close=lambda: None,
    )  # fmt: skip
    monkeypatch.setattr(fitting, "progress_bar", lambda *_, **__: bar)
    train_epoch(start(config, faces, tmp_path), print)
    sizes = np.cumsum([8, 8, 2])
    passed = np.array([2, 4, 6])  # seconds: one look at the clock a batch, two seconds apart
    np.testing.assert_allclose(told, passed * (3 * 18 - sizes) / sizes)


def test_a_loss_without_parts_has_no_columns_of_parts(config, faces, tmp_path):
    config = config.replace(correction="none", lambda_rel=0)
    row = train_epoch(start(config, faces, tmp_path), print)
    assert [name for name in row if name.startswith("train_loss")] == [
        "train_loss", "train_loss_cls"
    ]  # fmt: skip


def test_headless_a_long_epoch_says_how_it_goes(config, faces, tmp_path, monkeypatch):
    said = []
    monkeypatch.setenv("GREFEL_PROGRESS", "0")
    train_epoch(start(config, faces, tmp_path), said.append)
    assert said == []  # not within two minutes
    monkeypatch.setattr(fitting, "SECONDS_BETWEEN_LINES", -1)
    training = start(config, faces, tmp_path)
    row = train_epoch(training, said.append)
    shares = [line.split(":")[0] for line in said]
    assert shares == ["  epoch 1, 44%", "  epoch 1, 89%", "  epoch 1, 100%"]
    assert f"loss {row['train_loss']:.3f}, accuracy {row['train_accuracy']:.2%}" in said[-1]
    assert f"lr {row['lr']:.1e}" in said[-1]
    assert said[-1].endswith(" images/s")
    monkeypatch.setenv("GREFEL_PROGRESS", "1")  # a bar says it
    said.clear()
    train_epoch(start(config, faces, tmp_path), said.append)
    assert said == []


def test_trust_grows_from_nothing_to_all_in_both_sets_of_weights(config, faces, tmp_path):
    training = start(config.replace(correction="trust"), faces, tmp_path)
    for trust in (0, 0.5, 1):
        train_epoch(training, print)
        assert training.net.head.trust == training.ema.module.head.trust == trust
    training = start(config.replace(correction="trust", epochs=1), faces, tmp_path)
    train_epoch(training, print)
    assert training.net.head.trust == 1  # of a single epoch: what is saved is corrected
    training = start(config, faces, tmp_path)
    train_epoch(training, print)
    assert training.net.head.trust == 1


def test_a_loss_that_is_no_number_updates_nothing_and_names_the_images(config, faces, tmp_path):
    training = start(config, faces, tmp_path)
    train_epoch(training, print)
    before = {k: v.clone() for k, v in training.net.state_dict().items() if "running" not in k}
    calls = []

    def spoiled(output, targets, *rest):
        calls.append(len(targets))
        parts = total_loss(output, targets, *rest)
        return parts | {"loss": parts["loss"] * (math.inf if len(calls) == 1 else 1)}

    training.loss = spoiled
    order = []
    batches = training.batches
    training.batches = lambda: order.extend(batches()) or order
    match = (
        r"^the loss is inf and the norm of its gradient nan in epoch 2, update 4; nothing was "
        r"updated\. Lower lr, use precision=fp32, or look at these images: (.*)$"
    )
    with pytest.raises(NonFiniteLossError, match=match) as error:
        train_epoch(training, print)
    ids = str(error.value).rpartition(": ")[2].split(", ")
    assert ids == [f"train_{i}" for i in order[0]]
    for name, value in before.items():
        if "num_batches" not in name:
            assert torch.equal(training.net.state_dict()[name], value), name
    assert all(p.grad is None for p in training.net.parameters())


# -- gradients in parts


def gradients(training, images, targets, whole):
    training.optimizer.zero_grad()
    parts = backward(training, images, targets, whole, print)
    return parts, [p.grad.clone() for p in training.net.head.primary.parameters()]


def test_a_share_of_a_batch_gives_its_share_of_the_mean(config, faces, tmp_path):
    training = start(config, faces, tmp_path)
    training.net.eval()  # no batch norm over the part
    images, targets = torch.randn(6, 3, 32, 32), torch.eye(CLASSES)[[0, 1, 2, 3, 0, 1]]
    whole, full = gradients(training, images, targets, 6)
    first, one = gradients(training, images[:2], targets[:2], 6)
    second, other = gradients(training, images[2:], targets[2:], 6)
    for name in ("loss", "cls", "center", "rel"):
        torch.testing.assert_close(first[name] + second[name], whole[name])
    assert first["correct"] + second["correct"] == whole["correct"]
    for a, b, c in zip(one, other, full, strict=True):
        torch.testing.assert_close(a + b, c, rtol=1e-4, atol=1e-6)
    assert not whole["loss"].requires_grad


NETWORKS = {"batch norm": ("test_resnet", 32), "no batch norm": ("test_vit", 64)}


@pytest.mark.parametrize(("network", "memory", "sizes"), [
    ("batch norm", 5, [4, 4]), ("batch norm", 3, [2] * 4), ("no batch norm", 1, [1] * 8),
])  # fmt: skip
def test_without_memory_the_parts_are_halved_until_they_fit(
    config, faces, tmp_path, network, memory, sizes
):
    backbone, side = NETWORKS[network]
    config = config.replace(backbone=backbone, image_size=side)
    training, said, seen = start(config, faces, tmp_path), [], []
    forward = training.forward

    def small_memory(images):
        if len(images) > memory:
            raise torch.OutOfMemoryError("pretend")
        seen.append(len(images))
        return forward(images)

    training.forward, training.micro = small_memory, 100
    images, targets = torch.randn(8, 3, side, side), torch.eye(CLASSES).repeat(2, 1)
    backward(training, images, targets, 8, said.append)
    assert seen == sizes
    assert training.micro == sizes[0]
    assert said == [
        f"out of memory: micro-batches of {n} from here on, the effective batch size stays 8"
        for n in (4, 2, 1) if n >= sizes[0]
    ]  # fmt: skip


@pytest.mark.parametrize(("network", "fewest"), [("batch norm", 2), ("no batch norm", 1)])
def test_when_not_even_the_fewest_faces_fit_the_error_is_torchs_own(
    config, faces, tmp_path, network, fewest
):
    backbone, side = NETWORKS[network]
    training = start(config.replace(backbone=backbone, image_size=side), faces, tmp_path)

    def no_memory(images):
        raise torch.OutOfMemoryError("pretend")

    training.forward = no_memory
    images = torch.randn(4, 3, side, side)
    with pytest.raises(torch.OutOfMemoryError, match="pretend"):
        backward(training, images, torch.eye(CLASSES), 4, print)
    assert training.micro == training.fewest == fewest
    training.world, training.micro = World(0, 2), 8
    with pytest.raises(ValueError, match="with several processes, set micro_batch_size below 4"):
        backward(training, images, torch.eye(CLASSES), 8, print)


@pytest.mark.parametrize(
    ("micro", "sizes"), [(8, [7]), (4, [4, 3]), (3, [3, 2, 2]), (2, [3, 2, 2])]
)
def test_parts_are_of_equal_size_and_never_a_single_face(config, faces, tmp_path, micro, sizes):
    training, seen = start(config, faces, tmp_path), []
    training.micro = micro
    training.net.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    backward(
        training, torch.randn(7, 3, 32, 32), torch.eye(CLASSES)[[0, 1, 2, 3, 0, 1, 2]], 7, print
    )
    assert seen == sizes


def test_batch_norm_refuses_parts_of_one_face(config, faces, tmp_path):
    with pytest.raises(ValueError, match="micro_batch_size is 1, but test_resnet has batch norm"):
        start(config.replace(micro_batch_size=1), faces, tmp_path)
    one = config.replace(micro_batch_size=1, backbone="test_vit", image_size=64)
    assert start(one, faces, tmp_path).micro == 1


def test_a_gradient_that_is_no_number_updates_nothing_either(config, faces, tmp_path):
    training = start(config, faces, tmp_path)
    before = training.net.head.anchors.detach().clone()
    training.net.head.anchors.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(
        NonFiniteLossError, match="the norm of its gradient nan in epoch 1, update 1"
    ):
        train_epoch(training, print)
    assert torch.equal(training.net.head.anchors, before)


def test_each_of_two_processes_gets_its_share_of_the_same_batch(config, faces, tmp_path):
    config = config.replace(augmentation="heavy", mix_prob=1)
    training = start(config, faces, tmp_path)
    indices = np.arange(7)
    images, targets = (torch.from_numpy(part) for part in (
        training.train.gather(indices), training.train.targets[indices]))  # fmt: skip
    shares = []
    for world in (World(), World(0, 2), World(1, 2)):
        training.world = world
        torch.manual_seed(3)
        shares.append(training.inputs(images, targets))
    for whole, first, second in zip(*shares, strict=True):
        torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=0)
        assert len(first) == 3
    assert shares[0][0].shape == (7, 3, 32, 32)


def test_a_batch_too_small_for_the_processes_is_left_out(config, faces, tmp_path):
    training = start(config, faces, tmp_path)  # 8, 8 and 2 faces
    for size, sizes in ((1, [8, 8, 2]), (2, [8, 8]), (4, [8, 8])):
        training.world = World(0, size)
        assert [len(batch) for batch in training.batches()] == sizes


# -- validation, and what is kept


def test_validation_scores_both_sets_of_weights(config, faces, tmp_path):
    training = start(config, faces, tmp_path)
    train_epoch(training, print)
    row = validate(training)
    for prefix, net in (("", training.net), ("ema_", training.ema.module)):
        table = predict(net, faces.split("val"), config)
        metrics, recalls = compute_metrics(table), per_class_metrics(table)
        assert row[f"{prefix}val_loss"] == metrics["nll"]
        assert row[f"{prefix}val_accuracy"] == metrics["accuracy"]
        assert row[f"{prefix}val_macro_f1"] == metrics["macro_f1"]
        for name, recall in zip(recalls["class"], recalls["recall"], strict=True):
            assert row[f"{prefix}val_accuracy_{name}"] == recall
    assert len(row) == 2 * (3 + CLASSES)
    assert row["val_loss"] != row["ema_val_loss"]


def history(*accuracies):
    return [
        {"epoch": i, "val_accuracy": a, "ema_val_accuracy": b}
        for i, (a, b) in enumerate(accuracies, start=1)
    ]


def test_the_best_are_kept_and_the_earlier_of_equals(config, faces, tmp_path):
    training = start(config.replace(save_every=2), faces, tmp_path)
    training.net.head.trust = 0.25
    run, rows = training.run, history((0.5, 0.2), (0.5, 0.3), (0.4, 0.3), (0.6, 0.1))
    expected = [(1, 1), (1, 2), (1, 2), (4, 2)]  # the epochs of the two best
    for row, epochs in zip(rows, expected, strict=True):
        training.epoch, training.update = row["epoch"], 10 * row["epoch"]
        training.history.append(row)
        with torch.no_grad():
            training.net.head.anchors.fill_(row["epoch"])
            training.ema.module.head.anchors.fill_(-row["epoch"])
        save(training)
        for name, epoch, key in zip((BEST, BEST_EMA), epochs, ("val", "ema_val"), strict=True):
            tensors, facts = run.load_checkpoint(name)
            assert (tensors["head.anchors"] == (epoch if name == BEST else -epoch)).all()
            assert tensors.keys() == training.net.state_dict().keys()
            assert len(facts.pop("sha256")) == 64
            assert facts == {
                "config": training.run.config.to_dict(), "class_names": ["c0", "c1", "c2", "c3"],
                "face_shape": [32, 32], "epoch": epoch, "trust": 0.25,
                "val_accuracy": rows[epoch - 1][f"{key}_accuracy"],
            }  # fmt: skip
        tensors, facts = run.load_checkpoint(LAST)
        assert facts["history"] == training.history
        assert (facts["update"], facts["micro"], facts["epoch"]) == (
            10 * row["epoch"], 8, row["epoch"]
        )  # fmt: skip
        assert (tensors["model/head.anchors"] == row["epoch"]).all()
        assert run.history().to_dict(orient="records") == training.history
    kept = sorted(p.stem for p in (run.path / "checkpoints").glob("epoch_*"))
    assert kept == ["epoch_0002", "epoch_0004"]
    tensors, facts = run.load_checkpoint("epoch_0002")
    assert (tensors["head.anchors"] == 2).all()
    assert facts["val_accuracy"] == 0.5


def test_a_network_of_ones_own_is_kept_with_full_trust(config, faces, tmp_path):
    training = start(config.replace(head="linear"), faces, tmp_path)
    training.epoch, training.history = 1, history((0.5, 0.5))
    save(training)
    assert training.run.load_checkpoint(BEST)[1]["trust"] == 1.0


def test_an_epoch_in_four_lines():
    shared = {"lr": 5e-5, "grad_norm": 1.25, "seconds": 60, "images_per_second": 400}
    shared |= {"train_loss": 1.5, "val_loss": 1.0, "ema_val_loss": 0.9, "train_accuracy": 0.6}
    rows = [
        {"epoch": e, "val_accuracy": v, "ema_val_accuracy": m} | shared
        | {"ema_val_accuracy_fear": 0.4, "ema_val_accuracy_sadly surprised": 1.0}
        for e, v, m in ((1, 0.7, 0.2), (2, 0.6, 0.65))
    ]  # fmt: skip
    assert epoch_lines(rows, 150).splitlines() == [
        "epoch 2/150  lr 5.0e-05  grad norm 1.25  60 s, 400 images/s",
        "  loss      train 1.500  val 1.000  EMA 0.900",
        "  accuracy  train 60.00%  val 60.00% (best 70.00%, epoch 1)  "
        "EMA 65.00% (best 65.00%, epoch 2)",
        "  EMA recall %  fear 40  sadly sur 100",
    ]
    rows[-1]["train_loss_cls"] = 0.8  # the part that can be compared with validation
    line = "  loss      train 0.800 (with all terms 1.500)  val 1.000  EMA 0.900"
    assert epoch_lines(rows, 150).splitlines()[1] == line


# -- a whole training


def test_a_run_from_its_first_line_to_its_last(config, faces, tmp_path):
    said, run = [], new_run(tmp_path / "r", config)
    run.ask_to_stop()  # of an earlier training: withdrawn
    rows = fit(faces, run, say=said.append)
    assert run.status() == "ok"
    assert rows["epoch"].tolist() == run.history()["epoch"].tolist() == [1, 2, 3]
    assert (rows["seconds"] > 0).all()
    assert [text.split("  ")[0] for text in said] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert not run.asked_to_stop
    assert "val_accuracy" in rows
    assert "train_loss" in rows


def test_a_run_that_is_asked_to_stop_ends_after_its_epoch_and_goes_on(config, faces, tmp_path):
    said, run = [], new_run(tmp_path / "r", config)

    def ask(text):
        said.append(text)
        if len(said) == 1:
            run.ask_to_stop()

    assert len(fit(faces, run, say=ask)) == 1
    assert said[-1] == f"stopped on request; to continue: grefel train --resume {run.name}"
    assert run.status() == "stopped"
    assert not run.asked_to_stop
    said.clear()
    assert len(fit(faces, run, say=said.append)) == 3
    assert said[0] == f"continuing {run.name} after epoch 1"
    assert run.status() == "ok"


def mine(*arguments):
    return total_loss(*arguments)


def test_a_run_goes_on_with_the_loss_it_began_with(config, faces, tmp_path):
    said, config = [], config.replace(variant="mine")
    for first, then, kind in ((mine, None, "a loss of its own"), (None, mine, "the usual loss")):
        run = new_run(tmp_path / kind, config)

        def stop(text, run=run):
            said.append(text)
            run.ask_to_stop()

        fit(faces, run, loss=first, say=stop)
        assert run.status() == "stopped"
        with pytest.raises(ValueError, match=f"has learned with {kind} so far"):
            fit(faces, run, loss=then)
        assert len(fit(faces, run, loss=first)) == 3
    again = [text for text in said if "to continue" in text]
    assert again[0].endswith("to continue: call fit as before")
    assert again[1].endswith(f"to continue: grefel train --resume {run.name}")


def test_asked_to_stop_in_the_last_epoch_it_is_finished(config, faces, tmp_path):
    run = new_run(tmp_path / "r", config.replace(epochs=1))
    fit(faces, run, say=lambda text: run.ask_to_stop())
    assert run.status() == "ok"
    assert not run.asked_to_stop


def test_early_stopping_says_why(config, faces, tmp_path, monkeypatch):
    score = {"val_accuracy": 0.5, "ema_val_accuracy": 0.5}
    monkeypatch.setattr(fitting, "validate", lambda training: validate(training) | score)
    said, run = [], new_run(tmp_path / "r", config.replace(epochs=9, early_stopping=2))
    assert len(fit(faces, run, say=said.append)) == 3
    assert said[-1] == "no better validation accuracy for 2 epochs: stopping"
    assert run.status() == "ok"
    assert len(fit(faces, run, say=said.append)) == 3, "cut short after its training: no new epoch"


def test_a_resumed_training_has_the_weights_counts_and_history_of_the_stopped_one(
    config, faces, tmp_path
):
    straight = start(config, faces, tmp_path)
    straight.micro = 3  # memory ran out
    straight.history.append(train_epoch(straight, print) | validate(straight))
    save(straight)
    (straight.run.path / "history.csv").write_text("half written")
    said = []
    resumed = start(
        config.replace(backbone_weights="gone.pth"), faces, tmp_path, say=said.append
    )  # the backbone's first weights are not looked for again
    assert said == [f"continuing {resumed.run.name} after epoch 1"]
    assert (resumed.epoch, resumed.update, resumed.micro) == (1, 3, 3)
    assert resumed.history == straight.history
    assert resumed.run.history()["epoch"].tolist() == [1]
    smaller = start(config.replace(micro_batch_size=2), faces, tmp_path)
    assert smaller.micro == 2
    for name, value in straight.net.state_dict().items():
        assert torch.equal(resumed.net.state_dict()[name], value), name
    for name, value in straight.ema.module.state_dict().items():
        assert torch.equal(resumed.ema.module.state_dict()[name], value), name
    ours, theirs = train_epoch(resumed, print), train_epoch(smaller, print)
    straight.micro = 3
    assert ours["train_loss"] == train_epoch(straight, print)["train_loss"]
    assert theirs["epoch"] == 2


@pytest.mark.parametrize(("train", "val", "match"), [
    (1, 7, "the train split has 1 faces; at least 2 are needed"),
    (18, 1, "the val split has 1 faces; at least 2 are needed"),
])  # fmt: skip
def test_a_split_of_one_face_is_refused(config, tmp_path, train, val, match):
    with pytest.raises(ValueError, match=match):
        fit(grey_faces(train, val, classes=CLASSES), new_run(tmp_path / "r", config))
    assert json.loads((tmp_path / "r/status.json").read_text())["status"] == "failed"
    start(config, grey_faces(2, 2, classes=CLASSES), tmp_path)


def test_what_is_ones_own_trains_in_one_process(config, faces, tmp_path):
    run = new_run(tmp_path / "r", config.replace(processes=2, variant="mine"))
    match = "your own network or loss trains in one process only: set processes=1"
    with pytest.raises(ValueError, match=match):
        fit(faces, run, loss=total_loss)
    with pytest.raises(ValueError, match="needs a name: set variant"):
        fit(faces, new_run(tmp_path / "r", config), loss=total_loss)


def test_every_epoch_has_draws_of_its_own_and_a_resumed_one_the_same(config, faces, tmp_path):
    orders = []
    for _ in range(2):
        training = start(config, faces, tmp_path)
        batches = training.batches
        training.batches = lambda b=batches: orders.append(b()) or orders[-1]
        train_epoch(training, print)
        torch.rand(5)  # whatever is drawn between two epochs
        train_epoch(training, print)
    first, second, again, last = (np.concatenate(order).tolist() for order in orders)
    assert first != second
    assert (again, last) == (first, second)
    assert pd.Series(first).is_unique
