"""The one data layout that every problem reads (see ``python data/prepare.py --help``).

::

    <data-root>/face/{train,val}/NNNNN.png                 64x64 RGB
    <data-root>/digits/<domain>/data/NNNNN.png             28x28; RGB, but for usps, which is grey
    <data-root>/digits/<domain>/{train,val,test}.csv       header image_name,label

A domain is any folder below digits/: the labels of a domain that DIGIT_DOMAINS does not know may be missing. Links
to files are followed, since the user named the data root; a CSV names plain files of data/ and nothing else.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.errors import UserError

# What needs torch is imported where it is used: preparing pictures needs none of it, and it takes seconds to load.
if TYPE_CHECKING:
    import torch


class Domain(NamedTuple):
    """What is known of a digit domain beforehand: how texts call it, and the mode of its pictures."""

    title: str
    mode: str


DIGIT_DOMAINS: Mapping[str, Domain] = {
    "mnistm": Domain("MNIST-M", "RGB"),
    "svhn": Domain("SVHN", "RGB"),
    "usps": Domain("USPS", "L"),
}
DIGIT_SIZE = 28
FACE_SIZE = 64
_DIGITS = frozenset("0123456789")
_FORBIDDEN = frozenset("/\\\0")
_MAX_TEXT_BYTES = 64 * 2**20


def read_names_and_labels(path: Path, partial: bool = False) -> tuple[list[str], list[int]]:
    """Read a ``image_name,label`` file.

    Args:
        path: the file.
        partial: leave pictures without a label out, instead of refusing them.

    Returns:
        File names in the file's order and their labels 0..9.

    Raises:
        UserError: names the file, the line and what to mend.
    """
    header, rows = read_rows(path)
    if header[:2] != ["image_name", "label"] and header != ["image_name"]:
        raise UserError(f"{path}: the header must be image_name,label, found {','.join(header)[:80]!r}")
    names = _names(path, rows)
    if partial:
        names, rows = zip(*[(name, row) for name, row in zip(names, rows, strict=True) if _label(row[1])], strict=True)
    missing = [line for line, row in rows if _label(row) == ""]
    if missing:
        raise UserError(f"{path}: line {missing[0]}: no label ({len(missing):,} of {len(rows):,} pictures have none)")
    return list(names), [checked_label(path, line, _label(row)) for line, row in rows]


def checked_label(path: Path, line: int, label: str) -> int:
    """Return the number that ``label`` writes; raise a UserError that names the line where it is not 0..9."""
    if label not in _DIGITS:
        raise UserError(f"{path}: line {line}: the label must be a digit 0-9, found {label[:80]!r}")
    return int(label)


def read_names(path: Path) -> list[str]:
    """Read only the ``image_name`` column; whatever else the file holds is never looked at."""
    header, rows = read_rows(path)
    if header[0] != "image_name":
        raise UserError(f"{path}: the first column must be image_name, found {header[0][:80]!r}")
    return _names(path, rows)


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and the other rows with their line numbers; blank lines and outer spaces are dropped."""
    try:
        reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
        rows = [(reader.line_num, [field.strip() for field in row]) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file ({error})") from error
    rows = [(line, row) for line, row in rows if any(row)]
    if len(rows) < 2:
        raise UserError(f"{path}: lists no picture; expected the header image_name,label and one line a picture")
    return rows[0][1], rows[1:]


def digit_domains(data_root: Path) -> list[str]:
    """Return the domains of a data root, sorted: the folders below digits/ that hold train.csv or data/."""
    folders = (path for path in (Path(data_root) / "digits").glob("*/") if not path.name.startswith("."))
    return sorted(path.name for path in folders if (path / "train.csv").exists() or (path / "data").is_dir())


def domain_title(domain: str) -> str:
    """Return how texts call a domain: MNIST-M for mnistm, its own name for one of the user's."""
    return DIGIT_DOMAINS[domain].title if domain in DIGIT_DOMAINS else domain


def has_labels(data_root: Path, domain: str, split: str, partial: bool = False) -> bool:
    """Return whether every picture of a split has a label, telling nothing else about labels; False without the split.

    ``partial`` asks whether any has one.

    Raises:
        UserError: the CSV is there but cannot be read.
    """
    path = _domain_folder(data_root, domain) / f"{split}.csv"
    if not os.path.lexists(path):
        return False
    header, rows = read_rows(path)
    return header[1:2] == ["label"] and (any if partial else all)(_label(row) for _, row in rows)


def load_digit_images(data_root: Path, domain: str, split: str) -> torch.Tensor:
    """Return the pictures of one split, without touching their labels: uint8 (N, 3, 28, 28).

    Grey pictures are repeated over the three channels.
    """
    folder = _domain_folder(data_root, domain)
    return _digits(folder, read_names(folder / f"{split}.csv"), domain)


def load_digits(data_root: Path, domain: str, split: str, partial: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures uint8 (N, 3, 28, 28) and labels int64 (N,) of ``train``, ``val`` or ``test``.

    ``partial`` leaves pictures without a label out.
    """
    import torch

    folder = _domain_folder(data_root, domain)
    names, labels = read_names_and_labels(folder / f"{split}.csv", partial)
    return _digits(folder, names, domain), torch.tensor(labels)


def load_faces(data_root: Path, split: str) -> torch.Tensor:
    """Return the faces of ``train`` or ``val``: uint8 (N, 3, 64, 64)."""
    from common.cache import list_images, load_images

    folder = Path(data_root) / "face" / split
    check_root(data_root)
    return load_images(folder, list_images(folder), FACE_SIZE, "RGB")


def dataset_name(data_root: Path, part: str) -> str:
    """Return how results and captions call ``part`` (face, or a digit domain), as its maker wrote it.

    ``data/prepare.py`` leaves a ``SOURCE`` file beside each part; a folder from elsewhere has none.
    """
    folder = Path(data_root) / ("face" if part == "face" else f"digits/{part}")
    try:
        return _read_text(folder / "SOURCE").split("\n")[0].strip()[:100]
    except UserError:
        return f"{part} (source unknown)"


def described(data_root: Path, part: str) -> dict[str, str]:
    """Return what the record of a training says of the pictures it learned from."""
    return {"dataset": dataset_name(data_root, part), "data_digest": data_digest(data_root, part)}


def data_digest(data_root: Path, part: str, labels: bool = True) -> str:
    """Return what tells the training pictures of ``part`` from others of the same name: a training is of one of them.

    Args:
        data_root: where they lie.
        part: face, or a digit domain.
        labels: whether labels count; otherwise none is read.

    Raises:
        UserError: a listed picture is missing, or the list cannot be read.
    """
    from common.cache import files_digest, list_images

    if part == "face":
        check_root(data_root)
        folder = Path(data_root) / "face/train"
        return files_digest(folder, list_images(folder))
    folder = _domain_folder(data_root, part)
    names, known = read_names_and_labels(folder / "train.csv") if labels else (read_names(folder / "train.csv"), [])
    text = f"{files_digest(folder / 'data', names)} {known}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digits(folder: Path, names: list[str], domain: str) -> torch.Tensor:
    from common.cache import load_images

    mode = DIGIT_DOMAINS[domain].mode if domain in DIGIT_DOMAINS else None
    images = load_images(folder / "data", names, DIGIT_SIZE, mode)
    return images.expand(-1, 3, -1, -1).contiguous() if images.shape[1] == 1 else images


def check_root(data_root: Path) -> None:
    """Raise a UserError that says how to make one where there is no data root."""
    if not Path(data_root).is_dir():
        raise UserError(f"{data_root}: no such data root; make one with python data/prepare.py, or pass --data-root")


def _domain_folder(data_root: Path, domain: str) -> Path:
    check_root(data_root)
    folder = Path(data_root) / "digits" / domain
    if not folder.is_dir():
        there = ", ".join(digit_domains(data_root)) or "no domain"
        raise UserError(f"{folder}: no such folder; digits/ of this data root holds {there}")
    return folder


def _label(row: list[str]) -> str:
    return row[1] if len(row) > 1 else ""


def _names(path: Path, rows: list[tuple[int, list[str]]]) -> list[str]:
    first_line: dict[str, int] = {}
    for line, (name, *_) in rows:
        if not name or name in (".", "..") or not _FORBIDDEN.isdisjoint(name):
            raise UserError(f"{path}: line {line}: {name[:80]!r} is not a plain file name")
        if name in first_line:
            raise UserError(
                f"{path}: line {line}: {name} is listed on line {first_line[name]} already; keep one of them"
            )
        first_line[name] = line
    return list(first_line)


def _read_text(path: Path) -> str:
    """Return a small text file of the data root, without its byte order mark."""
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        raise UserError(f"{path}: {'not a plain file' if os.path.lexists(path) else 'no such file'}")
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise UserError(f"{path}: larger than {_MAX_TEXT_BYTES >> 20} MiB; it is not a list of pictures")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
