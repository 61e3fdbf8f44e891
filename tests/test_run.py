"""Runs, checkpoints and weights under every fault that a long training meets; each one really happens."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.checkpoint import load_checkpoint, previous_path, save_checkpoint
from common.ema import ExponentialMovingAverage
from common.errors import UserError
from common.files import write_atomic
from common.paths import ROOT
from common.run import Run
from common.seed import derive_seed, epoch_order, seed_everything
from common.weights import is_finished, load_into, load_weights, save_weights

KIND = "tests/line"
CPU = torch.device("cpu")


def train(
    folder: Path,
    steps: int = 40,
    checkpoint_seconds: float = -1.0,
    config: dict[str, object] | None = None,
    each_step: Callable[[int], None] = lambda step: None,
    poison: int | None = None,
    max_seconds: float | None = None,
    fresh: bool = False,
    defaults: dict[str, object] | None = None,
) -> dict[str, torch.Tensor]:
    """Train a small network that uses everything a checkpoint must restore; return the averaged weights."""
    seed_everything(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    ema = ExponentialMovingAverage(model, 0.9)
    run = Run(
        folder,
        KIND,
        config or {"width": 8},
        state={"model": model, "optimizer": optimizer, "ema": ema},
        weights=ema.model.state_dict,
        device=CPU,
        fresh=fresh,
        checkpoint_seconds=checkpoint_seconds,
        defaults=defaults,
    )
    with run:
        for step in run.steps(steps, 8, max_seconds=max_seconds):
            inputs = torch.randn(8, 4)
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            if step == poison:
                loss = loss * float("nan")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
            run.guard(loss)
            run.log(loss=loss)
            each_step(step)
    return ema.model.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(first[name].equal(second[name]) for name in first)


def in_a_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process and return its process number."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
        finally:
            os._exit(1)
    return child


def test_twenty_kills_end_in_the_same_weights_and_log(tmp_path: Path) -> None:
    expected = train(tmp_path / "whole")
    kills = 0
    moments = random.Random(0)
    while kills < 20:
        # Every step writes a checkpoint, so most kills hit one being written. Slow steps keep the run going.
        child = in_a_child(lambda: train(tmp_path / "killed", each_step=lambda step: time.sleep(0.01)))
        time.sleep(moments.uniform(0.02, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    assert same(train(tmp_path / "killed"), expected)
    assert (tmp_path / "killed/stats.jsonl").read_bytes() == (tmp_path / "whole/stats.jsonl").read_bytes()


def test_stopping_after_a_time_changes_nothing(tmp_path: Path) -> None:
    expected = train(tmp_path / "whole")
    train(tmp_path / "parts", max_seconds=1e-6)
    assert load_checkpoint(tmp_path / "parts/checkpoint.pt", KIND)["step"] == 1
    assert same(train(tmp_path / "parts"), expected)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    train(tmp_path)
    before = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    train(tmp_path)
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == before


def test_interrupt_ends_after_the_step_and_resumes(tmp_path: Path) -> None:
    expected = train(tmp_path / "whole")

    def interrupt(step: int) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", checkpoint_seconds=1000, each_step=interrupt)
    assert load_checkpoint(tmp_path / "stopped/checkpoint.pt", KIND)["step"] == 8
    assert same(train(tmp_path / "stopped"), expected)


def test_a_truncated_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = train(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="stop here"):
        train(tmp_path / "cut", each_step=stop_at(20))
    newest = tmp_path / "cut/checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:-200])
    assert same(train(tmp_path / "cut"), expected)
    assert "damaged" in capsys.readouterr().err


def stop_at(last: int) -> Callable[[int], None]:
    def stop(step: int) -> None:
        if step == last:
            raise RuntimeError("stop here")

    return stop


def test_both_checkpoints_damaged_is_one_clear_error(tmp_path: Path) -> None:
    train(tmp_path)
    for path in (tmp_path / "checkpoint.pt", previous_path(tmp_path / "checkpoint.pt")):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoint\.pt: damaged"):
        train(tmp_path)


class Payload:
    """What a hostile checkpoint would hold: unpickling it creates a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.witness), "w"))


