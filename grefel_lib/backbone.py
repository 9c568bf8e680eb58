"""Any timm backbone, or the window extractor on two; weights from hub, file, or random."""

import difflib
import logging
import pickle
import sys
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor, nn

from grefel_lib.config import PRETRAINED, Config
from grefel_lib.window_attention import REDUCTIONS, WindowCrossAttention, window_sides

log = logging.getLogger(__name__)
FACE, FACE_NETWORK = "face", "mobilenetv1_100"  # weights that come with the library
_REFUSALS = (AssertionError, TypeError, NotImplementedError)  # how timm rejects an option


def check_backbone(config: Config) -> None:
    """Reject a backbone or weight file that does not exist, before anything is built.

    Raises:
        ValueError: timm has no such backbone, or it lacks what the head or the window extractor
            needs.
        FileNotFoundError: `backbone_weights` or `landmark_weights` names no file.
        ConnectionError: The hub weights are not cached and the hub cannot be reached.
    """
    networks = [(config.backbone, config.backbone_weights, "backbone_weights")]
    second = (config.landmark_backbone, config.landmark_weights, "landmark_weights")
    if config.extractor == "window_cross_attention" or second[1] not in ("hub", "none"):
        networks.append(second)
    for name, _, _ in networks:
        if not timm.is_model(name.split(".")[0]):
            near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
            hint = f"; close matches: {', '.join(near)}" if near else ""
            raise ValueError(f"timm has no backbone {name!r}{hint} (see timm.list_models())")
        if config.extractor == "window_cross_attention":
            _levels(name, config.image_size)
    for name, weights, setting in networks:
        path = weight_file(weights)
        if weights == "hub":
            _reach_hub(name, setting)
        elif weights != "none" and not path.is_file():
            raise FileNotFoundError(
                f"no weight file at {path}; {setting} must be hub, none, face, or the path of a "
                f".safetensors or state-dict file"
            )
        if weights == FACE and name != FACE_NETWORK:
            raise ValueError(f"{setting}=face are weights of {FACE_NETWORK}, not of {name}")
    if config.extractor == "timm":
        _check_features(config.backbone, config.image_size, config.output_stride, config.head)
    if reads_earlier(config):
        earlier_width(config.backbone, config.image_size, config.output_stride)


def weight_file(weights: str) -> Path:
    """The file that a weights setting names; `face` comes with the library."""
    if weights == FACE:
        return PRETRAINED / f"face_{FACE_NETWORK}.safetensors"
    return Path(weights).expanduser()


@lru_cache
def _check_features(name: str, image_size: int, output_stride: int, head: str) -> None:
    """Pass two faces without content through a timm network, as the model does."""
    linear, reason = head == "linear", ""
    try:
        with torch.device("meta"):  # shapes alone: nothing is allocated, computed or drawn
            network = _network(name, image_size, output_stride, num_classes=3 if linear else 0)
            features = network.forward_features(torch.empty(2, 3, image_size, image_size))
            if linear or getattr(features, "ndim", 0) in (3, 4):
                pooled = network.forward_head(features, pre_logits=not linear)
                reason = _unfit(network, features, pooled, linear)
            else:
                reason = "its features are not one map, or tokens of one width"
    except ValueError:
        raise
    except Exception as error:  # of any kind: this is timm's code
        cfg, reason = timm.get_pretrained_cfg(name), str(error).split("\n")[0]
        reason = reason or "it does not support this size"
        if cfg and cfg.input_size[-1] != image_size:
            reason += f" (timm's own size is {cfg.input_size[-1]})"
    if reason:
        raise ValueError(
            f"backbone {name!r} cannot be used with head={head} at image_size {image_size}: "
            f"{reason}"
        )


def _unfit(network: nn.Module, features: Tensor, pooled: Tensor, linear: bool) -> str:
    """Why a head cannot read what a network gives for two faces; empty if it can."""
    if linear:
        classifiers = network.get_classifier()  # a pair, where timm distils
        for part in classifiers if isinstance(classifiers, tuple) else (classifiers,):
            if not all(hasattr(part, name) for name in ("weight", "bias")):
                return f"its classifier is a {type(part).__name__}, not one linear layer"
        return ""
    last = features.ndim == 3 or getattr(network, "output_fmt", "NCHW") == "NHWC"
    widths = (features.shape[-1 if last else 1], pooled.shape[-1])
    named = (network.num_features, getattr(network, "head_hidden_size", network.num_features))
    return f"its features are {widths} wide, not {named} as it says" if widths != named else ""


def _reach_hub(name: str, setting: str) -> None:
    """Query the hub once; its own client would retry for a minute, warning each time."""
    repository, file = timm.get_pretrained_cfg(name).hf_hub_id, "model.safetensors"
    if not repository or isinstance(try_to_load_from_cache(repository, file), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, file), timeout=10)
    except EntryNotFoundError:
        return  # the hub answers; these weights have another file name
    except Exception as error:
        raise ConnectionError(
            f"could not fetch the weights of {name!r} from the hub ({type(error).__name__}). "
            f"Either go online once, or set {setting} to the path of a .safetensors or "
            f"state-dict file, or {setting}=none to start from scratch"
        ) from error


