"""The folder of a run: one process at a time writes in it, and it touches nothing that a run did not write."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .checkpoint import NAME, Checkpoints, remove_temporaries
from .locking import locked

CHECKPOINTS = "checkpoints"
LOCK = ".nnkernels.lock"
"""The first file in the folder of a run: where it is, the folder is a run's."""

_WRITTEN = re.compile(r"settings\.yaml|log\.csv|curves\.png")


def holds_run(folder: Path) -> bool:
    """Whether a run began there, be it that it never came to a checkpoint."""
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    return (folder / LOCK).exists() or bool(checkpoints.found() or checkpoints.found("best"))


def free(*names: str) -> Path:
    """The first of runs/NAMES-1, -2, ... that is not there; of most runs the names are those of data and network."""
    folders = (Path("runs") / f"{'-'.join(names)}-{number}" for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


@contextlib.contextmanager
def taken(folder: Path, new: bool = False) -> Iterator[None]:
    """Within it the folder, which is made where it is missing, is this run's alone.

    Args:
        folder: of the run.
        new: whether it may not be there yet.

    Raises:
        InUse: another run writes there.
        FileExistsError: it is there and has to be new, or holds files but no run.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=not new)
    there = sorted(os.listdir(folder))
    if there and not holds_run(folder):  # asked in this order: another process that begins makes its lock first
        few = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")
        raise FileExistsError(f"{folder} holds no run, but {few}; nothing there is touched: choose a new folder")
    with locked(folder / LOCK, str(folder)):
        remove_temporaries(folder, _WRITTEN)
        remove_temporaries(folder / CHECKPOINTS, NAME)
        yield
