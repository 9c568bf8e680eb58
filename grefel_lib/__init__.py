"""GReFEL for facial expression recognition: the library that the notebooks call.

The names below are loaded when they are asked for, so that `grefel --help` starts without torch.
`fit` and `predict` share the names of their modules: from grefel_lib.fit import fit.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"
_HOMES = {
    "config": ("Config",),
    "faces": ("ferplus_targets", "load_faces"),
    "fit": ("start_training",),
    "losses": ("total_loss",),
    "predict": ("model_outputs",),
    "restore": ("load_model", "pretrained"),
    "run": ("open_run", "start_run"),
    "sources.photo": ("find_faces",),
    "analysis.check": ("check_data", "describe"),
    "analysis.compare": (
        "compare_runs",
        "published_results",
        "read_comparison",
        "transfer_table",
    ),
    "analysis.copies": ("find_copies",),
    "analysis.evaluation": ("evaluate_run", "load_evaluation"),
    "analysis.explain": ("explain_face", "load_photo", "remember_faces"),
    "report.everything": ("show_figure", "write_report"),
    "report.faces": ("face_grid",),
    "report.figures": ("confusion_figure", "confusion_matrix"),
    "report.style": ("paper_figure",),
    "report.tables": ("difference_table", "interval_table", "metric_table"),
    "panels": ("show_panel",),
    "commands.notebook": ("resolve", "resolve_comparison", "resolve_evaluation"),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
