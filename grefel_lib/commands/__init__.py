"""The commands that run a notebook, and how a failed notebook is told."""

COMMANDS = {
    "train": ("03_training.ipynb", "train a run"),
    "finetune": ("04_finetuning.ipynb", "go on from a checkpoint (default: the newest run)"),
    "evaluate": ("05_evaluation.ipynb", "read the test split once (default: the newest run)"),
    "compare": ("06_comparing_runs.ipynb", "compare evaluated runs (default: the published ones)"),
}
SWEEPABLE = ("train", "finetune")


class NotebookError(Exception):
    """A cell of an executed notebook failed."""
