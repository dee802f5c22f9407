"""A lock that dies with its process, however that ends.

It is `flock` on a file of its own, which the kernel lets go when the process that holds it is gone: nothing has to be
tidied up after `kill -9`. The file stays, and its text says who holds it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none, and there nothing is locked
    fcntl = None  # type: ignore[assignment]


class InUse(OSError):
    """What another process holds; the message says which process."""


_held: set[int] = set()
"""The handles of the locks that this process holds."""


def _parted() -> None:
    """In a forked child, such as one that loads data: it must not keep the lock of a parent that was killed."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_parted)


@contextlib.contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Within it no other process, and nothing else in this one, has the same lock.

    Args:
        path: the lock's file, which is made where it is missing, and stays.
        what: is locked, for the message.
        wait: until the other has let go, instead of raising.

    Raises:
        InUse: somebody else holds it.
        OSError: the file cannot be made.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _held.add(handle)
    try:
        if fcntl is not None:
            _lock(handle, what, wait)
        os.ftruncate(handle, 0)
        with contextlib.suppress(OSError):  # a full disk, which is not the lock's to tell
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        try:
            yield
        finally:
            if handle in _held and fcntl is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, 0)
                    fcntl.flock(handle, fcntl.LOCK_UN)  # closing would not do beside a child that was forked just now
    finally:
        if handle in _held:
            _held.discard(handle)
            os.close(handle)


def _lock(handle: int, what: str, wait: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            raise InUse(f"{what} is in use by {holder}") from None
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        print(f"{what} is in a file system without locks: let no other process write there", file=sys.stderr)
