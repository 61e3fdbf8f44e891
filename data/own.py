"""The user's own pictures, of any size, mode and format, as faces or as a domain of digits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from common.dataset import DIGIT_SIZE, FACE_SIZE, checked_label, read_rows
from common.decode import read_square
from common.errors import UserError
from common.seed import derive_seed
from common.threads import for_each
from data.archives import Wanted, iterate_files, list_files
from data.layout import (  # fmt: skip
    PARTS,
    building,
    first_of,
    picture_name,
    remove,
    save_png,
    split_faces,
    split_shuffled,
    write_source,
    write_splits,
)

_FEWEST_DIGITS = 3  # one each for train, val and test


class Source(NamedTuple):
    """Somebody's pictures, and how they become small squares.

    ``path``: a folder of any depth, a .zip or a .tar. ``name``: what results call the set. ``crop`` and
    ``stretched_from``: see common.decode.square. ``workers``: threads (None: one a core); they change no byte.
    """

    path: Path
    name: str
    crop: int | None = None
    stretched_from: tuple[int, int] | None = None
    workers: int | None = None


def make_own_faces(data_root: Path, source: Source, seed: int, person_folders: bool = False) -> None:
    """Make face/ of ``data_root`` from any pictures.

    Args:
        data_root: receives the layout of common/dataset.py.
        source: the pictures.
        seed: the split follows from it.
        person_folders: every folder is one person, who is then in one split only.

    Raises:
        UserError: fewer than two pictures that can be read.
    """
    _check_place(data_root, source.path)
    with building(data_root, "face") as folder:
        pictures, left_out = _convert(source, folder / "all", FACE_SIZE, fewest=2)
        rng = np.random.default_rng(derive_seed(seed, "face"))
        if person_folders:
            split = split_faces(pictures, rng, lambda name: str(PurePosixPath(name).parent))
        else:
            split = split_faces(pictures, rng)
        for part, names in zip(("train", "val"), split, strict=True):
            _place(pictures, names, folder / part)
        remove(folder / "all")
        write_source(folder, source.name)
        _report(data_root / "face", folder, f"{len(split[0]):,} faces for train, {len(split[1]):,} for val", left_out)


def make_own_digits(
    data_root: Path,
    domain: str,
    source: Source,
    seed: int,
    labels: Path | None = None,
    label_folders: bool = False,
) -> None:
    """Make digits/``domain`` of ``data_root`` from any pictures; labels may be unknown, for all or for some.

    ``originals.csv`` tells which picture of the source each one was.

    Args:
        data_root: receives the layout of common/dataset.py.
        domain: see :func:`check_domain`.
        source: the pictures.
        seed: the split follows from it.
        labels: CSV ``image_name,label``, the name being a file's path in the source or the end of it.
        label_folders: the folder that holds a picture is called 0 to 9 after its digit, as torchvision's ImageFolder
            has it; in folders of other names there is no label.

    Raises:
        UserError: fewer than three pictures that can be read, or labels that cannot be meant.
    """
    _check_place(data_root, source.path)
    if labels:
        read_rows(labels)  # before the conversion, which may take minutes
    own_labels = labels and labels.resolve()
    with building(data_root, domain) as folder:
        pictures, left_out = _convert(
            source,
            folder / "all",
            DIGIT_SIZE,
            _FEWEST_DIGITS,
            lambda name: (source.path / name).resolve() != own_labels,
        )
        names = sorted(pictures)
        label_of, unmatched = _read_labels(labels, names) if labels else ({}, [])
        if label_folders:
            folder_of = {name: PurePosixPath(name).parent.name for name in names}
            label_of = {name: int(digit) for name, digit in folder_of.items() if digit in set("0123456789")}
            if not label_of:
                raise UserError(f"{source.path}: no picture lies in a folder called 0 to 9; leave out --label-folders")
        _place(pictures, names, folder / "data")
        remove(folder / "all")
        split = split_shuffled(len(names), np.random.default_rng(derive_seed(seed, domain)))
        write_splits(folder, [label_of.get(name, "") for name in names], split)
        quoted = (name.replace('"', '""') for name in names)
        lines = [f'{picture_name(number)},"{name}"\n' for number, name in enumerate(quoted)]
        (folder / "originals.csv").write_text("image_name,original\n" + "".join(lines), encoding="utf-8")
        write_source(folder, source.name)
        counts = ", ".join(f"{len(numbers):,} for {part}" for part, numbers in split._asdict().items())
        _report(data_root / "digits" / domain, folder, f"{counts}; {len(label_of):,} with a label", left_out)
    if unmatched:
        print(f"{labels}: {len(unmatched):,} rows name no picture that was read: {first_of(unmatched)}")


def check_domain(name: str) -> None:
    """Raise a UserError unless ``name`` can be a folder and is not that of another part."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"{name!r}: not a name for a domain; use letters, digits, dots, hyphens and underscores")
    if name.lower() in PARTS:
        raise UserError(f"{name}: the name of another part, which yours would pass for; choose another name")


