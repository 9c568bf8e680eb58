"""Weights under other names: rename the tensors of a checkpoint to those of a timm network."""

import json
import re
from pathlib import Path

from safetensors.torch import save_file
from timm.models import load_state_dict
from torch import Tensor

from grefel_lib.folders import atomic


def convert(source: Path, mapping: Path, output: Path) -> dict[str, int]:
    """Write a safetensors file that `backbone_weights` and `landmark_weights` take.

    Args:
        source: A safetensors file or a state dict (`torch.save`), also under "state_dict" or
            "model", also with "module." before every name. Nothing is unpickled but tensors.
        mapping: A JSON object of regular expressions and what each match becomes, applied to every
            name in the order of the file (`re.sub`); null leaves the tensor out.
        output: A new .safetensors file.

    Returns:
        How many tensors were "renamed", "kept" under their name, and "dropped".

    Raises:
        ValueError: A file cannot be read, a pattern matches nothing, or two tensors get one name.
        FileExistsError: `output` exists.
        OSError: `output` cannot be written.
    """
    if output.suffix != ".safetensors":
        raise ValueError(f"the output must end in .safetensors; got {output}")
    if output.exists():
        raise FileExistsError(f"{output} exists; name a new file")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"no folder {output.parent} to write {output.name} to")
    state, rules = _read_tensors(source), _read_rules(mapping)
    names = rename(list(state), rules)
    tensors = {new: state[old].clone().contiguous() for old, new in names.items()}
    atomic(output, lambda temporary: save_file(tensors, temporary))
    renamed = sum(old != new for old, new in names.items())
    return {
        "renamed": renamed,
        "kept": len(names) - renamed,
        "dropped": len(state) - len(names),
    }


def rename(names: list[str], rules: dict[str, str | None]) -> dict[str, str]:
    """Apply the rules to names: old -> new, without those that a rule drops.

    Raises:
        ValueError: A pattern or replacement is malformed, a pattern matches nothing, nothing is
            left, or two names become one.
    """
    new = {name: name for name in names}
    for pattern, replacement in rules.items():
        try:
            hits = [old for old, name in new.items() if re.search(pattern, name)]
            if replacement is not None:
                new |= {old: re.sub(pattern, replacement, new[old]) for old in hits}
        except (re.error, IndexError) as error:
            raise ValueError(
                f"the rule {pattern!r}: {replacement!r} is malformed: {error}"
            ) from error
        if not hits:
            raise ValueError(f"the pattern {pattern!r} matches no name; the first is {names[0]!r}")
        if replacement is None:
            new = {old: name for old, name in new.items() if old not in hits}
    if not new:
        raise ValueError("the rules drop every tensor")
    taken: dict[str, str] = {}
    for old, name in new.items():
        if name in taken:
            raise ValueError(f"{taken[name]!r} and {old!r} would both become {name!r}")
        taken[name] = old
    return new


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        state = dict(load_state_dict(str(path), weights_only=True))
    except Exception as error:
        raise ValueError(f"cannot read weights from {path}: {error}") from error
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign or not state:
        raise ValueError(
            f"{path} is not a state dict of tensors: {foreign[0]!r} is a "
            f"{type(state[foreign[0]]).__name__}" if foreign else f"{path} holds no tensors"
        )  # fmt: skip
    return state


def _read_rules(path: Path) -> dict[str, str | None]:
    try:
        rules = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read the mapping {path}: {error}") from error
    if not isinstance(rules, dict) or not all(
        value is None or isinstance(value, str) for value in rules.values()
    ):
        raise ValueError(
            f"the mapping {path} must be a JSON object of patterns and replacements (text or "
            f'null), such as {{"^body": "layers", "^fc": null}}'
        )
    return rules
