"""The benchmark times real steps of ours and of the plain loops."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from benchmarks import plain, run
from common.errors import UserError
from common.paths import workspace
from common.results import read_results
from tests.conftest import Capture, Patch
from tests.in_process import call


@pytest.mark.parametrize("problem", list(plain.LOOPS))
def test_a_plain_loop_is_timed(problem: str, data_root: Path, capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr(plain, "WARM_UP_STEPS", 1)
    monkeypatch.setattr(plain, "LEAST_STEPS", 1)
    options = ("--batch-size", 2, "--seconds", 0, "--data-root", data_root)
    assert call("benchmarks/plain.py", problem, *options) == 0
    assert float(capsys.readouterr().out) > 0


@pytest.fixture
def _in_process(monkeypatch: Patch) -> None:
    """Let the commands run in this process, where torch is imported already."""

    def printed_by(script: str, *options: object, folder: Path | None = None) -> str:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.chdir(folder or Path()):
            assert call(script, *options) == 0
        return output.getvalue()

    monkeypatch.setattr(run, "printed_by", printed_by)


@pytest.mark.usefixtures("_in_process")
def test_ours_and_the_plain_loop_are_compared(
    data_root: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(run, "TRAININGS", {"p3": ("P3", 4, run.TRAININGS["p3"][2])})
    monkeypatch.setattr(run, "WARM_UP_SECONDS", 1)
    options = ("--only", "speed", "--trials", 1, "--seconds", 1, "--device", "cpu")
    assert call("benchmarks/run.py", *options, "--data-root", data_root, "--output", tmp_path) == 0
    results = read_results(tmp_path / "results", "benchmarks")
    entry = results["speed/p3"]
    assert entry["ratio"] == pytest.approx(entry["ours"] / entry["plain"], rel=0.01)
    assert run.speed_table(results) in capsys.readouterr().out


@pytest.mark.usefixtures("_in_process")
def test_loading_and_inference_are_timed(data_root: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr(run, "INFERENCES", (run.INFERENCES[0], run.INFERENCES[-1]))
    options = ("--only", "loading", "inference", "--trials", 1, "--pictures", 5, "--device", "cpu")
    assert call("benchmarks/run.py", *options, "--data-root", data_root, "--output", tmp_path) == 0
    results = read_results(workspace("cpu", tmp_path).results, "benchmarks")
    loading, commands = results["loading"], results["inference"]["commands"]
    assert loading["images"] == 160 and loading["decode_seconds"] > 0
    assert loading["ratio"] == pytest.approx(loading["decode_seconds"] / loading["cache_seconds"], rel=0.01)
    assert [one["pictures"] for one in commands] == [5, 160] and min(one["seconds"] for one in commands) > 0
    assert run.times_table(results) in capsys.readouterr().out


def test_a_command_that_fails_is_named_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"p3_dann/inference\.py .*nowhere"):
        run.printed_by("p3_dann/inference.py", tmp_path / "nowhere", tmp_path / "pred.csv", "--target", "usps")


def test_a_ratio_is_bold_only_where_every_pair_is_above_1() -> None:
    entry = {"batch_size": 4, "ours": 3.0, "plain": 2.0, "ratio": 1.5, "precision": "float32", "device": "CPU"}
    entry["versions"] = {"torch": "2"}
    for low, shown in ((1.01, "**1.50**"), (0.99, "1.50")):
        assert f"| {shown} ({low:.2f} to 2.25)" in run.speed_table({"speed/p1": entry | {"ratio_range": [low, 2.25]}})
