"""The public route: MNIST, BSDS500, SVHN, USPS and CelebA or LFW, from a folder of downloads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.seed import derive_seed
from data.download import download, missing_message
from data.faces import write_celeba, write_lfw
from data.layout import WriterPool, building, split_contiguous, split_shuffled, write_source, write_splits
from data.mnistm import blend, read_archive, read_photographs, read_pickle
from data.raw import read_idx, read_svhn, read_usps

SVHN_OFFICIAL = (73257, 26032)
USPS_OFFICIAL = (7291, 2007)

# As many faces as the original report's data set has, 38,464 for training and 2,025 to compare with.
ORIGINAL_FACES = 40489


@dataclass(frozen=True)
class Downloads:
    """A folder of downloads that fills itself where it may."""

    raw: Path
    may_download: bool = True

    def find(self, folders: tuple[str, ...], *names: str) -> Path | None:
        """Return the first of ``names`` that lies in one of ``folders`` of it, or None."""
        paths = (self.raw / folder / name for folder in folders for name in names)
        return next((path for path in paths if path.exists()), None)

    def need(self, dataset: str, folders: tuple[str, ...], *names: str) -> Path:
        """Return what :meth:`find` finds, downloading ``dataset`` where it finds nothing.

        Raises:
            UserError: names the missing file and where it can be had.
        """
        path = self.find(folders, *names)
        if path is None:
            missing = self.raw / folders[0] / names[0]
            if not self.may_download:
                raise UserError(missing_message(missing, dataset))
            download(self.raw, dataset, missing)
            path = self.find(folders, *names)
            if path is None:
                raise UserError(missing_message(missing, dataset, ", and the download did not hold it"))
        return path


def make_public(
    data_root: Path,
    downloads: Downloads,
    parts: Sequence[str],
    seed: int,
    faces: str = "auto",
    face_count: int = ORIGINAL_FACES,
    workers: int | None = None,
) -> None:
    """Make ``parts`` of ``data_root`` from public files, each part whole or not at all.

    Args:
        data_root: receives the layout of common/dataset.py.
        downloads: where the public files lie.
        parts: some of face, mnistm, svhn, usps.
        seed: splits and the backgrounds of MNIST-M follow from it.
        faces: ``lfw``, ``celeba`` or ``auto`` (what is there, CelebA first).
        face_count: how many faces to take at most.
        workers: processes (None: one a core); they change no byte.

    Raises:
        UserError: names a file that is missing and cannot be downloaded, or is damaged.
    """
    with WriterPool(workers) as pool:
        for part in parts:
            rng = np.random.default_rng(derive_seed(seed, part))
            with building(data_root, part) as folder:
                if part == "face":
                    name = _face(folder, downloads, faces, face_count, rng, pool)
                else:
                    name = _DIGITS[part](folder, downloads, rng, pool)
                write_source(folder, name)
            print(f"{part}: {name}")


def read_mnist(downloads: Downloads) -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST, train before test, in its own order: uint8 (N, 28, 28) and labels (N,)."""
    images, labels = [], []
    for split in ("train", "t10k"):
        for kind, arrays in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
            folders = ("mnist", "MNIST/raw", "MNIST", ".")
            arrays.append(read_idx(downloads.need("MNIST", folders, f"{kind}.gz", kind)))
        if images[-1].ndim != 3 or labels[-1].shape != images[-1].shape[:1]:
            raise UserError(
                f"{downloads.raw}: MNIST's {split} images and labels do not belong together; get both again"
            )
    return np.concatenate(images), np.concatenate(labels)


def set_name(name: str, counts: Sequence[int], official: Sequence[int]) -> str:
    """Return what to call files with so many digits in train and test: only the official ones are the whole set."""
    if tuple(counts) == tuple(official):
        return name
    return f"{name} ({sum(counts):,} of {sum(official):,} digits)"


def _mnistm(folder: Path, downloads: Downloads, rng: np.random.Generator, pool: WriterPool) -> str:
    folders = (".", "mnistm", "mnist_m", "MNIST-M")
    ready_made = downloads.find(folders, "mnist_m.tar.gz", "mnist_m_train", "keras_mnistm.pkl.gz", "keras_mnistm.pkl")
    if ready_made is None:
        name = "MNIST-M (MNIST over BSDS500 crops, Ganin et al. recipe)"
        digits, labels = read_mnist(downloads)
        folders = (".", "bsds500", "BSDS500")
        names = ("BSR_bsds500.tgz", "BSDS500-images.tgz", "BSDS500", "BSR")
        pixels = blend(digits, read_photographs(downloads.need("BSDS500", folders, *names)), rng)
    elif ".pkl" in ready_made.name:
        name = "MNIST-M (public archive)"
        pixels, labels = read_pickle(ready_made), read_mnist(downloads)[1]
        if len(pixels) != len(labels):
            raise UserError(
                f"{ready_made}: holds {len(pixels):,} pictures, MNIST {len(labels):,} labels; get both again"
            )
    else:
        name = "MNIST-M (public archive)"
        pixels, labels = read_archive(ready_made.parent if ready_made.is_dir() else ready_made)
    pool.write_digits(folder, pixels, "mnistm")
    write_splits(folder, labels, split_shuffled(len(labels), rng))
    return name


def _svhn(folder: Path, downloads: Downloads, rng: np.random.Generator, pool: WriterPool) -> str:
    # The files do not say which digits come from one photograph, but keep them together: so does this split.
    names = ("train_32x32.mat", "test_32x32.mat")
    halves = [pool.read(read_svhn, downloads.need("SVHN", ("svhn", "SVHN", "."), name)) for name in names]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*halves, strict=True))
    pool.write_digits(folder, pixels, "svhn")
    write_splits(folder, labels, split_contiguous(len(labels)))
    return set_name("SVHN", [len(half[1]) for half in halves], SVHN_OFFICIAL)


def _usps(folder: Path, downloads: Downloads, rng: np.random.Generator, pool: WriterPool) -> str:
    names = ("usps", "usps.t")
    halves = [read_usps(downloads.need("USPS", ("usps", "USPS", "."), f"{name}.bz2")) for name in names]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*halves, strict=True))
    pool.write_digits(folder, pixels, "usps")
    write_splits(folder, labels, split_shuffled(len(labels), rng))
    return set_name("USPS", [len(half[1]) for half in halves], USPS_OFFICIAL)


def _face(
    folder: Path, downloads: Downloads, faces: str, count: int, rng: np.random.Generator, pool: WriterPool
) -> str:
    celeba_folders, celeba_names = ("celeba", "CelebA", "."), ("img_align_celeba.zip", "img_align_celeba")
    lfw_folders, lfw_names = (".", "lfw", "lfw-py"), ("lfw-deepfunneled.tgz", "lfw-deepfunneled")
    if faces == "auto":
        has_lfw = downloads.find(lfw_folders, *lfw_names) is not None
        faces = "lfw" if has_lfw and downloads.find(celeba_folders, *celeba_names) is None else "celeba"
    if faces == "lfw":
        write_lfw(folder, downloads.need("LFW", lfw_folders, *lfw_names), count, rng, pool)
        return "LFW (deep-funneled, centre crop 144)"
    source = downloads.need("CelebA", celeba_folders, *celeba_names)
    identities = downloads.find(celeba_folders, "identity_CelebA.txt")
    write_celeba(folder, source, identities, count, rng, pool)
    return "CelebA (aligned, centre crop 178)"


_DIGITS: dict[str, Callable[[Path, Downloads, np.random.Generator, WriterPool], str]] = {
    "mnistm": _mnistm,
    "svhn": _svhn,
    "usps": _usps,
}
