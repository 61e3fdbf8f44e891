"""Faces from Labeled Faces in the Wild or CelebA: centre crop, 64x64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from common.dataset import FACE_SIZE
from common.decode import read_square
from common.errors import UserError
from common.threads import for_each
from data.archives import is_picture, iterate_files, list_files
from data.layout import picture_name, save_png, split_faces

LFW_CROP = 144  # of 250x250
CELEBA_CROP = 178  # of 178x218


def person_of_folder(name: str) -> str:
    """Return the person of an LFW picture: the folder it lies in, or itself where it lies in none."""
    folder = PurePosixPath(name).parent
    return folder.name or name


def read_identities(path: Path) -> Callable[[str], str]:
    """Return the person of a CelebA picture by ``identity_CelebA.txt`` (lines ``000001.jpg 2880``)."""
    rows = (line.split() for line in path.read_text(errors="replace").splitlines())
    people = {row[0]: row[1] for row in rows if len(row) == 2}
    if not people:
        raise UserError(f"{path}: holds no line such as 000001.jpg 2880; get it again, or move it away")
    return lambda name: people.get(PurePosixPath(name).name, name)


def write_faces(
    folder: Path,
    source: Path,
    crop: int,
    person_of: Callable[[str], str],
    count: int,
    rng: np.random.Generator,
    workers: int | None = None,
) -> None:
    """Write the pictures of a folder or archive as ``folder``/{train,val}/NNNNN.png, nobody being in both.

    Args:
        folder: receives train/ and val/.
        source: the pictures; every one must be whole.
        crop: side of the middle square that is kept.
        person_of: tells whom the picture of a name shows.
        count: how many pictures to take at most, at least 2.
        rng: chooses them and the split.
        workers: threads (None: one a core).
    """
    if count < 2:
        raise UserError(f"--face-count {count}: at least 2 are needed, one for train and one for val")
    names = sorted(list_files(source, is_picture))
    if len(names) < 2:
        raise UserError(f"{source}: holds {len(names)} pictures, at least 2 are needed")
    if len(names) > count:
        names = [names[index] for index in np.sort(rng.choice(len(names), count, replace=False))]
    paths = {}
    for split, members in zip(("train", "val"), split_faces(names, rng, person_of), strict=True):
        (folder / split).mkdir()
        paths |= {name: folder / split / picture_name(number) for number, name in enumerate(members)}

    def write(file: tuple[str, bytes]) -> None:
        name, content = file
        save_png(read_square(content, f"{source}: {name}", FACE_SIZE, crop), paths[name])

    for_each(write, iterate_files(source, paths.__contains__), len(paths), "face", workers)
