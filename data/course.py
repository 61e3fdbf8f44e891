"""The course's own data: copied from its folder or archive, checked before a part appears."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from common.cli import UserError, progress_bar
from common.data import DIGIT_SIZE, DOMAINS, FACE_SIZE, check_label, list_images, read_csv
from common.decode import read_image
from data.archives import iterate_files, list_files, read_bytes
from data.layout import first_of

# Images that train and val hold in the course's data.
EXPECTED = {"face": (38464, 2025), "mnistm": (44800, 11200), "svhn": (63544, 15887), "usps": (5950, 1488)}
_CHECKED = 1000  # images of a split that are decoded, evenly spaced
_TOP = re.compile(f"(.*?/)??(face/train|face/val|digits/({'|'.join(DOMAINS)}))/")
_WANTED = re.compile(r"(train|val|data)/[^/]+|(train|val|test)\.csv|SOURCE")


_listed = cache(list_files)  # reading the names of a .tar.gz takes as long as unpacking it


def course_place(source: Path, part: str) -> str:
    """Return where ``part`` lies in the course's folder or archive, for example ``hw2_data/face/``."""
    tops = {match[1] or "" for match in map(_TOP.match, _listed(source)) if match}
    if not tops:
        raise UserError(f"{source}: holds neither face/{{train,val}} nor digits/{{{','.join(DOMAINS)}}} of the course")
    return min(tops, key=len) + ("face/" if part == "face" else f"digits/{part}/")


def make_course(part: str, folder: Path, source: Path) -> str:
    """Copy ``part`` into ``folder``, check it (a UserError counts every problem) and return what it is called."""
    place = course_place(source, part)
    names = [name.removeprefix(place) for name in _listed(source) if name.startswith(place)]
    wanted = {place + name for name in names if _WANTED.fullmatch(name)}
    if not wanted:
        raise UserError(f"{source}: holds no {place}; choose others with --parts")
    for inner in ("train", "val") if part == "face" else ("data",):
        (folder / inner).mkdir()
    files = iterate_files(source, wanted.__contains__)
    for name, content in progress_bar(files, total=len(wanted), desc=part, unit="file"):
        (folder / name.removeprefix(place)).parent.mkdir(exist_ok=True)
        (folder / name.removeprefix(place)).write_bytes(read_bytes(content))
    problems = list(_face_problems(folder) if part == "face" else _digit_problems(folder, part))
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        shown = first_of([problem.replace(f"{folder}/", "") for problem in problems])
        raise UserError(f"{source}: {place}: {count} (for images of your own: own-faces, own-digits): {shown}")
    if others := [name for name in names if place + name not in wanted]:
        print(f"{source}: left out: {len(others)} ({first_of(others)})")
    if (folder / "SOURCE").is_file():
        return (folder / "SOURCE").read_text(encoding="utf-8", errors="replace").strip()
    return f"{'CelebA' if part == 'face' else DOMAINS[part]} (course)"


def _face_problems(folder: Path) -> Iterator[str]:
    for split, expected in zip(("train", "val"), EXPECTED["face"], strict=True):
        try:
            names = list_images(folder / split)
        except UserError as error:
            yield str(error)
            continue
        _note_count(f"face/{split}", len(names), expected)
        yield from _image_problems(folder / split, names, FACE_SIZE)


def _digit_problems(folder: Path, part: str) -> Iterator[str]:
    split_of: dict[str, str] = {}
    for split, expected in (*zip(("train", "val"), EXPECTED[part], strict=True), ("test", None)):
        path = folder / f"{split}.csv"
        if split == "test" and not path.exists():
            continue  # the course keeps its test labels
        try:
            rows = read_csv(path)
            for name, label in rows:
                if label or split != "test":
                    check_label(path, name, label)
        except UserError as error:
            yield str(error)
            continue
        if expected is not None:
            _note_count(f"{part}/{split}.csv", len(rows), expected)
        for name, _ in rows:
            if name in split_of:
                yield f"{path}: {name} is also in {split_of[name]}.csv"
            split_of[name] = split
    yield from _image_problems(folder / "data", sorted(split_of), DIGIT_SIZE)


def _image_problems(folder: Path, names: list[str], size: int) -> Iterator[str]:
    missing = set(names).difference(path.name for path in folder.iterdir())
    yield from (f"{folder / name}: no such image" for name in sorted(missing))
    for name in names[:: -(-len(names) // _CHECKED) or 1]:
        try:
            if name not in missing and (image := read_image(folder / name, str(folder / name))).size != (size, size):
                yield f"{folder / name}: {image.width}x{image.height} pixels, expected {size}x{size}"
        except UserError as error:
            yield str(error)


def _note_count(what: str, found: int, expected: int) -> None:
    if found != expected:
        print(f"note: {what}: {found:,} images; the course's original has {expected:,}")
