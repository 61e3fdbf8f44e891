"""Images of any size, mode and format become faces or a digit domain; what cannot be read is counted and named."""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.cli import UserError, progress_bar
from common.data import DIGIT_SIZE, FACE_SIZE, center_square, check_label, first_of, read_csv, read_image, thread_map
from common.files import write_text
from data.archives import Wanted, iterate_files, list_files
from data.layout import PARTS, image_name, save_png, split_order, write_csvs

import numpy as np

_VAL_FACES = 2025  # as many as the course report compares with; a fifth of a small set


class Source(NamedTuple):
    """Somebody's images, and how they become small squares: see common.data.center_square."""

    path: Path  # a folder of any depth, a .zip or a .tar
    crop: int | None
    stretched_from: tuple[int, int] | None


def make_faces(
    folder: Path, source: Source, rng: np.random.Generator, person_of: Callable[[str], str], wanted: Wanted = bool
) -> None:
    """Write the images of ``source`` as 64x64 faces into ``folder``/{train,val}; no person is in both."""
    images = _convert(source, folder, FACE_SIZE, 2, wanted)
    train, val = split_faces(images, rng, person_of)
    _move(images, train, folder / "train")
    _move(images, val, folder / "val")
    shutil.rmtree(folder / "all")
    print(f"face: {len(train):,} images for train, {len(val):,} for val")


def make_digits(
    folder: Path, source: Source, rng: np.random.Generator, labels: Path | None, label_folders: bool
) -> None:
    """Write the images of ``source`` as a digit domain; ``originals.csv`` tells which one each was.

    Args:
        labels: CSV ``image_name,label`` of some or all; a name is a path within the source, or that of one file only.
        label_folders: an image in a folder called 0 to 9 has that label, as with torchvision's ImageFolder.
    """
    rows = read_csv(labels) if labels else []  # before the conversion, which may take minutes
    images = _convert(source, folder, DIGIT_SIZE, 3)
    names = sorted(images)
    label_of = _match_labels(labels, rows, names) if labels else {}
    if label_folders:
        label_of = {name: int(own) for name in names if (own := Path(name).parent.name) in tuple("0123456789")}
        if not label_of:
            raise UserError(f"{source.path}: no image lies in a folder called 0 to 9; leave out --label-folders")
    _move(images, names, folder / "data")
    shutil.rmtree(folder / "all")
    labels_in_order = [label_of.get(name, "") for name in names]
    write_csvs(folder, labels_in_order, split_order(rng.permutation(len(names))))
    quoted = (name.replace('"', '""') for name in names)
    lines = [f'{image_name(number)},"{name}"\n' for number, name in enumerate(quoted)]
    write_text(folder / "originals.csv", "image_name,original\n" + "".join(lines))
    print(f"{len(names):,} images, {len(label_of):,} with a label")


def check_domain(name: str) -> str:
    """Return ``name``; raise a UserError unless it can be a folder and is not that of another part."""
    if not re.fullmatch(r"\w[\w.-]*", name) or name.lower() in PARTS:
        taken = ", ".join(PARTS)
        raise UserError(
            f"{name!r}: choose another name, of letters, digits, dots, hyphens and underscores; not {taken}"
        )
    return name


def split_faces(
    names: Iterable[str], rng: np.random.Generator, person_of: Callable[[str], str]
) -> tuple[list[str], list[str]]:
    """Return the names for train and val, neither empty, so that nobody is in both.

    Val gets 2,025 images, or a fifth where the set is small: people in random order, each who fits, else the one
    with the fewest. Where all are one person, images take the place of people.
    """
    names = sorted(names)
    people: dict[str, list[str]] = defaultdict(list)
    for name in names:
        people[person_of(name)].append(name)
    if len(people) == 1:
        people = {name: [name] for name in names}
    order = [people[person] for person in np.array(sorted(people), dtype=object)[rng.permutation(len(people))]]
    quota = max(1, min(_VAL_FACES, len(names) // 5))
    val: list[str] = []
    for own in order:
        if len(val) + len(own) <= quota:
            val += own
    val = sorted(val or sorted(order, key=len)[0])
    return sorted(set(names).difference(val)), val


def _convert(source: Source, folder: Path, size: int, minimum: int, wanted: Wanted = bool) -> dict[str, Path]:
    """Write every image as a small square into ``folder``/all; return where the image of each name lies."""
    (folder / "all").mkdir()
    left_out: list[str] = []

    def convert(numbered: tuple[int, tuple[str, bytes]]) -> tuple[str, Path] | None:
        number, (name, content) = numbered
        path = folder / "all" / image_name(number)
        try:
            image = read_image(content, name, None if source.crop else size)
            save_png(center_square(image, size, source.crop, source.stretched_from), path)
        except UserError as error:
            left_out.append(str(error))
        except ValueError as error:  # smaller than the crop
            left_out.append(f"{name}: {error}")
        else:
            return name, path
        return None

    files = enumerate(iterate_files(source.path, wanted, left_out))
    total = len(list_files(source.path, wanted))
    converted = progress_bar(thread_map(convert, files), total=total, desc="converting", unit="img")
    images = dict(filter(None, converted))
    shown = f"left out: {len(left_out):,} ({first_of(sorted(left_out))})" if left_out else "none is left out"
    if len(images) < minimum:
        raise UserError(f"{source.path}: {len(images)} images that can be read, {minimum} are needed; {shown}")
    if left_out:
        print(shown)
    return images


def _move(images: dict[str, Path], names: Sequence[str], folder: Path) -> None:
    """Move the images of ``names`` into ``folder``, numbered anew."""
    folder.mkdir()
    for number, name in enumerate(names):
        images[name].rename(folder / image_name(number))


def _match_labels(path: Path, rows: list[tuple[str, str]], names: Sequence[str]) -> dict[str, int]:
    """Return the label of every image that has one; rows that name no image are printed."""
    by_path = {unicodedata.normalize("NFC", name): [name] for name in names}  # a Mac writes accents on their own
    by_file_name: dict[str, list[str]] = defaultdict(list)
    for called, matches in by_path.items():
        by_file_name[PurePosixPath(called).name] += matches
    labels: dict[str, int] = {}
    unmatched = []
    for row, label in rows:
        called = unicodedata.normalize("NFC", row.replace("\\", "/").removeprefix("./"))
        matches = by_path.get(called) or by_file_name.get(called, [])
        if len(matches) > 1:
            raise UserError(f"{path}: {row} may be {matches[0]} or {matches[1]}; write the path in this list")
        if not matches:
            unmatched.append(row)
        elif label and labels.setdefault(matches[0], check_label(path, row, label)) != int(label):
            raise UserError(f"{path}: {row}: has another label on an earlier line; keep one")
    if not labels:
        raise UserError(f"{path}: labels none of the {len(names):,} images; the first is called {names[0]}")
    if unmatched:
        print(f"{path}: {len(unmatched):,} rows name no image that was read: {first_of(unmatched)}")
    return labels
