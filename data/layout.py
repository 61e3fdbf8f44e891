"""Writing the data layout that common/data.py reads: a part (face, or a digit domain) appears whole or not at all."""

from __future__ import annotations

import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.cli import UserError, progress_bar
from common.data import DOMAINS, first_of, thread_map
from common.files import write_text

import numpy as np
from PIL import Image

PARTS = ("face", *DOMAINS)
SPLITS = ("train", "val", "test")
# What prepare.py writes into a part's folder, and therefore all that --force may replace.
_OWN_FILE = re.compile(
    r"(train|val|data)/\d{5,}\.png|(train|val|test|originals)\.csv|SOURCE|"
    r"\.cache/\.?(train|val|test)\.safetensors.*"
)


def make_parts(data_root: Path, parts: Sequence[str], make: Callable[[str, Path], str], force: bool = False) -> None:
    """Make those of ``parts`` that are missing, or all with ``force``; what a killed run left is tidied up first.

    ``make(part, folder)`` fills an empty folder and returns the line by which records and captions call the data. A
    UserError tells that every part is there already, or, once all others are made, names each that could not be made.
    """
    targets = {part: part_folder(data_root, part) for part in parts}
    for target in targets.values():
        _tidy(target, list(target.parent.glob(f".{target.name}+*")))
    missing = [part for part in parts if force or not os.path.lexists(targets[part])]
    if not missing:
        raise UserError(f"{data_root}: {', '.join(parts)} already made; pass --force to replace, or a new --data-root")
    if kept := [part for part in parts if part not in missing]:
        print(f"{data_root}: {', '.join(kept)} already made, kept (--force replaces)")
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
    if os.path.lexists(target):
        files = (Path(folder, name).relative_to(target) for folder, _, names in os.walk(target) for name in names)
        foreign = sorted(str(file) for file in files if not _OWN_FILE.fullmatch(file.as_posix()))
        if foreign or not (target / "SOURCE").is_file():
            what = f"holds files that prepare.py did not make ({first_of(foreign)})" if foreign else "holds no SOURCE"
            raise UserError(f"{target}: {what}; move it away, or pass another --data-root")
    folder, old = target.with_name(f".{target.name}+{uuid.uuid4().hex[:8]}"), target.with_name(f".{target.name}+old")
    folder.mkdir(parents=True)
    try:
        yield folder
        if os.path.lexists(target):
            target.rename(old)
        folder.rename(target)
    finally:
        _tidy(target, [folder, old])


def _tidy(target: Path, leftovers: Sequence[Path]) -> None:
    """Put the part back if its replacement was interrupted, and remove ``leftovers``, neighbors of ``target``."""
    old = target.with_name(f".{target.name}+old")
    if os.path.lexists(old) and not os.path.lexists(target):
        old.rename(target)
    for path in leftovers:
        if path.is_symlink():
            path.unlink()
        elif path.exists():  # renamed first, so that another prepare.py that writes there stops
            shutil.rmtree(path.rename(path.with_name(f"{path.name}-removed")), ignore_errors=True)


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
