"""Text for people and papers: epoch lines, comparison, JSON and LaTeX tables."""


def epoch_lines(history: list[dict], epochs: int) -> str:
    """What an epoch gave, in four plain lines."""
    row = history[-1]
    best = {k: max(history, key=lambda past: past[k]) for k in ("val_accuracy", "ema_val_accuracy")}

    def told(key: str) -> str:
        top = best[key]
        return f"{row[key]:6.2%} (best {top[key]:6.2%}, epoch {top['epoch']})"

    prefix = "ema_val_accuracy_"
    classes = "  ".join(
        f"{k.removeprefix(prefix)} {v:.0%}" for k, v in row.items() if k.startswith(prefix)
    )
    return (
        f"epoch {row['epoch']}/{epochs}  lr {row['lr']:.1e}  grad norm "
        f"{row['grad_norm']:.2f}  {row['seconds']:.0f} s, {row['images_per_second']:.0f} images/s\n"
        f"  loss      train {row['train_loss']:.3f}  val {row['val_loss']:.3f}  "
        f"EMA {row['ema_val_loss']:.3f}\n"
        f"  accuracy  train {row['train_accuracy']:6.2%}  val {told('val_accuracy')}  "
        f"EMA {told('ema_val_accuracy')}\n"
        f"  EMA per class  {classes}"
    )
