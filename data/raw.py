"""Readers of the public sets' own file formats; checksums are not asked for, contents are checked instead."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from data.archives import UNREADABLE


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
    """Read one half of USPS in the LIBSVM text form (plain or .bz2): ``label+1 1:v 2:v ...``, 256 values in [-1, 1].

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

    def parse() -> tuple[np.ndarray, np.ndarray]:
        arrays = dict(_matlab_arrays(path.read_bytes()))
        pixels, labels = arrays["X"], arrays["y"].reshape(-1).astype(np.int64)
        if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)):
            raise ValueError(f"X is {pixels.dtype} {pixels.shape}, expected uint8 (32, 32, 3, {len(labels)})")
        return np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), np.where(labels == 10, 0, labels)

    return _checked_labels(path, *_checked(path, parse))


# Numbers of the MATLAB 5 format for kinds of elements; those of plain numbers, with their NumPy types.
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


def _matlab_arrays(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and values of the numeric arrays of a little-endian MATLAB 5 file.

    Not by scipy.io.loadmat: damaged bytes end its whole process (segmentation fault).
    """
    if content[126:128] != b"IM":
        raise ValueError("not a MATLAB 5 file")
    for kind, element in _matlab_elements(memoryview(content)[128:]):
        if kind == _COMPRESSED:
            kind, element = next(_matlab_elements(memoryview(zlib.decompress(element))), (0, element))
        parts = list(_matlab_elements(element)) if kind == _MATRIX else []
        if len(parts) == 4 and parts[3][0] in _NUMBERS:  # flags, dimensions, name, values
            dimensions = np.frombuffer(parts[1][1], "<i4")
            values = np.frombuffer(parts[3][1], "<" + _NUMBERS[parts[3][0]])
            yield bytes(parts[2][1]).decode("latin-1"), values.reshape(dimensions, order="F")


def _matlab_elements(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    position = 0
    while position + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, position)
        start, step = position + 8, 8
        if kind >> 16:  # a small one: its size in the upper half, its bytes where the size would be
            kind, size, start, step = kind & 0xFFFF, min(kind >> 16, 4), position + 4, 4
        if start + size > len(content):
            raise ValueError("cut short")
        yield kind, content[start : start + size]
        position = start + (size if kind == _COMPRESSED else -(-size // step) * step)


def _checked(path: Path, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except UNREADABLE as error:
        raise UserError(f"{path}: not readable ({error}); download it again") from error


def _checked_labels(path: Path, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(labels) == 0 or labels.min() < 0 or labels.max() > 9:
        raise UserError(f"{path}: holds no digits labelled 0-9; download it again")
    return pixels, labels
