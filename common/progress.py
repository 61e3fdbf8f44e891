"""Progress bars: lively in a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

LOG_INTERVAL = 20.0  # seconds between updates where nobody watches


def progress_bar(*arguments: Any, **options: Any) -> tqdm:
    """Return a tqdm bar in the repository's style; arguments as for ``tqdm``."""
    interval = 0.5 if sys.stderr.isatty() else LOG_INTERVAL
    return tqdm(*arguments, mininterval=interval, maxinterval=interval, dynamic_ncols=True, **options)