def _check_place(data_root: Path, source: Path) -> None:
    if data_root.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{data_root}: lies inside {source}, whose pictures it would hold; pass another --data-root")


def _convert(
    source: Source, folder: Path, size: int, fewest: int, wanted: Wanted = lambda name: True
) -> tuple[dict[str, Path], list[str]]:
    """Write every picture as a small square into ``folder``; return where each one lies and what was left out."""
    folder.mkdir()
    left_out: list[str] = []

    def convert(numbered: tuple[int, tuple[str, bytes]]) -> tuple[str, Path] | None:
        number, (name, content) = numbered
        path = folder / picture_name(number)
        try:
            save_png(read_square(content, name, size, source.crop, source.stretched_from), path)
        except UserError as error:
            left_out.append(str(error))
            return None
        return name, path

    total = len(list_files(source.path, wanted))
    files = enumerate(iterate_files(source.path, wanted, left_out))
    pictures = dict(filter(None, for_each(convert, files, total, "converting", source.workers)))
    left_out.sort()
    if len(pictures) < fewest:
        reasons = f"; left out: {first_of(left_out)}" if left_out else ""
        raise UserError(f"{source.path}: {len(pictures)} pictures that can be read, {fewest} are needed{reasons}")
    return pictures, left_out


def _place(pictures: dict[str, Path], names: list[str], folder: Path) -> None:
    folder.mkdir()
    for number, name in enumerate(names):
        pictures[name].rename(folder / picture_name(number))


def _report(place: Path, folder: Path, made: str, left_out: list[str]) -> None:
    print(f"{place}: {made}")
    if left_out:
        whole = ""
        if first_of(left_out, "\n") != "\n".join(left_out):
            (folder / "left_out.txt").write_text("\n".join(left_out) + "\n", encoding="utf-8")
            whole = f" (all of them: {place / 'left_out.txt'})"
        print(f"left out: {len(left_out):,}{whole}:\n  {first_of(left_out, chr(10) + '  ')}")


def _read_labels(path: Path, names: list[str]) -> tuple[dict[str, int], list[str]]:
    """Return the label of every picture that has one, and the rows that name no picture."""
    header, rows = read_rows(path)
    if header[:2] != ["image_name", "label"]:
        raise UserError(f"{path}: the header must be image_name,label, found {','.join(header)[:80]!r}")
    find = _finder(names)
    labels: dict[str, int] = {}
    unmatched = []
    for line, (name, *rest) in rows:
        found = find(name)
        if len(found) > 1:
            raise UserError(
                f"{path}: line {line}: {name} may be {found[0]} or {found[1]}; write more of the path in this list"
            )
        if not found:
            unmatched.append(name)
        elif rest and rest[0]:
            label = checked_label(path, line, rest[0])
            if labels.setdefault(found[0], label) != label:
                raise UserError(f"{path}: line {line}: {found[0]} has another label on an earlier line; keep one")
    if not labels:
        raise UserError(f"{path}: labels none of the {len(names):,} pictures; the first is called {names[0]}")
    return labels, unmatched


def _finder(names: list[str]) -> Callable[[str], list[str]]:
    """Return a function from what a list calls a picture to the pictures that it may mean."""
    by_file_name = defaultdict(list)
    for name in names:
        by_file_name[PurePosixPath(name).name].append(name)

    def find(called: str) -> list[str]:
        called = called.replace("\\", "/").removeprefix("./")
        near = by_file_name[PurePosixPath(called).name]
        if called in near:
            return [called]
        # The list may leave out folders above the file, or name some above the source.
        return [name for name in near if name.endswith(f"/{called}") or called.endswith(f"/{name}")]

    return find
