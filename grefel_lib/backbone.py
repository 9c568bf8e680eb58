"""Any timm backbone, at any size, with weights from the hub, from a file, or none."""

import difflib
import sys
from pathlib import Path

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import load_state_dict
from torch import nn

from grefel_lib.config import Config


def check(config: Config) -> None:
    """Refuse, before anything is built, a backbone or weight file that does not exist.

    Raises:
        ValueError: timm has no such backbone.
        FileNotFoundError: `backbone_weights` names no file.
        ConnectionError: The hub's weights are not on this machine and the hub does not answer.
    """
    name = config.backbone
    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise ValueError(f"timm has no backbone {name!r}{hint} (see timm.list_models())")
    if config.backbone_weights == "hub":
        _reach_hub(name)
    path = Path(config.backbone_weights).expanduser()
    if config.backbone_weights not in ("hub", "none") and not path.is_file():
        raise FileNotFoundError(
            f"no weight file at {path}; backbone_weights is hub, none, or the path of a "
            f".safetensors or state-dict file"
        )


def _reach_hub(name: str) -> None:
    """Ask the hub once; its own client would retry for a minute, with a warning each time."""
    repository, file = timm.get_pretrained_cfg(name).hf_hub_id, "model.safetensors"
    if not repository or isinstance(try_to_load_from_cache(repository, file), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, file), timeout=10)
    except EntryNotFoundError:
        return  # it answers; these weights have another file name
    except Exception as error:
        raise ConnectionError(
            f"could not fetch the weights of {name!r} from the hub ({type(error).__name__}). "
            f"Either connect once, or pass backbone_weights with the path of a .safetensors or "
            f"state-dict file, or backbone_weights=none to start from scratch"
        ) from error


def build(config: Config, *, num_classes: int = 0) -> nn.Module:
    """Create a timm backbone at the config's image size and load its weights."""
    check(config)
    name = config.backbone
    hub = config.backbone_weights == "hub"
    options: dict[str, object] = {"num_classes": num_classes, "drop_rate": config.drop_rate}
    cfg = timm.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size:
        options["img_size"] = config.image_size
    elif config.output_stride or config.image_size < 4 * 32:
        # a map of one position would leave the attention's query and key without a gradient
        options["output_stride"] = config.output_stride or 16
    try:
        try:
            backbone = timm.create_model(name, pretrained=hub, **options)
        except TypeError:
            if config.output_stride:
                raise
            options.pop("output_stride", None)  # some networks know no other stride than their own
            backbone = timm.create_model(name, pretrained=hub, **options)
    except (AssertionError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"backbone {name!r} does not take image_size {config.image_size} with output_stride "
            f"{options.get('output_stride', 'unset')}: {error or 'not divisible by its patches'}"
        ) from error
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", (1, 1))[0]
    if config.image_size % patch:
        raise ValueError(
            f"image_size {config.image_size} is not a multiple of the {patch}-pixel patches of "
            f"{name!r}; the nearest is {max(1, round(config.image_size / patch)) * patch}"
        )
    if config.backbone_weights not in ("hub", "none"):
        load_weights(backbone, config.backbone_weights)
    return backbone


def load_weights(backbone: nn.Module, path: str | Path) -> None:
    """Load a local weight file into a timm backbone; its classifier is left out.

    Args:
        backbone: A timm model.
        path: A safetensors file or a state dict (`torch.save`), in timm's parameter names or in
            any that timm converts.

    Raises:
        ValueError: The file cannot be read, or its tensors are not this backbone's.
    """
    path = Path(path).expanduser()
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:
        raise ValueError(f"cannot read weights from {path}: {error}") from error
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
            f"the weights in {path} are of another architecture: "
            f"{len(missing)} tensors missing (first: {missing[:1]}), "
            f"{len(unexpected)} unknown (first: {unexpected[:1]})"
        )
