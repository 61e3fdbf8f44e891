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

Content = Path | bytes  # a file of a folder, or what an archive holds
Wanted = Callable[[str], bool]
Entry = tuple[str, Callable[[], Content]]
LeaveOut = Callable[[str, object], None]


def iterate_files(
    path: Path, wanted: Wanted = bool, left_out: list[str] | None = None
) -> Iterator[tuple[str, Content]]:
    """Yield name and content of the files in a folder of any depth, a .zip, or a .tar of any compression.

    Names are relative, with ``/`` between folders; a folder's are sorted. Ignored is what systems hide between
    images: names that begin with a dot (``._NAME`` of a Mac, ``.DS_Store``) and ``__MACOSX``. Links of a folder are
    followed, those of an archive are not. ``left_out`` receives a line for everything that cannot be read; without it
    the first one is a UserError, as is a missing or damaged archive.
    """

    def leave_out(name: str, reason: object) -> None:
        if left_out is None:
            raise UserError(f"{path}: {name} cannot be read ({reason}); copy or download it again")
        left_out.append(f"{name}: cannot be read ({reason})")

    for name, read in _entries(path, wanted, leave_out):
        try:
            content = read()
        except Exception as error:  # what readers raise on damaged bytes is not documented
            leave_out(name, error)
        else:
            yield name, content


def list_files(path: Path, wanted: Wanted = bool) -> list[str]:
    """Return the names that :func:`iterate_files` would yield, could all be read."""
    return [name for name, _ in _entries(path, wanted, lambda name, reason: None)]


def read_bytes(content: Content) -> bytes:
    """Return the bytes of a file that :func:`iterate_files` yielded."""
    return content if isinstance(content, bytes) else content.read_bytes()


def _entries(path: Path, wanted: Wanted, leave_out: LeaveOut) -> Iterator[Entry]:
    if not path.exists():  # nor does a link to itself
        raise UserError(f"{path}: no such file or folder")
    try:
        for name, read in _folder(path, leave_out) if path.is_dir() else _archive(path):
            name = name.removeprefix("./")
            hidden = any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
            if not hidden and wanted(name):
                yield name, read
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: not a whole .zip or .tar archive ({error}); copy or download it again") from error


def _folder(path: Path, leave_out: LeaveOut) -> Iterator[Entry]:
    def no_entry(error: OSError) -> None:
        leave_out(os.path.relpath(error.filename, path), error.strerror)

    visited, files = set(), []
    for folder, inner, names in os.walk(path, followlinks=True, onerror=no_entry):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to a folder above
            inner.clear()
            continue
        visited.add(real)
        files += [Path(folder, name) for name in names]
    for name, file in sorted((file.relative_to(path).as_posix(), file) for file in files):
        yield name, partial(_plain, file)


def _plain(file: Path) -> Path:
    """Return ``file`` if it can be opened; opening a pipe would wait for ever."""
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise OSError("not a plain file")
    return file


def _archive(path: Path) -> Iterator[Entry]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16):
                    yield info.filename, partial(archive.read, info)
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isreg() or member.islnk():
                    yield member.name, lambda member=member: tar.extractfile(member).read()  # type: ignore
