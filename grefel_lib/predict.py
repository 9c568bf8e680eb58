"""From a model and a FaceSet to a table of predictions; also for the faces in picture files."""

import dataclasses
import io
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from grefel_lib.batches import batch_loader, prepare_input, to_float
from grefel_lib.config import Config
from grefel_lib.environment import autocast, memory_format, progress_bar
from grefel_lib.faces import FaceSet, ferplus_targets, like_training
from grefel_lib.files import Folder, relative
from grefel_lib.grefel import Calibration, GReFEL, Output, confidence
from grefel_lib.labels import RAFDB_ATTRIBUTES, VOTE_COLUMNS
from grefel_lib.restore import Trained
from grefel_lib.sources.photo import (
    VIDEO_SUFFIXES,
    crop_box,
    draw_boxes,
    find_faces,
    is_crop,
    printable,
    read_frames,
    read_photo,
    whole_picture,
)

log = logging.getLogger(__name__)

DRAWN_BY = b"grefel predict --annotate"  # the comment in pictures with boxes
NOT_SURE = "not sure"
FOUND, WHOLE, NO_FACE = "found", "whole picture", "no face found"  # the column `face`
UNLIKE = "unlike a face"  # there too: taken whole, but fails the face test
BOX = ["left", "top", "width", "height"]


def to_input(
    images: torch.Tensor, net: GReFEL, config: Config, device: torch.device
) -> torch.Tensor:
    """uint8 faces (B, H, W[, 3]) -> normalised backbone input (B, 3, S, S), no augmentation."""
    floats = to_float(images, device)
    inputs = prepare_input(floats, config.image_size, net.mean, net.std)
    return inputs.contiguous(memory_format=memory_format(config))


def model_outputs(net: GReFEL, faces: FaceSet, config: Config) -> Iterator[Output]:
    """The model's output, batch by batch in the order of the faces."""
    for outputs in outputs_of_each({"": net}, faces, config):
        yield outputs[""]


@torch.inference_mode()
def outputs_of_each(
    nets: Mapping[str, GReFEL], faces: FaceSet, config: Config
) -> Iterator[dict[str, Output]]:
    """`model_outputs` of several models of one architecture, by name, in one pass over the faces.

    When memory runs out, batches are halved from there on.
    """
    first = next(iter(nets.values()))
    device = next(first.parameters()).device
    for net in nets.values():
        net.eval()
    cuts = range(config.batch_size, len(faces), config.batch_size)
    chunks = np.array_split(np.arange(len(faces)), cuts)
    most = config.micro_batch_size or config.batch_size  # faces in memory at once
    bar = progress_bar(len(faces), "scoring", unit=" faces")
    for images, _, _ in batch_loader(faces, chunks, num_workers=config.num_workers):
        start = 0
        while start < len(images):
            part = images[start : start + most]
            try:
                inputs = to_input(part, first, config, device)
                with autocast(config, device):
                    outputs = {name: _output(net, inputs, config) for name, net in nets.items()}
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                most = len(part) // 2
                log.warning("out of memory: batches of %d faces from here on", most)
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            yield outputs
            start += len(part)
            bar.update(len(part))
    bar.close()


def _output(net: GReFEL, inputs: torch.Tensor, config: Config) -> Output:
    """The output for faces; with `tta=flip` the mean over the faces and their mirror images.

    Distributions and reliability are averaged; embeddings and attention are those of the faces.
    """
    output = net(inputs)
    if config.tta == "none":
        return output
    other = net(inputs.flip(-1))
    means = {
        field.name: torch.logaddexp(one, getattr(other, field.name)) - math.log(2)
        for field in dataclasses.fields(output)
        if field.name.endswith("log_probs") and (one := getattr(output, field.name)) is not None
    }
    if output.reliability is not None:
        means["reliability_logits"] = ((output.reliability + other.reliability) / 2).logit()
    return dataclasses.replace(output, **means)


