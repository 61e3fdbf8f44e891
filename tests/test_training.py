"""Runs under every fault that a long training meets; each one really happens."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common.training
from common.cli import EXIT_TRY_AGAIN, UserError, run_main
from common.device import Distributed
from common.files import file_digest
from common.training import ExponentialMovingAverage, TrainingRun
from common.weights import load_checkpoint, load_weights
from tests.conftest import Capture, Patch, contents

import pytest
import torch
from PIL import Image

DIST = Distributed(0, 1, torch.device("cpu"))
PANELS = {"loss": ["loss"]}


@pytest.fixture(autouse=True)
def _usual_checkpoints(monkeypatch: Patch) -> None:
    monkeypatch.setattr(common.training, "CHECKPOINT_SECONDS", 60.0)  # put back after each test


def open_run(folder: Path, **options: Any) -> TrainingRun:
    defaults = {"preset": "sample", "seed": 0, "overrides": [], "variant": None, "run_dir": folder}
    defaults |= {"restart": False, "max_seconds": None}
    config = {"model": "toy", "width": options.pop("width", 8)}
    return TrainingRun(argparse.Namespace(**defaults | options), DIST, "p1", "toy", config)


def train(
    folder: Path,
    steps: int = 16,
    each_step: Callable[[int], None] = lambda step: None,
    poison: int | None = None,
    always_save: bool = False,
    **options: Any,
) -> TrainingRun:
    """Train a small network that uses everything a checkpoint must restore."""
    common.training.CHECKPOINT_SECONDS = -1.0 if always_save else 60.0
    run = open_run(folder, **options)
    if run.is_finished():
        return run
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    ema = ExponentialMovingAverage(model, 0.9)
    run.resume(weights=ema.model, model=model, optimizer=optimizer, ema=ema)
    for step in run.steps(steps, 8):
        inputs = torch.randn(8, 4)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        if step == poison:
            loss = loss * float("nan")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
        run.check_finite(loss)
        run.log(loss=loss)
        each_step(step)
    run.finish(PANELS, train_images=8)
    return run


def assert_same_end(folder: Path, other: Path) -> None:
    for name in ("weights.safetensors", "stats.jsonl"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def at(step: int, act: Callable[[], object]) -> Callable[[int], None]:
    return lambda now: act() if now == step else None  # type: ignore[func-returns-value]


def in_a_child(work: Callable[[], object], output: Path = Path(os.devnull)) -> int:
    """Run ``work`` in a forked process whose errors go to ``output``, and return its process number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 2)
            sys.stderr = open(2, "w")  # noqa: SIM115 - pytest's own goes elsewhere
            run_main(work)
            status = 0
        except SystemExit as end:
            status = end.code
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_run_is_what_its_folder_says(tmp_path: Path) -> None:
    assert not open_run(tmp_path / "run").is_finished()
    train(tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    state, stored = load_weights(tmp_path / "run/weights.safetensors", "toy")
    assert stored == config and config["width"] == 8 and config["preset"] == "sample"
    record = json.loads((tmp_path / "run/records/train.json").read_text())
    assert config.items() <= record.items()
    assert record["weights"] == file_digest(tmp_path / "run/weights.safetensors")
    assert record["images_seen"] == 128 and record["train_images"] == 8 and record["images_per_second"] > 0
    log = [json.loads(line) for line in (tmp_path / "run/stats.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(16))
    assert len(Image.open(tmp_path / "run/curves.png").convert("RGB").getcolors(1 << 24)) > 10
    before = contents(tmp_path / "run")
    assert train(tmp_path / "run").is_finished() and contents(tmp_path / "run") == before
    unfinished, header = load_weights(tmp_path / "run/checkpoint.pt", "toy")
    assert header["step"] == 16 and all(unfinished[name].equal(state[name]) for name in state)


# Where a process dies: the operating system's call, which one of them, and whether before or after it.
DEATHS = [
    (operation, call, before)
    for operation, calls in (("fsync", 6), ("replace", 6))
    for call in range(1, calls + 1)
    for before in (True, False)
]


def die_at(operation: str, call: int, before: bool) -> None:
    """Let this process kill itself around its ``call``-th fsync or replace."""
    calls, real = iter(range(1, 1_000_000)), getattr(os, operation)

    def deadly(*arguments: Any) -> None:
        last = next(calls) == call
        if before and last:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arguments)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, operation, deadly)


def test_twenty_kills_end_in_the_same_weights_and_log(tmp_path: Path) -> None:
    steps, moments, folder = 300, random.Random(0), tmp_path / "killed"
    train(tmp_path / "whole", steps)
    moments.shuffle(DEATHS)
    for kill in range(20):
        death = DEATHS[kill // 2] if kill % 2 else None

        def live(death: tuple[str, int, bool] | None = death) -> None:
            if death:
                die_at(*death)
            train(folder, steps, each_step=lambda step: time.sleep(0.002), always_save=True)

        child = in_a_child(live)
        if death is None:
            time.sleep(moments.uniform(0.0, 0.1))
            os.kill(child, signal.SIGKILL)
        assert exit_code(child) == -signal.SIGKILL, death
    assert 0 < load_checkpoint(folder / "checkpoint.pt")["step"] < steps
    train(folder, steps)
    assert_same_end(folder, tmp_path / "whole")
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_and_it_resumes(tmp_path: Path, number: signal.Signals) -> None:
    train(tmp_path / "whole")
    interrupt = at(7, lambda: os.kill(os.getpid(), number))
    assert exit_code(in_a_child(lambda: train(tmp_path / "stopped", each_step=interrupt))) == 130
    assert load_checkpoint(tmp_path / "stopped/checkpoint.pt")["step"] == 8
    train(tmp_path / "stopped")
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


def test_max_seconds_ends_with_a_code_of_its_own_and_the_same_command_resumes(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    for _ in range(3):
        with pytest.raises(SystemExit) as ended:
            train(tmp_path / "stopped", each_step=lambda step: time.sleep(0.2), max_seconds=0.1)
        assert ended.value.code == EXIT_TRY_AGAIN == 75
    assert load_checkpoint(tmp_path / "stopped/checkpoint.pt")["step"] == 3
    assert load_checkpoint(tmp_path / "stopped/checkpoint.pt")["seconds"] >= 0.6
    train(tmp_path / "stopped")
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


def test_threads_that_wait_for_busy_cores_are_told_once(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr(common.training, "seconds_without_core", itertools.count(step=100).__next__)
    for threads, warnings in ((1, 0), (2, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        train(tmp_path / str(threads), always_save=True)
        assert capsys.readouterr().err.count("OMP_NUM_THREADS=1") == warnings


@pytest.mark.parametrize("name", ["weights.safetensors", "records/train.json"])
@pytest.mark.parametrize("damage", ["damaged", "missing"])
def test_a_damaged_end_is_repaired_by_the_same_command(tmp_path: Path, name: str, damage: str) -> None:
    train(tmp_path)
    before = contents(tmp_path)
    if damage == "damaged":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:50])
    else:
        (tmp_path / name).unlink()
    train(tmp_path)
    after = contents(tmp_path)
    assert after.keys() == before.keys() and after["weights.safetensors"] == before["weights.safetensors"]
    assert open_run(tmp_path).is_finished()


@pytest.mark.parametrize("damage", [b"", b"damaged", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_checkpoint_is_one_line_and_restart_begins_anew(tmp_path: Path, damage: bytes) -> None:
    train(tmp_path)
    weights = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").unlink()
    (tmp_path / "checkpoint.pt").write_bytes(damage)
    with pytest.raises(UserError, match=r"checkpoint\.pt.*--restart"):
        train(tmp_path)
    train(tmp_path, restart=True)
    assert (tmp_path / "weights.safetensors").read_bytes() == weights


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("run_dir", [".", "", "mine"])
def test_a_folder_of_something_else_is_refused_untouched(
    tmp_path: Path, monkeypatch: Patch, run_dir: str, restart: bool
) -> None:
    folder = tmp_path / "mine"
    files = (".git/.index.tmp", "config.json", "stats.jsonl", "grids/mine.png", "checkpoint.pt", "weights.safetensors")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"model": "somebody else\'s"}')
    before = contents(folder)
    monkeypatch.chdir(tmp_path if run_dir == "mine" else folder)
    with pytest.raises(UserError, match="--run-dir"):
        train(Path(run_dir), restart=restart)
    assert contents(folder) == before


def test_restart_deletes_only_what_a_run_writes(tmp_path: Path) -> None:
    train(tmp_path, steps=5)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots/000005.safetensors").touch()
    mine = ("grids/mine.png", "samples_of_mine.png", ".notes.tmp", "records/mine.json", "mine/checkpoint.pt")
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, steps=6, restart=True, each_step=at(2, lambda: 1 / 0), always_save=True)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 2
    written = ("weights.safetensors", "records/train.json", "snapshots/000005.safetensors")
    assert not any((tmp_path / name).exists() for name in written)
    assert all((tmp_path / name).read_text() == "mine" for name in mine)


@pytest.mark.parametrize("left", ["checkpoint.pt", "weights.safetensors"])
def test_another_configuration_is_refused_by_name(tmp_path: Path, left: str) -> None:
    train(tmp_path)
    for name in {"checkpoint.pt", "weights.safetensors"} - {left}:
        (tmp_path / name).unlink()
    before = contents(tmp_path)
    for options, key in (({"width": 9}, "width"), ({"seed": 1}, "seed"), ({"overrides": ["width"]}, "overrides")):
        with pytest.raises(UserError, match=f"{key}.*--restart"):
            train(tmp_path, **options)
    assert contents(tmp_path) == before
    train(tmp_path, width=9, restart=True)
    assert load_weights(tmp_path / "weights.safetensors", "toy")[1]["width"] == 9


def test_a_loss_that_is_not_finite_stops_in_one_line_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    output = tmp_path / "stderr"
    assert exit_code(in_a_child(lambda: train(tmp_path / "poisoned", poison=12, always_save=True), output)) == 2
    said = output.read_text()
    assert said.count("error: ") == 1 and "at step 12" in said and "Traceback" not in said
    kept = load_checkpoint(tmp_path / "poisoned/checkpoint.pt")
    assert kept["step"] == 12 and all(value.isfinite().all() for value in kept["weights"].values())
    train(tmp_path / "poisoned")
    assert_same_end(tmp_path / "poisoned", tmp_path / "whole")


def test_weights_that_are_not_finite_never_replace_the_good_ones(tmp_path: Path) -> None:
    common.training.CHECKPOINT_SECONDS = -1.0
    layer, run = torch.nn.Linear(1, 1), open_run(tmp_path)
    run.resume(weights=layer, layer=layer)
    with pytest.raises(UserError, match="at step 3"):
        for step in run.steps(9, 1):
            run.check_finite(layer(torch.ones(1)))  # finite until the step after
            if step == 3:
                torch.nn.init.constant_(layer.weight, float("inf"))
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 3


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", each_step=at(3, lambda: 1 / 0), always_save=True)
    output = tmp_path / "stderr"

    def fill_the_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
        train(tmp_path / "run", always_save=True)

    assert exit_code(in_a_child(fill_the_disk, output)) == 2
    assert str(tmp_path / "run/checkpoint.pt") in output.read_text()
    assert load_checkpoint(tmp_path / "run/checkpoint.pt")["step"] == 3
    train(tmp_path / "run")
    train(tmp_path / "whole")
    assert_same_end(tmp_path / "run", tmp_path / "whole")
