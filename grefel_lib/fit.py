"""Training, from the first batch to the last checkpoint. Start with `fit`, then `train_epoch`."""

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from grefel_lib.batches import augment, batch_loader, mix_batch, prepare_input, to_float
from grefel_lib.config import WITHOUT_WEIGHTS, Config
from grefel_lib.environment import autocast, keep_memory, memory_format, pick_device, progress_bar
from grefel_lib.faces import FEWEST, FaceSet, taught
from grefel_lib.files import reading
from grefel_lib.grefel import Output, build_model
from grefel_lib.losses import total_loss
from grefel_lib.metrics import compute_metrics, per_class_metrics
from grefel_lib.optim import (
    class_weights,
    epoch_batches,
    lr_factor,
    no_progress,
    parameter_groups,
    restore_training_state,
    training_state,
)
from grefel_lib.predict import predict_each
from grefel_lib.processes import (
    World,
    is_first_process,
    join_processes,
    launch_processes,
    under_torchrun,
)
from grefel_lib.restore import normalise_as, start_from
from grefel_lib.run import (
    BEST,
    BEST_EMA,
    LAST,
    Run,
    check_same_data,
    event_writer,
)

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 120  # within an epoch, when no progress bar is shown
Loss = Callable[[Output, Tensor, Config, Tensor | None], dict[str, Tensor]]


class NonFiniteLossError(ValueError):
    """A batch gave a loss or a gradient that is NaN or infinite."""


