"""Writing the data layout that common/data.py reads: a part (face, or a digit domain) appears whole or not at all."""

from __future__ import annotations

import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.cli import UserError, progress_bar
from common.data import DIGIT_SIZE, DOMAINS, thread_map
from common.files import write_text

import numpy as np
from PIL import Image

PARTS = ("face", *DOMAINS)
SPLITS = ("train", "val", "test")
MakePart = Callable[[str, Path], str]
# What prepare.py writes into a part's folder, and therefore all that --force may replace.
_OWN_FILE = re.compile(
    r"(train|val|data)/\d{5,}\.png|(train|val|test|originals)\.csv|left_out\.txt|SOURCE|"
    r"\.cache/\.?(train|val|test)\.safetensors.*"
)
_SHOWN = 10  # names or problems in one message


def make_parts(data_root: Path, parts: Sequence[str], make: MakePart, force: bool = False) -> None:
    """Make those of ``parts`` that are missing, or all with ``force``; what a killed run left is tidied up first.

    ``make(part, folder)`` fills an empty folder and returns the line by which records and captions call the data.

    Raises:
        UserError: every part is there already, or, once all others are made, names each that could not be made.
    """
    for part in parts:
        target = part_folder(data_root, part)
        _tidy(target, list(target.parent.glob(f".{target.name}+*")))
    missing = [part for part in parts if force or not os.path.lexists(part_folder(data_root, part))]
    if not missing:
        raise UserError(f"{data_root}: {', '.join(parts)} already made; pass --force to replace, or a new --data-root")
    for part in parts:
        if part not in missing:
            print(f"{part_folder(data_root, part)}: already made, kept (--force replaces it)")
    problems = []
    for part in missing:
        try:
            with _building(part_folder(data_root, part)) as folder:
                name = make(part, folder)
                write_text(folder / "SOURCE", name.encode(errors="surrogateescape").decode(errors="replace") + "\n")
        except UserError as error:
            problems.append(f"{part} is missing: {error}" if len(parts) > 1 else str(error))
        else:
            print(f"{part}: {name}")
    if problems:
        raise UserError("; ".join(problems))


def part_folder(data_root: Path, part: str) -> Path:
    """Return the folder of ``part`` (face, or a digit domain)."""
    return data_root / ("face" if part == "face" else f"digits/{part}")


def check_source(source: Path, data_root: Path, part: str, nested: bool = True) -> None:
    """Raise a UserError where making ``part`` would replace ``source``, or (``nested``) the source holds the part."""
    target, real = (Path(os.path.realpath(path)) for path in (part_folder(data_root, part), source))
    if real.is_relative_to(target) or (nested and target.is_relative_to(real)):
        raise UserError(f"{source}: lies in, or contains, {part_folder(data_root, part)}; pass another --data-root")


@contextmanager
def _building(target: Path) -> Iterator[Path]:
    """Yield an empty neighbor of ``target``; it takes that name only when the block succeeds."""
    if os.path.lexists(target):
        _check_replaceable(target)
    partial, old = target.with_name(f".{target.name}+{uuid.uuid4().hex[:8]}"), target.with_name(f".{target.name}+old")
    partial.mkdir(parents=True)
    try:
        yield partial
        if os.path.lexists(target):
            target.rename(old)
        partial.rename(target)
    except FileNotFoundError as error:
        if partial.exists():
            raise
        raise UserError(f"{target}: another prepare.py began to make it as well; run one at a time") from error
    finally:
        _tidy(target, [partial, old])


def _tidy(target: Path, leftovers: Iterable[Path]) -> None:
    """Put the part back if its replacement was interrupted, and remove ``leftovers``, neighbors of ``target``."""
    old = target.with_name(f".{target.name}+old")
    if os.path.lexists(old) and not os.path.lexists(target):
        old.rename(target)
    for path in leftovers:
        if path.is_symlink():
            path.unlink()
        elif path.exists():  # renamed first, so that another prepare.py that writes there notices
            shutil.rmtree(path.rename(path.with_name(f"{path.name}-removed")), ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    files = (Path(folder, name).relative_to(target) for folder, _, names in os.walk(target) for name in names)
    foreign = sorted(str(file) for file in files if not _OWN_FILE.fullmatch(file.as_posix()))
    if not (target / "SOURCE").is_file():
        raise UserError(f"{target}: not made by prepare.py (it holds no SOURCE); move it away, or pass --data-root")
    if foreign:
        raise UserError(f"{target}: holds files that prepare.py did not make ({first_of(foreign)}); move them away")


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


def write_digits(folder: Path, pixels: np.ndarray, workers: int | None) -> None:
    """Write ``pixels``, uint8 (N, H, W) or (N, H, W, 3), as 28x28 images ``folder/data/NNNNN.png``."""
    (folder / "data").mkdir()

    def write(number: int) -> None:
        image = Image.fromarray(pixels[number])
        if image.size != (DIGIT_SIZE, DIGIT_SIZE):
            image = image.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BILINEAR)
        save_png(image, folder / "data" / image_name(number))

    for _ in progress_bar(thread_map(write, range(len(pixels)), workers), total=len(pixels), unit="img"):
        pass


def first_of(lines: Sequence[str], joint: str = "; ") -> str:
    """Return the first ten of ``lines`` in one text, and how many more there are."""
    rest = [f"and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
    return joint.join([*lines[:_SHOWN], *rest])
