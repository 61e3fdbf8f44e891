"""The built-in sample set: small, drawn in seconds, needs no network."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.progress import progress_bar
from common.seed import derive_seed
from common.threads import usable_cores
from data.drawing import draw_face, draw_mnistm, draw_svhn, draw_usps
from data.layout import (  # fmt: skip
    Splits,
    building,
    picture_name,
    save_png,
    split_shuffled,
    write_source,
    write_splits,
)

SOURCE = {
    "face": "drawn faces (sample)",
    "mnistm": "MNIST-M-like (sample)",
    "svhn": "SVHN-like (sample)",
    "usps": "USPS-like (sample)",
}
# Pictures in train, val and (digits only) test: enough that every problem visibly learns within minutes.
SAMPLE_COUNTS: Mapping[str, tuple[int, ...]] = {
    "face": (2000, 200),
    "mnistm": (4000, 1000, 1000),
    "svhn": (4000, 1000, 1000),
    "usps": (2000, 500, 500),
}
_DRAW: Mapping[str, Callable[[Any, np.random.Generator], Image.Image]] = {
    "face": draw_face,
    "mnistm": draw_mnistm,
    "svhn": draw_svhn,
    "usps": draw_usps,
}


def make_sample(
    data_root: Path,
    parts: Sequence[str],
    seed: int,
    counts: Mapping[str, tuple[int, ...]] = SAMPLE_COUNTS,
    workers: int | None = None,
) -> None:
    """Draw ``parts`` into ``data_root``, each part whole or not at all.

    Args:
        data_root: receives the layout of common/dataset.py.
        parts: some of face, mnistm, svhn, usps.
        seed: every picture follows from it.
        counts: how many pictures each part has in train, val and test.
        workers: processes (None: one a core); they change no byte.
    """
    # Processes, unlike threads, draw on several cores: Pillow lets nobody else run while it draws a shape. An interrupt
    # from the keyboard reaches them all, and this one is to act on it; where it is killed, they end by themselves.
    ignore_interrupts = (signal.signal, (signal.SIGINT, signal.SIG_IGN))
    with multiprocessing.Pool(workers or usable_cores(), *ignore_interrupts) as pool:
        for part in parts:
            with building(data_root, part) as folder:
                if part == "face":
                    for split, count in zip(("train", "val"), counts[part], strict=True):
                        _draw(pool, part, folder / split, [None] * count, derive_seed(seed, part, split))
                else:
                    items, labels = _digits(part, counts[part], np.random.default_rng(derive_seed(seed, part)))
                    _draw(pool, part, folder / "data", items, derive_seed(seed, part, "drawing"))
                    bounds = np.cumsum((0, *counts[part]))
                    write_splits(folder, labels, Splits(*map(np.arange, bounds[:-1], bounds[1:])))
                write_source(folder, SOURCE[part])


def _digits(part: str, counts: tuple[int, ...], rng: np.random.Generator) -> tuple[list[Any], np.ndarray]:
    """Return what to draw (a label for svhn, else an 8x8 glyph) and the labels, split after split.

    No handwritten digit serves two splits, and every digit domain divides them alike, so that not even the
    source's train split holds the strokes of the target's val split.
    """
    from sklearn.datasets import load_digits

    if part == "svhn":
        labels = rng.integers(10, size=sum(counts))
        return labels.tolist(), labels
    digits = load_digits()
    own = split_shuffled(len(digits.target), np.random.default_rng(0))
    chosen = np.concatenate([rng.choice(numbers, count) for numbers, count in zip(own, counts, strict=True)])
    return list(digits.images[chosen]), digits.target[chosen]


def _draw(pool: Pool, part: str, folder: Path, items: list[Any], seed: int) -> None:
    folder.mkdir()
    firsts = range(0, len(items), 50)
    chunks = ((part, folder, first, items[first : first + 50], seed) for first in firsts)
    with progress_bar(total=len(items), desc=f"{part}/{folder.name}", unit="img") as bar:
        for written in pool.imap_unordered(_draw_chunk, chunks):
            bar.update(written)


def _draw_chunk(chunk: tuple[str, Path, int, list[Any], int]) -> int:
    part, folder, first, items, seed = chunk
    for number, item in enumerate(items, start=first):
        save_png(_DRAW[part](item, np.random.default_rng([seed, number])), folder / picture_name(number))
    return len(items)
