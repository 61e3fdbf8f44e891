"""The benchmark times real steps of ours and of the plain loops, and the report shows what it measured."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import report
from benchmarks.layout import time_layouts
from benchmarks.run import BATCH_SIZES, copies, rounded
from common.paths import workspace
from common.results import read_results

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("way", ["ours", "plain"])
def test_a_step_is_timed_and_its_parts_add_up(way: str, run_command: Command, data_root: Path) -> None:
    options = ("--batch-size", 4, "--seconds", 0, "--data-root", data_root, "--device", "cpu")
    done = run_command("benchmarks/one.py", "train", "p3", way, *options)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["steps"] == 3 and measured["images_per_second"] > 0 and measured["first_step_seconds"] > 0
    assert abs(sum(measured["shares"].values()) - 1) < 1e-6
    expected = {"data", "model", "optimiser", "average and log", "run"} if way == "ours" else {"run"}
    assert measured["shares"].keys() == expected


@pytest.mark.parametrize("problem", ["p1", "p2", "p2-cpu", "p3"])
def test_both_memory_orders_are_timed(problem: str) -> None:
    measured = time_layouts(problem, batch_size=2, trials=1, device=torch.device("cpu"))
    assert measured.keys() == {"contiguous", "channels_last"} and min(measured.values()) > 0


def test_loading_is_measured_and_reported(run_command: Command, data_root: Path, tmp_path: Path) -> None:
    options = ("--only", "loading", "--trials", 1, "--data-root", data_root, "--output", tmp_path)
    done = run_command("benchmarks/run.py", *options)
    assert done.returncode == 0, done.stderr
    space = workspace("cpu", tmp_path)
    entry = read_results(space.results, "benchmarks")["loading"]
    assert entry["images"] == 160 and entry["ratio"] == pytest.approx(
        entry["decode_seconds"] / entry["cache_seconds"], rel=0.01
    )
    section = report.render(space)
    assert f"**{entry['ratio']:.0f} times** faster" in section and "Not measured" in section


def test_copies_are_the_pictures_again(data_root: Path, tmp_path: Path) -> None:
    source = data_root / "digits" / "usps" / "data"
    folder = copies(source, 200, tmp_path)
    first = sorted(source.iterdir())[0].read_bytes()
    assert len(list(folder.iterdir())) == 200
    assert (folder / "000000.png").read_bytes() == (folder / "000160.png").read_bytes() == first


def test_the_report_names_every_ratio(tmp_path: Path) -> None:
    space = workspace("cpu", tmp_path)
    space.results.mkdir()
    way = {"images_per_second": 20.0, "peak_memory_mib": 100.0, "first_step_seconds": 1.5}
    shares = {"data": 0.01, "model": 0.96, "optimiser": 0.01, "average and log": 0.01, "run": 0.01}
    entry = {"batch_size": 4, "trials": 3, "ratio": 1.876, "ratio_range": [1.5, 2.25], "device": "CPU"}
    entry |= {"ours": way | {"shares": shares}, "plain": way}
    (space.results / "benchmarks.json").write_text(json.dumps({f"speed/{name}": entry for name in BATCH_SIZES}))
    assert report.render(space).count("**1.88** (1.50 to 2.25)") == len(BATCH_SIZES)
    assert report.readme_table(space).count("1.88") == len(BATCH_SIZES)


def test_rounding_keeps_four_digits() -> None:
    assert rounded({"a": [1.23456, 7]}) == {"a": [1.235, 7]}
