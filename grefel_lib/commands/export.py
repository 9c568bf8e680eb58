"""Export of a run: to ONNX, checked against PyTorch and timed; or to a small folder to share."""

import json
import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from grefel_lib.analysis.calibration import fit_face_test, fit_release
from grefel_lib.analysis.compare import share_record, shared_config
from grefel_lib.analysis.evaluation import training_facts
from grefel_lib.config import FIELDS
from grefel_lib.faces import FaceSet
from grefel_lib.files import Folder, other_faces, without_paths
from grefel_lib.grefel import Output
from grefel_lib.predict import pooled_features, predict, score_images
from grefel_lib.restore import FACE_TEST, Trained, load_model
from grefel_lib.run import BEST, LAST, Run

TOLERANCE = 1e-4  # largest accepted difference of a probability
REMEMBERED = 4000  # training faces that the face test is fitted on
CHECKED, TIMED = 64, 50  # number of faces compared; number of timed single-face runs
LUMA, LUMA_BITS = (19595, 38470, 7471), 16  # Pillow's integer RGB-to-grey weights
WEIGHT_BITS = 22  # fixed-point precision of Pillow's resize


class _Exported(nn.Module):
    """The exported graph: everything `score_images` does with face crops of one size.

    Greyscale and resizing, as in `like_training`, reproduce Pillow's integer arithmetic in
    float64, which MatMul supports and which represents these integers exactly.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.net = trained.model
        self.size, self.mode = trained.face_format
        eye = torch.eye(self.size)[None, None]
        enlarge = F.interpolate(
            eye, size=(trained.config.image_size, self.size), mode="bilinear", antialias=True
        )
        self.register_buffer("enlarge", enlarge[0, 0])  # (S, size): bilinear, as a matrix
        self.register_buffer("luma", torch.tensor(LUMA, dtype=torch.float64))
        self.register_buffer("mean", torch.tensor(trained.model.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(trained.model.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, H, W, 3) uint8 RGB -> class_probs (B, C) and, of a GReFEL head, reliability (B,)."""
        pixels = images.to(torch.float64)
        if self.mode == "L":
            pixels = _shift((pixels * self.luma).sum(dim=3, keepdim=True), LUMA_BITS)
        pixels = pixels.permute(0, 3, 1, 2)  # (B, 1 or 3, H, W)
        pixels = resize_as_pillow(pixels, self.size)
        faces = self.enlarge @ (pixels.to(torch.float32) / 255) @ self.enlarge.T
        output = self.net((faces.expand(-1, 3, -1, -1) - self.mean) / self.std)
        outputs = (output.class_probs, output.reliability)
        return tuple(value for value in outputs if value is not None)


def resize_as_pillow(pixels: Tensor, size: int) -> Tensor:
    """`resized`, of whole numbers 0 to 255: (..., H, W) -> (..., size, size) float64."""
    across, down = (_bicubic(length, size) for length in (pixels.shape[-1], pixels.shape[-2]))
    pixels = _shift(pixels @ across.T, WEIGHT_BITS).clamp(0, 255)
    return _shift(down @ pixels, WEIGHT_BITS).clamp(0, 255)


def _shift(values: Tensor, bits: int) -> Tensor:
    """Integers divided by 2^bits and rounded, like an integer shift."""
    return torch.floor((values + 2 ** (bits - 1)) / 2**bits)


