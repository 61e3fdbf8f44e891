"""The public route: MNIST, BSDS500, SVHN, USPS and CelebA or LFW, from a folder of downloads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.seed import derive_seed
from data.faces import write_celeba, write_lfw
from data.layout import WriterPool, building, split_contiguous, split_shuffled, write_source, write_splits
from data.mnistm import blend, read_photographs
from data.raw import find, read_idx, read_svhn, read_usps

MNIST_FOLDERS = ("mnist", "MNIST/raw", "MNIST", ".")
SVHN_OFFICIAL = (73257, 26032)
USPS_OFFICIAL = (7291, 2007)


def make_public(data_root: Path, raw: Path, parts: list[str], seed: int, faces: str, face_count: int) -> None:
    """Make ``parts`` of ``data_root`` from the downloads in ``raw``, each part whole or not at all.

    Args:
        data_root: receives the layout of common/dataset.py.
        raw: folder of downloads; what it lacks is downloaded into it.
        parts: some of face, mnistm, svhn, usps.
        seed: splits and the backgrounds of MNIST-M follow from it.
        faces: ``lfw``, ``celeba`` or ``auto``.
        face_count: how many faces to take at most.

    Raises:
        UserError: names a file that is missing and cannot be downloaded, or is damaged.
    """
    with WriterPool() as pool:
        for part in parts:
            rng = np.random.default_rng(derive_seed(seed, part))
            with building(data_root, part) as folder:
                if part == "face":
                    name = _face(folder, raw, faces, face_count, rng, pool)
                else:
                    name = _DIGITS[part](folder, raw, rng, pool)
                write_source(folder, name)
            print(f"{part}: {name}")


def read_mnist(raw: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST's 60,000 + 10,000 pictures in their own order, uint8 (N, 28, 28), and labels (N,)."""
    images, labels = [], []
    for split in ("train", "t10k"):
        for kind, arrays in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
            arrays.append(read_idx(_need(raw, MNIST_FOLDERS, f"{kind}.gz", kind)))
        if images[-1].ndim != 3 or labels[-1].shape != images[-1].shape[:1]:
            raise UserError(f"{raw}: MNIST's {split} images and labels do not belong together; download them again")
    return np.concatenate(images), np.concatenate(labels)


def _mnistm(folder: Path, raw: Path, rng: np.random.Generator, pool: WriterPool) -> str:
    digits, labels = read_mnist(raw)
    photographs = read_photographs(
        _need(raw, (".", "bsds500", "BSDS500"), "BSR_bsds500.tgz", "BSDS500-images.tgz", "BSDS500", "BSR")
    )
    pool.write_digits(folder, blend(digits, photographs, rng), "mnistm")
    write_splits(folder, labels, split_shuffled(len(labels), rng))
    return "MNIST-M (MNIST over BSDS500 crops, Ganin et al. recipe)"


def _svhn(folder: Path, raw: Path, rng: np.random.Generator, pool: WriterPool) -> str:
    # The files do not say which digits come from one photograph, but keep them together: so does this split.
    halves = [read_svhn(_need(raw, ("svhn", "SVHN", "."), f"{split}_32x32.mat")) for split in ("train", "test")]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*halves, strict=True))
    pool.write_digits(folder, pixels, "svhn")
    write_splits(folder, labels, split_contiguous(len(labels)))
    if tuple(len(half[1]) for half in halves) == SVHN_OFFICIAL:
        return "SVHN"
    is_grey = (pixels == pixels[..., :1]).all()
    return "SVHN (grey, re-cropped)" if is_grey else "SVHN (unofficial files)"


def _usps(folder: Path, raw: Path, rng: np.random.Generator, pool: WriterPool) -> str:
    halves = [read_usps(_need(raw, ("usps", "USPS", "."), f"{name}.bz2", name)) for name in ("usps", "usps.t")]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*halves, strict=True))
    pool.write_digits(folder, pixels, "usps")
    write_splits(folder, labels, split_shuffled(len(labels), rng))
    if tuple(len(half[1]) for half in halves) == USPS_OFFICIAL:
        return "USPS"
    return f"USPS ({len(labels):,} of {sum(USPS_OFFICIAL):,} digits)"


def _face(folder: Path, raw: Path, faces: str, count: int, rng: np.random.Generator, pool: WriterPool) -> str:
    celeba = find(raw, ("celeba", "CelebA", "."), "img_align_celeba", "img_align_celeba.zip")
    lfw = find(raw, (".", "lfw", "lfw-py"), "lfw-deepfunneled.tgz", "lfw-deepfunneled")
    if faces == "lfw" or (faces == "auto" and celeba is None and lfw is not None):
        source = lfw or _need(raw, (".",), "lfw-deepfunneled.tgz")
        write_lfw(folder, source, count, rng, pool)
        return "LFW (deep-funneled, centre crop 144)"
    source = celeba or _need(raw, ("celeba",), "img_align_celeba.zip")
    identities = find(raw, ("celeba", "CelebA", "."), "identity_CelebA.txt")
    write_celeba(folder, source, identities, count, rng, pool)
    return "CelebA (aligned, centre crop 178)"


def _need(raw: Path, folders: tuple[str, ...], *names: str) -> Path:
    path = find(raw, folders, *names)
    if path is None:
        raise UserError(f"{raw / folders[0] / names[0]}: no such file")
    return path


_DIGITS: dict[str, Callable[[Path, Path, np.random.Generator, WriterPool], str]] = {
    "mnistm": _mnistm,
    "svhn": _svhn,
    "usps": _usps,
}
