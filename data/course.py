"""The course's own data: checked picture by picture, then copied or linked."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from common.cache import list_images, read_image
from common.dataset import DIGIT_DOMAINS, DIGIT_SIZE, FACE_SIZE, read_names_and_labels
from common.errors import UserError
from common.files import leads_outside
from data.layout import PARTS, building, part_folder, write_source

SOURCE = {"face": "CelebA (course)", "mnistm": "MNIST-M (course)", "svhn": "SVHN (course)", "usps": "USPS (course)"}
# Pictures that train and val hold in the course's data.
EXPECTED = {"face": (38464, 2025), "mnistm": (44800, 11200), "svhn": (63544, 15887), "usps": (5950, 1488)}
SHOWN_PROBLEMS = 10
_MOST_UNPACKED = 8 * 1024**3


def make_course(data_root: Path, source: Path, parts: Sequence[str], link: bool) -> None:
    """Check the course's folder or zip and bring ``parts`` of it to ``data_root``.

    Args:
        data_root: receives the parts, each whole or not at all.
        source: a folder that holds face/ and digits/ (itself or one level below), or a zip of one.
        parts: some of face, mnistm, svhn, usps.
        link: link to the folders of pictures instead of copying them.

    Raises:
        UserError: one message with every problem counted and the first ones named by file.
    """
    if link and source.is_file():
        raise UserError(f"{source}: a zip cannot be linked; unpack it first, or leave out --link")
    with _opened(source, data_root) as root:
        _check(root, parts)
        for part in parts:
            origin = part_folder(root, part)
            if part_folder(data_root, part).resolve() == origin.resolve():
                raise UserError(f"{source}: is the data root itself; it is whole, and there is nothing to copy")
            with building(data_root, part) as folder:
                _bring(origin, folder, link)
                if not (folder / "SOURCE").exists():
                    write_source(folder, SOURCE[part])
            print(f"{part}: {'linked to' if link else 'copied from'} {source}")


def check_course(source: Path, parts: Sequence[str]) -> None:
    """Check the course's folder or zip and write nothing that stays; raises as :func:`make_course` does."""
    with _opened(source, None) as root:
        _check(root, parts)
    print(f"{source}: whole ({', '.join(parts)})")


@contextmanager
def _opened(source: Path, scratch: Path | None) -> Iterator[Path]:
    """Yield the folder that holds face/ and digits/, unpacking a zip below ``scratch`` for the while."""
    if source.is_dir():
        yield _find_root(source)
    elif source.is_file():
        with tempfile.TemporaryDirectory(prefix=".course-", dir=scratch) as unpacked:
            _unpack(source, Path(unpacked))
            yield _find_root(Path(unpacked))
    else:
        raise UserError(f"{source}: no such file or folder; pass the course's hw2_data folder or its zip")


def _check(root: Path, parts: Sequence[str]) -> None:
    problems = [problem for part in parts for problem in _problems(root, part)]
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        rest = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(f"{root}: {count}, nothing was copied: {shown}{rest}")


def _problems(root: Path, part: str) -> Iterator[str]:
    folder = part_folder(root, part)
    if not folder.is_dir():
        yield f"{folder}: no such folder"
        return
    yield from _face_problems(folder) if part == "face" else _digit_problems(folder, part)


def _face_problems(folder: Path) -> Iterator[str]:
    for split, expected in zip(("train", "val"), EXPECTED["face"], strict=True):
        try:
            names = list_images(folder / split)
        except UserError as error:
            yield str(error)
            continue
        _note_count(folder / split, len(names), expected)
        yield from _picture_problems(folder / split, names, FACE_SIZE, "RGB")


def _digit_problems(folder: Path, part: str) -> Iterator[str]:
    listed: dict[str, str] = {}
    for split, expected in (*zip(("train", "val"), EXPECTED[part], strict=True), ("test", None)):
        path = folder / f"{split}.csv"
        if split == "test" and not path.exists():
            continue  # the course keeps its test labels
        try:
            names, _ = read_names_and_labels(path)
        except UserError as error:
            yield str(error)
            continue
        if expected is not None:
            _note_count(path, len(names), expected)
        for name in names:
            if name in listed:
                yield f"{path}: {name} is also in {listed[name]}.csv"
            listed[name] = split
    if not (folder / "data").is_dir():
        yield f"{folder / 'data'}: no such folder"
        return
    yield from _picture_problems(folder / "data", sorted(listed), DIGIT_SIZE, "L" if part == "usps" else "RGB")


def _picture_problems(folder: Path, names: list[str], size: int, mode: str) -> Iterator[str]:
    for name in tqdm(names, desc=f"checking {folder}", unit="img", mininterval=0.5):
        try:
            if leads_outside(folder / name):
                raise UserError(f"{folder / name}: a link that leads out of its folder")
            read_image(folder / name, size, mode)
        except UserError as error:
            yield str(error)


def _note_count(path: Path, found: int, expected: int) -> None:
    if found != expected:
        tqdm.write(f"note: {path}: {found:,} pictures; the course's original has {expected:,}")


def _find_root(source: Path) -> Path:
    """Return the folder that holds face/ or digits/: ``source`` itself or one just below it."""
    for folder in (source, *sorted(entry for entry in source.iterdir() if entry.is_dir())):
        if any(part_folder(folder, part).is_dir() for part in PARTS):
            return folder
    raise UserError(f"{source}: holds neither face/ nor digits/{{{','.join(DIGIT_DOMAINS)}}}/")


def _bring(source: Path, folder: Path, link: bool) -> None:
    for entry in sorted(source.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            shutil.copyfile(entry, folder / entry.name)
        elif link:
            (folder / entry.name).symlink_to(entry.resolve())
        else:
            shutil.copytree(entry, folder / entry.name)


def _unpack(source: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > _MOST_UNPACKED:
                raise UserError(
                    f"{source}: unpacks to more than {_MOST_UNPACKED / 1024**3:.0f} GiB; not the course's zip"
                )
            for member in tqdm(members, desc="unpacking", unit="file", mininterval=0.5):
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise UserError(f"{source}: {member.filename} is a link; the course's zip has none")
                archive.extract(member, folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{source}: not a whole zip file ({error}); download it again") from error
