"""Export of a run to ONNX, checked against PyTorch and timed."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grefel_lib.batches import prepare_input, to_float
from grefel_lib.faces import FaceSet
from grefel_lib.files import atomic, relative
from grefel_lib.restore import Trained

TOLERANCE = 1e-4  # largest difference of a probability that counts as the same model
CHECKED, TIMED = 64, 50  # faces that are compared; single faces that are timed


class _Exported(nn.Module):
    """The exported graph: images in 0..1 in; class_probs and reliability out."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.net = trained.model
        self.register_buffer("mean", torch.tensor(trained.model.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(trained.model.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        output = self.net((images - self.mean) / self.std)
        outputs = (output.class_probs, output.reliability)
        return tuple(value for value in outputs if value is not None)


@dataclass(frozen=True)
class ExportReport:
    """How the file compares with PyTorch."""

    path: Path
    largest_difference: float  # of a class probability or a reliability
    torch_ms: float  # median for one face, PyTorch on the CPU
    onnx_ms: float  # likewise, onnxruntime with as many threads


def export_onnx(trained: Trained, faces: FaceSet, path: Path) -> ExportReport:
    """Write a model as ONNX, if onnxruntime and PyTorch agree on the given faces.

    The file takes `images`, float32 (batch, 3, S, S) in 0..1, and gives `class_probs` (batch, C)
    and, where the model has it, `reliability` (batch,). Class names, S and where the file comes
    from are in its metadata.

    Args:
        trained: From `load_model`, on the CPU.
        faces: Faces to compare on, such as the run's validation split.
        path: The file; written whole or not at all.

    Raises:
        ValueError: The onnx packages are missing, or the two differ by more than 1e-4.
    """
    try:
        import onnxruntime
        from onnxscript import opset18 as op
    except ImportError as error:
        raise ValueError(
            f"exporting needs three more packages ({error.name} is missing): "
            f"pip install -e '.[onnx]'"
        ) from error

    def cdist(a: Any, b: Any, p: float, compute_mode: int | None = None) -> Any:
        """Euclidean distances, which the exporter does not know: (B, D), (N, D) -> (B, N)."""
        return op.ReduceL2(op.Sub(op.Unsqueeze(a, [-2]), op.Unsqueeze(b, [-3])), [-1], keepdims=0)

    module = _Exported(trained).eval()
    inputs = _inputs(trained, faces)
    names = ["class_probs", "reliability"][: len(_run(module, inputs[:2]))]
    program = torch.onnx.export(
        module, (inputs[:2],), dynamo=True, verbose=False,
        input_names=["images"], output_names=names,
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        custom_translation_table={torch.ops.aten._cdist_forward.default: cdist},
    )  # fmt: skip
    program.model.metadata_props.update(
        class_names=json.dumps(trained.class_names),
        image_size=str(trained.config.image_size),
        values="images are RGB in 0..1; grey faces repeat their channel",
        source=relative(trained.path),
    )
    sessions = []

    def check(temporary: Path) -> None:
        program.save(str(temporary))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(temporary.read_bytes(), options)
        ours, theirs = _run(module, inputs), session.run(None, {"images": inputs.numpy()})
        apart = max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))
        if not apart <= TOLERANCE:
            raise ValueError(
                f"onnxruntime and PyTorch differ by {apart:.2g} on {len(inputs)} faces, more than "
                f"{TOLERANCE}; nothing was written"
            )
        sessions.append((session, float(apart)))

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic(path, check)
    [(session, apart)] = sessions
    ours, theirs = _latency(
        lambda face: _run(module, face),
        lambda face: session.run(None, {"images": face.numpy()}),
        inputs[:1],
    )
    return ExportReport(path, apart, ours, theirs)


def _inputs(trained: Trained, faces: FaceSet) -> Tensor:
    """(N, 3, S, S) in 0..1, evenly spaced through the faces."""
    chosen = np.unique(np.linspace(0, len(faces) - 1, CHECKED).round().astype(int))
    floats = to_float(faces.gather(chosen))
    plain = (0.0,) * 3, (1.0,) * 3
    return prepare_input(floats, trained.config.image_size, *plain).contiguous()


@torch.inference_mode()
def _run(module: nn.Module, images: Tensor) -> list[np.ndarray]:
    return [value.numpy() for value in module(images)]


def _latency(
    ours: Callable[[Tensor], Any], theirs: Callable[[Tensor], Any], face: Tensor
) -> tuple[float, float]:
    """Median milliseconds for one face, the two taken in turn."""
    milliseconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMED):
        for way, times in zip((ours, theirs), milliseconds, strict=True):
            started = time.perf_counter()
            way(face)
            times.append(1000 * (time.perf_counter() - started))
    return statistics.median(milliseconds[0]), statistics.median(milliseconds[1])
