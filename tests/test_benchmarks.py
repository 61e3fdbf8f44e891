"""The benchmark times real steps of ours and of the plain loops, and leaves one record per row."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import plain, speed
from common.cli import UserError
from tests.conftest import Capture, Patch
from tests.in_process import call

import pytest


@pytest.mark.parametrize("problem", list(plain.LOOPS))
def test_a_plain_loop_is_timed(problem: str, data_root: Path, capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr(plain, "WARM_UP_STEPS", 1)
    options = ("--batch-size", 2, "--seconds", 0, "--data-root", data_root)
    assert call("benchmarks/plain.py", problem, *options) == 0
    assert float(capsys.readouterr().out) > 0


def test_a_data_set_smaller_than_the_batch_is_one_line(data_root: Path, capsys: Capture) -> None:
    assert call("benchmarks/plain.py", "p1", "--batch-size", 64, "--data-root", data_root) == 2
    assert "48 images" in capsys.readouterr().err


def test_ours_and_the_plain_loop_are_compared(data_root: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(speed, "TRAINING", {"p3": (4, speed.TRAINING["p3"][1])})
    monkeypatch.setattr(speed, "WARM_UP_SECONDS", 1)
    options = ("training", "--trials", 1, "--seconds", 4, "--device", "cpu", "--data-root", data_root)
    assert call("benchmarks/speed.py", *options, "--run-dir", tmp_path) == 0
    record = json.loads((tmp_path / "records/training_p3.json").read_text(encoding="utf-8"))
    assert record["ratio"] == pytest.approx(record["ours"] / record["plain"], rel=0.01) and record["ours"] > 0


def test_sampling_commands_are_timed(data_root: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(speed, "SAMPLING", {"p1 A": (4, "p1_gan/inference.py {out} --method A --num 4")})
    options = ("sampling", "--trials", 1, "--device", "cpu", "--data-root", data_root, "--run-dir", tmp_path)
    assert call("benchmarks/speed.py", *options) == 0
    record = json.loads((tmp_path / "records/sampling_p1_A.json").read_text(encoding="utf-8"))
    assert record["num_images"] == 4 and record["seconds"] > 0


def test_a_command_that_fails_is_named_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"p3_dann/inference\.py.*nowhere"):
        speed.printed_by("p3_dann/inference.py", tmp_path / "nowhere", tmp_path / "pred.csv", "--target", "usps")