def _bicubic(length: int, size: int) -> Tensor:
    """Pillow's antialiased bicubic weights for one side: (size, length), times 2^WEIGHT_BITS."""
    pixels = torch.arange(length, dtype=torch.float64)
    scale = torch.ones_like(pixels).sum() / size  # a tensor: the length is known at run time only
    spread = scale.clamp(min=1)
    centre = (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * scale
    inside = pixels >= torch.floor(centre - 2 * spread + 0.5)
    inside = inside & (pixels < torch.floor(centre + 2 * spread + 0.5))
    x = ((pixels - centre + 0.5) / spread).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    weights = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    weights = torch.where(inside, weights, torch.zeros_like(x))
    weights = weights / weights.sum(dim=1, keepdim=True)
    return weights.sign() * torch.floor(weights.abs() * 2**WEIGHT_BITS + 0.5)


@dataclass(frozen=True)
class ExportReport:
    """Comparison of the exported file with PyTorch."""

    path: Path
    largest_difference: float  # of a class probability or a reliability
    torch_ms: float  # median for one face, PyTorch on the CPU
    onnx_ms: float  # likewise, onnxruntime with as many threads


def export_onnx(trained: Trained, faces: FaceSet, path: Path) -> ExportReport:
    """Write a model as ONNX, if onnxruntime and `score_images` agree on the given faces.

    The file takes `images`, face crops (batch, height, width, 3) of any size, uint8 RGB, and gives
    `class_probs` (batch, C) and, where the model has it, `reliability` (batch,). Whatever
    `grefel predict` does with a crop (grey, 48 pixels, enlarging, normalising) is in the graph. It
    computes in float32; weights that half precision holds exactly, as those of `export_weights`,
    are stored so. Class names, what the graph does and where the file comes from are in its
    metadata.

    Args:
        trained: From `load_model`, on the CPU.
        faces: Faces to compare on, such as the run's validation split: as they are, and as larger
            crops in colour.
        path: The file to write, atomically.

    Raises:
        ValueError: The onnx packages are missing, or the two differ by more than 1e-4.
    """
    try:
        import onnxruntime
        from onnxscript import ir
        from onnxscript import opset18 as op
    except ImportError as error:
        raise ValueError(
            f"exporting needs three more packages ({error.name} is missing): "
            f"pip install -e '.[onnx]'"
        ) from error

    def cdist(a: Any, b: Any, p: float, compute_mode: int | None = None) -> Any:
        """Euclidean distances, which the exporter does not know: (B, D), (N, D) -> (B, N)."""
        return op.ReduceL2(op.Sub(op.Unsqueeze(a, [-2]), op.Unsqueeze(b, [-3])), [-1], keepdims=0)

    trained = replace(trained, config=trained.config.replace(precision="fp32"))
    module = _Exported(trained).eval()
    crops = _crops(faces)
    example = torch.from_numpy(np.stack([crops[-1]] * 2))
    names = ["class_probs", "reliability"][: len(_answers(score_images(trained, crops[:1])))]
    sides = {axis: torch.export.Dim(name) for axis, name in enumerate(("batch", "height", "width"))}
    program = torch.onnx.export(
        module, (example,), dynamo=True, verbose=False, optimize=False,
        input_names=["images"], output_names=names,
        dynamic_shapes={"images": sides},
        custom_translation_table={torch.ops.aten._cdist_forward.default: cdist},
    )  # fmt: skip
    graph = program.model.graph
    for value in list(graph.initializers.values()):  # before batch norms are folded into weights
        weights = value.const_value.numpy()
        if weights.dtype == np.float32 and (weights == (half := weights.astype(np.float16))).all():
            stored = ir.val(value.name, const_value=ir.tensor(half, name=value.name))
            cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
            ir.convenience.replace_all_uses_with(value, cast.outputs[0])
            graph.insert_before(graph[0], cast)
            del graph.initializers[value.name]
            graph.register_initializer(stored)
    program.optimize()
    for node in graph.all_nodes():
        node.metadata_props.clear()  # the exporter's stack traces, which hold paths of this machine
    colour = "grey" if module.mode == "L" else "RGB"
    program.model.metadata_props.update(
        class_names=json.dumps(trained.class_names),
        input="images: face crops in RGB, uint8, (batch, height, width, 3), of any size; a grey "
        "crop repeats its channel",
        in_the_graph=f"all preprocessing: {colour}, {module.size} x {module.size} pixels (Pillow's "
        f"bicubic), {trained.config.image_size} x {trained.config.image_size} pixels (bilinear), "
        f"mean and std",
        source=f"{trained.folder.name}, {trained.path.name}",  # no path of this machine
    )
    content = program.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options)
    apart = max(
        np.abs(ours - theirs).max()
        for crop in crops
        for ours, theirs in zip(
            _answers(score_images(trained, [crop])),
            session.run(None, {"images": crop[None]}),
            strict=True,
        )
    )
    if not apart <= TOLERANCE:
        raise ValueError(
            f"onnxruntime and PyTorch differ by {apart:.2g} on {len(crops)} faces, more than "
            f"{TOLERANCE}; nothing was written"
        )
    Folder(path.parent).write_bytes(content, path.name)
    ours, theirs = _latency(
        lambda: score_images(trained, crops[-1:]),
        lambda: session.run(None, {"images": crops[-1][None]}),
    )
    return ExportReport(path, float(apart), ours, theirs)


