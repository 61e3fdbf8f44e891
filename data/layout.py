"""Writing the data layout of common/dataset.py: whole parts only, with every core, the same bytes every time."""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image

from common.dataset import DIGIT_DOMAINS, DIGIT_SIZE
from common.errors import UserError
from common.progress import progress_bar

PARTS = ("face", *DIGIT_DOMAINS)


class Splits(NamedTuple):
    """Which pictures (by number, ascending) belong to which split."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_shuffled(count: int, rng: np.random.Generator) -> Splits:
    """Split ``count`` pictures 64/16/20 at random."""
    return _cut(rng.permutation(count))


def split_contiguous(count: int) -> Splits:
    """Split ``count`` pictures 64/16/20 in their own order, so that neighbours stay in one split."""
    return _cut(np.arange(count))


def part_folder(data_root: Path, part: str) -> Path:
    """Return the folder of ``part`` (face, mnistm, svhn or usps)."""
    return Path(data_root) / ("face" if part == "face" else f"digits/{part}")


@contextmanager
def locked(data_root: Path) -> Iterator[None]:
    """Keep a second preparation out of ``data_root`` for as long as the block runs."""
    try:
        data_root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{data_root}: is, or lies below, a file; pass a folder as --data-root") from error
    with open(data_root / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{data_root}: another prepare.py is writing here; wait for it to end") from error
        yield


def parts_to_make(data_root: Path, parts: Sequence[str], force: bool) -> list[str]:
    """Return those of ``parts`` that are missing (all of them with ``force``).

    Raises:
        UserError: every one is there already.
    """
    missing = [part for part in parts if force or not part_folder(data_root, part).exists()]
    if not missing:
        raise UserError(
            f"{data_root}: {', '.join(parts)} already made; pass --force to replace, or another --data-root"
        )
    for part in parts:
        if part not in missing:
            print(f"{part_folder(data_root, part)}: already made, kept (--force replaces it)")
    return missing


@contextmanager
def building(data_root: Path, part: str) -> Iterator[Path]:
    """Yield an empty neighbour of the part's folder; it takes the part's name only when the block succeeds.

    What an earlier, killed run left is removed first. Needs the lock of :func:`locked`.
    """
    target = part_folder(data_root, part)
    partial, old = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.old")
    remove(partial)
    remove(old)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.sync()
        if target.exists() or target.is_symlink():
            target.rename(old)
        partial.rename(target)
    finally:
        remove(partial)
        remove(old)


def remove(path: Path) -> None:
    """Remove a folder tree, or a link without what it points to; no error where there is nothing."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def write_source(folder: Path, name: str) -> None:
    """Write the one line by which results and captions call this part (common.dataset.dataset_name)."""
    (folder / "SOURCE").write_text(name + "\n", encoding="utf-8")


def write_splits(folder: Path, labels: np.ndarray, splits: Splits) -> None:
    """Write train.csv, val.csv and test.csv for pictures 0..N-1 of ``folder/data``."""
    for split, numbers in splits._asdict().items():
        lines = [f"{picture_name(number)},{labels[number]}\n" for number in numbers]
        (folder / f"{split}.csv").write_text("image_name,label\n" + "".join(lines), encoding="utf-8")


def picture_name(number: int) -> str:
    """Return the file name of picture ``number``."""
    return f"{number:05d}.png"


class WriterPool:
    """Processes that turn chunks of work into PNG files; the number of them never changes a byte."""

    def __init__(self, workers: int | None = None) -> None:
        """Start ``workers`` processes (None: one for every core this process may use)."""
        self.workers = workers or usable_cores()
        self._pool = ProcessPoolExecutor(self.workers, initializer=_start_worker)
        # The first task starts all processes: now, before a progress bar starts its thread, which must not be forked.
        self._pool.submit(os.getpid).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, job: Callable[..., int], chunks: Iterable[tuple], total: int, description: str) -> None:
        """Call ``job(*chunk)`` for every chunk, showing the pictures done; ``job`` returns how many it wrote.

        When it ends, by whatever error, no process writes any more.
        """
        running: deque[Future[int]] = deque()
        try:
            with progress_bar(total=total, desc=description, unit="img") as bar:
                for chunk in chunks:
                    running.append(self._pool.submit(job, *chunk))
                    # A bounded queue keeps the memory small however large the source is.
                    if len(running) > 4 * self.workers:
                        bar.update(running.popleft().result())
                while running:
                    bar.update(running.popleft().result())
        except BrokenProcessPool as error:
            raise UserError(f"{description}: a worker was ended from outside (out of memory?); run again") from error
        finally:
            wait([future for future in running if not future.cancel()])

    def read(self, reader: Callable[[Path], Any], path: Path) -> Any:
        """Return ``reader(path)``, read in another process: a library that crashes on damaged bytes takes only that.

        Raises:
            UserError: what ``reader`` raises, or that it crashed.
        """
        try:
            return self._pool.submit(reader, path).result()
        except BrokenProcessPool as error:
            raise UserError(f"{path}: so damaged that its reader crashed; download it again") from error

    def write_digits(self, folder: Path, pixels: np.ndarray, description: str) -> None:
        """Write ``pixels``, uint8 (N, H, W) or (N, H, W, 3), as 28x28 pictures ``folder/data/NNNNN.png``."""
        data = folder / "data"
        data.mkdir()
        chunks = ((data, first, pixels[first : first + 500]) for first in range(0, len(pixels), 500))
        self.run(_write_digits, chunks, len(pixels), description)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def save_png(image: Image.Image, path: Path) -> None:
    """Save a small picture fast: stronger compression gains little at these sizes."""
    image.save(path, "PNG", compress_level=1)


def _start_worker() -> None:
    # An interrupt from the keyboard reaches every process: only the parent acts on it. A worker whose parent
    # was killed ends as well, or it would wait for work, and hold the lock of the data root, for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _write_digits(folder: Path, first: int, pixels: np.ndarray) -> int:
    for number, picture in enumerate(pixels, start=first):
        image = Image.fromarray(picture)
        if image.size != (DIGIT_SIZE, DIGIT_SIZE):
            image = image.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BILINEAR)
        save_png(image, folder / picture_name(number))
    return len(pixels)


def _cut(order: np.ndarray) -> Splits:
    """Cut off a fifth for test, then a fifth of the rest for val, rounded up as the original counts are."""
    test = math.ceil(len(order) / 5)
    val = math.ceil((len(order) - test) / 5)
    train = len(order) - test - val
    return Splits(*(np.sort(piece) for piece in np.split(order, [train, train + val])))


def for_each(job, items, total, description, workers=None):
    workers = workers or usable_cores()
    running, results = deque(), []
    with ThreadPoolExecutor(workers) as pool, progress_bar(total=total, desc=description, unit="img") as bar:
        for item in items:
            running.append(pool.submit(job, item))
            if len(running) > 16 * workers:
                results.append(running.popleft().result())
                bar.update()
        while running:
            results.append(running.popleft().result())
            bar.update()
    return results
