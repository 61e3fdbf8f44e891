"""The one reader of "a folder or an archive of files", whatever made it."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from common.errors import UserError

# What Python's readers raise on damaged bytes.
UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, RuntimeError),
    *(zlib.error, tarfile.TarError, zipfile.BadZipFile),
)

Wanted = Callable[[str], bool]
Entry = tuple[str, Callable[[], bytes]]


def ends_with(*suffixes: str) -> Wanted:
    """Return a test of a name's ending, in capitals or not."""
    return lambda name: name.lower().endswith(suffixes)


is_picture = ends_with(".jpg", ".jpeg", ".png")


def iterate_files(
    path: Path, wanted: Wanted = lambda name: True, left_out: list[str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files of a folder of any depth, a .zip or a .tar of any compression.

    Names are relative, with ``/`` between folders, in the archive's order (sorted, for a folder). Ignored are what
    systems hide between pictures: names that begin with a dot (``._NAME`` of a Mac, ``.DS_Store``) and ``__MACOSX``.
    Links to files and folders of a folder are followed, those of an archive are not. Nothing is ever extracted.

    Args:
        path: the folder or archive.
        wanted: which names to read.
        left_out: receives a line for every file that cannot be read; None makes the first one an error.

    Raises:
        UserError: no such file, no archive, or a damaged one.
    """
    for name, read in _entries(path, wanted):
        try:
            content = read()
        except UNREADABLE as error:
            if left_out is None:
                raise UserError(f"{path}: {name} cannot be read ({error}); copy or download it again") from error
            left_out.append(f"{name}: cannot be read ({error})")
        else:
            yield name, content


def list_files(path: Path, wanted: Wanted = lambda name: True) -> list[str]:
    """Return the names that :func:`iterate_files` would yield."""
    return [name for name, _ in _entries(path, wanted)]


def _entries(path: Path, wanted: Wanted) -> Iterator[Entry]:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    try:
        for name, read in (_folder if path.is_dir() else _zip if zipfile.is_zipfile(path) else _tar)(path):
            name = name.replace("\\", "/").removeprefix("./")  # old tools of Windows write its own separator
            if not name.endswith("/") and not _is_hidden(name) and wanted(name):
                yield name, read
    except UNREADABLE as error:
        raise UserError(f"{path}: not a whole .zip or .tar archive ({error}); copy or download it again") from error


def _folder(path: Path) -> Iterator[Entry]:
    visited, names = set(), []
    for folder, inner, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to a folder above
            inner.clear()
            continue
        visited.add(real)
        names += [Path(folder, file).relative_to(path).as_posix() for file in files]
    for name in sorted(names):
        if not stat.S_ISFIFO(os.lstat(path / name).st_mode):  # opening a pipe would wait for ever
            yield name, (path / name).read_bytes


def _zip(path: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not stat.S_ISLNK(member.external_attr >> 16):
                yield member.filename, lambda member=member: archive.read(member)


def _tar(path: Path) -> Iterator[Entry]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isreg() or member.islnk():
                yield member.name, lambda member=member: archive.extractfile(member).read()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
