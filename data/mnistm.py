"""MNIST-M: digits of MNIST blended over photographs.

Ganin et al., "Domain-Adversarial Training of Neural Networks" (JMLR 2016), section 5.2.4: a 28x28 patch is cut at
random from a colour photograph of BSDS500 (Arbelaez et al., TPAMI 2011), and every channel of the result is
``|patch - digit|``.
"""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common.errors import UserError
from data.raw import decode_rgb, iterate_files


def read_photographs(path: Path) -> list[np.ndarray]:
    """Return all photographs of a BSDS500 folder or archive, uint8 (H, W, 3) each, sorted by name.

    Raises:
        UserError: no photograph, or one that is damaged.
    """
    files = sorted((name, content) for name, content in iterate_files(path) if not _is_hidden(name))
    if not files:
        raise UserError(f"{path}: holds no .jpg photograph; it must be BSDS500 (BSR_bsds500.tgz)")
    return [np.asarray(decode_rgb(content, f"{path}: {name}")) for name, content in files]


def blend(digits: np.ndarray, photographs: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Blend each digit over its own random patch of a random photograph.

    Args:
        digits: uint8 (N, H, W), 0 = background.
        photographs: uint8 (H', W', 3) each, at least as large as a digit.
        rng: chooses photographs and patches.

    Returns:
        uint8 (N, H, W, 3), ``|patch - digit|`` per channel.
    """
    count, height, width = digits.shape
    patches = np.empty((count, height, width, 3), dtype=np.uint8)
    chosen = rng.integers(len(photographs), size=count)
    where = rng.random((count, 2))
    for number, (photograph, (y, x)) in enumerate(zip(chosen, where, strict=True)):
        picture = photographs[photograph]
        top = int(y * (picture.shape[0] - height + 1))
        left = int(x * (picture.shape[1] - width + 1))
        patches[number] = picture[top : top + height, left : left + width]
    # |a - b| of unsigned bytes, without a larger type: a set of 70,000 stays at 165 MB.
    return np.maximum(patches, digits[..., None]) - np.minimum(patches, digits[..., None])


def read_archive(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the authors' ready-made pictures: ``mnist_m.tar.gz``, or the folder it unpacks to.

    It holds ``mnist_m_{train,test}/NNNNNNNN.png`` (32x32) and ``mnist_m_{train,test}_labels.txt`` with one line
    ``NNNNNNNN.png label`` a picture.

    Returns:
        uint8 (N, 32, 32, 3) and labels 0..9 (N,), train before test.
    """
    label_of = {}
    for name, content in iterate_files(path, "_labels.txt"):
        split = PurePosixPath(name).name.removesuffix("_labels.txt")
        for number, line in enumerate(content.decode("ascii", "replace").splitlines(), start=1):
            match line.split():
                case [picture, label] if label in set("0123456789"):
                    label_of[split, picture] = int(label)
                case [_, *_]:
                    raise UserError(f"{path}: {name}: line {number} is not a file name and a digit; download it again")
    pixels, shape = {}, None
    for name, content in iterate_files(path, ".png"):
        key = (PurePosixPath(name).parent.name, PurePosixPath(name).name)
        if key not in label_of:
            continue
        pixels[key] = np.asarray(decode_rgb(content, f"{path}: {name}"))
        shape = shape or pixels[key].shape
        if pixels[key].shape != shape:
            raise UserError(f"{path}: {name}: of another size than the first picture; download it again")
    if not pixels or len(pixels) != len(label_of):
        raise UserError(f"{path}: {len(pixels)} pictures for {len(label_of)} labels; download it again")
    # "train" before "test", as every other set.
    order = sorted(pixels, key=lambda key: (not key[0].endswith("train"), key))
    return np.stack([pixels[key] for key in order]), np.array([label_of[key] for key in order])


def read_pickle(path: Path) -> np.ndarray:
    """Read ``keras_mnistm.pkl`` (plain or .gz): a dictionary of uint8 arrays (N, 28, 28, 3) in MNIST's own order.

    Only NumPy arrays are admitted: a pickle that names anything else is refused and never executed.

    Returns:
        uint8 (N, 28, 28, 3), train before test.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
        pixels = np.concatenate([content[split] for split in ("train", "test")])
    except Exception as error:  # what unpickling damaged bytes raises is not documented
        raise UserError(f"{path}: not the archive it is named after ({error}); download it again") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise UserError(f"{path}: holds {pixels.dtype} {pixels.shape}, expected uint8 (N, 28, 28, 3)")
    return pixels


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy.core", "numpy._core"), name) == ("numpy._core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes the bytes of an array in protocol 2
            return _encode_latin1
        raise pickle.UnpicklingError(f"refused, it names {module}.{name}")


def _encode_latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")


def _is_hidden(name: str) -> bool:
    return PurePosixPath(name).name.startswith(".")
