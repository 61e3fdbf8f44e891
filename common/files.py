"""Files appear whole or not at all, and every text file is UTF-8."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch


@contextmanager
def atomic_path(path: Path, sync: bool = True, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary neighbor of ``path`` to write to; it takes the name ``path`` only when whole.

    With ``sync`` it is on the disk before the rename, so that a crash leaves the old file or the new one; ``shared``
    files may be written by several processes at once, so each has a temporary one of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    try:
        yield temporary
        if sync:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, shared: bool = False) -> None:
    """Write a file atomically."""
    with atomic_path(path, shared=shared) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; file names that are no UTF-8 keep their bytes."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def file_digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256, by which records name weights."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return tensors and metadata of a safetensors file; a ValueError says that it is damaged."""
    content = path.read_bytes()  # some mounts cannot map files into memory
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: truncated or corrupt safetensors file") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__", {})