def predict(net: GReFEL, faces: FaceSet, config: Config) -> pd.DataFrame:
    """Score every face.

    Args:
        net: The model, on its device; it is left in evaluation mode.
        faces: N faces.
        config: Provides image size, batch size, precision.

    Returns:
        N rows: id, label, predicted, agreed (share of the kept emotion votes for the predicted
        class; without votes, 1 if correct and 0 if not), p_<class> (corrected), primary_<class>
        (in a shipped model calibrated as p_ is), confidence_primary, confidence_geometric,
        confidence_attentive, reliability (as far as the head has them); and data set columns:
        true_label (with `label_noise`), subject, gender, race and age_group (RAF-DB),
        votes_<column>.
    """
    return predict_each({"": net}, faces, config)[""]


def predict_each(
    nets: Mapping[str, GReFEL], faces: FaceSet, config: Config
) -> dict[str, pd.DataFrame]:
    """`predict` with several models of one architecture, in one pass over the faces."""
    if not len(faces):
        raise ValueError("there are no faces to predict")
    calibrations = {name: getattr(net, "calibration", None) for name, net in nets.items()}
    columns_by_net: dict[str, dict[str, list[torch.Tensor]]] = {name: {} for name in nets}
    for outputs in outputs_of_each(nets, faces, config):
        for name, output in outputs.items():
            for column, values in _output_columns(output, calibrations[name]).items():
                columns_by_net[name].setdefault(column, []).append(values)
    return {name: _predictions_table(outputs, faces) for name, outputs in columns_by_net.items()}


def _output_columns(output: Output, calibration: Calibration | None) -> dict[str, torch.Tensor]:
    """What `predict` keeps of a batch, still on its device, to avoid synchronisation."""
    columns = {"p": output.class_probs}
    if (primary := output.primary_log_probs) is not None:
        columns["primary"] = (calibration(primary) if calibration else primary).exp()
    for branch in ("primary", "geometric", "attentive"):
        log_probs = getattr(output, f"{branch}_log_probs")
        if log_probs is not None:
            columns[f"confidence_{branch}"] = confidence(log_probs)
    if output.reliability is not None:
        columns["reliability"] = output.reliability
    return columns


def _predictions_table(columns: dict[str, list[torch.Tensor]], faces: FaceSet) -> pd.DataFrame:
    values = {name: torch.cat(parts).float().cpu().numpy() for name, parts in columns.items()}
    names = list(faces.class_names)
    table = faces.table[["id"]].reset_index(drop=True)
    table["label"] = np.asarray(names)[faces.table["label"].to_numpy()]
    table["predicted"] = np.asarray(names)[values["p"].argmax(axis=1)]
    if "true_label" in faces.table:
        table["true_label"] = np.asarray(names)[faces.table["true_label"].to_numpy()]
    attributes = faces.table.filter(["subject", *RAFDB_ATTRIBUTES])
    table = table.join(attributes.reset_index(drop=True))
    parts = [table, pd.DataFrame(values["p"], columns=[f"p_{name}" for name in names])]
    if "primary" in values:
        parts.append(pd.DataFrame(values["primary"], columns=[f"primary_{n}" for n in names]))
    scalars = {k: v for k, v in values.items() if k.startswith(("confidence_", "reliability"))}
    parts.append(pd.DataFrame(scalars, index=table.index))
    votes = faces.table.filter(VOTE_COLUMNS)
    table["agreed"] = (table["label"] == table["predicted"]).astype(float)
    if len(votes.columns):
        shares, has_votes = ferplus_targets(votes.to_numpy(), faces.info["protocol"], soft=True)
        label_share = shares[np.arange(len(table)), values["p"].argmax(axis=1)]
        table["agreed"] = np.where(has_votes, label_share, table["agreed"])
        parts.append(votes.reset_index(drop=True).add_prefix("votes_"))
    return pd.concat(parts, axis=1)


def look_inside(net: GReFEL, faces: FaceSet, config: Config) -> dict[str, np.ndarray]:
    """Embeddings, attention and anchors of each face, for maps and overlays.

    Returns:
        ids and labels, (N,) strings; and, where the head has them, embeddings (N, D), attention
        (N, T), both float16, and anchors (C, K, D).
    """
    arrays: dict[str, list[np.ndarray]] = {"embeddings": [], "attention": []}
    labels = np.asarray(faces.class_names)[faces.table["label"].to_numpy()]
    result = {"ids": faces.table["id"].to_numpy(dtype=str), "labels": labels}
    for output in model_outputs(net, faces, config):
        for name, parts in arrays.items():
            value = getattr(output, name)
            if value is not None:
                parts.append(value.float().cpu().numpy().astype(np.float16))
        if output.anchors is not None:
            result["anchors"] = output.anchors.float().cpu().numpy()
    return result | {name: np.concatenate(parts) for name, parts in arrays.items() if parts}


