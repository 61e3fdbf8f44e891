"""Entry scripts called in the test's own process, since importing torch takes longer than what a small one does."""

from __future__ import annotations

import importlib
import sys
from unittest.mock import patch


def call(script: str, *options: object) -> int:
    """Run an entry script's ``main`` as ``python SCRIPT OPTIONS`` would, and return its exit code."""
    from common.errors import run_main

    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    with patch.object(sys, "argv", [script, *map(str, options)]):
        try:
            run_main(module.main)
        except SystemExit as end:
            return int(end.code or 0)
    return 0
