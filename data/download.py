"""Downloads of the public sets: into a temporary folder first, so that a cut connection leaves no file behind."""

from __future__ import annotations

import http.client
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.network import socket_timeout

_TIMEOUT_SECONDS = 30


class Download(NamedTuple):
    """How to get a set: ``fetch(folder)`` fills a folder, ``page`` says where a person finds the files."""

    fetch: Callable[[Path], object]
    page: str


def download(raw: Path, name: str, missing: Path) -> None:
    """Fill ``raw`` with the files of set ``name``, in the layout of torchvision.

    Raises:
        UserError: no network, or the server refuses; names ``missing`` and where it can be had.
    """
    raw.mkdir(parents=True, exist_ok=True)
    print(f"{missing}: not there, downloading {name}")
    try:
        with (
            socket_timeout(_TIMEOUT_SECONDS),
            tempfile.TemporaryDirectory(prefix=".download-", dir=raw) as temporary,
        ):
            DOWNLOADS[name].fetch(Path(temporary))
            for file in filter(Path.is_file, Path(temporary).rglob("*")):
                target = raw / file.relative_to(temporary)
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(file, target)
    except (OSError, RuntimeError, ValueError, ImportError, http.client.HTTPException) as error:
        raise UserError(missing_message(missing, name, f", and downloading it failed ({error})")) from error


def missing_message(missing: Path, name: str, remark: str = "") -> str:
    """Return the line that says which file lacks and where it can be had."""
    return (
        f"{missing}: no such file{remark}; get it from {DOWNLOADS[name].page} and put it there, or pass another --raw"
    )


def _fetch_mnist(folder: Path) -> None:
    from torchvision.datasets import MNIST

    MNIST(folder, download=True)


def _fetch_svhn(folder: Path) -> None:
    from torchvision.datasets import SVHN

    for split in ("train", "test"):
        SVHN(folder / "svhn", split=split, download=True)


def _fetch_usps(folder: Path) -> None:
    from torchvision.datasets import USPS

    for train in (True, False):
        USPS(folder / "usps", train=train, download=True)


def _fetch_celeba(folder: Path) -> None:
    if importlib.util.find_spec("gdown") is None:
        raise ImportError("it lies on Google Drive, which needs gdown: pip install gdown")
    from torchvision.datasets import CelebA

    CelebA(folder, download=True)


def _fetch_file(url: str, name: str) -> Callable[[Path], None]:
    def fetch(folder: Path) -> None:
        from torchvision.datasets.utils import download_url

        download_url(url, folder, name)

    return fetch


_BERKELEY = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping"
# The set's own home is gone; scikit-learn keeps this copy alive (sklearn.datasets.fetch_lfw_people).
_LFW = "https://ndownloader.figshare.com/files/5976015"

DOWNLOADS: Mapping[str, Download] = {
    "MNIST": Download(_fetch_mnist, "https://ossci-datasets.s3.amazonaws.com/mnist/"),
    "SVHN": Download(_fetch_svhn, "http://ufldl.stanford.edu/housenumbers/"),
    "USPS": Download(_fetch_usps, "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps"),
    "BSDS500": Download(
        _fetch_file(f"{_BERKELEY}/grouping/BSR/BSR_bsds500.tgz", "BSR_bsds500.tgz"), f"{_BERKELEY}/grouping/"
    ),
    "CelebA": Download(_fetch_celeba, "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"),
    "LFW": Download(_fetch_file(_LFW, "lfw-funneled.tgz"), f"{_LFW} (lfw-funneled.tgz)"),
}
