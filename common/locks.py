"""One process at a time: locks that end with the process that holds them, on every system."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import UserError

# What file systems without locks answer (Lustre without flock, NFS without its lock service).
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def hold(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold the lock file ``path`` for as long as the block runs; its folder must exist.

    Where the file system knows no locks the block runs without one, and that is said once.

    Args:
        path: the lock file; it stays.
        busy: the error while another process holds it; None waits instead.

    Raises:
        UserError: ``busy``.
    """
    try:
        # Its fallback to a file of its own would take the one that an earlier lock left here for one that is held.
        lock = FileLock(path, timeout=-1 if busy is None else 0, fallback_to_soft=False)
    except TypeError:  # a release from before that fallback
        lock = FileLock(path, timeout=-1 if busy is None else 0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(str(busy)) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        _say_once(path.parent)
    try:
        yield
    finally:
        lock.release()


@cache
def _say_once(folder: Path) -> None:
    print(f"note: {folder}: this file system has no locks; do not start the same run twice", file=sys.stderr)
