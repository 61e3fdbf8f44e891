"""Run several commands at once, each on its share of the cores; a signal reaches all, so that every training saves.

    python scripts/side_by_side.py bash one.sh -- bash another.sh

P3's network is so small that two threads of one process wait for each other more than two processes do.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys


def main() -> None:
    """Start what the command line lists, wait for all, and end with the first status that is not 0."""
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        print(__doc__)
        return
    groups = itertools.groupby(sys.argv[1:], lambda word: word == "--")
    commands = [list(words) for is_separator, words in groups if not is_separator]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // len(commands)))} | os.environ
    running = [
        subprocess.Popen(command, env=environment | {"TQDM_POSITION": str(place)}, start_new_session=True)
        for place, command in enumerate(commands)
    ]

    def pass_on(number: int, _frame: object) -> None:
        for process in running:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.killpg(process.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    status = next(filter(None, [process.wait() for process in running]), 0)
    sys.exit(status if status >= 0 else 128 - status)  # as a shell tells that a signal ended a command


if __name__ == "__main__":
    main()
