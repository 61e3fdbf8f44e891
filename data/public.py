"""The public sets: MNIST, BSDS500, SVHN, USPS and CelebA or LFW, from a folder of downloads that fills itself."""

from __future__ import annotations

import gzip
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from common.cli import UserError
from common.data import DIGIT_SIZE, is_image
from data.archives import list_files
from data.custom import Source, make_faces
from data.layout import split_order, write_csvs, write_images
from data.mnistm import blend, read_mnistm, read_photographs

import numpy as np
from PIL import Image

# As many faces as the course report's data set has, 38,464 for training and 2,025 to compare with.
ORIGINAL_FACES = 40489
_CELEBA = ("img_align_celeba.zip", "img_align_celeba/")
_LFW = ("lfw-funneled.tgz", "lfw_funneled/")
# Where the first of the names that a set's files have can be downloaded.
_URLS = {
    "MNIST": "https://ossci-datasets.s3.amazonaws.com/mnist/{}",
    "SVHN": "http://ufldl.stanford.edu/housenumbers/{}",
    "USPS": "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/{}",
    "BSDS500": "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/{}",
    "CelebA": "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    # LFW's own home is gone; this copy is that of sklearn.datasets.fetch_lfw_people.
    "LFW": "https://ndownloader.figshare.com/files/5976015",
}
Digits = tuple[np.ndarray, np.ndarray]  # uint8 (N, H, W) or (N, H, W, 3), labels (N,)


class Downloads(NamedTuple):
    """A folder of downloads, as the sets' authors, torchvision, scikit-learn or Kaggle lay them out."""

    raw: Path
    may_download: bool

    def find(self, dataset: str, *names: str) -> Path | None:
        """Return the first of ``names`` there is, or None; ``NAME/`` is a folder's.

        Looked for in the folder itself, in its folders that begin with the set's name, and in the folders of these.
        """
        own = [path for path in sorted(self.raw.glob("*/")) if path.name.lower().startswith(dataset.lower())]
        folders = [self.raw, *own, *(folder for path in own for folder in sorted(path.glob("*/")))]
        paths = ((folder / name, name.endswith("/")) for name in names for folder in folders)
        return next((path for path, is_folder in paths if (path.is_dir() if is_folder else path.is_file())), None)

    def need(self, dataset: str, *names: str) -> Path:
        """Return what :meth:`find` finds, after a download if need be; a UserError says where the file can be had."""
        if path := self.find(dataset, *names):
            return path
        missing, remark = self.raw / names[0], ""
        if self.may_download:
            print(f"{missing}: not there, downloading {dataset}")
            try:
                self._download(dataset, names[0])
                return missing
            except Exception as error:  # whatever a network does
                remark = f", and downloading it failed ({error})"
        place = f"get it from {_URLS[dataset].format(names[0])} and put it there, or pass another --raw"
        place += " or --faces lfw" * (dataset == "CelebA")
        raise UserError(f"{missing}: no such file{remark}; {place}")

    def _download(self, dataset: str, name: str) -> None:
        """Download through another folder, so that a cut connection leaves no file."""
        from torchvision.datasets import CelebA, utils

        socket.setdefaulttimeout(30)
        self.raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=self.raw) as temporary:
            if dataset == "CelebA":  # on Google Drive, which refuses a file asked for too often
                for file_id, md5, file_name in CelebA.file_list:
                    if file_name in (name, "identity_CelebA.txt"):
                        utils.download_file_from_google_drive(file_id, temporary, file_name, md5)
            else:
                utils.download_url(_URLS[dataset].format(name), temporary, name)
            for file in Path(temporary).iterdir():
                file.replace(self.raw / file.name)


def make_public(part: str, folder: Path, downloads: Downloads, rng: np.random.Generator, faces: str, count: int) -> str:
    """Make ``part`` in the empty ``folder`` from public files, and return what the data are called.

    ``faces`` is ``lfw``, ``celeba`` or ``auto`` (LFW if only that is there), of which at most ``count`` are taken.
    """
    if part == "face":
        return _faces(folder, downloads, rng, faces, count)
    (pixels, labels), name = {"mnistm": _mnistm, "svhn": _svhn, "usps": _usps}[part](downloads, rng)

    def render(number: int) -> Image.Image:
        return Image.fromarray(pixels[number]).resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BILINEAR)

    write_images(folder / "data", render, len(pixels))
    # SVHN's files do not say which digits come from one photograph, but keep them together.
    order = np.arange(len(labels)) if part == "svhn" else rng.permutation(len(labels))
    write_csvs(folder, labels, split_order(order))
    return name