@dataclass
class Training:
    """The state of a training run; the checkpoint `last` stores what resuming needs."""

    run: Run
    train: FaceSet
    val: FaceSet
    world: World
    device: torch.device
    net: nn.Module
    ema: ModelEmaV3
    optimizer: torch.optim.Optimizer
    loss: Loss
    forward: Callable[[Tensor], Output]  # net, wrapped and compiled as configured
    parallel: nn.Module  # net, wrapped for several processes
    class_weights: Tensor | None  # (C,)
    updates_per_epoch: int
    micro: int  # faces held in memory at once; halved when memory runs out
    fewest: int  # smallest micro-batch the network can train on: batch norm needs two
    epoch: int = 0
    update: int = 0
    history: list[dict] = field(default_factory=list)

    def inputs(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The network input for a batch: augmented and mixed at source size, then resized.

        Args:
            images: (B, H, W[, 3]) uint8.
            targets: (B, C) distributions.

        Returns:
            This process's share of the batch: images (b, 3, S, S), normalised, and targets (b, C).
        """
        config, share = self.run.config, self.world.share(len(images))
        faces = augment(to_float(images, self.device), config.augmentation)
        faces, targets = mix_batch(
            faces,
            targets.to(self.device),
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
            prob=config.mix_prob,
        )
        faces = prepare_input(faces[share], config.image_size, self.net.mean, self.net.std)
        return faces.contiguous(memory_format=memory_format(config)), targets[share]

    def batches(self) -> list[np.ndarray]:
        """Index batches of one epoch: identical in every process, at least two faces for each."""
        batches = epoch_batches(self.train, self.run.config)
        return [b for b in batches if len(b) >= 2 * self.world.size]  # batch norm needs two


def fit(
    faces: FaceSet,
    run: Run,
    *,
    net: nn.Module | None = None,
    loss: Loss | None = None,
    say: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Train a run to its end, from the start or from its last checkpoint.

    With `processes` above 1, that many processes are started here (`launch_processes`).

    Args:
        faces: All splits; only train and val are used.
        run: From `start_run`; its config defines everything else.
        net: Your own network instead of the config's: normalised images (B, 3, S, S) in, a
            `grefel.Output` out. Set `variant` to name it.
        loss: Your own loss, with the arguments of `losses.total_loss`; it returns scalars by
            name, of which "loss" is minimised and the others go into the history. Name it with the
            setting `variant`.
        say: Called with a few lines of text after each epoch (e.g. `print`).

    Returns:
        The history, one row per epoch (columns: see outputs/README.md).

    Raises:
        NonFiniteLossError: A batch gave a NaN or infinite loss or gradient; its ids are listed, and
            the weights stay as they were before it.
        ProcessError: One of several processes failed.
        ValueError: A split is empty, the checkpoint to start from does not fit, or a network or
            loss passed in has no `variant` name.
    """
    config, say = run.config, say or log.info
    own = net is not None or loss is not None
    if own and not config.variant:
        raise ValueError("your own network or loss needs a name: set variant")
    if config.processes > 1 and not under_torchrun():
        if own:
            raise ValueError("your own network or loss trains in one process only: set processes=1")
        launch_processes(run, say=say)
        return run.history()
    first = is_first_process()  # the only one that writes files and logs
    say = say if first else lambda line: None
    with run.recording() if first else contextlib.nullcontext({}) as ending:
        if first:
            run.ask_to_stop(False)
        training = start_training(faces, run, net=net, loss=loss, say=say)
        events = event_writer(run, step=training.epoch + 1) if first and config.log else None
        while training.epoch < config.epochs:
            if no_progress(training.history, config.early_stopping):
                say(f"no better validation accuracy for {config.early_stopping} epochs: stopping")
                break
            started = time.perf_counter()
            row = train_epoch(training, say) | validate(training)
            row["seconds"] = time.perf_counter() - started
            training.history.append(row)
            if events:  # before the checkpoint: what is not saved is written again
                for name, value in row.items():
                    events.add_scalar(name, value, training.epoch)
                events.flush()
            if first:
                save(training)
            say(epoch_lines(training.history, config.epochs))
            stop_requested = any(training.world.gathered(run.asked_to_stop))
            if stop_requested and training.epoch < config.epochs:
                again = "call fit as before" if own else f"grefel train --resume {run.name}"
                say(f"stopped on request; to continue: {again}")
                ending["status"] = "stopped"
                break
        if first:
            run.ask_to_stop(False)
    return pd.DataFrame(training.history)


def start_training(
    faces: FaceSet,
    run: Run,
    *,
    net: nn.Module | None = None,
    loss: Loss | None = None,
    say: Callable[[str], None] = log.info,
) -> Training:
    """Build the model and everything that trains it; load the last checkpoint, if any.

    Arguments and errors are those of `fit`.
    """
    config = run.config
    train, val = taught(faces.split("train"), config), faces.split("val")
    for name, part in (("train", train), ("val", val)):
        if len(part) < FEWEST:
            raise ValueError(
                f"the {name} split has {len(part)} faces; at least {FEWEST} are needed"
            )
    world, device = join_processes(pick_device(config.device))
    prints = world.gathered(faces.info.get("fingerprint"))
    if len(set(prints)) > 1:
        raise ValueError(
            f"the processes have different faces (fingerprints {', '.join(map(str, prints))}); "
            f"give every machine the same files"
        )
    if device.type == "cpu":
        keep_memory()
    resumed = run.has_checkpoint(LAST)

    torch.manual_seed(config.seed)
    if net is None:
        source = config.replace(**WITHOUT_WEIGHTS) if resumed else config
        net = build_model(source, len(faces.class_names))
    normalise_as(net)
    if config.checkpoint_path and not resumed:
        start_from(net, run.parent_checkpoint(), faces.class_names, say=say)
    net.to(device, memory_format=memory_format(config))
    ema = ModelEmaV3(net, decay=config.ema_decay, use_warmup=True, warmup_power=0.9)
    ema.module.to(memory_format=memory_format(config))
    parallel = DistributedDataParallel(net) if world.size > 1 else net  # averages the gradients
    weights = class_weights(train, config)
    fewest = 1 + any(isinstance(module, _BatchNorm) for module in net.modules())
    if 0 < config.micro_batch_size < fewest:
        raise ValueError(
            f"micro_batch_size is {config.micro_batch_size}, but {config.backbone} has batch norm, "
            f"which cannot train on a single face; use at least {fewest}"
        )
    training = Training(
        run, train, val, world, device, net, ema, loss=loss or total_loss,
        optimizer=torch.optim.AdamW(parameter_groups(net, config), lr=config.lr),
        forward=torch.compile(parallel) if config.compile else parallel,
        parallel=parallel,
        class_weights=None if weights is None else weights.to(device),
        updates_per_epoch=0,
        micro=config.micro_batch_size or config.batch_size,
        fewest=fewest,
    )  # fmt: skip
    torch.manual_seed(config.seed)
    training.updates_per_epoch = len(training.batches())
    if not training.updates_per_epoch or len(val) < world.size:
        raise ValueError(
            f"{len(train)} training and {len(val)} validation faces are too few for {world.size} "
            f"processes, batches of {config.batch_size} and balanced_sampling="
            f"{config.balanced_sampling}"
        )

    if resumed:
        check_same_data(run, faces.info)
        run.check_folder(BEST, BEST_EMA)
        tensors, facts = run.load_checkpoint(LAST)
        with reading(run.checkpoint(LAST)):
            try:
                restore_training_state(tensors, net, ema.module, training.optimizer)
            except RuntimeError as error:
                raise ValueError(
                    f"{run.checkpoint(LAST)} is of another network than this one; pass the same "
                    f"net, or take another run name: {str(error).splitlines()[-1].strip()}"
                ) from error
            own = training.loss is not total_loss
            if facts.get("own_loss", own) != own:  # older checkpoints do not say
                kind = "the usual loss" if own else "a loss of its own"
                raise ValueError(f"run {run.name} has learned with {kind} so far; continue it with "
                                 f"the same, or take another run name")  # fmt: skip
            training.epoch, training.update = facts["epoch"], facts["update"]
            training.history = facts["history"]
            before = Config.from_dict(facts["config"])
            if facts["micro"] < (before.micro_batch_size or before.batch_size):  # memory ran out
                training.micro = min(training.micro, facts["micro"])
        if is_first_process():
            run.write_table(pd.DataFrame(training.history), "history.csv")
        say(f"continuing {run.name} after epoch {training.epoch}")
    return training


def train_epoch(training: Training, say: Callable[[str], None]) -> dict:
    """Train for one epoch.

    Returns:
        The epoch's history row, without validation.
    """
    net, optimizer, config = training.net, training.optimizer, training.run.config
    world, device, epoch = training.world, training.device, training.epoch
    torch.manual_seed(_seed(config.seed, epoch))
    net.train()
    head = getattr(net, "head", None)
    if config.correction == "trust" and head is not None:
        head.trust = training.ema.module.head.trust = (
            epoch / (config.epochs - 1) if config.epochs > 1 else 1.0
        )
    loader = batch_loader(
        training.train,
        training.batches(),
        num_workers=config.num_workers,
        pin=device.type == "cuda",
    )
    faces = sum(map(len, loader.dataset))
    bar = progress_bar(faces, f"epoch {epoch + 1}/{config.epochs}", unit=" faces")
    sums, count = Counter(), 0
    started = last_line = time.perf_counter()
    for images, targets, batch in loader:
        # learning rate: linear warm-up, then cosine
        factor = lr_factor(
            training.update,
            config.epochs * training.updates_per_epoch,
            round(config.warmup_epochs * training.updates_per_epoch),
        )
        for group in optimizer.param_groups:
            group["lr"] = config.lr * factor * group["scale"]

        # inputs, augmented and mixed; gradients, and their norm before clipping
        inputs, targets = training.inputs(images, targets)
        with world.own_draws(device, _seed(config.seed, training.update, world.rank)):
            parts = backward(training, inputs, targets, len(batch), say)
        norm = nn.utils.clip_grad_norm_(net.parameters(), config.grad_clip or math.inf).item()
        values = world.total(torch.stack(list(parts.values()))).tolist()
        parts = dict(zip(parts, values, strict=True))
        if not (math.isfinite(parts["loss"]) and math.isfinite(norm)):
            optimizer.zero_grad(set_to_none=True)
            ids = ", ".join(training.train.table["id"].iloc[batch])
            raise NonFiniteLossError(
                f"the loss is {parts['loss']:.3g} and the norm of its gradient {norm:.3g} in epoch "
                f"{epoch + 1}, update "
                f"{training.update + 1}; nothing was updated. Lower lr, use precision=fp32, or "
                f"look at these images: {ids}"
            )

        # update
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        training.update += 1
        if is_first_process():
            training.ema.update(net, step=training.update)

        # record
        count += len(batch)
        sums["correct"] += parts.pop("correct")
        sums["norm"] += norm * len(batch)
        for name, value in parts.items():
            sums[name] += value * len(batch)
        lr, loss, accuracy = config.lr * factor, sums["loss"] / count, sums["correct"] / count
        now = time.perf_counter()
        left = (config.epochs - epoch) * faces / count - 1  # of the run, in units of what is done
        left = bar.format_interval(left * (now - started))
        bar.set_postfix_str(
            f"whole run {left}, loss {loss:.3f}, acc {accuracy:.1%}, lr {lr:.1e}", False
        )
        bar.update(len(batch))
        if bar.disable and now > last_line + SECONDS_BETWEEN_LINES:
            last_line = now
            say(
                f"  epoch {epoch + 1}, {count / faces:.0%}: loss {loss:.3f}, "
                f"accuracy {accuracy:.2%}, lr {lr:.1e}, {count / (now - started):.0f} images/s"
            )
    bar.close()
    seconds = time.perf_counter() - started
    training.epoch += 1
    row = {"epoch": training.epoch, "lr": lr, "train_loss": loss}
    row |= {
        f"train_loss_{name}": sums[name] / count for name in parts if name != "loss" and sums[name]
    }
    row |= {"grad_norm": sums["norm"] / count, "train_accuracy": accuracy}
    return row | {"images_per_second": count / seconds}


def backward(
    training: Training, inputs: Tensor, targets: Tensor, whole: int, say: Callable[[str], None]
) -> dict[str, Tensor]:
    """Gradients of this process's faces, in micro-batches; halved when memory runs out.

    Args:
        training: Its network gets the gradients.
        inputs: (B, 3, S, S) this process's faces.
        targets: (B, C) distributions.
        whole: Number of faces in the batch, over all processes.
        say: Called with a message when memory runs out.

    Returns:
        loss and its parts (contribution of these faces to the batch mean) and correct (a count).
    """
    while True:
        try:
            return _accumulate(training, inputs, targets, whole)
        except torch.OutOfMemoryError as error:
            training.optimizer.zero_grad(set_to_none=True)
            if training.world.size > 1:  # the other processes are blocked in the all-reduce
                raise ValueError(
                    f"out of memory; with several processes, set micro_batch_size below "
                    f"{min(training.micro, len(inputs))} from the start"
                ) from error
            if training.micro <= training.fewest:
                raise
            training.micro = max(training.fewest, min(training.micro, len(inputs)) // 2)
            log.debug("out of memory: %s", error)
            say(
                f"out of memory: micro-batches of {training.micro} from here on, the effective "
                f"batch size stays {training.run.config.batch_size}"
            )
            if training.device.type == "cuda":
                torch.cuda.empty_cache()


def _accumulate(
    training: Training, inputs: Tensor, targets: Tensor, whole: int
) -> dict[str, Tensor]:
    config, world, totals = training.run.config, training.world, {}
    count = min(-(-len(inputs) // training.micro), len(inputs) // training.fewest)
    pieces = zip(inputs.tensor_split(count), targets.tensor_split(count), strict=True)
    for number, (faces, wanted) in enumerate(pieces, start=1):
        share = len(faces) / whole
        synchronise = number == count or world.size == 1
        with contextlib.nullcontext() if synchronise else training.parallel.no_sync():
            with autocast(config, training.device):
                output = training.forward(faces)
            parts = training.loss(output, wanted, config, training.class_weights)
            # DDP averages the gradients, but the shares of the processes add up to one
            (parts["loss"] * share * world.size).backward()
        predicted = output.log_probs.detach().argmax(dim=1)
        correct = (predicted == wanted.argmax(dim=1)).sum()
        values = {name: value.detach() * share for name, value in parts.items()}
        for name, value in (values | {"correct": correct}).items():
            totals[name] = totals.get(name, 0) + value
    return totals


def validate(training: Training) -> dict[str, float]:
    """Score the validation faces with both sets of weights; each process scores its share."""
    world, val = training.world, training.val
    nets = {"": training.net, "ema_": training.ema.module}
    for net in nets.values():
        world.from_first(net)
    share = val.take(np.arange(len(val))[world.share(len(val))])
    row: dict[str, float] = {}
    config = training.run.config.replace(micro_batch_size=training.micro)
    for prefix, part in predict_each(nets, share, config).items():
        table = pd.concat(world.gathered(part), ignore_index=True)
        metrics = compute_metrics(table)
        row[f"{prefix}val_loss"] = metrics["nll"]
        row[f"{prefix}val_accuracy"] = metrics["accuracy"]
        row[f"{prefix}val_macro_f1"] = metrics["macro_f1"]
        recalls = per_class_metrics(table).set_index("class")["recall"]
        row |= {f"{prefix}val_accuracy_{name}": recalls[name] for name in recalls.dropna().index}
    return row


def save(training: Training) -> None:
    """Write history.csv and the checkpoints: last, and best_model and best_ema_model if better."""
    run, history, row = training.run, training.history, training.history[-1]
    run.check_folder(*(BEST, BEST_EMA) * (len(history) > 1))
    head = getattr(training.net, "head", None)
    facts = {
        "config": run.config.to_dict(),
        "class_names": list(training.train.class_names),
        "face_shape": list(training.train.images.shape[1:]),
        "epoch": training.epoch,
        "trust": getattr(head, "trust", 1.0),
    }
    state = training.net.state_dict()
    for name, key, tensors in (
        (BEST, "val_accuracy", state),
        (BEST_EMA, "ema_val_accuracy", training.ema.module.state_dict()),
    ):
        best = max(history, key=lambda past, key=key: past[key])  # the earliest on ties
        if best is row:
            run.save_checkpoint(name, tensors, facts | {"val_accuracy": row[key]})
    facts["val_accuracy"] = row["val_accuracy"]
    every = run.config.save_every
    if every and training.epoch % every == 0:
        run.save_checkpoint(f"epoch_{training.epoch:04d}", state, facts)
    facts |= {"update": training.update, "micro": training.micro, "history": history}
    facts["own_loss"] = training.loss is not total_loss
    tensors = training_state(training.net, training.ema.module, training.optimizer)
    run.save_checkpoint(LAST, tensors, facts)
    run.write_table(pd.DataFrame(history), "history.csv")


def epoch_lines(history: list[dict], epochs: int) -> str:
    """Summary of the last epoch of a history, in four lines."""
    row = history[-1]
    best = {k: max(history, key=lambda past: past[k]) for k in ("val_accuracy", "ema_val_accuracy")}

    def with_best(key: str) -> str:
        top = best[key]
        return f"{row[key]:6.2%} (best {top[key]:6.2%}, epoch {top['epoch']})"

    prefix = "ema_val_accuracy_"
    names = [name.removeprefix(prefix) for name in row if name.startswith(prefix)]
    classes = "  ".join(f"{name[:9]} {100 * row[prefix + name]:.0f}" for name in names)
    total = row["train_loss"]
    loss = row.get("train_loss_cls", total)  # the part that validation has, too
    terms = f" (with all terms {total:.3f})" if abs(total - loss) > 5e-4 else ""
    return (
        f"epoch {row['epoch']}/{epochs}  lr {row['lr']:.1e}  grad norm "
        f"{row['grad_norm']:.2f}  {row['seconds']:.0f} s, {row['images_per_second']:.0f} images/s\n"
        f"  loss      train {loss:.3f}{terms}  val {row['val_loss']:.3f}  "
        f"EMA {row['ema_val_loss']:.3f}\n"
        f"  accuracy  train {row['train_accuracy']:6.2%}  val {with_best('val_accuracy')}  "
        f"EMA {with_best('ema_val_accuracy')}\n"
        f"  EMA recall %  {classes}"
    )


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
