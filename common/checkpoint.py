"""Training checkpoints: written atomically, never executed, with one predecessor to fall back to."""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError, is_out_of_memory
from common.files import atomic_path


def previous_path(path: Path) -> Path:
    """Return where the checkpoint before ``path`` is kept."""
    return path.with_suffix(".previous.pt")


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write ``payload`` to ``path``; the checkpoint that stood there becomes the previous one.

    At every moment of a crash ``path`` or :func:`previous_path` names a whole checkpoint. Renaming alone does it: many
    mounted drives have no hard links.
    """
    # Through memory: writing bytes reports a full disk as what it is, torch's own writer does not.
    content = io.BytesIO()
    torch.save(payload, content)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())
        if path.exists():
            os.replace(path, previous_path(path))


def load_checkpoint(
    path: Path, *kinds: str, map_location: torch.device | str = "cpu", repair: bool = False
) -> dict[str, Any]:
    """Read a checkpoint, falling back to the previous one where the newest is damaged.

    Args:
        path: a ``.pt`` file written by :func:`save_checkpoint`.
        kinds: what it may hold, for example ``p1_gan/B``.
        map_location: where its tensors go.
        repair: delete a damaged newest one, so that the next save does not put it in the place of the whole one.

    Raises:
        UserError: no such file; of another model; with content that would execute code; all damaged.
    """
    candidates = [candidate for candidate in (path, previous_path(path)) if candidate.exists()]
    if not candidates:
        raise UserError(f"{path}: no such checkpoint; train first, or pass another --checkpoint")
    for candidate in candidates:
        payload = _read(candidate, map_location)
        if payload is None:
            if candidate != candidates[-1]:
                print(f"warning: {candidate} is damaged, trying the checkpoint before it", file=sys.stderr)
            continue
        found = payload.get("kind") if isinstance(payload, dict) else None
        if found not in kinds:
            raise wrong_kind(candidate, found, kinds)
        if repair and candidate != candidates[0]:
            candidates[0].unlink()
        return payload
    others = ", and so is the one before it" if len(candidates) > 1 else ""
    raise UserError(f"{path}: damaged{others}; train anew with --fresh, or pass another --checkpoint")


def wrong_kind(path: Path, found: str | None, kinds: Sequence[str]) -> UserError:
    """Return the error for weights at ``path`` that are not of one of the ``kinds`` asked for."""
    wanted = " or ".join(kinds)
    return UserError(f"{path}: holds {found or 'something else'}, not {wanted}; pass a checkpoint of {wanted}")


def _read(path: Path, map_location: torch.device | str) -> Any | None:
    """Return the content of ``path``, or None where the file is damaged."""
    if not _is_whole(path):
        return None
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, it holds objects that could run code; use only checkpoints you made"
        ) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return None


def _is_whole(path: Path) -> bool:
    """Return whether ``path`` is a zip archive with all its bytes right.

    torch checks no CRC and loads wrong bytes; of an entry marked as a folder it returns memory never written to.
    """
    with open(path, "rb") as file:  # a file that may not be read is not damaged
        try:
            if not zipfile.is_zipfile(file):
                return False
            with zipfile.ZipFile(file) as archive:
                return archive.testzip() is None and not any(map(_is_folder, archive.infolist()))
        except Exception:  # zipfile raises many kinds, since every field it reads may be wrong
            return False


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return bool(entry.external_attr & 0x10)  # the attribute's bit in MS-DOS, which torch's reader looks at
