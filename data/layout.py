"""Writing the data layout of common/dataset.py: whole parts only, the same bytes whatever the number of workers."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.dataset import DIGIT_DOMAINS, DIGIT_SIZE
from common.errors import UserError
from common.locks import hold
from common.threads import for_each

PARTS = ("face", *DIGIT_DOMAINS)
SHOWN = 10  # problems named on the screen
_VAL_FACES = 2025  # as many as the original report compares with; a fifth of a small set


class Splits(NamedTuple):
    """Which pictures (by number, ascending) belong to which split."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_shuffled(count: int, rng: np.random.Generator) -> Splits:
    """Split ``count`` pictures 64/16/20 at random."""
    return _cut(rng.permutation(count))


def split_contiguous(count: int) -> Splits:
    """Split ``count`` pictures 64/16/20 in their own order, so that neighbours stay in one split."""
    return _cut(np.arange(count))


def split_faces(
    names: Iterable[str], rng: np.random.Generator, person_of: Callable[[str], str] = lambda name: name
) -> tuple[list[str], list[str]]:
    """Return the names for train and val, neither empty, so that nobody is in both.

    Val gets 2,025 pictures, or a fifth where the set is small: people in random order, each who fits, else the one
    with the fewest. Where all are one person, pictures take the place of people.
    """
    names = sorted(names)
    people: dict[str, list[str]] = {}
    for name in names:
        people.setdefault(person_of(name), []).append(name)
    if len(people) == 1:
        people = {name: [name] for name in names}
    order = [people[person] for person in np.array(sorted(people), dtype=object)[rng.permutation(len(people))]]
    missing = max(1, min(_VAL_FACES, len(names) // 5))
    val: list[str] = []
    for own in order:
        if len(val) + len(own) <= missing:
            val += own
    val = sorted(val or min(order, key=len))
    return sorted(set(names).difference(val)), val


def part_folder(data_root: Path, part: str) -> Path:
    """Return the folder of ``part`` (face, or a domain of digits)."""
    return Path(data_root) / ("face" if part == "face" else f"digits/{part}")


@contextmanager
def locked(data_root: Path) -> Iterator[None]:
    """Keep a second preparation out of ``data_root`` for as long as the block runs."""
    try:
        data_root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{data_root}: is, or lies below, a file; pass a folder as --data-root") from error
    with hold(data_root / ".lock", f"{data_root}: another prepare.py is writing here; wait for it to end"):
        yield


def parts_to_make(data_root: Path, parts: Sequence[str], force: bool) -> list[str]:
    """Return those of ``parts`` that are missing (all of them with ``force``).

    Raises:
        UserError: every one is there already.
    """
    missing = [part for part in parts if force or not part_folder(data_root, part).exists()]
    if not missing:
        raise UserError(
            f"{data_root}: {', '.join(parts)} already made; pass --force to replace, or another --data-root"
        )
    for part in parts:
        if part not in missing:
            print(f"{part_folder(data_root, part)}: already made, kept (--force replaces it)")
    return missing


@contextmanager
def building(data_root: Path, part: str) -> Iterator[Path]:
    """Yield an empty neighbour of the part's folder; it takes the part's name only when the block succeeds.

    What an earlier, killed run left is removed first. Needs the lock of :func:`locked`.
    """
    target = part_folder(data_root, part)
    partial, old = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.old")
    remove(partial)
    remove(old)
    partial.mkdir(parents=True)
    try:
        yield partial
        if hasattr(os, "sync"):
            os.sync()
        if target.exists() or target.is_symlink():
            target.rename(old)
        partial.rename(target)
    finally:
        remove(partial)
        remove(old)


def remove(path: Path) -> None:
    """Remove a folder tree, or a link without what it points to; no error where there is nothing."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def write_source(folder: Path, name: str) -> None:
    """Write the one line by which results and captions call this part (common.dataset.dataset_name)."""
    (folder / "SOURCE").write_text(name + "\n", encoding="utf-8")


def write_splits(folder: Path, labels: Sequence[object], splits: Splits) -> None:
    """Write train.csv, val.csv and test.csv for pictures 0..N-1 of ``folder/data``."""
    for split, numbers in splits._asdict().items():
        lines = [f"{picture_name(number)},{labels[number]}\n" for number in numbers]
        (folder / f"{split}.csv").write_text("image_name,label\n" + "".join(lines), encoding="utf-8")


def picture_name(number: int) -> str:
    """Return the file name of picture ``number``."""
    return f"{number:05d}.png"


def first_of(problems: Sequence[str], joint: str = "; ") -> str:
    """Return the first ten of ``problems`` in one text, and how many more there are."""
    rest = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
    return joint.join([*problems[:SHOWN], *rest])


def write_digits(folder: Path, pixels: np.ndarray, description: str, workers: int | None = None) -> None:
    """Write ``pixels``, uint8 (N, H, W) or (N, H, W, 3), as 28x28 pictures ``folder/data/NNNNN.png``."""
    data = folder / "data"
    data.mkdir()

    def write(number: int) -> None:
        image = Image.fromarray(pixels[number])
        if image.size != (DIGIT_SIZE, DIGIT_SIZE):
            image = image.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BILINEAR)
        save_png(image, data / picture_name(number))

    for_each(write, range(len(pixels)), len(pixels), description, workers)


def save_png(image: Image.Image, path: Path) -> None:
    """Save a small picture fast: stronger compression gains little at these sizes."""
    image.save(path, "PNG", compress_level=1)


def _cut(order: np.ndarray) -> Splits:
    """Cut off a fifth for test, then a fifth of the rest for val, rounded up as the original counts are."""
    test = math.ceil(len(order) / 5)
    val = math.ceil((len(order) - test) / 5)
    train = len(order) - test - val
    return Splits(*(np.sort(piece) for piece in np.split(order, [train, train + val])))
