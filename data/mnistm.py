"""MNIST-M: digits of MNIST blended over photographs.

Ganin et al., "Domain-Adversarial Training of Neural Networks" (JMLR 2016), section 5.2.4: a 28x28 patch is cut at
random from a colour photograph of BSDS500 (Arbelaez et al., TPAMI 2011), and every channel of the result is
``|patch - digit|``.
"""

from __future__ import annotations

from pathlib import Path

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


def _is_hidden(name: str) -> bool:
    return Path(name).name.startswith(".")
