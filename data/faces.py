"""Faces from Labeled Faces in the Wild or CelebA: centre crop, 64x64."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from common.dataset import FACE_SIZE
from common.errors import UserError
from data.layout import WriterPool, picture_name, save_png
from data.raw import decode_rgb, iterate_files, list_files

VAL_COUNT = 2025
LFW_CROP = 144
CELEBA_CROP = 178


def write_lfw(folder: Path, source: Path, count: int, rng: np.random.Generator, pool: WriterPool) -> None:
    """Write LFW deep-funneled (250x250; folder or .tgz): centre crop 144, split by person (the path's folder)."""
    _write(folder, source, LFW_CROP, lambda name: PurePosixPath(name).parent.name, count, rng, pool)


def write_celeba(
    folder: Path, source: Path, identities: Path | None, count: int, rng: np.random.Generator, pool: WriterPool
) -> None:
    """Write CelebA's aligned pictures (178x218; folder or .zip): centre crop 178, split by person where known.

    Args:
        folder: receives train/ and val/.
        source: ``img_align_celeba.zip`` or the folder it holds.
        identities: ``identity_CelebA.txt`` (lines ``000001.jpg 2880``); None splits by picture.
        count: how many pictures to take at most.
        rng: chooses them and the split.
        pool: writes them.
    """
    people = {}
    if identities is not None:
        rows = (line.split() for line in identities.read_text(errors="replace").splitlines())
        people = {row[0]: row[1] for row in rows if len(row) == 2}
    _write(folder, source, CELEBA_CROP, lambda name: people.get(PurePosixPath(name).name, name), count, rng, pool)


def split_by_person(
    names: Iterable[str], person_of: Callable[[str], str], rng: np.random.Generator
) -> tuple[set[str], set[str]]:
    """Return names for train and val so that nobody is in both.

    Val gets 2,025 pictures, or a fifth where the set is small: people in random order, the first one
    and then each who fits.
    """
    pictures = defaultdict(list)
    for name in sorted(names):
        pictures[person_of(name)].append(name)
    people = sorted(pictures)
    missing = min(VAL_COUNT, sum(map(len, pictures.values())) // 5)
    train, val = set(), set()
    for index in rng.permutation(len(people)):
        own = pictures[people[index]]
        if not val or len(own) <= missing:
            val.update(own)
            missing -= len(own)
        else:
            train.update(own)
    return train, val


def _write(
    folder: Path,
    source: Path,
    crop: int,
    person_of: Callable[[str], str],
    count: int,
    rng: np.random.Generator,
    pool: WriterPool,
) -> None:
    names = sorted(list_files(source))
    if len(names) < 5:
        raise UserError(f"{source}: holds {len(names)} .jpg pictures; it is not the set it is named after")
    if len(names) > count:
        names = [names[index] for index in np.sort(rng.choice(len(names), count, replace=False))]
    train, val = split_by_person(names, person_of, rng)
    paths = {}
    for split, members in (("train", train), ("val", val)):
        (folder / split).mkdir()
        paths |= {name: folder / split / picture_name(number) for number, name in enumerate(sorted(members))}
    pictures = ((paths[name], content, f"{source}: {name}") for name, content in iterate_files(source) if name in paths)
    chunks = ((chunk, crop) for chunk in iter(lambda: tuple(itertools.islice(pictures, 64)), ()))
    pool.run(_write_faces, chunks, len(paths), "face")


def _write_faces(pictures: tuple[tuple[Path, bytes, str], ...], crop: int) -> int:
    for path, content, name in pictures:
        image = decode_rgb(content, name)
        if min(image.size) < crop:
            raise UserError(f"{name}: {image.width}x{image.height} pixels, expected at least {crop}x{crop}")
        left, top = (image.width - crop) // 2, (image.height - crop) // 2
        face = image.crop((left, top, left + crop, top + crop))
        save_png(face.resize((FACE_SIZE, FACE_SIZE), Image.Resampling.BICUBIC), path)
    return len(pictures)
