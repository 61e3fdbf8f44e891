"""What every test shares: a tiny data root, and files as other people's programs write them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from data.layout import PARTS, make_parts
from data.synthetic import make_sample

import numpy as np
import pytest
from PIL import Image

# Images in train, val and test of each part.
TINY_COUNTS = {"face": (48, 16), "mnistm": (96, 32, 32), "svhn": (96, 32, 32), "usps": (96, 32, 32)}
TARS = {".tar": "w", ".tgz": "w:gz", ".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}
Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch  # short names for the signatures of tests


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of a few hundred images of the built-in sample set; tests must not change it."""
    root = tmp_path_factory.mktemp("data") / "hw2_data"
    make_parts(root, PARTS, partial(make_sample, seed=0, counts=TINY_COUNTS))
    return root


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """Return an image, or pixels from 0 to 255, as the bytes of a file."""
    buffer = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image.astype(np.uint8))
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_files(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by their names, into an archive where ``path`` ends like one and else into a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif path.suffix in TARS:
        with tarfile.open(path, TARS[path.suffix]) as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below ``folder``, but for the caches that reading leaves."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
