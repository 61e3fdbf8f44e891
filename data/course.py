"""The course's own data: checked picture by picture, then copied."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.dataset import DIGIT_DOMAINS, DIGIT_SIZE, FACE_SIZE, read_names_and_labels, read_rows
from common.decode import read_image
from common.errors import UserError
from common.files import write_text
from common.progress import progress_bar
from data.archives import is_picture, iterate_files, list_files
from data.layout import PARTS, building, first_of, part_folder, remove, write_source

# Pictures that train and val hold in the course's data.
EXPECTED = {"face": (38464, 2025), "mnistm": (44800, 11200), "svhn": (63544, 15887), "usps": (5950, 1488)}
_TOP = re.compile(f"(.*?/)??(?:face|digits/(?:{'|'.join(DIGIT_DOMAINS)}))/")
_PART = re.compile(f"(face|digits/(?:{'|'.join(DIGIT_DOMAINS)}))/(.+)")


def make_course(data_root: Path, source: Path, parts: Sequence[str]) -> None:
    """Check the course's folder or archive and bring ``parts`` of it to ``data_root``.

    Args:
        data_root: receives the parts, each whole or not at all.
        source: a folder that holds face/ and digits/ (itself or somewhere below), or an archive of one; also the
            older edition, with digits/<domain>/{train,test}/, whose test split then plays val.
        parts: some of face, mnistm, svhn, usps.

    Raises:
        UserError: one message with every problem counted and the first ones named by file.
    """
    with _opened(source, data_root) as root:
        is_unpacked = not root.is_relative_to(source)
        _check(source, root, parts)
        for part in parts:
            origin = part_folder(root, part)
            if part_folder(data_root, part).resolve() == origin.resolve():
                raise UserError(f"{source}: is the data root itself; it is whole, and there is nothing to copy")
            with building(data_root, part) as folder:
                for entry in sorted(path for path in origin.iterdir() if not path.name.startswith(".")):
                    if is_unpacked:
                        entry.rename(folder / entry.name)
                    else:
                        (shutil.copytree if entry.is_dir() else shutil.copyfile)(entry, folder / entry.name)
                if not (folder / "SOURCE").exists():
                    title = "CelebA" if part == "face" else DIGIT_DOMAINS[part].title
                    write_source(folder, f"{title} (course)")
            print(f"{part}: copied from {source}")


def check_course(source: Path, parts: Sequence[str]) -> None:
    """Check the course's folder or archive and write nothing that stays; raises as :func:`make_course` does."""
    with _opened(source, None) as root:
        _check(source, root, parts)
    print(f"{source}: whole ({', '.join(parts)})")


@contextmanager
def _opened(source: Path, scratch: Path | None) -> Iterator[Path]:
    """Yield the folder that holds face/ and digits/; what is not one as it stands is unpacked below ``scratch``."""
    names = list_files(source)
    tops = {match[1] or "" for match in map(_TOP.match, names) if match}
    if not tops:
        raise UserError(f"{source}: holds neither face/ nor digits/{{{','.join(DIGIT_DOMAINS)}}}/ of the course")
    top = min(tops, key=len)
    places, renamed = _places([name.removeprefix(top) for name in names if name.startswith(top)])
    root = source / top
    # A folder that was unpacked from an old zip of Windows may hold files called face\\train\\00000.png.
    if all(name == place for name, place in places.items()) and any(part_folder(root, part).is_dir() for part in PARTS):
        yield root
        return
    for left in scratch.glob(".course-*") if scratch else ():  # by a killed one; the data root is locked
        remove(left)
    with tempfile.TemporaryDirectory(prefix=".course-", dir=scratch) as unpacked:
        root = Path(unpacked)
        files = iterate_files(source, lambda name: name.startswith(top) and name.removeprefix(top) in places)
        for name, content in progress_bar(files, total=len(places), desc="unpacking", unit="file"):
            path = root / places[name.removeprefix(top)]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for path, prefix in renamed.items():
            header, rows = read_rows(root / path)
            lines = (",".join([prefix + row[0], *row[1:]]) for _, row in rows)
            write_text(root / path, "\n".join([",".join(header), *lines]) + "\n")
        yield root


def _places(names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return where each file belongs in the layout, and what each CSV must put before its pictures' names.

    In the older edition digits/<domain>/{train,test}/ hold the pictures, under the same names, and there is no val.
    """
    folders = {name.rpartition("/")[0] for name in names}
    places, renamed = {}, {}
    for name in names:
        part, rest = _PART.fullmatch(name).groups() if _PART.fullmatch(name) else (None, "")
        if part is None:
            continue
        folder, _, file = rest.partition("/")
        split = folder.removesuffix(".csv")
        is_older = part != "face" and f"{part}/data" not in folders and f"{part}/train" in folders
        plays_val = split == "test" and f"{part}/val" not in folders and (is_older or part == "face")
        role = "val" if plays_val else split
        if is_older and file:
            places[name] = f"{part}/data/{split}-{file}"
        elif is_older and folder.endswith(".csv"):
            places[name] = f"{part}/{role}.csv"
            renamed[places[name]] = f"{split}-"
        else:
            places[name] = f"{part}/{role}/{file}" if file else name
    return places, renamed


def _check(source: Path, root: Path, parts: Sequence[str]) -> None:
    problems = [problem.replace(str(root), str(source)) for part in parts for problem in _problems(root, part)]
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(
            f"{source}: {count}, nothing was copied (pictures of your own: own-faces, own-digits): {first_of(problems)}"
        )


def _problems(root: Path, part: str) -> Iterator[str]:
    folder = part_folder(root, part)
    if not folder.is_dir():
        yield f"{folder}: no such folder; choose others with --parts"
        return
    yield from _face_problems(folder) if part == "face" else _digit_problems(folder, part)


def _face_problems(folder: Path) -> Iterator[str]:
    for split, expected in zip(("train", "val"), EXPECTED["face"], strict=True):
        names = sorted(list_files(folder / split, is_picture)) if (folder / split).is_dir() else []
        if not names:
            yield f"{folder / split}: holds no PNG or JPEG file"
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
    yield from _picture_problems(folder / "data", sorted(listed), DIGIT_SIZE, DIGIT_DOMAINS[part].mode)


def _picture_problems(folder: Path, names: list[str], size: int, mode: str) -> Iterator[str]:
    for name in progress_bar(names, desc=f"checking {folder.parent.name}/{folder.name}", unit="img"):
        try:
            read_image(folder / name, size, mode)
        except UserError as error:
            yield str(error)


def _note_count(path: Path, found: int, expected: int) -> None:
    if found != expected:
        print(f"note: {path.parent.name}/{path.name}: {found:,} pictures; the course's original has {expected:,}")
