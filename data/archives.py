"""The one reader of "a folder or an archive of files", whatever made it."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from common.errors import UserError

UNREADABLE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zlib.error, tarfile.TarError, zipfile.BadZipFile)

Wanted = Callable[[str], bool]


def ends_with(*suffixes: str) -> Wanted:
    """Return a test of a name's ending, in capitals or not."""
    return lambda name: name.lower().endswith(suffixes)


def iterate_files(path: Path, wanted: Wanted = lambda name: True) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files of a folder of any depth, a .zip or a .tar of any compression.

    Names are relative, with ``/`` between folders, in the archive's order (sorted, for a folder). Left out are what
    systems hide between pictures: names that begin with a dot (``._NAME`` of a Mac, ``.DS_Store``) and ``__MACOSX``.
    Links to files and folders of a folder are followed, those of an archive are not. Nothing is ever extracted.

    Raises:
        UserError: no such file, no archive, or a damaged one.
    """
    for name, read in _entries(path, wanted):
        try:
            content = read()
        except UNREADABLE as error:
            raise UserError(f"{path}: {name} cannot be read ({error}); copy or download it again") from error
        yield name, content


def list_files(path: Path, wanted: Wanted = lambda name: True) -> list[str]:
    """Return the names that :func:`iterate_files` would yield."""
    return [name for name, _ in _entries(path, wanted)]


def _entries(path: Path, wanted: Wanted) -> Iterator[tuple[str, Callable[[], bytes]]]:
    entries = _folder if path.is_dir() else _zip if zipfile.is_zipfile(path) else _tar
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    try:
        for name, read in entries(path):
            if not _is_hidden(name) and wanted(name):
                yield name, read
    except UNREADABLE as error:
        raise UserError(f"{path}: not a whole archive ({error}); copy or download it again") from error


def _folder(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    visited, names = set(), []
    for folder, inner, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to a folder above
            inner.clear()
            continue
        visited.add(real)
        names += [Path(folder, file).relative_to(path).as_posix() for file in files]
    for name in sorted(names):
        if (path / name).is_file():  # opening a pipe would wait for ever
            yield name, (path / name).read_bytes


def _zip(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            # Old tools of Windows write the separator of Windows.
            name = member.filename.replace("\\", "/")
            if not name.endswith("/"):
                yield name, lambda member=member: archive.read(member)


def _tar(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                yield member.name.removeprefix("./"), lambda member=member: archive.extractfile(member).read()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
