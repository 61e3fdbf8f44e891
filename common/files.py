"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import UserError

# What file managers, git and notebooks leave in folders that a person calls empty.
LEFT_BY_SYSTEMS = frozenset(
    {
        ".DS_Store",
        ".Spotlight-V100",
        ".Trashes",
        ".gitignore",
        ".gitkeep",
        ".ipynb_checkpoints",
        "Thumbs.db",
        "desktop.ini",
    }
)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of ``path`` to write to; it takes the name ``path`` only when whole.

    The bytes are flushed to the disk before the rename, so a crash leaves the old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _errors_naming(path, temporary):
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half written in ``folder`` and below; nobody else may be writing there."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path, then rename it to ``path``."""
    with atomic_path(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    write_atomic(path, lambda temporary: temporary.write_bytes(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def append_text(path: Path, text: str) -> None:
    """Append ``text`` as UTF-8; a kill may cut it short."""
    with _errors_naming(path), open(path, "a", encoding="utf-8") as file:
        file.write(text)


def prepare_empty_folder(folder: Path) -> None:
    """Make ``folder`` for the pictures of one command.

    What LEFT_BY_SYSTEMS names does not count.

    Raises:
        UserError: it holds anything else, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted({entry.name for entry in folder.iterdir()} - LEFT_BY_SYSTEMS)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder}: is a file; name a folder for the pictures") from error
    if others:
        raise UserError(f"{folder}: is not empty, it holds {others[0]}; choose a new folder for the pictures")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _errors_naming(path: Path, alias: Path | None = None) -> Iterator[None]:
    """Let every OSError of the body name ``path``: a failed write names no file, a failed open the ``alias``."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) == str(alias):
            error.filename = str(path)
        raise
