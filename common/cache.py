"""A folder of small pictures, decoded once, kept as one uint8 tensor."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from common.errors import UserError
from common.files import write_atomic

# A picture of the data layout has at most 64x64 pixels; anything far larger is a wrong or hostile file.
MAX_PIXELS = 1024 * 1024


def load_images(
    folder: Path, names: Sequence[str], size: int, mode: str | None = None, cache: bool = True
) -> torch.Tensor:
    """Return the named pictures of ``folder`` as one tensor, decoding PNG files only the first time.

    The decoded tensor is kept in ``<folder>/../.cache``; it is rebuilt whenever a name, a file size or a
    modification time differs from those it was made from. A folder that cannot be written is no error:
    then nothing is kept.

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
        raise UserError(f"{folder}: no such folder; run python data/prepare.py, or pass --data-root")
    if not names:
        raise UserError(f"{folder}: no pictures; it must hold at least one PNG file")
    fingerprint = _fingerprint(folder, names, size, mode)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    path = folder.parent / ".cache" / f"{folder.name}-{size}-{mode or 'any'}-{digest}.safetensors"
    if cache:
        images = _read_cache(path, fingerprint)
        if images is not None:
            return images
    images = _decode_all(folder, names, size, mode)
    if cache:
        try:
            write_atomic(path, lambda temp: save_file({"images": images}, temp, {"fingerprint": fingerprint}))
        except OSError:
            warnings.warn(f"{path.parent}: cannot be written, so the pictures are decoded at every start", stacklevel=2)
    return images


def list_images(folder: Path) -> list[str]:
    """Return the names of all pictures in ``folder``, sorted; raise a UserError where there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; run python data/prepare.py, or pass --data-root")
    suffixes = (".png", ".jpg", ".jpeg")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(suffixes))
    if not names:
        raise UserError(f"{folder}: holds no PNG or JPEG file")
    return names


def read_image(path: Path, size: int, mode: str | None = None) -> np.ndarray:
    """Decode one picture to uint8 (size, size, 3) or (size, size, 1), checking everything about it.

    Raises:
        UserError: names the file and what is wrong with it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(f"{path}: {image.width}x{image.height} pixels, expected {size}x{size}")
                if image.mode not in ("RGB", "L") or (mode and image.mode != mode):
                    expected = {"RGB": "colour (RGB)", "L": "grey (L)", None: "RGB or L"}[mode]
                    raise UserError(f"{path}: a picture of mode {image.mode} where {expected} is expected")
                if image.size != (size, size):
                    raise UserError(f"{path}: {image.width}x{image.height} pixels, expected {size}x{size}")
                pixels = np.asarray(image)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such picture") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: not a picture that can be opened") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{path}: damaged picture ({error})") from error
    return pixels.reshape(size, size, -1)


def _decode_all(folder: Path, names: Sequence[str], size: int, mode: str | None) -> torch.Tensor:
    first = read_image(folder / names[0], size, mode)
    mode = "RGB" if first.shape[2] == 3 else "L"
    images = torch.empty((len(names), first.shape[2], size, size), dtype=torch.uint8)

    def decode(index: int) -> None:
        images[index] = torch.from_numpy(read_image(folder / names[index], size, mode).transpose(2, 0, 1).copy())

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        jobs = pool.map(decode, range(len(names)))
        for _ in tqdm(
            jobs,
            total=len(names),
            desc=f"decoding {folder}",
            unit="img",
            leave=False,
            disable=len(names) < 2000,
        ):
            pass
    return images


def _fingerprint(folder: Path, names: Sequence[str], size: int, mode: str | None) -> str:
    stats = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            stats[entry.name] = entry
    digest = hashlib.sha256(repr((size, mode)).encode())
    for name in names:
        if name not in stats:
            raise UserError(f"{folder / name}: no such picture")
        stat = stats[name].stat()
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read_cache(path: Path, fingerprint: str) -> torch.Tensor | None:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                return None
            return file.get_tensor("images")
    except (OSError, SafetensorError):
        return None
