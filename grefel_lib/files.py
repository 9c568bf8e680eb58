"""File access: atomic writes; locks; files read in one line or none; checkpoints as safetensors."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import json
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from grefel_lib.config import PROJECT_ROOT

if TYPE_CHECKING:  # torch takes seconds, and figures and tables need none
    from torch import Tensor

TEXT = (  # columns that identify faces and classes; read as strings, whatever they look like
    "id", "copy", "file", "image_hash", "subject", "label", "predicted", "true_label", "copy_label",
)  # fmt: skip

FINGERPRINT = "content-"  # of a data set, by what it holds
DAMAGED = (  # what reading a damaged file can raise
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, EOFError,
    MemoryError, OSError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_HOST = socket.gethostname().partition(".")[0]
_UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # to a file system: no fsync, no locks


@dataclass(frozen=True)
class Folder:
    """A folder under outputs/; files in it are written atomically."""

    path: Path

    @property
    def name(self) -> str:
        """The path, relative to the project root if inside it."""
        return relative(self.path)

    def file(self, *parts: str) -> Path:
        """A path inside the folder; its parent is created."""
        path = self.path.joinpath(*parts)
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_text(self, text: str, *parts: str) -> Path:
        """Write a text file atomically."""
        return self.write_bytes(text.encode(), *parts)

    def write_bytes(self, content: bytes, *parts: str) -> Path:
        """Write a binary file atomically."""
        return atomic(self.file(*parts), lambda temporary: temporary.write_bytes(content))

    def write_json(self, content: Any, *parts: str) -> Path:
        """Write JSON atomically."""
        return self.write_text(json.dumps(content, indent=2) + "\n", *parts)

    def write_table(self, table: pd.DataFrame, *parts: str, index: bool = False) -> Path:
        """Write a CSV file atomically."""
        return self.write_text(table.to_csv(index=index), *parts)

    def write_array(self, array: np.ndarray, *parts: str) -> Path:
        """Write a .npy file atomically."""
        content = io.BytesIO()
        np.save(content, array)
        return self.write_bytes(content.getvalue(), *parts)

    def write_arrays(self, *parts: str, **arrays: np.ndarray) -> Path:
        """Write a compressed .npz file atomically."""
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        return self.write_bytes(content.getvalue(), *parts)

    def remove_litter(self, *subfolders: str) -> None:
        """Remove what `atomic` left here, and in subfolders, when its process was killed.

        What another machine left is removed after an hour without a change.
        """
        for folder in (self.path, *(self.path / name for name in subfolders)):
            for path in folder.glob(".*.*.*"):
                with contextlib.suppress(FileNotFoundError):  # its process has just renamed it
                    if _is_litter(path):
                        path.unlink()


def same_data(one: str | None, other: str | None) -> bool:
    """Whether two fingerprints can be of the same data.

    Those of the content begin with FINGERPRINT. Older ones were of names, sizes and times of the
    files; two of different kinds cannot be compared, and count as the same.
    """
    kinds = [str(value).startswith(FINGERPRINT) for value in (one, other)]
    return one == other or kinds[0] != kinds[1]


def other_faces(facts: Mapping[str, Any]) -> bool:
    """Whether the scored faces are of another data set, or other files, than those learned.

    Without a record of what was learned they count as the same, if the data set is.

    Args:
        facts: Of an evaluation, or metrics.json.
    """
    trained, scored = facts.get("training_fingerprint"), facts.get("fingerprint")
    other = facts.get("training_dataset", facts["dataset"]) != facts["dataset"]
    return other or (trained is not None and not same_data(trained, scored))


def _is_litter(temporary: Path) -> bool:
    ours = re.fullmatch(r"\..+\.(\d+)-[0-9a-f]{8}@(.*)", temporary.name)
    if not ours:
        return False
    if ours[2] == _HOST:
        return not psutil.pid_exists(int(ours[1]))
    return time.time() - temporary.stat().st_mtime > 3600


def check_place(path: Path) -> None:
    """Check, before work whose result is to be written to `path`, that a file can be made there.

    Raises:
        OSError: It cannot.
    """
    with _writing(path), tempfile.TemporaryFile(dir=next(p for p in path.absolute().parents
                                                         if p.exists())):  # fmt: skip
        pass


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Name the file in the errors of writing it, rather than a temporary one."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise OSError(f"cannot write {path}: where its folder should be is a file") from error
    except (OSError, SafetensorError) as error:  # the latter wraps "disk full" in its own type
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot write {path}: {reason}") from error


def atomic(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a temporary file next to the target, flush it to disk, then rename it.

    It is removed on failure. Its permissions are those of any new file (umask).

    Raises:
        OSError: The file cannot be written.
    """
    writer = f"{os.getpid()}-{uuid.uuid4().hex[:8]}@{_HOST}"
    temporary = path.with_name(f".{path.name}.{writer}")
    try:
        with _writing(path):
            temporary.touch()
            mode = temporary.stat().st_mode
            write(temporary)
            if temporary.stat().st_mode != mode:  # safetensors makes a private file of its own
                with contextlib.suppress(OSError):
                    temporary.chmod(mode)
            with temporary.open("rb+") as file:
                _flush(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def whole_folder(dest: Path) -> Iterator[Path]:
    """Give the block a path beside `dest` to write a folder to, which then becomes `dest`.

    If the block fails, or writes nothing, `dest` is left as it was.

    Args:
        dest: A new or empty folder.

    Raises:
        NotADirectoryError: `dest` is a file.
        ValueError: `dest` is not empty, or another process writes it.
        OSError: The disk is full.
    """
    if dest.exists() and not dest.is_dir():
        raise NotADirectoryError(f"{dest} is a file; give a new or empty folder")
    if dest.is_dir() and any(dest.iterdir()):
        raise ValueError(f"{dest} is not empty; nothing is overwritten, so give an empty folder")
    beside = dest.absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    prefix, suffix = ".unfinished-", f"-{dest.name}"
    lock = beside / f"{prefix}lock{suffix}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_one(lock, f"another process is writing {dest}"))
        stack.callback(lock.unlink, missing_ok=True)
        for unfinished in beside.glob(f"{prefix}{'?' * 8}{glob.escape(suffix)}"):
            shutil.rmtree(unfinished, ignore_errors=True)  # its process was killed
        temporary = tempfile.TemporaryDirectory(dir=beside, prefix=prefix, suffix=suffix)
        whole = Path(stack.enter_context(temporary), "whole")
        try:
            yield whole
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(f"cannot write {dest}: {error.strerror}") from error
        if whole.is_dir() and dest.exists():  # it stays: it may be a mount, or the current folder
            for child in whole.iterdir():
                child.rename(dest / child.name)
        elif whole.is_dir():
            whole.rename(dest)


def _flush(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as error:  # some file systems know no fsync; a full disk is an error
        if error.errno not in _UNKNOWN:
            raise


@contextlib.contextmanager
def only_one(path: Path, message: str) -> Iterator[None]:
    """Hold a lock file inside the block; the system releases it if the process is killed.

    On a file system without locks, nothing is held.

    Raises:
        ValueError: With `message`: another process holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(message) from None
    except OSError as error:
        if error.errno not in (*_UNKNOWN, errno.ENOLCK):
            raise
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def reading(path: Path, mend: str = "restore it from a backup, or delete it") -> Iterator[None]:
    """Turn the errors that a damaged file causes inside the block into one that names it.

    Raises:
        ValueError: Names the file, what is wrong with it, and the mend.
    """
    try:
        if path.is_fifo():
            raise OSError("it is a pipe")  # which would be waited for
        yield
    except DAMAGED as error:
        if str(path) in str(error) or relative(path) in str(error):  # a reader within named it
            raise
        wrong = " ".join(f"{'no ' * isinstance(error, KeyError)}{error}".split())
        raise ValueError(f"{path} cannot be read ({wrong}); {mend}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: It is damaged, or is not a JSON object; see `reading`.
    """
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"a JSON object is needed, not {type(content).__name__}")
    return content


def read_table(path: Path) -> pd.DataFrame:
    """Read a table written by `write_table`; ids stay strings, even 00074 or NA.

    A face without a subject is nobody's: not all such faces are of one person.

    Raises:
        ValueError: It is damaged; see `reading`.
    """
    with reading(path):
        others = [name for name in pd.read_csv(path, nrows=0) if name not in TEXT]
        missing = {name: [""] for name in [*others, "subject"]}
        return pd.read_csv(
            path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=missing
        )


def relative(path: Path) -> str:
    """A path relative to the project root if inside it, so that output shows no absolute paths."""
    path = Path(path).resolve()
    return str(path.relative_to(PROJECT_ROOT)) if path.is_relative_to(PROJECT_ROOT) else str(path)


_TAIL = r"""[^\s"'`,;()<>|]+"""
_ABSOLUTE_PATH = re.compile(  # within text; not the tail of a relative path or a URL
    rf"(?<![\w.~:/\\-])(?:file://|~\w*)?/(?=[\w.~]){_TAIL}|(?<!\w)[A-Za-z]:\\{_TAIL}"
)


def without_paths(content: Any, *folders: str) -> Any:
    """Content for sharing: every absolute path in its strings is reduced to its last part.

    Args:
        content: A string, or any JSON content.
        folders: Paths to replace besides the home and project folders; they may contain
            spaces.
    """
    if isinstance(content, Mapping):
        return {key: without_paths(value, *folders) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_paths(value, *folders) for value in content]
    if not isinstance(content, str):
        return content
    names = {path: Path(path).name for path in (*folders, str(PROJECT_ROOT))}
    names[str(Path.home())] = "~"  # its last part is the user's name
    for path in sorted(names, key=len, reverse=True):
        if Path(path).is_absolute() and Path(path).name:
            whole = rf"(?<![\w.~/\\-]){re.escape(path)}(?![\w.-])"
            content = re.sub(whole, lambda _, path=path: names[path], content)
    return _ABSOLUTE_PATH.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], content)


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint; a crash or a full disk leaves the old file unchanged.

    Args:
        path: Target file; its parent must exist.
        tensors: By name; made contiguous, since safetensors rejects channels-last.
        facts: Anything JSON can hold.

    Raises:
        OSError: The file cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
    header = {"grefel": json.dumps({**facts, "sha256": tensors_digest(tensors)})}
    return atomic(path, lambda temporary: save_file(tensors, temporary, metadata=header))


def read_facts(path: Path) -> dict:
    """The JSON header of a checkpoint, without its tensors.

    Raises:
        ValueError: The file is damaged, or not a checkpoint of this project.
    """
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
    with reading(path, "restore a backup, or train the run again"):
        return dict(json.loads(facts))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read a checkpoint: tensors by name and the facts saved with them; nothing is unpickled.

    Raises:
        ValueError: The file is truncated or damaged, or not a checkpoint of this project.
    """
    facts = read_facts(path)
    with safe_open(path, framework="pt") as content:
        tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    if "sha256" in facts and facts["sha256"] != tensors_digest(tensors):
        raise ValueError(
            f"the checkpoint {path} is damaged: its weights do not match their checksum; restore a "
            f"backup, or train the run again"
        )
    return tensors, facts


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values, sorted by name."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def under_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