def _faces(folder: Path, downloads: Downloads, rng: np.random.Generator, faces: str, count: int) -> str:
    only_lfw = downloads.find("LFW", *_LFW) and not downloads.find("CelebA", *_CELEBA)
    if faces == "lfw" or (faces == "auto" and only_lfw):
        path = downloads.need("LFW", *_LFW)
        crop, title = 144, "LFW (funneled, center crop 144)"  # of 250x250
        person_of: Callable[[str], str] = os.path.dirname
    else:
        path = downloads.need("CelebA", *_CELEBA)
        crop, title = 178, "CelebA (aligned, center crop 178)"  # of 178x218
        person_of = _read_identities(downloads.find("CelebA", "identity_CelebA.txt"))
    names = sorted(list_files(path, is_image))
    if len(names) > count:
        names = [names[index] for index in np.sort(rng.choice(len(names), count, replace=False))]
    make_faces(folder, Source(path, crop, None), rng, person_of, set(names).__contains__)
    return title


def _read_identities(path: Path | None) -> Callable[[str], str]:
    """Return the person of a CelebA image by ``identity_CelebA.txt`` (lines ``000001.jpg 2880``)."""
    text = path.read_text(encoding="utf-8", errors="replace") if path else ""
    people = {row[0]: row[1] for row in map(str.split, text.splitlines()) if len(row) == 2}
    if not people:
        print("note: CelebA without identity_CelebA.txt: one person may be in train and in val")
    return lambda name: people.get(PurePosixPath(name).name, name)


def _mnistm(downloads: Downloads, rng: np.random.Generator) -> tuple[Digits, str]:
    if ready_made := downloads.find("mnist", "mnist_m.tar.gz", "mnist_m_train/"):
        path = ready_made.parent if ready_made.is_dir() else ready_made
        return _parsed(path, read_mnistm), "MNIST-M (public archive)"
    arrays = []
    for name in (f"{split}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1") for split in ("train", "t10k")):
        path = downloads.need("MNIST", f"{name}.gz", name, name.replace("-idx", ".idx"))
        arrays.append(_parsed(path, read_idx))
    path = downloads.need("BSDS500", "BSR_bsds500.tgz", "BSDS500-images.tgz", "BSDS500/", "BSR/")
    blended = blend(np.concatenate(arrays[:2]), read_photographs(path), rng)
    return (blended, np.concatenate(arrays[2:])), "MNIST-M (MNIST over BSDS500 crops, Ganin et al. recipe)"


def _svhn(downloads: Downloads, _rng: np.random.Generator) -> tuple[Digits, str]:
    halves = [_parsed(downloads.need("SVHN", f"{name}_32x32.mat"), read_svhn) for name in ("train", "test")]
    return _joined("SVHN", halves, (73257, 26032))


def _usps(downloads: Downloads, _rng: np.random.Generator) -> tuple[Digits, str]:
    halves = [_parsed(downloads.need("USPS", f"{name}.bz2", name), read_usps) for name in ("usps", "usps.t")]
    return _joined("USPS", halves, (7291, 2007))


def _joined(name: str, halves: Sequence[Digits], official: tuple[int, int]) -> tuple[Digits, str]:
    """Join train and test; only files with the official counts are called the whole set."""
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*halves, strict=True))
    if tuple(len(half[1]) for half in halves) != official:
        name = f"{name} ({len(labels):,} of {sum(official):,} digits)"
    return (pixels, labels), name


def read_idx(path: Path) -> np.ndarray:
    """Read MNIST's IDX format (plain or .gz): big-endian header of magic number and sizes, then uint8 values."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if data[:3] != b"\0\0\x08":
        raise ValueError("not an IDX file of unsigned bytes")
    shape = np.frombuffer(data, ">i4", data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def read_usps(path: Path) -> Digits:
    """Read USPS in the LIBSVM text form, ``label+1 1:v ... 256:v`` with values in [-1, 1]: uint8 (N, 16, 16), (N,)."""
    from sklearn.datasets import load_svmlight_file

    values, labels = load_svmlight_file(str(path), n_features=256, zero_based=False)
    pixels = np.rint((values.toarray().clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return pixels.reshape(-1, 16, 16), labels.astype(np.int64) - 1


def read_svhn(path: Path) -> Digits:
    """Read SVHN's cropped digits, ``X`` (32, 32, 3, N) and ``y`` where 10 means 0: uint8 (N, 32, 32, 3), (N,)."""
    from scipy.io import loadmat  # comes with scikit-learn

    arrays = loadmat(path)
    labels = arrays["y"].reshape(-1).astype(np.int64)
    return np.ascontiguousarray(arrays["X"].transpose(3, 0, 1, 2)), np.where(labels == 10, 0, labels)


def _parsed(path: Path, read: Callable[[Path], Any]) -> Any:
    """Return ``read(path)``, labels checked; raise a UserError naming the file where it is damaged."""
    try:
        parsed = read(path)
        if isinstance(parsed, tuple) and not (len(parsed[1]) and set(np.unique(parsed[1])) <= set(range(10))):
            raise ValueError("no digits labeled 0 to 9")
    except Exception as error:  # what readers raise on damaged bytes is not documented
        raise UserError(f"{path}: not readable ({str(error) or type(error).__name__}); download it again") from error
    return parsed
