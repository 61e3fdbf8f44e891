"""What every test shares: a tiny data root, and a way to run an entry script as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.paths import ROOT
from data.layout import PARTS
from data.sample import make_sample

# Pictures in train, val and test of each part.
TINY_COUNTS = {"face": (48, 16), "mnistm": (96, 32, 32), "svhn": (96, 32, 32), "usps": (96, 32, 32)}


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of a few hundred pictures of the built-in sample set; tests must not change it."""
    root = tmp_path_factory.mktemp("data") / "hw2_data"
    make_sample(root, PARTS, seed=0, counts=TINY_COUNTS, workers=1)
    return root


@pytest.fixture
def run_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs ``script`` of the repository with arguments, from another folder.

    ``run("p1_gan/train.py", "--preset", "sample")`` returns the CompletedProcess with returncode, stdout, stderr.
    """

    def run(script: str, *arguments: object, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / script), *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            # One thread a process: the suite may run several at a time.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return run