def reads_earlier(config: Config) -> bool:
    """Whether the branches read an earlier feature map than the primary classifier."""
    return config.branch_features == "earlier" and not config.unmet("branch_features")


@lru_cache
def earlier_width(name: str, image_size: int, output_stride: int) -> int:
    """Channels of the feature map before a timm network's last.

    Raises:
        ValueError: It gives none.
    """
    try:
        with torch.device("meta"):  # shapes alone
            network = _network(name, image_size, output_stride, num_classes=0)
            faces = torch.empty(2, 3, image_size, image_size)
            last, [earlier] = network.forward_intermediates(faces, indices=[-2])
            if last.shape != network.forward_features(faces).shape:
                raise ValueError("its last features are others there")
    except Exception as error:  # of any kind: this is timm's code
        raise ValueError(
            f"backbone {name!r} gives no feature map before its last "
            f"({str(error).splitlines()[0]}); use branch_features=last"
        ) from error
    return earlier.shape[1]


def build_backbone(config: Config, *, num_classes: int = 0) -> nn.Module:
    """Create the extractor that a config names, at its image size, and load its weights."""
    check_backbone(config)
    name = config.backbone
    if config.extractor == "window_cross_attention":
        return WindowCrossAttention(
            _pyramid(name, config.backbone_weights, config.image_size),
            _pyramid(config.landmark_backbone, config.landmark_weights, config.image_size),
            image_size=config.image_size,
            num_classes=num_classes,
            drop_rate=config.drop_rate,
        )
    backbone = _network(
        name, config.image_size, config.output_stride, num_classes=num_classes,
        pretrained=config.backbone_weights == "hub", drop_rate=config.drop_rate,
    )  # fmt: skip
    if config.backbone_weights not in ("hub", "none"):
        load_backbone_weights(backbone, config.backbone_weights)
    return backbone


def _network(name: str, image_size: int, output_stride: int, **options: Any) -> nn.Module:
    """Create a timm network at an image size, with the output stride where it supports one."""
    if not _has_fixed_size(name) and (output_stride or image_size < 4 * 32):
        # with a single position, the attention's query and key would get no gradient
        options["output_stride"] = output_stride or 16
    # some networks do not support output_stride: those that refuse a value may have another
    refusals = TypeError if output_stride else _REFUSALS
    try:
        try:
            backbone = _create(name, image_size, **options)
        except refusals:
            options.pop("output_stride", None)
            if output_stride and torch.get_default_device().type != "meta":  # not in the check
                log.warning("%s does not support output_stride; using its default", name)
            backbone = _create(name, image_size, **options)
    except _REFUSALS as error:
        raise ValueError(
            f"backbone {name!r} does not support image_size {image_size} with output_stride "
            f"{options.get('output_stride', 'unset')}: {str(error) or 'not supported together'}"
        ) from error
    embed = getattr(backbone, "patch_embed", None)
    patch = getattr(getattr(embed, "proj", None), "stride", getattr(embed, "patch_size", 1))
    patch = patch if isinstance(patch, int) else patch[0]  # overlapping patches: their distance
    if image_size % patch:
        raise ValueError(
            f"image_size {image_size} is not a multiple of the {patch}-pixel patches of "
            f"{name!r}; the nearest is {max(1, round(image_size / patch)) * patch}"
        )
    return backbone


def _create(name: str, image_size: int, **options: Any) -> nn.Module:
    size = {"img_size": image_size} if _has_fixed_size(name) else {}
    return timm.create_model(name, **size, **options)


def _has_fixed_size(name: str) -> bool:
    """Whether a network is built for one image size, as transformers are."""
    cfg = timm.get_pretrained_cfg(name)
    return cfg is not None and cfg.fixed_input_size


_FEATURES = {"features_only": True, "feature_cls": "getter"}  # keeps the original tensor names


