"""A checkpoint is one file: tensors in safetensors, facts as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from grefel_lib.folders import atomic

if TYPE_CHECKING:  # it takes seconds to import
    from torch import Tensor


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint; a crash or a full disk leaves the old file as it was.

    Args:
        path: Its parent exists.
        tensors: By name; made contiguous, since safetensors refuses channels-last.
        facts: Anything JSON can hold.

    Raises:
        OSError: The file cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
    header = {"grefel": json.dumps(facts)}
    return atomic(path, lambda temporary: save_file(tensors, temporary, metadata=header))


def read_facts(path: Path) -> dict:
    """The JSON header of a checkpoint, without its tensors."""
    try:
        with safe_open(path, framework="numpy") as content:
            facts = (content.metadata() or {}).get("grefel")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read the checkpoint {path}: {error}") from error
    if facts is None:
        raise ValueError(
            f"{path} is not a checkpoint of this project; for plain backbone weights use "
            f"backbone_weights"
        )
    return json.loads(facts)


def load(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read a checkpoint: tensors by name and the facts saved with them; nothing is unpickled.

    Raises:
        ValueError: The file is truncated or no checkpoint of this project.
    """
    facts = read_facts(path)
    with safe_open(path, framework="pt") as content:
        return {key: content.get_tensor(key) for key in content.keys()}, facts  # noqa: SIM118
