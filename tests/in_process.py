"""Entry scripts called in the test's own process, since importing torch takes longer than what a small one does."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    import pytest


def execute(script: str | ModuleType, *options: object) -> None:
    """Run an entry script's ``main`` with the command line of ``python SCRIPT OPTIONS``; what it raises is raised."""
    if isinstance(script, str):
        script = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    with patch.object(sys, "argv", [str(script.__file__), *map(str, options)]):
        script.main()


def call(script: str | ModuleType, *options: object) -> int:
    """Run an entry script as ``python SCRIPT OPTIONS`` would, and return its exit code."""
    from common.cli import run_main

    try:
        run_main(lambda: execute(script, *options))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def error_of(capsys: pytest.CaptureFixture[str], script: str | ModuleType, *options: object) -> str:
    """Run an entry script that must end with a user's mistake; return the one line it says of it."""
    capsys.readouterr()
    assert call(script, *options) == 2
    said = capsys.readouterr()
    (line,) = (line for line in said.err.splitlines() if not line.startswith("note: "))
    assert line.startswith("error: ") and said.out == ""
    return line


def last_line(errors: str) -> str:
    """Return the one error at the end of what a command said, after progress bars and notes."""
    line = errors.splitlines()[-1]
    assert "error: " in line and errors.count("error: ") == 1 and "Traceback" not in errors, errors
    return line