def export_weights(run: Run, faces: FaceSet, folder: Path) -> dict[str, Any]:
    """Write a small run folder to share: the better checkpoint in half precision, calibrated.

    The calibration is fitted on validation (`fit_release`), the face test on training faces and
    validation (`fit_face_test`). Whatever opens a run opens the folder, `grefel evaluate` too; it
    holds no pictures, predictions or paths of this machine.

    Args:
        run: A trained run.
        faces: Its faces, of all splits.
        folder: Created; a model that is there is replaced.

    Returns:
        What `fit_release` chose.

    Raises:
        ValueError: A run that was trained is in the folder; or the run has learned other classes
            or other faces.
    """
    target = Run(folder, run.config)
    if folder.resolve() == run.path or target.has_checkpoint(LAST):
        raise ValueError(f"{folder} is a run itself; name another folder")
    trained = load_model(run)
    if trained.class_names != faces.class_names or other_faces(faces.info | training_facts(run)):
        raise ValueError(
            f"run {run.name} has learned other faces than these of {faces.info['dataset']}, or "
            f"other classes ({', '.join(trained.class_names)}); name its own by --data-dir"
        )
    trained.model.calibration = None
    validation = faces.split("val")
    release = fit_release(predict(trained.model, validation, trained.config))
    tensors, facts = run.load_checkpoint(trained.path.stem)
    halves = {key: v.half() if v.is_floating_point() else v for key, v in tensors.items()}
    if trained.model.head is not None:
        some = [faces.split("train").sample(REMEMBERED), validation]
        test = fit_face_test(*(pooled_features(trained.model, s, trained.config) for s in some))
        facts["face_test_limit"] = test.limit
        for name in ("mean", "basis"):
            halves[FACE_TEST + name] = torch.from_numpy(getattr(test, name)).half()
    here = ("data_dir", "output_dir", "resume", "picture", "checkpoint_dir", "label_fixes")
    config = shared_config(run.config) | {key: FIELDS[key].default for key in here}
    facts |= {
        "config": config,
        "calibration": {key: release[key] for key in ("temperature", "offsets", "reliability")},
        "not_sure_below": release["not_sure_below"],
    }
    target.save_checkpoint(BEST, halves, without_paths(facts))
    target.write_json(without_paths(config), "config.json")
    share_record(run, target)
    return release


def _crops(faces: FaceSet) -> list[np.ndarray]:
    """Crops (H, W, 3) evenly spaced through the faces: as they are, then larger and in colour."""
    chosen = faces.sample(CHECKED)
    images = chosen.gather(np.arange(len(chosen)))
    plain = [np.asarray(Image.fromarray(face).convert("RGB")) for face in images]
    tint = np.array([1.0, 0.8, 0.6])
    large = [Image.fromarray((face * tint).astype(np.uint8)).resize((131, 157)) for face in plain]
    return plain + [np.asarray(face) for face in large]


def _answers(output: Output) -> list[np.ndarray]:
    """What the file gives, from the model's output."""
    values = (output.class_probs, output.reliability)
    return [value.float().numpy() for value in values if value is not None]


def _latency(*ways: Callable[[], Any]) -> list[float]:
    """Median milliseconds of each, timed alternately."""
    seconds = [[timeit.timeit(way, number=1) for way in ways] for _ in range(TIMED)]
    return (1000 * np.median(seconds, axis=0)).tolist()
