"""A folder of small pictures, decoded once, kept as one uint8 tensor."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from common.decode import read_image
from common.errors import UserError
from common.files import write_atomic
from common.threads import for_each


def load_images(
    folder: Path,
    names: Sequence[str],
    size: int,
    mode: str | None = None,
    cache: bool = True,
) -> torch.Tensor:
    """Return the named pictures of ``folder`` as one tensor, decoding PNG files only the first time.

    The decoded tensor is kept in ``<folder>/../.cache``; it is rebuilt whenever a name, a file's size or its
    time of change differs from those it was made from. A folder that cannot be written is no error: then
    nothing is kept. Links to files are followed wherever they lead (DVC, the cache of Hugging Face).

    Args:
        folder: where the files lie.
        names: plain file names (no folders), in the order wanted.
        size: height and width every picture must have.
        mode: ``RGB`` or ``L``; None takes the first picture's, and then every other must have it too.
        cache: read and write the cache.

    Returns:
        uint8, (N, 3 or 1, size, size).

    Raises:
        UserError: names the first file that is missing, damaged, or of another size or mode.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name another, or make the data with data/prepare.py")
    if not names:
        raise UserError(f"{folder}: no pictures; it must hold at least one PNG file")
    fingerprint = _fingerprint(folder, names, size, mode)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    path = folder.parent / ".cache" / f"{folder.name}-{size}-{mode or 'any'}-{digest}.safetensors"
    if cache:
        images = _read_cache(path, fingerprint, len(names))
        if images is not None:
            return images
    images = _decode_all(folder, names, size, mode)
    if cache:
        try:
            write_atomic(path, lambda temp: save_file({"images": images}, temp, {"fingerprint": fingerprint}))
        except (OSError, SafetensorError):
            warnings.warn(f"{path.parent}: cannot be written, so the pictures are decoded at every start", stacklevel=2)
    return images


def list_images(folder: Path) -> list[str]:
    """Return the names of all PNG and JPEG files in ``folder``, sorted, hidden ones left out.

    Raises:
        UserError: no such folder, or none in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name another, or make the data with data/prepare.py")
    suffixes = (".png", ".jpg", ".jpeg")
    names = _entries(folder)
    # Archives made on a Mac carry a hidden "._NAME.png" beside every picture.
    names = sorted(name for name in names if name.lower().endswith(suffixes) and not name.startswith("."))
    if not names:
        raise UserError(f"{folder}: holds no PNG or JPEG file; folders inside it are not looked into")
    return names


def _decode_all(folder: Path, names: Sequence[str], size: int, mode: str | None) -> torch.Tensor:
    first = read_image(folder / names[0], size, mode)
    mode = "RGB" if first.shape[2] == 3 else "L"
    images = torch.empty((len(names), first.shape[2], size, size), dtype=torch.uint8)

    def decode(index: int) -> None:
        images[index] = torch.from_numpy(read_image(folder / names[index], size, mode).transpose(2, 0, 1).copy())

    total = len(names)
    for_each(decode, range(total), total, f"decoding {folder}", leave=False, disable=total < 2000)
    return images


def files_digest(folder: Path, names: Sequence[str]) -> str:
    """Return twelve hexadecimal digits that stand for the named files: their names, order and sizes."""
    digest = hashlib.sha256()
    for name, status in _statuses(folder, names):
        digest.update(f"{name}\0{status.st_size}\n".encode())
    return digest.hexdigest()[:12]


def _fingerprint(folder: Path, names: Sequence[str], size: int, mode: str | None) -> str:
    digest = hashlib.sha256(repr((size, mode)).encode())
    for name, status in _statuses(folder, names):
        # The time of change, unlike that of modification, cannot be set back by the tool that wrote the file.
        digest.update(f"{name}\0{status.st_size}\0{status.st_ctime_ns}\n".encode())
    return digest.hexdigest()


def _statuses(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, os.stat_result]]:
    entries = _entries(folder)
    for name in names:
        entry = entries.get(name)
        if entry is None:
            raise UserError(f"{folder / name}: no such picture")
        try:
            status = entry.stat()
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read ({error.strerror})") from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{folder / name}: not a plain file")
        yield name, status


def _entries(folder: Path) -> dict[str, os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error


def _read_cache(path: Path, fingerprint: str, count: int) -> torch.Tensor | None:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                return None
            images = file.get_tensor("images")
            return images if len(images) == count else None
    except (OSError, SafetensorError):
        return None
