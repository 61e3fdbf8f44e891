"""Two real processes under torchrun: the arithmetic of one, one writer, and an orderly end when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from common.checkpoint import load_checkpoint
from common.distributed import World
from common.paths import ROOT
from tests.two_processes import KIND, STEPS, gradients, train

ONE = World(0, 1, torch.device("cpu"))


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run tests/two_processes.py in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*launcher, str(ROOT / "tests/two_processes.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_gradients_of_a_shared_batch_are_those_of_one_process(tmp_path: Path) -> None:
    done = torchrun("gradients", tmp_path / "gradients.pt")
    assert done.returncode == 0, done.stderr
    shared, alone = torch.load(tmp_path / "gradients.pt"), gradients(ONE)
    assert shared.keys() == alone.keys() and len(alone) > 20
    for name, gradient in alone.items():
        assert torch.allclose(shared[name], gradient, rtol=1e-4, atol=1e-6), name


def test_killed_or_interrupted_processes_end_together_and_the_run_goes_on(tmp_path: Path) -> None:
    killed = torchrun("train", tmp_path / "run", 5)
    assert killed.returncode != 0 and "Signal 9 (SIGKILL)" in killed.stderr, killed.stderr
    assert load_checkpoint(tmp_path / "run/checkpoint.pt", KIND)["step"] in (4, 5)

    # One process alone is asked to stop: both stop after the same step, the next at which they confer.
    stopped = torchrun("train", tmp_path / "run", 7, signal.SIGINT.value)
    assert stopped.returncode != 0 and f"stopped after step 10 of {STEPS}" in stopped.stderr, stopped.stderr
    assert load_checkpoint(tmp_path / "run/checkpoint.pt", KIND)["step"] == 10

    resumed = torchrun("train", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    # Both processes would append their rows to the log: one line a step shows that one of them writes.
    assert len((tmp_path / "run/stats.jsonl").read_text().splitlines()) == STEPS
    weights, expected = load_checkpoint(tmp_path / "run/checkpoint.pt", KIND)["weights"], train(ONE, tmp_path / "one")
    for name, value in expected.items():
        assert torch.allclose(weights[name], value, rtol=1e-4, atol=1e-6), name