def pooled_features(net: GReFEL, faces: FaceSet, config: Config) -> np.ndarray:
    """The backbone's pooled features of each face, of a model with a GReFEL head: (N, F)."""
    parts = [output.features.cpu().numpy() for output in model_outputs(net, faces, config)]
    return np.concatenate(parts)


def attention_maps(weights: np.ndarray, config: Config) -> np.ndarray:
    """(N, T) attention over tokens -> (N, side, side) over the face, summed over scales."""
    scales = 3 if config.extractor == "window_cross_attention" else 1
    side = math.isqrt(weights.shape[1] // scales)
    return weights.astype(float).reshape(len(weights), scales, side, side).sum(axis=1)


@torch.inference_mode()
def score_images(trained: Trained, images: Sequence[np.ndarray]) -> Output:
    """Score single face crops of any size, each converted to the format of the training faces.

    Args:
        trained: From `load_model`.
        images: B arrays (H, W) or (H, W, 3), uint8.

    Returns:
        The model's output for the B faces.
    """
    device = next(trained.model.parameters()).device
    faces = np.stack([like_training(image, *trained.face_format) for image in images])
    inputs = to_input(torch.from_numpy(faces), trained.model, trained.config, device)
    with autocast(trained.config, device):
        return _output(trained.model, inputs, trained.config)


def predict_files(
    trained: Trained, paths: Sequence[Path], *, whole: bool = False, every: float = 1.0
) -> tuple[pd.DataFrame, np.ndarray | None, list[str]]:
    """Predict the faces in picture and video files.

    Args:
        trained: From `load_model`.
        paths: Picture and video files. Where no face is found, a small square one (`is_crop`) is
            taken whole.
        whole: Take every picture whole.
        every: Seconds from one frame of a video to the next.

    Returns:
        One row per face: file, frame and second (if there is a video), face (found, whole picture,
        unlike a face or no face found), left, top, width, height, predicted (NOT_SURE below the
        model's threshold, and for what is unlike a face), probability, reliability (empty if the
        head has none), p_<class>, run, checkpoint. Without a face, one row without a label. Then
        the embeddings (N, D) of the N rows with a label, None if there are none; and a message for
        each file that cannot be read, or not to its end.
    """
    if trained.config.dataset == "synthetic":
        log.warning("this model has seen drawings only: its answers on photographs mean nothing")
    rows, crops, unread = [], [], []
    bar = progress_bar(len(paths), "finding faces", unit=" pictures")
    for path in paths:
        bar.update()
        try:
            for frame, second, picture in _pictures(path, every):
                boxes, face = [] if whole else find_faces(picture), FOUND
                if not boxes:
                    taken = whole or is_crop(picture)
                    boxes, face = ([whole_picture(picture)], WHOLE) if taken else ([], NO_FACE)
                where = (printable(path), frame, second, face)
                for box in boxes:
                    left, top, right, bottom = box
                    rows.append((*where, left, top, right - left, bottom - top))
                    crops.append(like_training(crop_box(picture, box), *trained.face_format))
                if not boxes:
                    rows.append((*where, None, None, None, None))
        except (ValueError, OSError) as error:
            unread.append(str(error))
    bar.close()
    kinds = dict.fromkeys(("frame", *BOX), "Int64") | {"second": float}
    table = pd.DataFrame(rows, columns=["file", "frame", "second", "face", *BOX]).astype(kinds)
    if table["frame"].isna().all():
        table = table.drop(columns=["frame", "second"])
    names = np.asarray(trained.class_names)
    size = trained.config.micro_batch_size or trained.config.batch_size
    outputs = [score_images(trained, crops[s : s + size]) for s in range(0, len(crops), size)]

    def of_all(name: str) -> np.ndarray | None:
        parts = [value for output in outputs if (value := getattr(output, name)) is not None]
        return torch.cat(parts).float().cpu().numpy() if parts else None

    probs = of_all("class_probs") if outputs else np.zeros((0, len(names)))
    sure, embeddings, features = map(of_all, ("reliability", "embeddings", "features"))
    labelled = table.index[table["face"] != NO_FACE]
    table["predicted"] = pd.Series(names[probs.argmax(axis=1)], labelled, dtype=object)
    table["probability"] = pd.Series(probs.max(axis=1), labelled)
    unsure = table["probability"] < trained.not_sure_below
    if trained.face_test is not None and features is not None:
        strange = pd.Series(~trained.face_test.passes(features), labelled)
        strange = strange.reindex(table.index, fill_value=False) & (table["face"] == WHOLE)
        table.loc[strange, "face"] = UNLIKE
        unsure |= strange
    table.loc[unsure, "predicted"] = NOT_SURE
    table["reliability"] = pd.Series(sure, labelled, dtype=float)
    table = table.join(pd.DataFrame(probs, labelled, [f"p_{name}" for name in names]))
    folder = trained.path.parent
    run = printable(relative(folder.parent)) if folder.name == "checkpoints" else ""
    return table.assign(run=run, checkpoint=printable(trained.path.stem)), embeddings, unread


def _pictures(path: Path, every: float) -> Iterator[tuple[int | None, float | None, np.ndarray]]:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        yield from read_frames(path, every)
    else:
        yield None, None, read_photo(path)


def write_features(path: Path, table: pd.DataFrame, embeddings: np.ndarray) -> None:
    """Write the embeddings (N, D) of the N faces of `predict_files` to a .npz or .csv file."""
    places = [column for column in ("file", "frame", *BOX) if column in table]
    faces = table.loc[table["face"] != NO_FACE, places].reset_index(drop=True)
    if path.suffix.lower() == ".csv":
        table = faces.join(pd.DataFrame(embeddings).add_prefix("e"))
        Folder(path.parent).write_table(table, path.name)
        return
    arrays = {"files": faces["file"].to_numpy(dtype=str)}
    if "frame" in faces:
        arrays["frame"] = faces["frame"].fillna(-1).to_numpy(dtype=int)  # -1: not a video
    arrays |= {"box": faces[BOX].to_numpy(dtype=int), "embeddings": embeddings}
    Folder(path.parent).write_arrays(path.name, **arrays)


def _replaceable(path: Path) -> bool:
    """Whether nothing is lost by writing here: there is nothing, or a picture with our boxes."""
    try:
        with Image.open(path) as image:
            return image.info.get("comment") == DRAWN_BY
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


def annotate_files(
    table: pd.DataFrame, paths: Sequence[Path], folder: Path, *, every: float = 1.0
) -> int:
    """Write each picture and frame of `predict_files` with boxes and labels as a JPEG.

    Args:
        table: From `predict_files`, as are `paths` and `every`.
        folder: Receives the files; of those that are there, only ones written before are replaced.

    Returns:
        How many were written.
    """
    rows_of, written = dict(iter(table.groupby("file"))), set()
    for path in paths:
        rows = rows_of.get(printable(path))
        if rows is None:  # unreadable
            continue
        with suppress(ValueError):  # a video that is damaged further on; it was named
            for frame, _, picture in _pictures(path, every):
                here = rows if frame is None else rows[rows["frame"] == frame]
                here = here[here["face"] != NO_FACE]
                left_top, sizes = np.hsplit(here[BOX].to_numpy(dtype=int), 2)
                boxes = np.hstack([left_top, left_top + sizes]).tolist()
                labels = [f"{a} {p:.2f}" for a, p in here[["predicted", "probability"]].to_numpy()]
                stem = path.stem if frame is None else f"{path.stem}_frame{frame}"
                names = (f"{stem}{f'_{n}' * (n > 1)}.jpg" for n in itertools.count(1))
                name = next(n for n in names if n not in written and _replaceable(folder / n))
                content = io.BytesIO()
                drawn = draw_boxes(picture, boxes, labels)
                drawn.save(content, "jpeg", quality=90, comment=DRAWN_BY)
                Folder(folder).write_bytes(content.getvalue(), name)
                written.add(name)
    return len(written)
