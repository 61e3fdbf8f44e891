"""Readers of the public sets' own file formats; checksums are not asked for, contents are checked instead."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.errors import UserError

_UNREADABLE = (OSError, EOFError, ValueError, KeyError, zlib.error, tarfile.TarError, zipfile.BadZipFile)


def read_idx(path: Path) -> np.ndarray:
    """Read MNIST's IDX format (plain or .gz): big-endian header of magic number and sizes, then uint8 values."""

    def parse() -> np.ndarray:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of unsigned bytes")
        dimensions = data[3]
        shape = np.frombuffer(data, ">i4", dimensions, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)

    return _checked(path, parse)


def read_usps(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read USPS in the LIBSVM text form (plain or .bz2): ``label+1 1:v 2:v ...``, 256 values in [-1, 1].

    Returns:
        uint8 (N, 16, 16) and labels 0..9 (N,).
    """
    from sklearn.datasets import load_svmlight_file

    def parse() -> tuple[np.ndarray, np.ndarray]:
        values, labels = load_svmlight_file(str(path), n_features=256, zero_based=False)
        pixels = np.rint((values.toarray().clip(-1, 1) + 1) * 127.5).astype(np.uint8)
        return pixels.reshape(-1, 16, 16), labels.astype(np.int64) - 1

    return _checked_labels(path, *_checked(path, parse))


def read_svhn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read SVHN's cropped digits: ``X`` uint8 (32, 32, 3, N), ``y`` (N, 1) where 10 means 0.

    Returns:
        uint8 (N, 32, 32, 3) and labels 0..9 (N,).
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    def parse() -> tuple[np.ndarray, np.ndarray]:
        try:
            content = loadmat(path, variable_names=("X", "y"))
        except (MatReadError, NotImplementedError, TypeError) as error:
            raise ValueError(str(error)) from error
        pixels, labels = content["X"], content["y"].reshape(-1).astype(np.int64)
        if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)):
            raise ValueError(f"X is {pixels.dtype} {pixels.shape}, expected uint8 (32, 32, 3, {len(labels)})")
        return np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), np.where(labels == 10, 0, labels)

    return _checked_labels(path, *_checked(path, parse))


def iterate_files(path: Path, suffix: str = ".jpg") -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of all files with ``suffix`` in a folder, a .zip or a .tar (any compression).

    Names are relative and in the order of the archive (sorted, for a folder). Nothing is ever extracted.
    """
    try:
        if path.is_dir():
            for file in sorted(path.rglob(f"*{suffix}")):
                yield file.relative_to(path).as_posix(), file.read_bytes()
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(suffix):
                        yield name, archive.read(name)
        else:
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.isfile() and member.name.endswith(suffix):
                        yield member.name, archive.extractfile(member).read()
    except _UNREADABLE as error:
        raise UserError(f"{path}: damaged ({error}); download it again") from error


def list_files(path: Path, suffix: str = ".jpg") -> list[str]:
    """Return the names that :func:`iterate_files` would yield."""
    try:
        if path.is_dir():
            return [file.relative_to(path).as_posix() for file in sorted(path.rglob(f"*{suffix}"))]
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                return [name for name in archive.namelist() if name.endswith(suffix)]
        with tarfile.open(path) as archive:
            return [member.name for member in archive if member.isfile() and member.name.endswith(suffix)]
    except _UNREADABLE as error:
        raise UserError(f"{path}: damaged ({error}); download it again") from error


def decode_rgb(content: bytes, name: str) -> Image.Image:
    """Decode a JPEG or PNG file to RGB; raise a UserError with ``name`` where it is damaged."""
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{name}: damaged picture; download its archive again") from error


def _checked(path: Path, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except _UNREADABLE as error:
        raise UserError(f"{path}: not readable ({error}); download it again") from error


def _checked_labels(path: Path, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(labels) == 0 or labels.min() < 0 or labels.max() > 9:
        raise UserError(f"{path}: holds no digits labelled 0-9; download it again")
    return pixels, labels
