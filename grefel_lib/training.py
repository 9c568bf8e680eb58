"""fit: EMA, schedule, mixing, accumulation, checkpoints, resume."""

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
from tqdm.auto import tqdm

from grefel_lib import (
    augment,
    checkpoints,
    environment,
    evaluation,
    losses,
    metrics,
    model,
    optim,
    report,
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
        self.run, self.config, self.say = run, run.config, say
        self.train, self.val = faces.split("train"), faces.split("val")
        for name, part in (("train", self.train), ("val", self.val)):
            if len(part) < 2:
                raise ValueError(f"the {name} split has {len(part)} faces; at least 2 are needed")
        config = self.config
        self.device = evaluation.pick_device(config.device)
        torch.manual_seed(config.seed)
        start = config.replace(**WITHOUT_WEIGHTS) if run.has_checkpoint(runs.LAST) else config
        self.net = model.build(start, len(faces.class_names))
        if config.checkpoint_path and not run.has_checkpoint(runs.LAST):
            self._start_from_checkpoint(faces.class_names)
        memory = torch.channels_last if config.channels_last else torch.contiguous_format
        self.net.to(self.device, memory_format=memory)
        self.ema = ModelEmaV3(self.net, decay=config.ema_decay, use_warmup=True, warmup_power=0.9)
        self.ema.module.to(memory_format=memory)
        self.optimizer = torch.optim.AdamW(optim.parameter_groups(self.net, config), lr=config.lr)
        self.weights = None
        if config.class_weights == "balanced":
            self.weights = optim.class_weights(self.train).to(self.device)
        self.micro = config.micro_batch_size or config.batch_size
        self.epoch, self.update, self.history = 0, 0, []
        torch.manual_seed(config.seed)
        self.per_epoch = len(optim.epoch_batches(self.train, config))
        if run.has_checkpoint(runs.LAST):
            self._resume()

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
        best = max(past["val_accuracy"] for past in self.history)
        best_ema = max(past["ema_val_accuracy"] for past in self.history)
        state, ema_state = self.net.state_dict(), self.ema.module.state_dict()
        for name, accuracy, top, tensors in (
            (runs.BEST, row["val_accuracy"], best, state),
            (runs.BEST_EMA, row["ema_val_accuracy"], best_ema, ema_state),
        ):
            first = next(p["epoch"] for p in self.history if top == p[_key(name)])
            if accuracy == top and row["epoch"] == first:  # a tie keeps the earlier one
                self.run.save_checkpoint(name, tensors, self._facts(val_accuracy=accuracy))
        every = self.config.save_every
        if every and self.epoch % every == 0:
            facts = self._facts(val_accuracy=row["val_accuracy"])
            self.run.save_checkpoint(f"epoch_{self.epoch:04d}", state, facts)
        names = [name for name, _ in self.net.named_parameters()]
        order = [p for group in self.optimizer.param_groups for p in group["params"]]
        by_id = {id(p): name for name, p in zip(names, self.net.parameters(), strict=True)}
        moments = {
            f"optimizer/{by_id[id(p)]}/{key}": value
            for p in order
            for key, value in self.optimizer.state[p].items()
        }
        tensors = {f"model/{k}": v for k, v in state.items()}
        tensors |= {f"ema/{k}": v for k, v in ema_state.items()} | moments
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
        self.net.load_state_dict(_under(tensors, "model/"))
        self.ema.module.load_state_dict(_under(tensors, "ema/"))
        for name, parameter in self.net.named_parameters():
            moments = _under(tensors, f"optimizer/{name}/")
            if moments:  # none for a parameter that never had a gradient
                self.optimizer.state[parameter] = {
                    key: value.clone() if key == "step" else value.to(parameter, copy=True)
                    for key, value in moments.items()
                }
        self.run.write_table(pd.DataFrame(self.history), "history.csv")
        self.say(f"continuing {self.run.name} after epoch {self.epoch}")

    def _start_from_checkpoint(self, class_names: tuple[str, ...]) -> None:
        path = runs.checkpoint_file(self.config.checkpoint_path, self.config.output_dir)
        tensors, facts = checkpoints.load(path)
        tensors = _under(tensors, "model/") or tensors
        own = self.net.state_dict()
        fresh: list[str] = []
        if tuple(facts["class_names"]) != class_names:
            self.say(
                f"the checkpoint's classes ({', '.join(facts['class_names'])}) are not this data "
                f"set's ({', '.join(class_names)}): the class layers start fresh"
            )
            wide, narrow = len(facts["class_names"]), len(class_names)
            fresh = [k for k in own if k in _class_layers(self.net)]
            tensors = {k: v for k, v in tensors.items() if k not in fresh}
            log.debug("new head: %d -> %d classes", wide, narrow)
        strange = [
            k
            for k in own
            if k not in fresh and getattr(tensors.get(k), "shape", None) != own[k].shape
        ]
        if strange:
            raise ValueError(
                f"checkpoint {path.name} does not fit the model ({len(strange)} tensors, first "
                f"{strange[0]}); keep backbone, head and sizes as in the run it comes from"
            )
        self.net.load_state_dict({k: v for k, v in tensors.items() if k in own}, strict=False)

    # -- one epoch

    def run_epoch(self) -> dict:
        config = self.config
        torch.manual_seed(_epoch_seed(config.seed, self.epoch))
        self.net.train()
        trust = self.epoch / max(1, config.epochs - 1)
        for net in (self.net, self.ema.module):
            if net.head is not None and config.correction == "trust":
                net.head.trust = trust
        sums: dict[str, float] = dict.fromkeys(("loss", *PARTS, "correct", "norm"), 0.0)
        seen = 0
        indices = optim.epoch_batches(self.train, config)
        pin = self.device.type == "cuda"
        loader = evaluation.batches(self.train, indices, num_workers=config.num_workers, pin=pin)
        bar = tqdm(loader, desc=f"epoch {self.epoch + 1}/{config.epochs}", leave=False,
                   disable=not environment.progress_bars())  # fmt: skip
        started = told = time.perf_counter()
        for images, targets, batch in bar:
            lr = self._set_lr()
            parts, correct, norm = self._step(images, targets, batch)
            seen += len(batch)
            for name, value in parts.items():
                sums[name] += value * len(batch)
            sums["correct"] += correct
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
        row |= self._validate(self.net, "") | self._validate(self.ema.module, "ema_")
        whole = time.perf_counter() - started
        return row | {"images_per_second": seen / seconds, "seconds": whole}

    def _set_lr(self) -> float:
        config = self.config
        warmup = round(config.warmup_epochs * self.per_epoch)
        factor = optim.lr_factor(self.update, config.epochs * self.per_epoch, warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * factor * group["scale"]
        return config.lr * factor

    def _step(
        self, images: Tensor, targets: Tensor, batch: np.ndarray
    ) -> tuple[dict, float, float]:
        """One update on the whole batch, in as many micro-batches as memory asks for."""
        config = self.config
        floats = augment.augment(augment.to_float(images, self.device), config.augmentation)
        inputs = augment.prepare(floats, config.image_size, self.net.mean, self.net.std)
        inputs, targets = augment.mix(
            inputs,
            targets.to(self.device),
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
            prob=config.mix_prob,
        )
        inputs = evaluation.layout(inputs, config)
        while True:
            try:
                parts, correct = self._accumulate(inputs, targets, batch)
                break
            except torch.OutOfMemoryError as error:
                self.optimizer.zero_grad(set_to_none=True)
                if self.micro < 2:
                    raise
                self.micro = max(1, min(self.micro, len(batch)) // 2)
                log.debug("out of memory: %s", error)
                self.say(
                    f"out of memory: micro-batches of {self.micro} from here on, the effective "
                    f"batch stays {config.batch_size}"
                )
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        limit = config.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), limit).item()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.update += 1
        self.ema.update(self.net, step=self.update)
        return parts, correct, norm

    def _accumulate(self, inputs: Tensor, targets: Tensor, batch: np.ndarray) -> tuple[dict, float]:
        totals: dict[str, Tensor] = {}
        correct = torch.zeros((), device=self.device)
        for start in range(0, len(inputs), self.micro):
            part = slice(start, start + self.micro)
            share = len(inputs[part]) / len(inputs)
            with evaluation.autocast(self.config, self.device):
                output = self.net(inputs[part])
            found = losses.total_loss(output, targets[part], self.config, self.weights)
            (found["loss"] * share).backward()
            for name, value in found.items():
                totals[name] = totals.get(name, 0) + value.detach() * share
            predicted = output.log_probs.detach().argmax(dim=1)
            correct += (predicted == targets[part].argmax(dim=1)).sum()
        if not torch.isfinite(totals["loss"]):
            self.optimizer.zero_grad(set_to_none=True)
            ids = ", ".join(self.train.table["id"].iloc[batch])
            raise NonFiniteLossError(
                f"the loss is {totals['loss'].item()} in epoch {self.epoch + 1}, update "
                f"{self.update + 1}; nothing was updated. Lower lr, use precision=fp32, or look at "
                f"these images: {ids}"
            )
        return {name: value.item() for name, value in totals.items()}, correct.item()

    def _validate(self, net: model.GReFEL, prefix: str) -> dict[str, float]:
        table = evaluation.predict(net, self.val, self.config)
        found = metrics.evaluate(table)
        row = {
            f"{prefix}val_loss": found["nll"],
            f"{prefix}val_accuracy": found["accuracy"],
            f"{prefix}val_macro_f1": found["macro_f1"],
        }
        recalls = metrics.per_class(table).set_index("class")["recall"]
        return row | {f"{prefix}val_accuracy_{name}": recalls[name] for name in recalls.index}


def fit(faces: FaceSet, run: runs.Run, *, say: Callable[[str], None] | None = None) -> pd.DataFrame:
    """Train a run to its end, from wherever it stands.

    Args:
        faces: All splits; only train and val are read.
        run: From `runs.start`; its config says everything else.
        say: Receives a few plain lines after each epoch (`print`, for a notebook).

    Returns:
        The history, one row an epoch (columns: see outputs/README.md).

    Raises:
        NonFiniteLossError: A batch gave a NaN or infinite loss; its image ids are named.
        ValueError: A split is empty, or the checkpoint to start from does not fit.
    """
    say = say or log.info
    with run.recording() as ending:
        run.ask_to_stop(False)
        trainer = _Trainer(faces, run, say)
        while trainer.epoch < run.config.epochs:
            row = trainer.run_epoch()
            trainer.history.append(row)
            trainer._save(row)
            say(report.epoch_lines(trainer.history, run.config.epochs))
            if _stale(trainer.history, run.config.early_stopping):
                say(f"no better validation accuracy for {run.config.early_stopping} epochs: stop")
                break
            if run.asked_to_stop and trainer.epoch < run.config.epochs:
                say(f"asked to stop; to go on: grefel train --resume {run.name}")
                ending["status"] = "stopped"
                break
        run.ask_to_stop(False)
    return pd.DataFrame(trainer.history)


def _stale(history: list[dict], patience: int) -> bool:
    if not patience:
        return False
    scores = [max(row["val_accuracy"], row["ema_val_accuracy"]) for row in history]
    return len(scores) - 1 - int(np.argmax(scores)) >= patience


def _key(checkpoint: str) -> str:
    return "ema_val_accuracy" if checkpoint == runs.BEST_EMA else "val_accuracy"


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _class_layers(net: model.GReFEL) -> set[str]:
    """Names of the tensors whose size depends on the class count."""
    if net.head is None:
        names = net.backbone.pretrained_cfg["classifier"]
        names = (names,) if isinstance(names, str) else names
        return {f"backbone.{name}.{part}" for name in names for part in ("weight", "bias")}
    last = [f"primary.{len(net.head.primary) - 1}", "attentive"]
    names = {f"head.{name}.{part}" for name in last for part in ("weight", "bias")}
    return names | {"head.anchors"}
