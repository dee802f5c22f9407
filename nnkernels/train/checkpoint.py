"""Checkpoints, written whole or not at all.

A file is written under a temporary name, synced to the disk and renamed, and then the folder is synced. Its name ends
in the beginning of its SHA-256, as those of torch.hub do, so that a damaged one is known: step-00000120-3fa9c1d2.pt.
It is a plain `torch.save` file, read with `weights_only=True`, so nothing in it is ever executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import re
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

FORMAT = 1
_DIGITS = 8
NAME = re.compile(r"(step|best)-(\d+)-([0-9a-f]{8})\.pt")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message says why."""


def write_whole(path: Path, content: bytes) -> None:
    """Makes `path` hold `content`, or leaves everything as it was.

    Raises:
        OSError: the disk is full or the folder cannot be written; no partial file is left.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def remove_temporaries(folder: Path, names: re.Pattern[str]) -> None:
    """Removes what `write_whole` left of files of such names when its process was killed."""
    for path in folder.glob(".*.tmp"):
        if (match := re.fullmatch(r"\.(.+)\.[0-9a-f]+\.tmp", path.name)) and names.fullmatch(match[1]):
            path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """A new name in a folder is safe once the folder is."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _step(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    return int(match[2]) if match else -1


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; it is made when the first one is saved.
        keep: how many are kept, beside the best.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder, self.keep = folder, keep
        self._passed_over: set[Path] = set()

    def save(self, step: int, state: dict[str, Any], best: bool = False) -> Path:
        """Writes `state`, then removes what is no longer kept.

        Those of later steps are left, and are none of the `keep`: they were damaged when the run went on from an
        earlier one. What it passed over goes once the run has come as far again.

        Args:
            step: after which it was taken.
            state: tensors and plain values, nested.
            best: whether it is the best so far.

        Raises:
            OSError: it could not be written; those before are as they were.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, **state}, buffer)
        content = buffer.getvalue()
        path = self.folder / f"step-{step:08}-{_digest(content)}.pt"
        try:
            write_whole(path, content)
            if best:
                self._mark(path, content)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}; the checkpoints before are whole: free space there and resume",
                str(path),
            ) from error
        before = [one for one in self.found("step") if one != path and _step(one) <= step]
        replaced = [one for one in before if one in self._passed_over or _step(one) == step]
        older = [one for one in before if one not in replaced]
        for old in [*replaced, *older[self.keep - 1 :]]:
            old.unlink(missing_ok=True)
        return path

    def _mark(self, path: Path, content: bytes) -> None:
        """A second name for the file, where the file system knows such; else a copy."""
        before = self.found("best")
        name = path.with_name(path.name.replace("step-", "best-"))
        try:
            os.link(path, name)
            _sync(self.folder)
        except FileExistsError:
            pass
        except OSError:
            write_whole(name, content)
        for old in before:
            if old != name:
                old.unlink(missing_ok=True)

    def found(self, kind: str = "step") -> list[Path]:
        """The files of one kind, "step" or "best", the newest first."""
        matched = [path for path in self.folder.glob(f"{kind}-*.pt") if NAME.fullmatch(path.name)]
        return sorted(matched, key=lambda path: (_step(path), path.name), reverse=True)

    def newest(self, tell: Callable[[str], None] = print, kind: str = "step") -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that is whole, or the best one, and its path; None if there is none at all.

        Args:
            tell: is told of each that is damaged and passed over.
            kind: which are looked at first, "step", the newest ones, or "best"; the others serve if none is whole.

        Raises:
            CheckpointError: there are checkpoints, but none is whole.
        """
        kinds = ("best", "step") if kind == "best" else ("step", "best")
        candidates = [path for one in kinds for path in self.found(one)]
        for path in candidates:
            try:
                return path, read(path)
            except CheckpointError as error:
                self._passed_over.add(path)
                tell(f"{error}; falling back to the one before")
        if candidates:
            raise CheckpointError(f"none of the {len(candidates)} checkpoints in {self.folder} is whole")
        return None


def read(path: Path) -> dict[str, Any]:
    """The state in a checkpoint.

    Raises:
        CheckpointError: the file is not there, is damaged, or is no checkpoint; nothing in it was executed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if (match := NAME.fullmatch(path.name)) and match[3] != _digest(content):
        raise CheckpointError(f"{path} is damaged: its {len(content)} bytes are not those that were written")
    try:
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise ValueError("it is no torch.save file, or only a part of one")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damaged bytes make torch raise
        raise CheckpointError(f"{path} is refused, and nothing in it was executed: {_reason(error)}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this trainer (format {FORMAT})")
    return state


def _reason(error: Exception) -> str:
    """Why torch did not read a file; of a pickle its own words would advise to execute what is in it."""
    if isinstance(error, pickle.UnpicklingError):
        called = re.search(r"GLOBAL (\S+)", str(error))
        return f"it asks for {called[1] if called else 'more'} where a checkpoint has tensors and plain values only"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_fields(path: Path, state: Mapping[str, Any], wanted: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raises CheckpointError that names the first field that a checkpoint lacks, or has of another type, if any."""
    for name, types in wanted.items():
        if name not in state:
            raise CheckpointError(f"{path} is incomplete: it has no {name!r}, only {', '.join(map(str, state))}")
        if not isinstance(state[name], types):
            raise CheckpointError(f"{path} is not usable: its {name!r} is of type {type(state[name]).__name__}")


@contextlib.contextmanager
def using(path: Path) -> Iterator[None]:
    """Within it, whatever the fields of a checkpoint make others raise is a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{path} is incomplete: something in it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not usable: {_reason(error)}") from error


def check_tensors(path: Path, saved: Mapping[str, Any], model: torch.nn.Module) -> None:
    """Raises CheckpointError that names the first tensor in which a checkpoint and a network differ, if any."""
    wanted = model.state_dict()
    for name in [*wanted, *saved]:
        shapes = [_shape(state, name) for state in (saved, wanted)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{path} is of another network: of {name} it has {shapes[0]}, the network has {shapes[1]}"
            )


def _shape(state: Mapping[str, Any], name: str) -> tuple[int, ...] | str:
    if name not in state:
        return "nothing"
    value = state[name]
    return tuple(value.shape) if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
