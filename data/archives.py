"""The one reader of "a folder or an archive of files", whatever made it."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from common.cli import UserError

Wanted = Callable[[str], bool]
Entry = tuple[str, Callable[[], bytes]]


def iterate_files(path: Path, wanted: Wanted = bool, left_out: list[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files in a folder of any depth, a .zip, or a .tar of any compression.

    Names are relative, with ``/`` between folders; a folder's are sorted. Ignored is what systems hide between
    images: names that begin with a dot (``._NAME`` of a Mac, ``.DS_Store``) and ``__MACOSX``. Links of a folder are
    followed, those of an archive are not. ``left_out`` receives a line for everything that cannot be read; without
    it, that is a UserError at the end, as is a missing or damaged archive at once.
    """
    problems = [] if left_out is None else left_out
    for name, read in _entries(path, wanted, problems):
        try:
            content = read()
        except Exception as error:  # what readers raise on damaged bytes is not documented
            problems.append(f"{name}: cannot be read ({error})")
        else:
            yield name, content
    if problems and left_out is None:
        raise UserError(f"{path}: {problems[0]}; copy or download it again")


def list_files(path: Path, wanted: Wanted = bool) -> list[str]:
    """Return the names that :func:`iterate_files` would yield if every file were readable."""
    return [name for name, _ in _entries(path, wanted, [])]


def _entries(path: Path, wanted: Wanted, problems: list[str]) -> Iterator[Entry]:
    if not path.exists():  # nor does a link to itself
        raise UserError(f"{path}: no such file or folder")
    try:
        for name, read in _folder(path, problems) if path.is_dir() else _archive(path):
            relative = PurePosixPath(name)
            hidden = any(part.startswith(".") or part == "__MACOSX" for part in relative.parts)
            if not hidden and wanted(str(relative)):
                yield str(relative), read
    except Exception as error:
        raise UserError(f"{path}: not a readable .zip or .tar archive ({error}); copy or download it again") from error


def _folder(path: Path, problems: list[str]) -> Iterator[Entry]:
    def no_entry(error: OSError) -> None:
        problems.append(f"{os.path.relpath(error.filename, path)}: cannot be read ({error.strerror})")

    visited, files = set(), []
    for folder, subfolders, names in os.walk(path, followlinks=True, onerror=no_entry):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to a folder above
            subfolders.clear()
            continue
        visited.add(real)
        files += [Path(folder, name) for name in names]
    for name, file in sorted((file.relative_to(path).as_posix(), file) for file in files):
        yield name, file.read_bytes


def _archive(path: Path) -> Iterator[Entry]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16):
                    # Old Windows tools write backslashes.
                    yield info.filename.replace("\\", "/"), partial(archive.read, info)
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isreg() or member.islnk():
                    yield member.name, lambda member=member: tar.extractfile(member).read()  # type: ignore
