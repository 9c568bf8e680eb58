"""fit: EMA, schedule, mixing, accumulation, checkpoints, resume, several processes."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from grefel_lib import (
    augment,
    distributed,
    environment,
    evaluation,
    losses,
    metrics,
    model,
    optim,
    report,
    resuming,
    runs,
)
from grefel_lib.config import WITHOUT_WEIGHTS
from grefel_lib.datasets import FaceSet

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 120  # within an epoch, when nobody sees the bar
PARTS = ("cls", "branch", "anchor", "center", "rel")


class NonFiniteLossError(ValueError):
    """A batch gave a loss that is NaN or infinite."""


class _Trainer:
    """One training run's state; `fit` drives it."""

    def __init__(self, faces: FaceSet, run: runs.Run, say: Callable[[str], None]) -> None:
        self.run, self.config = run, run.config
        self.train, self.val = faces.split("train"), faces.split("val")
        for name, part in (("train", self.train), ("val", self.val)):
            if len(part) < 2:
                raise ValueError(f"the {name} split has {len(part)} faces; at least 2 are needed")
        config = self.config
        self.world, self.device = distributed.join(evaluation.pick_device(config.device))
        if self.device.type == "cpu":
            environment.keep_memory()
        self.first = self.world.rank == 0  # the one that writes and speaks
        self.say = say if self.first else lambda line: None
        torch.manual_seed(config.seed)
        start = config.replace(**WITHOUT_WEIGHTS) if run.has_checkpoint(runs.LAST) else config
        self.net = model.build(start, len(faces.class_names))
        if config.checkpoint_path and not run.has_checkpoint(runs.LAST):
            resuming.start_from(
                self.net, config.checkpoint_path, faces.class_names,
                output_dir=config.output_dir, say=self.say,
            )  # fmt: skip
        memory = torch.channels_last if config.channels_last else torch.contiguous_format
        self.net.to(self.device, memory_format=memory)
        self.parallel = self.net
        if self.world.size > 1:
            self.parallel = DistributedDataParallel(self.net)  # it averages the gradients
        self.forward = torch.compile(self.parallel) if config.compile else self.parallel
        self.ema = ModelEmaV3(self.net, decay=config.ema_decay, use_warmup=True, warmup_power=0.9)
        self.ema.module.to(memory_format=memory)
        self.optimizer = torch.optim.AdamW(optim.parameter_groups(self.net, config), lr=config.lr)
        self.weights = None
        if config.class_weights == "balanced":
            self.weights = optim.class_weights(self.train).to(self.device)
        self.micro = config.micro_batch_size or config.batch_size
        self.epoch, self.update, self.history = 0, 0, []
        torch.manual_seed(config.seed)
        self.per_epoch = len(self._order())
        if run.has_checkpoint(runs.LAST):
            self._resume()

    def _order(self) -> list[np.ndarray]:
        """The epoch's batches: the same in every process, and a face or two for each."""
        batches = optim.epoch_batches(self.train, self.config)
        return [b for b in batches if len(b) >= 2 * self.world.size]  # batch norm needs two

    # -- checkpoints

    def _facts(self, **more: object) -> dict:
        trust = self.net.head.trust if self.net.head is not None else 1.0
        return {
            "config": dataclasses.asdict(self.config),
            "class_names": list(self.train.class_names),
            "epoch": self.epoch,
            "trust": trust,
            **more,
        }

    def _save(self, row: dict) -> None:
        state = self.net.state_dict()
        for name, key, tensors in (
            (runs.BEST, "val_accuracy", state),
            (runs.BEST_EMA, "ema_val_accuracy", self.ema.module.state_dict()),
        ):
            best = max(self.history, key=lambda past, key=key: past[key])  # of equals the earlier
            if best is row:
                self.run.save_checkpoint(name, tensors, self._facts(val_accuracy=row[key]))
        every = self.config.save_every
        if every and self.epoch % every == 0:
            facts = self._facts(val_accuracy=row["val_accuracy"])
            self.run.save_checkpoint(f"epoch_{self.epoch:04d}", state, facts)
        tensors = resuming.state(self.net, self.ema.module, self.optimizer)
        facts = self._facts(
            val_accuracy=row["val_accuracy"],
            update=self.update,
            micro=self.micro,
            history=self.history,
        )
        self.run.save_checkpoint(runs.LAST, tensors, facts)
        self.run.write_table(pd.DataFrame(self.history), "history.csv")

    def _resume(self) -> None:
        tensors, facts = self.run.load_checkpoint(runs.LAST)
        self.epoch, self.update, self.history = facts["epoch"], facts["update"], facts["history"]
        self.micro = min(self.micro, facts["micro"])
        resuming.restore(tensors, self.net, self.ema.module, self.optimizer)
        if self.first:
            self.run.write_table(pd.DataFrame(self.history), "history.csv")
        self.say(f"continuing {self.run.name} after epoch {self.epoch}")

    # -- one epoch

    def run_epoch(self) -> dict:
        """Learn from every face once, then validate: a row of the history."""
        started = time.perf_counter()
        row = self.learn() | self._validate()
        return row | {"seconds": time.perf_counter() - started}

    def learn(self) -> dict:
        config = self.config
        torch.manual_seed(_seed(config.seed, self.epoch))
        self.net.train()
        trust = self.epoch / max(1, config.epochs - 1)
        for net in (self.net, self.ema.module):
            if net.head is not None and config.correction == "trust":
                net.head.trust = trust
        sums: dict[str, float] = dict.fromkeys(("loss", *PARTS, "correct", "norm"), 0.0)
        seen = 0
        indices = self._order()
        pin = self.device.type == "cuda"
        loader = evaluation.batches(self.train, indices, num_workers=config.num_workers, pin=pin)
        bar = tqdm(loader, desc=f"epoch {self.epoch + 1}/{config.epochs}", leave=False,
                   disable=not environment.progress_bars())  # fmt: skip
        started = told = time.perf_counter()
        for images, targets, batch in bar:
            lr = self._set_lr()
            parts, norm = self._step(images, targets, batch)
            seen += len(batch)
            sums["correct"] += parts.pop("correct")
            for name, value in parts.items():
                sums[name] += value * len(batch)
            sums["norm"] += norm * len(batch)
            loss, accuracy = sums["loss"] / seen, sums["correct"] / seen
            bar.set_postfix(loss=f"{loss:.3f}", acc=f"{accuracy:.3f}", lr=f"{lr:.1e}")
            now = time.perf_counter()
            if bar.disable and now > told + SECONDS_BETWEEN_LINES:
                told = now
                self.say(
                    f"  epoch {self.epoch + 1}, {seen / len(self.train):.0%}: loss {loss:.3f}, "
                    f"accuracy {accuracy:.2%}, lr {lr:.1e}, {seen / (now - started):.0f} images/s"
                )
        seconds = time.perf_counter() - started
        parts = {f"train_loss_{p}": sums[p] / seen for p in PARTS if sums[p]}
        self.epoch += 1
        row = {"epoch": self.epoch, "lr": lr, "train_loss": sums["loss"] / seen, **parts}
        row |= {"grad_norm": sums["norm"] / seen, "train_accuracy": sums["correct"] / seen}
        return row | {"images_per_second": seen / seconds}

    def _set_lr(self) -> float:
        config = self.config
        warmup = round(config.warmup_epochs * self.per_epoch)
        factor = optim.lr_factor(self.update, config.epochs * self.per_epoch, warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * factor * group["scale"]
        return config.lr * factor

    def _step(self, images: Tensor, targets: Tensor, batch: np.ndarray) -> tuple[dict, float]:
        """One update on the whole batch, of which each process takes its share.

        Returns:
            The parts of the loss and the number of correct faces, over the whole batch; the
            gradient norm before clipping.
        """
        config = self.config
        faces = augment.augment(augment.to_float(images, self.device), config.augmentation)
        faces, targets = augment.mix(  # at source size: less to move, and the same for all
            faces,
            targets.to(self.device),
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
            prob=config.mix_prob,
        )
        mine = self.world.share(len(batch))
        inputs = augment.prepare(faces[mine], config.image_size, self.net.mean, self.net.std)
        inputs = evaluation.layout(inputs, config)
        with self.world.own_draws(self.device, _seed(config.seed, self.update, self.world.rank)):
            found = self._in_memory(inputs, targets[mine], len(batch))
        limit = config.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), limit)
        values = self.world.total(torch.stack(list(found.values())))
        told = dict(zip(found, values.tolist(), strict=True))  # the one wait for the device
        if not math.isfinite(told["loss"]):
            self.optimizer.zero_grad(set_to_none=True)
            ids = ", ".join(self.train.table["id"].iloc[batch])
            raise NonFiniteLossError(
                f"the loss is {told['loss']} in epoch {self.epoch + 1}, update "
                f"{self.update + 1}; nothing was updated. Lower lr, use precision=fp32, or look at "
                f"these images: {ids}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.update += 1
        if self.first:
            self.ema.update(self.net, step=self.update)
        return told, norm.item()

    def _in_memory(self, inputs: Tensor, targets: Tensor, whole: int) -> dict[str, Tensor]:
        """`_accumulate` in micro-batches as small as memory asks for."""
        while True:
            try:
                return self._accumulate(inputs, targets, whole)
            except torch.OutOfMemoryError as error:
                self.optimizer.zero_grad(set_to_none=True)
                if self.world.size > 1:  # the others wait in the middle of their gradients
                    raise ValueError(
                        f"out of memory; several processes need a micro_batch_size below "
                        f"{min(self.micro, len(inputs))} from the start"
                    ) from error
                if self.micro < 2:
                    raise
                self.micro = max(1, min(self.micro, len(inputs)) // 2)
                log.debug("out of memory: %s", error)
                self.say(
                    f"out of memory: micro-batches of {self.micro} from here on, the effective "
                    f"batch stays {self.config.batch_size}"
                )
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()

    def _accumulate(self, inputs: Tensor, targets: Tensor, whole: int) -> dict[str, Tensor]:
        """Gradients of this process's faces, as their part of a batch of `whole` faces.

        Returns:
            loss and its parts (their part of the batch's mean) and correct (a count).
        """
        totals: dict[str, Tensor] = {}
        starts = range(0, len(inputs), self.micro)
        for start in starts:
            part = slice(start, start + self.micro)
            share = len(inputs[part]) / whole
            last = start == starts[-1]
            together = last or self.world.size == 1
            with contextlib.nullcontext() if together else self.parallel.no_sync():
                with evaluation.autocast(self.config, self.device):
                    output = self.forward(inputs[part])
                found = losses.total_loss(output, targets[part], self.config, self.weights)
                # the processes' gradients are averaged, but their shares add up to one
                (found["loss"] * share * self.world.size).backward()
            predicted = output.log_probs.detach().argmax(dim=1)
            correct = (predicted == targets[part].argmax(dim=1)).sum()
            now = {name: value.detach() * share for name, value in found.items()}
            for name, value in (now | {"correct": correct}).items():
                totals[name] = totals.get(name, 0) + value
        return totals

    def _validate(self) -> dict[str, float]:
        """Both sets of weights on the validation faces, of which each process takes its share."""
        for net in (self.net, self.ema.module):
            self.world.from_first(net)
        mine = self.val.take(np.arange(len(self.val))[self.world.share(len(self.val))])
        nets = {"": self.net, "ema_": self.ema.module}
        row: dict[str, float] = {}
        for prefix, part in evaluation.predict_each(nets, mine, self.config).items():
            table = pd.concat(self.world.gathered(part), ignore_index=True)
            found = metrics.evaluate(table)
            row[f"{prefix}val_loss"] = found["nll"]
            row[f"{prefix}val_accuracy"] = found["accuracy"]
            row[f"{prefix}val_macro_f1"] = found["macro_f1"]
            recalls = metrics.per_class(table).set_index("class")["recall"]
            row |= {f"{prefix}val_accuracy_{name}": recalls[name] for name in recalls.index}
        return row


def fit(faces: FaceSet, run: runs.Run, *, say: Callable[[str], None] | None = None) -> pd.DataFrame:
    """Train a run to its end, from wherever it stands.

    With `processes` above 1 that many are started on this machine (`distributed.launch`).

    Args:
        faces: All splits; only train and val are read.
        run: From `runs.start`; its config says everything else.
        say: Receives a few plain lines after each epoch (`print`, for a notebook).

    Returns:
        The history, one row an epoch (columns: see outputs/README.md).

    Raises:
        NonFiniteLossError: A batch gave a NaN or infinite loss; its image ids are named.
        ProcessError: One of several processes failed.
        ValueError: A split is empty, or the checkpoint to start from does not fit.
    """
    say = say or log.info
    if run.config.processes > 1 and not distributed.joined():
        distributed.launch(run, say=say)
        return run.history()
    first = distributed.first()
    with run.recording() if first else contextlib.nullcontext({}) as ending:
        if first:
            run.ask_to_stop(False)
        trainer = _Trainer(faces, run, say)
        while trainer.epoch < run.config.epochs:
            row = trainer.run_epoch()
            trainer.history.append(row)
            if first:
                trainer._save(row)
            trainer.say(report.epoch_lines(trainer.history, run.config.epochs))
            if optim.stale(trainer.history, run.config.early_stopping):
                trainer.say(
                    f"no better validation accuracy for {run.config.early_stopping} epochs: stop"
                )
                break
            asked = any(trainer.world.gathered(run.asked_to_stop))
            if asked and trainer.epoch < run.config.epochs:
                trainer.say(f"asked to stop; to go on: grefel train --resume {run.name}")
                ending["status"] = "stopped"
                break
        if first:
            run.ask_to_stop(False)
    return pd.DataFrame(trainer.history)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
