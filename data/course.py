"""The course's own data: copied from its folder or archive."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from common.cli import UserError, progress_bar
from common.data import DOMAINS
from data.archives import iterate_files, list_files

_TOP = re.compile(f"(.*?/)??(face/train|face/val|digits/({'|'.join(DOMAINS)}))/")
_WANTED = re.compile(r"(train|val|data)/[^/]+|(train|val|test)\.csv")

_listed = cache(list_files)  # reading the names of a .tar.gz takes as long as unpacking it


def make_course(part: str, folder: Path, source: Path) -> str:
    """Copy ``part`` into ``folder`` and return what it is called."""
    tops = {match[1] or "" for match in map(_TOP.match, _listed(source)) if match}
    if not tops:
        raise UserError(f"{source}: holds neither face/{{train,val}} nor digits/{{{','.join(DOMAINS)}}} of the course")
    place = min(tops, key=len) + ("face/" if part == "face" else f"digits/{part}/")
    names = [name.removeprefix(place) for name in _listed(source) if name.startswith(place)]
    wanted = {place + name for name in names if _WANTED.fullmatch(name)}
    if not wanted:
        raise UserError(f"{source}: holds no {place}; choose others with --parts")
    for split in ("train", "val"):
        if not any(re.match(rf"{re.escape(place)}{split}(/.*\.png|\.csv)$", name) for name in wanted):
            raise UserError(f"{source}: {place} has no {split} split")
    files = iterate_files(source, wanted.__contains__)
    for name, content in progress_bar(files, total=len(wanted), desc=part, unit="file"):
        path = folder / name.removeprefix(place)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return f"{'CelebA' if part == 'face' else DOMAINS[part]} (course)"
