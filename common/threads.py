"""One job for many items, on every core."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from common.progress import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")


def for_each(
    job: Callable[[Item], Result],
    items: Iterable[Item],
    total: int,
    description: str,
    workers: int | None = None,
    **bar_options: Any,
) -> list[Result]:
    """Return ``job(item)`` of every item, in order, showing how many are done.

    Threads are enough: Pillow lets others run while it decodes, resizes and encodes. Items are drawn as needed, so
    that the memory stays small however large the source is. ``bar_options`` go to the progress bar.
    """
    workers = workers or usable_cores()
    running: deque[Future[Result]] = deque()
    results = []
    with (
        ThreadPoolExecutor(workers) as pool,
        progress_bar(total=total, desc=description, unit="img", **bar_options) as bar,
    ):
        try:
            for item in items:
                running.append(pool.submit(job, item))
                if len(running) > 16 * workers:
                    results.append(running.popleft().result())
                    bar.update()
            for future in running:
                results.append(future.result())
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
