"""The one reader of "a folder or an archive of files", whatever made it."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from common.cli import UserError

# What Python's readers raise on damaged bytes.
UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, IndexError, RuntimeError, NotImplementedError),
    *(zlib.error, tarfile.TarError, zipfile.BadZipFile),
)
Content = Path | bytes  # a file of a folder, or what an archive holds
Wanted = Callable[[str], bool]
LeaveOut = Callable[[str, object], None]


def iterate_files(
    path: Path, wanted: Wanted = lambda name: True, left_out: list[str] | None = None
) -> Iterator[tuple[str, Content]]:
    """Yield name and content of the files in a folder of any depth, a .zip, or a .tar of any compression.

    Names are relative, with ``/`` between folders; a folder's are sorted. Ignored is what systems hide between
    images: names that begin with a dot (``._NAME`` of a Mac, ``.DS_Store``) and ``__MACOSX``. Links of a folder are
    followed, those of an archive are not. Nothing is extracted.

    Args:
        path: the folder or archive.
        wanted: which names to read.
        left_out: receives a line for everything that cannot be read; None makes the first one an error.

    Raises:
        UserError: no such file, no archive, or a damaged one.
    """

    def leave_out(name: str, reason: object) -> None:
        if left_out is None:
            raise UserError(f"{path}: {name} cannot be read ({reason}); copy or download it again")
        left_out.append(f"{name}: cannot be read ({reason})")

    for name, read in _entries(path, wanted, leave_out):
        try:
            content = read()
        except UNREADABLE as error:
            leave_out(name, error)
        else:
            yield name, content


def list_files(path: Path, wanted: Wanted = lambda name: True) -> list[str]:
    """Return the names that :func:`iterate_files` would yield, could all be read."""
    return [name for name, _ in _entries(path, wanted, lambda name, reason: None)]


def read_bytes(content: Content) -> bytes:
    """Return the bytes of a file that :func:`iterate_files` yielded."""
    return content if isinstance(content, bytes) else content.read_bytes()


def _entries(path: Path, wanted: Wanted, leave_out: LeaveOut) -> Iterator[tuple[str, Callable[[], Content]]]:
    if not path.exists():  # nor does a link to itself
        raise UserError(f"{path}: no such file or folder")
    try:
        entries = _folder(path, leave_out) if path.is_dir() else _zip(path) if zipfile.is_zipfile(path) else _tar(path)
        for name, read in entries:
            name = name.removeprefix("./")
            hidden = any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
            if not hidden and not name.endswith("/") and wanted(name):
                yield name, read
    except UNREADABLE as error:
        raise UserError(f"{path}: not a whole .zip or .tar archive ({error}); copy or download it again") from error


def _folder(path: Path, leave_out: LeaveOut) -> Iterator[tuple[str, Callable[[], Content]]]:
    def name_of(file: str | Path) -> str:
        return Path(file).relative_to(path).as_posix()

    visited, names = set(), []
    for folder, inner, files in os.walk(
        path, followlinks=True, onerror=lambda error: leave_out(name_of(error.filename), error.strerror)
    ):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to a folder above
            inner.clear()
            continue
        visited.add(real)
        names += [name_of(Path(folder, file)) for file in files]
    for name in sorted(names):
        yield name, lambda file=path / name: _checked(file)  # type: ignore[misc]


def _checked(file: Path) -> Path:
    """Return a file that can be opened; opening a pipe would wait for ever."""
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise OSError("not a plain file")
    return file


def _zip(path: Path) -> Iterator[tuple[str, Callable[[], Content]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not stat.S_ISLNK(member.external_attr >> 16):
                yield member.filename, lambda member=member: archive.read(member)  # type: ignore[misc]


def _tar(path: Path) -> Iterator[tuple[str, Callable[[], Content]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isreg() or member.islnk():
                yield member.name, lambda member=member: archive.extractfile(member).read()  # type: ignore