def _levels(name: str, image_size: int) -> tuple[int, ...]:
    """Indices of the three feature maps the window extractor reads, found without weights.

    Those with reductions 8, 16 and 32; for a network that ends at 16, like the published IR-50,
    those with 4, 8 and 16, which the extractor downsamples by 2.
    """
    try:
        with torch.device("meta"):  # shapes alone: nothing is allocated or computed
            network = _create(name, image_size, **_FEATURES).eval()
            maps = network(torch.empty(1, 3, image_size, image_size))
    except Exception as error:  # of any kind: this is timm's code
        raise ValueError(
            f"{name!r} has no feature maps for window_cross_attention at image_size {image_size}; "
            f"a multiple of 32, at least 64, works for most networks ({error})"
        ) from error
    info = network.feature_info
    maps_by_reduction = {
        reduction: (index, tuple(level.shape[-2:]))
        for index, reduction, level in zip(info.out_indices, info.reduction(), maps, strict=True)
    }
    halves = tuple(reduction // 2 for reduction in REDUCTIONS)
    reductions = next((r for r in (REDUCTIONS, halves) if maps_by_reduction.keys() >= set(r)), None)
    if reductions is None:
        raise ValueError(
            f"window_cross_attention needs feature maps with reductions 8, 16 and 32, but those "
            f"of {name!r} are {', '.join(map(str, info.reduction()))}; take a network with a "
            f"pyramid, such as resnet50 or mobilenetv3_small_100"
        )
    sides = [-(-image_size // reduction) for reduction in reductions]
    if window_sides(image_size)[-1] == 1 or any(
        maps_by_reduction[r][1] != (side, side) for r, side in zip(reductions, sides, strict=True)
    ):
        sizes = ", ".join(f"{h}x{w}" for h, w in (maps_by_reduction[r][1] for r in reductions))
        raise ValueError(
            f"at image_size {image_size} the feature maps of {name!r} are {sizes}, which "
            f"window_cross_attention cannot use; use a multiple of 32, at least 64"
        )
    return tuple(maps_by_reduction[r][0] for r in reductions)


def _pyramid(name: str, weights: str, image_size: int) -> nn.Module:
    """The part of a timm network below the window extractor's last level."""
    levels = _levels(name, image_size)
    hub = weights == "hub"
    pyramid = _create(name, image_size, out_indices=levels, pretrained=hub, **_FEATURES)
    if weights not in ("hub", "none"):  # the file contains the whole network
        whole = _create(name, image_size)
        load_backbone_weights(whole, weights)
        pyramid.model.load_state_dict(whole.state_dict(), strict=False)
    return pyramid


# where projects keep the tensors in a file, and what they put before each name
_KEYS = (
    "state_dict_ema", "model_ema", "model_state_dict", "state_dict", "model", "net", "encoder",
)  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "net.")
_BESIDE = (  # often there besides tensors; files from before 2020 do not list what they contain
    *(f"numpy.{c}.multiarray.{n}" for c in ("core", "_core") for n in ("scalar", "_reconstruct")),
    "numpy.dtype", "numpy.ndarray", "_codecs.encode", "argparse.Namespace",
)  # fmt: skip


class _Ignored(dict):
    """Stands for whatever in a weight file is not a tensor: its own code never runs."""

    def __new__(cls, *arguments: Any) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The one dict of tensors in a safetensors file or a file of `torch.save`."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        unknown = set(_BESIDE)
        if zipfile.is_zipfile(path):
            unknown |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        with torch.serialization.safe_globals([(_Ignored, name) for name in unknown]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"cannot read weights from {path}: it is not a file of torch.save, or contains more "
            f"than tensors, numbers and text; save the network's state_dict() alone"
        ) from error
    except Exception as error:  # of any kind: a damaged file
        line = str(error).split("\n")[0]
        raise ValueError(f"cannot read weights from {path}: {line}") from error
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The dict of tensors in a file's content: under a known name, at the top, or the only one."""
    entries = content if isinstance(content, Mapping) else {}
    inner = {k: v for k, v in entries.items() if isinstance(v, Mapping) and v}
    for key in _KEYS:
        if key in inner:
            return _tensors(inner[key], path)
    tensors = {k: v for k, v in entries.items() if isinstance(k, str) and isinstance(v, Tensor)}
    groups = [v for v in inner.values() if any(isinstance(t, Tensor) for t in v.values())]
    if not tensors and len(groups) == 1:
        return _tensors(groups[0], path)
    if not tensors:
        raise ValueError(
            f"{path} holds no dict of tensors at the top or under {', '.join(_KEYS)}; it holds: "
            f"{', '.join(map(str, list(entries)[:8])) or type(content).__name__}"
        )
    return tensors


def load_backbone_weights(backbone: nn.Module, path: str | Path) -> None:
    """Load a local weight file into a timm backbone, except for the classifier.

    Args:
        backbone: A timm model.
        path: A safetensors file or a file of `torch.save` with one dict of tensors, at the top
            or under the names that projects use, with timm's parameter names or names that timm
            can convert.

    Raises:
        ValueError: The file cannot be read, or its tensors are not this backbone's.
    """
    path = weight_file(str(path))
    state = _read_weights(path)
    while prefix := next(
        (
            p
            for p in _PREFIXES
            if not hasattr(backbone, p[:-1]) and any(k.startswith(p) for k in state)
        ),
        "",
    ):  # the rest of the file is another project's head
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    names = backbone.pretrained_cfg.get("classifier") or ()
    classifier = (names,) if isinstance(names, str) else tuple(names)
    try:
        state = convert(state, backbone) if convert else state
        state = {
            k: v for k, v in state.items() if not k.startswith(tuple(f"{n}." for n in classifier))
        }
        missing, unexpected = backbone.load_state_dict(state, strict=False)
    except (RuntimeError, AttributeError, KeyError) as error:
        raise ValueError(f"the weights in {path} do not fit the backbone: {error}") from error
    missing = [name for name in missing if not name.startswith(classifier or ("\0",))]
    if missing or unexpected:
        raise ValueError(
            f"the weights in {path} belong to another architecture: "
            f"{len(missing)} tensors missing (first: {missing[:1]}), "
            f"{len(unexpected)} unknown (first: {unexpected[:1]})"
        )
