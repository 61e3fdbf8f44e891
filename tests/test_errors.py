"""Memory that is not there ends in advice, not in a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import run_main
from common.paths import ROOT
from tests.conftest import Capture

LIMITED = """
import resource, runpy, sys
import torch
with open("/proc/self/status") as file:
    used = next(int(line.split()[1]) for line in file if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory as Linux does")
def test_a_batch_too_large_for_the_memory_is_one_clear_line(tmp_path: Path, data_root: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(ROOT / "p1_gan/train.py"), "--method", "A"]
    command += ["--preset", "sample", "--batch-size", "200000", "--steps", "1", "--device", "cpu"]
    command += ["--data-root", str(data_root), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and "--batch-size" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "allocate",
    [lambda: bytearray(2**62), lambda: np.empty(2**60, np.uint8), lambda: torch.empty(2**60, dtype=torch.uint8)],
    ids=["python", "numpy", "torch"],
)
def test_whoever_asks_for_the_memory_the_line_is_the_same(capsys: Capture, allocate: Callable[[], object]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_main(allocate)
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and "--batch-size" in line and line.count("\n") == 1
