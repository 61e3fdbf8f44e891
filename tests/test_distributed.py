"""Two real processes under torchrun: gradients of one, draws of two, one writer, and an orderly end of both."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.checkpoint import load_checkpoint
from common.distributed import World
from common.paths import ROOT
from tests.two_processes import KIND, STEPS, gradients, train

ONE = World(0, 1, torch.device("cpu"))
TINY = ("--device", "cpu", "--preset", "sample", "--steps", 4, "--batch-size", 4, "--log-every", 1)
P1 = ("p1_gan/train.py", "--channels", 4, *TINY)
P2 = (
    "p2_diffusion/train.py", "--initial-weights", "", "--channel-mults", 1, 1, "--attention-levels", 1,
    "--timesteps", 6, "--warmup-steps", 1, "--dropout", 0.1, *TINY,
)  # fmt: skip
P3 = ("p3_dann/train.py", "--mode", "dann", "--target", "svhn", *TINY)


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


@pytest.mark.parametrize(
    ("command", "run", "steps", "draws"),
    [
        ((*P1, "--method", "B"), "p1_B_seed0", 4, 4),
        (P2, "p2_seed0", 4, 8),  # four steps, each with its noise and what follows it
        (P3, "p3_svhn_dann_seed0", 5, 5),  # the fifth is refinement
    ],
    ids=["p1-B", "p2", "p3"],
)
def test_trainings_draw_apart_and_end_with_the_same_parameters_in_both_processes(
    command: tuple[object, ...], run: str, steps: int, draws: int, data_root: Path, tmp_path: Path
) -> None:
    command = (*command, "--data-root", data_root, "--output", tmp_path)
    folder = tmp_path / "runs/sample" / run
    done = torchrun("script", -1, *command)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"[1-9]\d* parameters alike", done.stdout)) == 2, done.stdout
    assert [int(count) >= draws for count in re.findall(r"(\d+) draws differ", done.stdout)] == [True, True]
    assert done.stdout.count("wrote ") == 1
    assert len(json.loads((tmp_path / f"results/{run[:2]}.json").read_text())) == 1
    rows = (folder / "stats.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(steps))
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "weights.safetensors").values())


def test_killed_adaptation_of_two_processes_ends_with_the_bytes_of_an_uninterrupted_one(
    data_root: Path, tmp_path: Path
) -> None:
    # P3 remembers most: averaged weights whose BatchNorm is a teacher, and how often it named each digit.
    command = (*P3, "--class-thresholds", "--data-root", data_root, "--output")
    killed = torchrun("script", 2, *command, tmp_path / "killed")
    assert killed.returncode != 0 and "Signal 9 (SIGKILL)" in killed.stderr, killed.stderr
    folder = Path("runs/sample/p3_svhn_dann_seed0")
    assert not (tmp_path / "killed" / folder / "weights.safetensors").exists()
    for name in ("killed", "whole"):
        done = torchrun("script", -1, *command, tmp_path / name)
        assert done.returncode == 0, done.stderr
    killed, whole = (tmp_path / name / folder / "weights.safetensors" for name in ("killed", "whole"))
    assert killed.read_bytes() == whole.read_bytes()
