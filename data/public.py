"""The public route: MNIST, BSDS500, SVHN, USPS and CelebA or LFW, from a folder of downloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.seed import derive_seed
from data.archives import is_picture, list_files
from data.download import download, missing_message
from data.faces import CELEBA_CROP, LFW_CROP, person_of_folder, read_identities, write_faces
from data.layout import building, split_contiguous, split_shuffled, write_digits, write_source, write_splits
from data.mnistm import blend, read_archive, read_photographs
from data.raw import read_idx, read_svhn, read_usps

SVHN_OFFICIAL = (73257, 26032)
USPS_OFFICIAL = (7291, 2007)

# As many faces as the original report's data set has, 38,464 for training and 2,025 to compare with.
ORIGINAL_FACES = 40489

# What the sets' files and folders are called, and the folders of downloads they lie in: as their authors, torchvision,
# scikit-learn and Kaggle lay them out. A name that ends with a slash is a folder's, any other one a file's.
_MNIST_FOLDERS = ("mnist", "MNIST/raw", "MNIST", ".")
_MNISTM_FOLDERS = (".", "mnistm", "mnist_m", "MNIST-M")
_BSDS_FOLDERS, _BSDS = (".", "bsds500", "BSDS500"), ("BSR_bsds500.tgz", "BSDS500-images.tgz", "BSDS500/", "BSR/")
_SVHN_FOLDERS = ("svhn", "SVHN", ".")
_USPS_FOLDERS = ("usps", "USPS", ".")
_CELEBA_FOLDERS = tuple(f"{top}{inner}" for top in ("celeba", "CelebA", ".") for inner in ("", "/Img", "/Anno"))
_CELEBA = ("img_align_celeba.zip", "img_align_celeba/")
_LFW_FOLDERS = (".", "lfw", "lfw-py", "lfw_home")
# How each edition is aligned, and what its files are called without their endings; the first one found is taken.
_LFW = {
    "deep-funneled": ("lfw-deepfunneled", "lfw_deepfunneled"),
    "funneled": ("lfw-funneled", "lfw_funneled"),
    "original": ("lfw",),
}


@dataclass(frozen=True)
class Downloads:
    """A folder of downloads that fills itself where it may."""

    raw: Path
    may_download: bool = True

    def find(self, folders: tuple[str, ...], *names: str) -> Path | None:
        """Return the first of ``names`` that lies in one of ``folders`` of it, or None; ``NAME/`` is a folder's."""
        paths = ((self.raw / folder / name, name.endswith("/")) for name in names for folder in folders)
        return next((path for path, is_folder in paths if (path.is_dir() if is_folder else path.is_file())), None)

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
        workers: threads (None: one a core); they change no byte.

    Raises:
        UserError: names every part that could not be made, once all the others are: a file is missing and cannot be
            downloaded, or is damaged.
    """
    problems = []
    for part in parts:
        rng = np.random.default_rng(derive_seed(seed, part))
        try:
            with building(data_root, part) as folder:
                if part == "face":
                    name = _face(folder, downloads, faces, face_count, rng, workers)
                else:
                    pixels, labels, name = _DIGITS[part](downloads, rng)
                    write_digits(folder, pixels, part, workers)
                    # SVHN's files do not say which digits come from one photograph, but keep them together.
                    count = len(labels)
                    write_splits(
                        folder, labels, split_contiguous(count) if part == "svhn" else split_shuffled(count, rng)
                    )
                write_source(folder, name)
        except UserError as error:
            problems.append(f"{part} is missing: {error}")
        else:
            print(f"{part}: {name}")
    if problems:
        raise UserError("; ".join(problems))


def read_mnist(downloads: Downloads) -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST, train before test, in its own order: uint8 (N, 28, 28) and labels (N,)."""
    images, labels = [], []
    for split in ("train", "t10k"):
        for kind, arrays in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{split}-{kind}-ubyte"
            unpacked = (name, name.replace("-idx", ".idx"))
            arrays.append(read_idx(downloads.need("MNIST", _MNIST_FOLDERS, f"{name}.gz", *unpacked)))
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


