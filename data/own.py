"""The user's own pictures, of any size, mode and format, as faces or digits of the layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from common.dataset import FACE_SIZE
from common.errors import UserError
from common.seed import derive_seed
from data.archives import iterate_files, list_files
from data.layout import building, for_each, picture_name, save_png, write_source
from data.pictures import read_picture, square

VAL_COUNT = 2025  # as many faces as the original report compares with; a fifth of a small set


class Shape(NamedTuple):
    """How a picture becomes a square: see data.pictures.square."""

    size: int
    crop: int | None = None
    stretched_from: tuple[int, int] | None = None


def make_own_faces(
    data_root: Path,
    source: Path,
    shape: Shape,
    name: str,
    seed: int,
    person_folders: bool = False,
    workers: int | None = None,
) -> None:
    """Make face/ from a folder or an archive of pictures.

    Args:
        data_root: receives the layout of common/dataset.py.
        source: a folder of any depth, a .zip or a .tar.
        shape: how every picture becomes a square.
        name: what results call the set.
        seed: the split follows from it.
        person_folders: every folder is one person, who is then in one split only.
        workers: threads (None: one a core); they change no byte.

    Raises:
        UserError: fewer than two pictures that can be read.
    """
    with building(data_root, "face") as folder:
        names, left_out = convert(source, folder / "all", shape, workers)
        if len(names) < 2:
            raise UserError(f"{source}: {len(names)} pictures that can be read, at least 2 are needed{left_out_text(left_out)}")
        person_of = (lambda path: PurePosixPath(path).parent.as_posix()) if person_folders else None
        split = split_names(names, np.random.default_rng(derive_seed(seed, "face")), person_of)
        place_faces(folder, split)
        write_source(folder, name)


def split_names(
    names: Iterable[str], rng: np.random.Generator, person_of: Callable[[str], str] | None = None
) -> tuple[list[str], list[str]]:
    """Return the names of train and val, neither empty; with ``person_of`` nobody is in both.

    Val gets 2,025 pictures, or a fifth where the set is small: people in random order, the first one and then each
    who fits. Where all are one person, and where no person is known, pictures take the place of people.
    """
    names = sorted(names)
    people: dict[str, list[str]] = {}
    for name in names:
        people.setdefault(person_of(name) if person_of else name, []).append(name)
    if len(people) < 2:
        people = {name: [name] for name in names}
    groups = [people[person] for person in sorted(people)]
    missing = min(VAL_COUNT, len(names) // 5)
    train, val = [], []
    for index in rng.permutation(len(groups)):
        if not val or (len(groups[index]) <= missing and len(val) + len(groups[index]) < len(names)):
            val += groups[index]
            missing -= len(groups[index])
        else:
            train += groups[index]
    return sorted(train), sorted(val)