def test_a_checkpoint_with_code_is_refused_and_never_run(tmp_path: Path) -> None:
    witness, path = tmp_path / "executed", tmp_path / "checkpoint.pt"
    torch.save({"kind": KIND, "state": Payload(witness)}, path)
    with pytest.raises(UserError, match="refused"):
        load_checkpoint(path, KIND)
    path.write_bytes(pickle.dumps(Payload(witness)))
    with pytest.raises(UserError):
        load_checkpoint(path, KIND)
    assert not witness.exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_good_state(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite since step 12"):
        train(tmp_path, poison=12)
    kept = load_checkpoint(tmp_path / "checkpoint.pt", KIND)
    assert kept["step"] <= 12
    assert all(value.isfinite().all() for value in kept["state"]["model"].values())
    assert same(train(tmp_path), train(tmp_path.with_name("whole")))


def test_weights_that_are_not_finite_never_replace_the_good_ones(tmp_path: Path) -> None:
    layer = torch.nn.Linear(1, 1)
    with (
        pytest.raises(UserError, match="not finite after step 3"),
        Run(tmp_path, KIND, {}, {"layer": layer}, layer.state_dict, device=CPU, checkpoint_seconds=-1.0) as run,
    ):
        for step in run.steps(9, 1):
            run.guard(layer(torch.ones(1)))  # finite until the step after
            if step == 3:
                torch.nn.init.constant_(layer.weight, float("inf"))
    assert load_checkpoint(tmp_path / "checkpoint.pt", KIND)["step"] == 3


def test_a_second_run_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    def second(step: int) -> None:
        if step == 3:
            with pytest.raises(UserError, match="another run is using this folder"):
                train(tmp_path)

    train(tmp_path, steps=5, each_step=second)


def test_starting_anew_leaves_nothing_of_the_old_run(tmp_path: Path) -> None:
    train(tmp_path, steps=3)
    for name in ("weights.safetensors", "last_good.safetensors"):
        (tmp_path / name).write_bytes(b"of the old run")
    train(tmp_path, steps=5, fresh=True, max_seconds=1e-6)
    assert load_checkpoint(tmp_path / "checkpoint.pt", KIND)["step"] == 1
    assert not list(tmp_path.glob("*.safetensors"))


def test_other_settings_are_refused_with_their_names(tmp_path: Path) -> None:
    train(tmp_path, steps=3)
    with pytest.raises(UserError, match="trained with width 8, asked for 16"):
        train(tmp_path, steps=3, config={"width": 16})


def test_an_option_younger_than_the_run_has_its_default(tmp_path: Path) -> None:
    train(tmp_path, steps=3)
    train(tmp_path, steps=4, config={"width": 8, "depth": (1,)}, defaults={"width": 9, "depth": (1,)})
    assert load_checkpoint(tmp_path / "checkpoint.pt", KIND)["step"] == 4
    with pytest.raises(UserError, match=r"trained with depth \[1\], asked for \[2\]"):
        train(tmp_path, steps=4, config={"width": 8, "depth": (2,)}, defaults={"depth": (1,)})


def test_weights_are_those_of_one_training_only(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    assert not is_finished(path, KIND, {"width": 8})
    save_weights(path, {"bias": torch.zeros(1)}, KIND, {"width": 8})
    assert is_finished(path, KIND, {"width": 8}) and is_finished(
        path, KIND, {"width": 8, "depth": (1,)}, {"depth": (1,)}
    )
    assert not is_finished(path, KIND, {"width": 9}) and not is_finished(path, KIND, {"width": 8, "depth": (1,)})


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"kind": "p1_gan/A"})
    with pytest.raises(UserError, match=r"a\.pt: holds p1_gan/A, not p1_gan/B"):
        load_checkpoint(tmp_path / "a.pt", "p1_gan/B")


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    program = f"""
import resource, signal, sys, torch
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from common.checkpoint import save_checkpoint
from common.errors import run_main
path = Path({str(tmp_path)!r}) / "checkpoint.pt"
save_checkpoint(path, {{"kind": "k", "tensor": torch.zeros(10)}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
run_main(lambda: save_checkpoint(path, {{"kind": "k", "tensor": torch.zeros(1_000_000)}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert load_checkpoint(tmp_path / "checkpoint.pt", "k")["tensor"].shape == (10,)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_an_output_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path, data_root: Path, run_command) -> None:
    (tmp_path / "file").write_text("in the way")
    options = ("--method", "A", "--preset", "sample", "--data-root", data_root, "--output", tmp_path / "file")
    done = run_command("p1_gan/train.py", *options)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(tmp_path / "file") in done.stderr


def test_atomic_writing_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "value.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomic(path, fail)
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["value.txt"]


def test_the_log_is_plain_json_lines(tmp_path: Path) -> None:
    train(tmp_path, steps=4)
    rows = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3] and all(row["loss"] > 0 for row in rows)


def test_weights_survive_a_round_trip_and_refuse_what_does_not_fit(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    path = tmp_path / "model.safetensors"
    save_weights(path, model.state_dict(), "line", {"width": 3}, half=True)
    state, config = load_weights(path, "line")
    assert config == {"width": 3}
    assert torch.allclose(state["weight"], model.weight, atol=1e-3) and state["weight"].dtype == torch.float32
    with pytest.raises(UserError, match="holds line, not circle"):
        load_weights(path, "circle")
    with pytest.raises(UserError, match="does not fit Linear"):
        load_into(torch.nn.Linear(4, 2), state, path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_weights(path, "line")


def test_the_average_follows_its_definition_and_copies_buffers() -> None:
    model = torch.nn.BatchNorm1d(1)
    ema = ExponentialMovingAverage(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(7.0)
    ema.update(model)
    assert ema.model.weight.item() == pytest.approx(0.1 * 1.0 + 0.9 * 3.0)
    assert ema.model.running_mean.item() == 7.0


def test_orders_and_seeds_are_functions_of_their_arguments() -> None:
    assert torch.equal(epoch_order(50, 1, 2), epoch_order(50, 1, 2))
    assert not torch.equal(epoch_order(50, 1, 2), epoch_order(50, 1, 3))
    assert sorted(epoch_order(50, 1, 2).tolist()) == list(range(50))
    assert derive_seed(0, "a") != derive_seed(0, "b") and 0 <= derive_seed(0, "a") < 2**63
