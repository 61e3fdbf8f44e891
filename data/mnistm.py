"""MNIST-M: digits of MNIST blended over photographs.

Ganin et al., "Domain-Adversarial Training of Neural Networks" (JMLR 2016), section 5.2.4: a 28x28 patch is cut at
random from a color photograph of BSDS500 (Arbelaez et al., TPAMI 2011), and every channel of the result is
``|patch - digit|``.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from common.cli import UserError
from common.data import is_image, read_image
from data.archives import iterate_files

import numpy as np


def read_photographs(path: Path) -> list[np.ndarray]:
    """Return all photographs of a BSDS500 folder or archive, uint8 (H, W, 3) each, sorted by name."""
    # BSR_bsds500.tgz also has bench/, with boundary maps.
    files = sorted(iterate_files(path, lambda name: is_image(name) and "bench" not in PurePosixPath(name).parts))
    if not files:
        raise UserError(f"{path}: holds no photograph; it must be BSDS500 (BSR_bsds500.tgz)")
    return [np.asarray(read_image(content, f"{path}: {name}")) for name, content in files]


def blend(digits: np.ndarray, photographs: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Blend each digit, uint8 (N, H, W), over its own random patch of a random photograph: uint8 (N, H, W, 3)."""
    count, height, width = digits.shape
    patches = np.empty((count, height, width, 3), dtype=np.uint8)
    photo_indices = rng.integers(len(photographs), size=(count,))
    where = rng.random((count, 2))
    for number, (index, (y, x)) in enumerate(zip(photo_indices, where, strict=True)):
        photograph = photographs[index]
        top = int(y * (photograph.shape[0] - height + 1))
        left = int(x * (photograph.shape[1] - width + 1))
        patches[number] = photograph[top : top + height, left : left + width]
    # |a - b| of unsigned bytes, without a larger type: a set of 70,000 stays at 165 MB.
    return np.maximum(patches, digits[..., None]) - np.minimum(patches, digits[..., None])


def read_mnistm(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the authors' ``mnist_m.tar.gz``, or its folder: uint8 (N, 32, 32, 3), labels (N,), train before test.

    It holds ``mnist_m_{train,test}/NNNNNNNN.png``, and ``mnist_m_{train,test}_labels.txt`` of lines ``NNNNNNNN.png 5``.
    """
    label_of: dict[tuple[str, ...], int] = {}
    for name, content in iterate_files(path, lambda name: name.endswith("_labels.txt")):
        split = PurePosixPath(name).name.removesuffix("_labels.txt")
        lines = (line.split() for line in content.decode().splitlines())
        label_of |= {(split, image): int(label) for image, label in filter(None, lines)}
    pixels = {
        PurePosixPath(name).parts[-2:]: np.asarray(read_image(content, name))
        for name, content in iterate_files(path, lambda name: PurePosixPath(name).parts[-2:] in label_of)
    }
    if len(pixels) != len(label_of):
        raise ValueError(f"{len(pixels)} images for {len(label_of)} labels")
    order = sorted(pixels, key=lambda key: (not key[0].endswith("train"), key))
    return np.stack([pixels[key] for key in order]), np.array([label_of[key] for key in order])