# What makes a digit domain: returns uint8 (N, H, W) or (N, H, W, 3), labels (N,) and what to call the set.
Digits = tuple[np.ndarray, np.ndarray, str]


def _mnistm(downloads: Downloads, rng: np.random.Generator) -> Digits:
    ready_made = downloads.find(_MNISTM_FOLDERS, "mnist_m.tar.gz", "mnist_m_train/")
    if ready_made:
        return *read_archive(ready_made.parent if ready_made.is_dir() else ready_made), "MNIST-M (public archive)"
    pickled = downloads.find(_MNISTM_FOLDERS, "keras_mnistm.pkl.gz", "keras_mnistm.pkl")
    if pickled:
        print(f"{pickled}: not read, a pickle may run any program; mnist_m.tar.gz is, else MNIST-M is built here")
    digits, labels = read_mnist(downloads)
    photographs = read_photographs(downloads.need("BSDS500", _BSDS_FOLDERS, *_BSDS))
    return blend(digits, photographs, rng), labels, "MNIST-M (MNIST over BSDS500 crops, Ganin et al. recipe)"


def _svhn(downloads: Downloads, _rng: np.random.Generator) -> Digits:
    names = ("train_32x32.mat", "test_32x32.mat")
    return _joined("SVHN", [read_svhn(downloads.need("SVHN", _SVHN_FOLDERS, name)) for name in names], SVHN_OFFICIAL)


def _usps(downloads: Downloads, _rng: np.random.Generator) -> Digits:
    names = [(f"{name}.bz2", name) for name in ("usps", "usps.t")]
    hdf5 = downloads.find(_USPS_FOLDERS, "usps.h5")
    if hdf5:
        print(f"{hdf5}: not read; usps.bz2 and usps.t.bz2 are")
    return _joined("USPS", [read_usps(downloads.need("USPS", _USPS_FOLDERS, *own)) for own in names], USPS_OFFICIAL)


def _joined(name: str, halves: Sequence[tuple[np.ndarray, np.ndarray]], official: Sequence[int]) -> Digits:
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*halves, strict=True))
    return pixels, labels, set_name(name, [len(half[1]) for half in halves], official)


_DIGITS = {"mnistm": _mnistm, "svhn": _svhn, "usps": _usps}


def _face(
    folder: Path, downloads: Downloads, faces: str, count: int, rng: np.random.Generator, workers: int | None
) -> str:
    lfw = _find_lfw(downloads)
    if faces == "auto":
        faces = "lfw" if lfw and not downloads.find(_CELEBA_FOLDERS, *_CELEBA) else "celeba"
    if faces == "lfw":
        source, alignment = lfw or (downloads.need("LFW", _LFW_FOLDERS, "lfw-funneled.tgz"), "funneled")
        write_faces(folder, source, LFW_CROP, person_of_folder, count, rng, workers)
        return f"LFW ({alignment}, centre crop {LFW_CROP})"
    source = downloads.need("CelebA", _CELEBA_FOLDERS, *_CELEBA)
    identities = downloads.find(_CELEBA_FOLDERS, "identity_CelebA.txt")
    if identities is None:
        print(f"{source}: identity_CelebA.txt lacks, so one person may be in train and in val")
    person_of = read_identities(identities) if identities else str
    write_faces(folder, source, CELEBA_CROP, person_of, count, rng, workers)
    return f"CelebA (aligned, centre crop {CELEBA_CROP})"


def _find_lfw(downloads: Downloads) -> tuple[Path, str] | None:
    for alignment, stems in _LFW.items():
        names = (f"{stem}{ending}" for stem in stems for ending in (".tgz", ".tar.gz", ".tar", ".zip", "/"))
        path = downloads.find(_LFW_FOLDERS, *names)
        # A folder "lfw" may merely be where other files are kept.
        if path and (path.is_file() or list_files(path, is_picture)):
            return path, alignment
    return None
