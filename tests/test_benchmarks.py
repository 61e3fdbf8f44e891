"""The benchmark times real steps of ours and of the plain loops, and the report shows what it measured."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import report, run
from benchmarks.layout import time_layouts
from benchmarks.run import BATCH_SIZES, INFERENCES, copies, measure, rounded
from common.errors import UserError
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
    if way == "ours":
        assert 0 < measured["until_first_step_seconds"] < measured["first_step_seconds"]
    else:
        assert "until_first_step_seconds" not in measured
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
    assert report.tables(space) in done.stdout and "Not measured" not in done.stdout


def test_inference_is_timed_as_a_user_runs_it(run_command: Command, data_root: Path, tmp_path: Path) -> None:
    options = ("--only", "inference", "--pictures", 20, "--data-root", data_root, "--output", tmp_path)
    done = run_command("benchmarks/run.py", *options)
    assert done.returncode == 0, done.stderr
    space = workspace("cpu", tmp_path)
    commands = read_results(space.results, "benchmarks")["inference"]["commands"]
    assert [one["command"] for one in commands] == [one.command for one in INFERENCES]
    assert [one["pictures"] for one in commands] == [20, 20, 20, 160, 160]
    assert min(one["seconds"] for one in commands) > 0
    for one in INFERENCES:
        assert f"| `{one.command}` | " in done.stdout and done.stdout.count(f"`{one.command}`") == 1
    assert report.inference({}) == ""


def test_a_command_that_fails_is_named_with_its_reason(run_command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run_command(
        "benchmarks/run.py", "--only", "loading", "--data-root", tmp_path / "empty", "--output", tmp_path
    )
    assert done.returncode == 2 and "no such folder" in done.stderr
    with pytest.raises(UserError, match=r"one.py load .*nowhere: .*no such folder"):
        measure("load", tmp_path / "nowhere")


@pytest.fixture
def small(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """The options of ``run.py`` for the tiny data root, with one thread a process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return argparse.Namespace(data_root=data_root, device="cpu", trials=1, seconds=0.0)


def test_growth_is_measured_drawn_and_stated(
    small: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "GROWING_SETS", (20, 60))
    monkeypatch.setattr(run, "GROWING_BATCHES", (4, 8))
    space = workspace("cpu", tmp_path)
    run.growth(small, space)
    entry = read_results(space.results, "benchmarks")["growth"]
    assert [point["images"] for point in entry["data"]] == [20, 60]
    assert [point["batch_size"] for point in entry["batch"]] == [4, 8]
    assert min(point["peak_memory_mib"] for points in (entry["data"], entry["batch"]) for point in points) > 0
    assert (space.images / "benchmarks" / "growth.png").is_file()
    section = report.render(space)
    assert "From 20 to 60 pictures" in section and "From 4 to 8 pictures a batch" in section
    assert "(images/benchmarks/growth.png)" in section


def test_the_comparison_is_measured_and_reported(
    small: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "BATCH_SIZES", {"p3": 4})
    space = workspace("cpu", tmp_path)
    run.speed(small, space)
    entry = read_results(space.results, "benchmarks")["speed/p3"]
    assert entry["ratio"] == pytest.approx(
        entry["ours"]["images_per_second"] / entry["plain"]["images_per_second"], rel=0.01
    )
    section = report.render(space)
    begins, ends = entry["ours"]["until_first_step_seconds"], entry["ours"]["first_step_seconds"]
    assert f"| {begins:.1f} s / {ends:.1f} s |" in section
    assert section.count("| P3, ") == 3 and "P1" not in section.split("\n\n", 2)[2]


def test_linear_costs_have_equal_figures() -> None:
    sets = [
        {"images": count, "decode_seconds": count / 2000, "cache_seconds": count * 1e-5, "peak_memory_mib": 500 + count}
        for count in (1000, 2000, 4000)
    ]
    batches = [
        {"batch_size": size, "seconds_per_step": 0.1 + size / 100, "peak_memory_mib": 300 + 2 * size}
        for size in (10, 20, 100)
    ]
    text = report.growth({"growth": {"data": sets, "batch": batches, "device": "CPU"}})
    assert "From 1,000 to 4,000 pictures" in text and "500 to 500 ms (1.00 times as long) with PNG files" in text
    assert "10 to 10 ms (1.00 times as long) with the cache" in text
    assert "20 to 11 ms (0.55 times as long) a picture" in text
    assert (
        "by 2.00 and 2.00 MiB with every picture" in text and "by 1000.00 and 1000.00 MiB with every thousand" in text
    )


def test_copies_are_the_pictures_again(data_root: Path, tmp_path: Path) -> None:
    source = data_root / "digits" / "usps" / "data"
    folder = copies(source, 200, tmp_path)
    first = sorted(source.iterdir())[0].read_bytes()
    assert len(list(folder.iterdir())) == 200
    assert (folder / "000000.png").read_bytes() == (folder / "000160.png").read_bytes() == first


SHARES = {"data": 0.01, "model": 0.96, "optimiser": 0.01, "average and log": 0.01, "run": 0.01}


def compared(ratio: float, low: float, shares: dict[str, float] = SHARES) -> dict[str, Any]:
    """A record of ``run.speed``."""
    way = {"images_per_second": 20.0, "peak_memory_mib": 100.0, "first_step_seconds": 1.5}
    entry = {"batch_size": 4, "trials": 3, "ratio": ratio, "ratio_range": [low, 2.25], "device": "CPU"}
    return entry | {"precision": "float32", "ours": way | {"shares": shares}, "plain": way}


def test_the_report_names_every_ratio(tmp_path: Path) -> None:
    space = workspace("cpu", tmp_path)
    space.results.mkdir()
    entry = compared(1.876, 1.5)
    (space.results / "benchmarks.json").write_text(json.dumps({f"speed/{name}": entry for name in BATCH_SIZES}))
    assert report.render(space).count("**1.88** (1.50 to 2.25)") == len(BATCH_SIZES)
    assert report.readme_table(space).count("**1.88** (1.50 to 2.25)") == len(BATCH_SIZES)


def test_a_ratio_is_bold_only_where_every_pair_is_above_1() -> None:
    assert report.ratio(compared(1.5, 1.01)) == "**1.50** (1.01 to 2.25)"
    assert report.ratio(compared(1.5, 0.99)) == "1.50 (0.99 to 2.25)"


def test_a_missed_aim_is_explained() -> None:
    text = report.speed({"speed/p1": compared(1.92, 1.5), "speed/p2": compared(1.5, 1.2)})
    sentences = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(sentences) == 1 and sentences[0].startswith("- P1, DCGAN, misses its aim of 2.0: 96.0 % of our step")
    assert "in float32" in sentences[0] and sentences[0].endswith("the ratio would be 2.00.")


def test_a_step_with_much_outside_its_networks_is_explained() -> None:
    slow = SHARES | {"model": 0.9, "data": 0.07}
    text = report.shares({"speed/p1": compared(2.0, 1.5), "speed/p3": compared(2.0, 1.5, slow)})
    sentences = [line for line in text.splitlines() if line.startswith("- ")]
    assert sentences == [
        "- P3, DANN as in the original report, spends 10.0 % of a step outside its networks, "
        "most of it on gathering and augmenting the batch (7.0 %)."
    ]


def test_rounding_keeps_four_digits() -> None:
    assert rounded({"a": [1.23456, 7]}) == {"a": [1.235, 7]}
