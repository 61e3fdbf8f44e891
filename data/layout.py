"""Writing the data layout that common/data.py reads: a part (face, or a digit domain) appears whole or not at all."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.cli import UserError, progress_bar
from common.data import DOMAINS, thread_map
from common.files import write_text

import numpy as np
from PIL import Image

PARTS = ("face", *DOMAINS)
SPLITS = ("train", "val", "test")


def make_parts(data_root: Path, parts: Sequence[str], make: Callable[[str, Path], str]) -> None:
    """Make those of ``parts`` that are missing.

    ``make(part, folder)`` fills an empty folder and returns the line by which records and captions call the data. A
    UserError tells that every part is there already, or, once all others are made, names each that could not be made.
    """
    targets = {part: part_folder(data_root, part) for part in parts}
    missing = [part for part in parts if not os.path.lexists(targets[part])]
    if not missing:
        raise UserError(f"{data_root}: {', '.join(parts)} already made; delete them first, or pass a new --data-root")
    if kept := [part for part in parts if part not in missing]:
        print(f"{data_root}: {', '.join(kept)} already made, kept")
    problems: dict[str, list[str]] = {}
    for part in missing:
        try:
            with _building(targets[part]) as folder:
                name = make(part, folder)
                write_text(folder / "SOURCE", name.encode(errors="surrogateescape").decode(errors="replace") + "\n")
        except UserError as error:
            problems.setdefault(str(error), []).append(part)
        else:
            print(f"{part}: {name}")
    if problems:
        raise UserError("; ".join(f"{', '.join(failed)} not made: {error}" for error, failed in problems.items()))


def part_folder(data_root: Path, part: str) -> Path:
    """Return the folder of ``part`` (face, or a digit domain)."""
    return data_root / ("face" if part == "face" else f"digits/{part}")


@contextmanager
def _building(target: Path) -> Iterator[Path]:
    """Yield an empty neighbor of ``target``; it takes that name only when the block succeeds."""
    for killed in target.parent.glob(f".{target.name}+*"):  # renamed first, so that a process still alive there stops
        with contextlib.suppress(OSError):
            shutil.rmtree(killed.rename(killed.with_name(f"{killed.name}-removed")), ignore_errors=True)
    folder = target.with_name(f".{target.name}+{uuid.uuid4().hex[:8]}")
    folder.mkdir(parents=True)
    try:
        yield folder
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def split_order(order: np.ndarray) -> list[np.ndarray]:
    """Cut the numbers of images into train, val and test (64/16/20), each ascending; ``order`` may be shuffled."""
    test = math.ceil(len(order) / 5)  # a fifth, then a fifth of the rest, rounded up as the original counts are
    val = math.ceil((len(order) - test) / 5)
    train = len(order) - test - val
    return [np.sort(piece) for piece in np.split(order, [train, train + val])]


def image_name(number: int) -> str:
    """Return the file name of image ``number``."""
    return f"{number:05d}.png"


def save_png(image: Image.Image, path: Path) -> None:
    """Save a small image fast: stronger compression gains little at these sizes."""
    image.save(path, "PNG", compress_level=1)


def write_csvs(folder: Path, labels: Sequence[object] | np.ndarray, splits: Sequence[np.ndarray]) -> None:
    """Write train.csv, val.csv and test.csv for images 0..N-1 of ``folder/data``."""
    for split, numbers in zip(SPLITS, splits, strict=True):
        lines = [f"{image_name(number)},{labels[number]}\n" for number in numbers]
        write_text(folder / f"{split}.csv", "image_name,label\n" + "".join(lines))


def write_images(folder: Path, render: Callable[[int], Image.Image], count: int) -> None:
    """Write ``render(0)`` to ``render(count - 1)`` into the new ``folder``."""
    folder.mkdir()

    def write(number: int) -> None:
        save_png(render(number), folder / image_name(number))

    numbers = thread_map(write, range(count))
    for _ in progress_bar(numbers, total=count, desc=f"writing {folder.name}", unit="img"):
        pass
