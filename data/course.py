"""The course's own data: copied from its folder or archive, checked before a part appears."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from common.cli import UserError, progress_bar
from common.data import DIGIT_SIZE, DOMAINS, FACE_SIZE, check_label, first_of, list_images, load_images, read_csv
from data.archives import iterate_files, list_files
from data.layout import SPLITS

_TOP = re.compile(f"(.*?/)??(face/train|face/val|digits/({'|'.join(DOMAINS)}))/")
_WANTED = re.compile(r"(train|val|data)/[^/]+|(train|val|test)\.csv|SOURCE")

_listed = cache(list_files)  # reading the names of a .tar.gz takes as long as unpacking it


def make_course(part: str, folder: Path, source: Path) -> str:
    """Copy ``part`` into ``folder``, check it and return what it is called."""
    tops = {match[1] or "" for match in map(_TOP.match, _listed(source)) if match}
    if not tops:
        raise UserError(f"{source}: holds neither face/{{train,val}} nor digits/{{{','.join(DOMAINS)}}} of the course")
    place = min(tops, key=len) + ("face/" if part == "face" else f"digits/{part}/")
    names = [name.removeprefix(place) for name in _listed(source) if name.startswith(place)]
    wanted = {place + name for name in names if _WANTED.fullmatch(name)}
    if not wanted:
        raise UserError(f"{source}: holds no {place}; choose others with --parts")
    files = iterate_files(source, wanted.__contains__)
    for name, content in progress_bar(files, total=len(wanted), desc=part, unit="file"):
        path = folder / name.removeprefix(place)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    try:
        _check(part, folder)
    except UserError as error:
        problem = str(error).replace(f"{folder}/", "")
        raise UserError(f"{source}: {place}: {problem} (for images of your own: own-faces, own-digits)") from error
    if others := [name for name in names if place + name not in wanted]:
        print(f"{source}: left out: {len(others)} ({first_of(others)})")
    if (folder / "SOURCE").is_file():
        return (folder / "SOURCE").read_text(encoding="utf-8", errors="replace").strip()
    return f"{'CelebA' if part == 'face' else DOMAINS[part]} (course)"


def _check(part: str, folder: Path) -> None:
    """Raise a UserError unless every image can be read and has the right size, and every label is a digit."""
    if part == "face":
        for split in ("train", "val"):
            load_images(folder / split, list_images(folder / split), FACE_SIZE)
        return
    for split in SPLITS:
        path = folder / f"{split}.csv"
        if split == "test" and not path.exists():
            continue  # the course keeps its test labels
        rows = read_csv(path)
        for name, label in rows:
            if label or split != "test":
                check_label(path, name, label)
        load_images(folder / "data", [name for name, _ in rows], DIGIT_SIZE)
