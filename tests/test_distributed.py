"""Two real processes under torchrun: the gradients of one, random numbers of two, one writer, one resumable run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from common import ROOT
from common.device import Distributed
from tests.two_processes import gradients

import pytest
import torch
from safetensors.torch import load_file

TINY = ("--device", "cpu", "--preset", "sample", "--steps", 4, "--batch-size", 4, "--log-every", 1)
P1 = ("p1_gan/train.py", "--method", "B", "--channels", 4, *TINY)
P2 = (
    *("p2_diffusion/train.py", *TINY, "--init-from", "", "--channel-mults", 1, 1, "--attention-levels", 1),
    *("--timesteps", 6, "--warmup-steps", 1, "--dropout", 0.1),
)
P3 = ("p3_dann/train.py", "--method", "ours", "--target", "svhn", *TINY)


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run tests/two_processes.py in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(ROOT / "tests/two_processes.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_gradients_of_a_shared_batch_are_those_of_one_process(tmp_path: Path) -> None:
    done = torchrun("gradients", tmp_path / "gradients.pt")
    assert done.returncode == 0, done.stderr
    shared, alone = torch.load(tmp_path / "gradients.pt"), gradients(Distributed(0, 1, torch.device("cpu")))
    assert len(alone) == 4
    for name, gradient in alone.items():
        torch.testing.assert_close(shared[name], gradient)


@pytest.mark.parametrize(("command", "steps"), [(P1, 4), (P2, 4), (P3, 5)], ids=["p1", "p2", "p3"])
def test_processes_differ_in_random_numbers_and_agree_in_parameters(
    command: tuple[object, ...], steps: int, data_root: Path, tmp_path: Path
) -> None:
    done = torchrun("script", -1, 0, *command, "--data-root", data_root, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = re.findall(r"rank \d: (\d+) equal, (\d+) differ", done.stdout)
    assert len(found) == 2 and all(int(equal) > 0 and int(differ) == steps for equal, differ in found), done.stdout
    assert done.stdout.count("wrote ") == 1  # one process writes
    log = (tmp_path / "run/stats.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(steps))
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run/weights.safetensors").values())


def test_killed_and_interrupted_processes_resume_to_the_bytes_of_an_uninterrupted_run(
    data_root: Path, tmp_path: Path
) -> None:
    # P3 remembers most: averaged weights whose BatchNorm is a teacher, and how often it predicted each digit.
    command = (*P3, "--steps", 12, "--data-root", data_root, "--run-dir")
    killed = torchrun("script", 2, signal.SIGKILL.value, *command, tmp_path / "one")
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr, killed.stderr
    assert not (tmp_path / "one/weights.safetensors").exists()
    # One process alone is asked to stop: both stop after the same step, the next at which they agree.
    stopped = torchrun("script", 7, signal.SIGINT.value, *command, tmp_path / "one")
    assert stopped.returncode != 0 and "stopped after step 10 of 14" in stopped.stderr, stopped.stderr
    for name in ("one", "whole"):
        done = torchrun("script", -1, 0, *command, tmp_path / name)
        assert done.returncode == 0, done.stderr
    for name in ("weights.safetensors", "stats.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
