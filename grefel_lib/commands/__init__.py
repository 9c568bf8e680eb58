"""The commands that run a notebook, and the error raised when one fails."""

COMMANDS = {
    "train": ("03_training.ipynb", "train a run"),
    "finetune": ("04_finetuning.ipynb", "fine-tune a checkpoint (default: the latest run)"),
    "evaluate": ("05_evaluation.ipynb", "score the test split (default: the latest run)"),
    "compare": ("06_comparing_runs.ipynb", "compare evaluated runs (default: the published ones)"),
}
SWEEPABLE = ("train", "finetune")


class NotebookError(Exception):
    """A cell of an executed notebook failed."""
