"""Training checkpoints: written atomically, never executed, with one predecessor to fall back to."""

from __future__ import annotations

import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.files import write_atomic


def previous_path(path: Path) -> Path:
    """Return where the checkpoint before ``path`` is kept."""
    return path.with_suffix(".previous.pt")


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write ``payload`` to ``path``; the checkpoint that stood there becomes the previous one.

    At every moment of a crash ``path`` or :func:`previous_path` names a whole checkpoint.
    """

    def write(temporary: Path) -> None:
        # Through memory: writing bytes reports a full disk as what it is, torch's own writer does not.
        content = io.BytesIO()
        torch.save(payload, content)
        temporary.write_bytes(content.getbuffer())
        if path.exists():
            older = temporary.with_suffix(".older")
            older.unlink(missing_ok=True)
            os.link(path, older)
            os.replace(older, previous_path(path))

    write_atomic(path, write)


def load_checkpoint(path: Path, kind: str, map_location: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint, falling back to the previous one where the newest is damaged.

    Args:
        path: a ``.pt`` file written by :func:`save_checkpoint`.
        kind: what it must hold, for example ``p1_gan/B``.
        map_location: where its tensors go.

    Raises:
        UserError: no such file; of another model; with content that would execute code; all damaged.
    """
    if not path.exists() and not previous_path(path).exists():
        raise UserError(f"{path}: no such checkpoint; train first, or pass another --checkpoint")
    for candidate in (path, previous_path(path)):
        if not candidate.exists():
            continue
        payload = _read(candidate, map_location)
        if payload is None:
            print(f"warning: {candidate} is damaged, trying the checkpoint before it", file=sys.stderr)
            continue
        found = payload.get("kind") if isinstance(payload, dict) else None
        if found != kind:
            raise UserError(f"{candidate}: holds {found or 'something else'}, not {kind}; pass a checkpoint of {kind}")
        return payload
    raise UserError(f"{path}: damaged, and so is the one before it; delete them and train again")


def _read(path: Path, map_location: torch.device | str) -> Any | None:
    """Return the content of ``path``, or None where the file is damaged."""
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, it holds objects that could run code; use only checkpoints you made"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError):
        return None
