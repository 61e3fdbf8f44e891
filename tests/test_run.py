"""Runs, checkpoints and weights under every fault that a long training meets; each one really happens."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import common.run
from common.checkpoint import load_checkpoint, previous_path, save_checkpoint
from common.distributed import World
from common.ema import ExponentialMovingAverage
from common.errors import UserError, run_main
from common.files import write_atomic
from common.paths import workspace
from common.results import read_results, record
from common.run import Job, Run
from common.seed import derive_seed, epoch_order, seed_everything
from common.weights import load_weights, save_weights
from tests.conftest import Patch

KIND = "tests/line"
WORLD = World(0, 1, torch.device("cpu"))
EVERY_STEP, AT_THE_END = -1.0, 1000.0


def job(folder: Path, config: dict[str, object] | None = None, **options: Any) -> Job:
    return Job("p1", "train/line/seed0", KIND, config or {"width": 8}, workspace("cpu", folder), folder, **options)


def train(
    folder: Path,
    steps: int = 40,
    each_step: Callable[[int], None] = lambda step: None,
    poison: int | None = None,
    checkpoint_seconds: float = EVERY_STEP,
    **options: Any,
) -> Run:
    """Train a small network that uses everything a checkpoint must restore."""
    common.run.CHECKPOINT_SECONDS = checkpoint_seconds
    seed_everything(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    ema = ExponentialMovingAverage(model, 0.9)
    state = {"model": model, "optimizer": optimizer, "ema": ema}
    with Run(job(folder, **options), WORLD, state, ema.model.state_dict) as run:
        for step in run.steps(steps, 8):
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
    return run


@pytest.fixture(autouse=True)
def _usual_checkpoints(monkeypatch: Patch) -> None:
    monkeypatch.setattr(common.run, "CHECKPOINT_SECONDS", common.run.CHECKPOINT_SECONDS)  # put back after the test


def assert_same(first: Run, second: Run) -> None:
    one, two = first.weights(), second.weights()
    assert all(one[name].equal(two[name]) for name in one)


def stop_at(last: int) -> Callable[[int], None]:
    def stop(step: int) -> None:
        if step == last:
            raise RuntimeError("stop here")

    return stop


def in_a_child(work: Callable[[], object], output: Path = Path(os.devnull)) -> int:
    """Run ``work`` in a forked process whose errors go to ``output``, and return its process number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 2)
            sys.stderr = open(2, "w")  # noqa: SIM115 - pytest's own goes elsewhere
            work()
        except SystemExit as end:
            status = end.code
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


# Where a process dies while it saves: the operating system's call, which one of them, and whether before or after it.
# "write_bytes" stands for half of the checkpoint's bytes. The checkpoint's own calls are one fsync and two replaces,
# those of timing.json follow.
DEATHS = [("write_bytes", 1, False)] + [
    (operation, call, before)
    for operation, calls in (("fsync", 2), ("replace", 3))
    for call in range(1, calls + 1)
    for before in (True, False)
]


def die_while_saving(save: int, operation: str, call: int, before: bool) -> None:
    """Let this process kill itself in its checkpoint number ``save``, counted from 1, at a moment of ``DEATHS``."""
    saves = iter(range(1, save + 1))

    def armed(*arguments: Any) -> None:
        if next(saves) == save:
            arm()
        save_checkpoint(*arguments)

    def arm() -> None:
        calls = iter(range(1, call + 1))
        real = getattr(os, operation, None)

        def deadly(*arguments: Any) -> None:
            last = next(calls) == call
            if before and last:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*arguments)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)

        def half(path: Path, content: memoryview) -> None:
            with open(path, "wb") as file:
                file.write(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        if operation == "write_bytes":
            Path.write_bytes = half
        else:
            setattr(os, operation, deadly)

    common.run.save_checkpoint = armed


def test_twenty_kills_end_in_the_same_weights_and_log(tmp_path: Path) -> None:
    steps, moments, folder = 400, random.Random(0), tmp_path / "killed"
    whole = train(tmp_path / "whole", steps, checkpoint_seconds=AT_THE_END)
    deaths = [*DEATHS, *[None] * (20 - len(DEATHS))]
    moments.shuffle(deaths)
    done, lives_that_left_something = 0, 0
    for death in deaths:

        def live(death: tuple[str, int, bool] | None = death) -> None:
            if death:
                die_while_saving(moments.randint(2, 3), *death)
            train(folder, steps, each_step=lambda step: time.sleep(0.005))

        child = in_a_child(live)
        if death is None:
            rows = done + moments.randint(2, 3)
            while not (folder / "stats.jsonl").exists() or (folder / "stats.jsonl").read_text().count("\n") < rows:
                assert os.waitpid(child, os.WNOHANG) == (0, 0), "the training ended before it was killed"
                time.sleep(0.001)
            time.sleep(moments.uniform(0.0, 0.01))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (death, status)

        step = load_checkpoint(folder / "checkpoint.pt", KIND)["step"]
        assert done < step < steps, death
        done = step
        left = [path.name for path in folder.glob(".*")]
        assert all(name.endswith(f".{child}.tmp") for name in left), "something of an earlier life is still there"
        lives_that_left_something += bool(left)
    assert lives_that_left_something >= 6
    assert_same(train(folder, steps, checkpoint_seconds=AT_THE_END), whole)
    assert (folder / "stats.jsonl").read_bytes() == (tmp_path / "whole/stats.jsonl").read_bytes()
    assert not list(folder.glob(".*"))


def test_interrupt_ends_after_the_step_and_resumes(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")

    def interrupt(step: int) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", checkpoint_seconds=AT_THE_END, each_step=interrupt)
    assert load_checkpoint(tmp_path / "stopped/checkpoint.pt", KIND)["step"] == 8
    assert_same(train(tmp_path / "stopped"), whole)


def test_a_finished_job_is_recorded_once_and_another_is_not_taken_for_it(tmp_path: Path) -> None:
    this = job(tmp_path)
    assert not this.is_finished(WORLD)
    run = train(tmp_path, steps=3)
    before = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    assert train(tmp_path, steps=3).is_complete and (tmp_path / "checkpoint.pt").stat().st_mtime_ns == before
    assert not this.is_finished(WORLD)  # the weights and the record are missing
    this.finish(run, accuracy=0.5)
    assert this.is_finished(WORLD)
    assert load_weights(this.weights, KIND)[1] == this.config
    entry = read_results(tmp_path / "results", "p1")[this.key]
    assert entry["accuracy"] == 0.5 and entry["width"] == 8 and entry["images_per_second"] > 0 and entry["device"]
    assert not job(tmp_path, {"width": 9}).is_finished(WORLD) and not job(tmp_path, fresh=True).is_finished(WORLD)
    record(tmp_path / "results", "p1", this.key, entry | {"width": 9}, torch.device("cpu"))  # by another run folder
    assert not this.is_finished(WORLD)
    (tmp_path / "results/p1.json").unlink()
    assert not this.is_finished(WORLD)


def damaged(content: bytes, damage: str) -> bytes:
    """Return a checkpoint cut off, with zeros for its second half, or with a wrong bit in the entry called so."""
    if damage == "cut":
        return content[:-200]
    if damage == "zeros":
        return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [archive.read(name) for name in archive.namelist() if damage in name]
    largest, changed = max(entries, key=len), bytearray(content)
    changed[content.index(largest) + len(largest) // 2] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("damage", ["cut", "zeros", "/data/", "/data.pkl"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    whole = train(tmp_path / "whole", checkpoint_seconds=AT_THE_END)
    with pytest.raises(RuntimeError, match="stop here"):
        train(tmp_path / "hurt", each_step=stop_at(5))
    newest, resumed_at = tmp_path / "hurt/checkpoint.pt", []
    assert load_checkpoint(newest, KIND)["step"] == 5
    newest.write_bytes(damaged(newest.read_bytes(), damage))
    assert_same(train(tmp_path / "hurt", checkpoint_seconds=AT_THE_END, each_step=resumed_at.append), whole)
    assert resumed_at[0] == 4


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_whole_one_before(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop here"):
        train(tmp_path, each_step=stop_at(5))
    newest = tmp_path / "checkpoint.pt"
    newest.write_bytes(b"damaged")

    def die_before_the_new_one_stands() -> None:
        die_while_saving(1, "replace", 1, before=True)
        train(tmp_path)

    os.waitpid(in_a_child(die_before_the_new_one_stands), 0)
    assert load_checkpoint(newest, KIND)["step"] == 4


def test_both_checkpoints_damaged_is_one_clear_error(tmp_path: Path) -> None:
    train(tmp_path, steps=3)
    for path in (tmp_path / "checkpoint.pt", previous_path(tmp_path / "checkpoint.pt")):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoint\.pt.*--fresh"):
        train(tmp_path)


def test_a_checkpoint_too_large_for_the_memory_is_not_called_damaged(tmp_path: Path, monkeypatch: Patch) -> None:
    save_checkpoint(tmp_path / "checkpoint.pt", {"kind": KIND})

    def load(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(torch.OutOfMemoryError):
        load_checkpoint(tmp_path / "checkpoint.pt", KIND)


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
    with pytest.raises(UserError, match="refused"):
        train(tmp_path)
    # Also beside a whole one that it could fall back to.
    train(tmp_path / "run", steps=3)
    shutil.copy(path, tmp_path / "run/checkpoint.pt")
    with pytest.raises(UserError, match="refused"):
        train(tmp_path / "run", steps=4)
    path.write_bytes(pickle.dumps(Payload(witness), protocol=2))
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path, KIND)
    assert not witness.exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_good_state(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="since step 12"):
        train(tmp_path / "poisoned", poison=12)
    kept = load_checkpoint(tmp_path / "poisoned/checkpoint.pt", KIND)
    assert kept["step"] <= 12
    assert all(value.isfinite().all() for value in kept["state"]["model"].values())
    assert_same(train(tmp_path / "poisoned"), train(tmp_path / "whole"))


def test_weights_that_are_not_finite_never_replace_the_good_ones(tmp_path: Path) -> None:
    common.run.CHECKPOINT_SECONDS = EVERY_STEP
    layer = torch.nn.Linear(1, 1)
    with (
        pytest.raises(UserError, match="after step 3"),
        Run(job(tmp_path), WORLD, {"layer": layer}, layer.state_dict) as run,
    ):
        for step in run.steps(9, 1):
            run.guard(layer(torch.ones(1)))  # finite until the step after
            if step == 3:
                torch.nn.init.constant_(layer.weight, float("inf"))
    assert load_checkpoint(tmp_path / "checkpoint.pt", KIND)["step"] == 3


def test_starting_anew_leaves_nothing_of_the_old_run(tmp_path: Path) -> None:
    train(tmp_path, steps=3)
    names = ("weights.safetensors", "last_good.safetensors", "curves.png", "samples_000003.png", "grids/000003.png")
    results = [tmp_path / name for name in names]
    for path in results:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"of the old run")
    train(tmp_path, steps=5, fresh=True, max_seconds=1e-6)
    assert load_checkpoint(tmp_path / "checkpoint.pt", KIND)["step"] == 1
    assert not any(path.exists() for path in results)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"kind": "p1_gan/A"})
    with pytest.raises(UserError, match=r"a\.pt: .*p1_gan/A.*p1_gan/B"):
        load_checkpoint(tmp_path / "a.pt", "p1_gan/B")


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    path, output = tmp_path / "run/checkpoint.pt", tmp_path / "stderr"

    def fill_the_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        run_main(lambda: save_checkpoint(path, {"kind": KIND, "tensor": torch.zeros(1_000_000)}))

    save_checkpoint(path, {"kind": KIND, "tensor": torch.zeros(10)})
    _, status = os.waitpid(in_a_child(fill_the_disk, output), 0)
    lines = output.read_text().splitlines()
    assert os.waitstatus_to_exitcode(status) == 2 and len(lines) == 1
    assert lines[0].startswith("error: ") and str(path) in lines[0]
    assert load_checkpoint(path, KIND)["tensor"].shape == (10,)
    assert [path.name for path in path.parent.iterdir()] == ["checkpoint.pt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a file that is always full")
def test_a_log_on_a_full_disk_is_named(tmp_path: Path) -> None:
    log = tmp_path / "stats.jsonl"

    def no_room_left(step: int) -> None:
        log.unlink()
        log.symlink_to("/dev/full")

    with pytest.raises(OSError) as caught:
        train(tmp_path, each_step=no_room_left)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(log)


def test_atomic_writing_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "value.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomic(path, fail)
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["value.txt"]


@pytest.mark.parametrize("end", ["finished", "diverged", "interrupted", "nothing logged"])
def test_every_end_of_a_run_leaves_its_curves(tmp_path: Path, end: str) -> None:
    layer = torch.nn.Linear(1, 1)
    run = Run(job(tmp_path), WORLD, {"layer": layer}, layer.state_dict, panels={"loss": ["loss"]})
    errors = {"diverged": UserError, "interrupted": KeyboardInterrupt}
    with pytest.raises(errors[end]) if end in errors else nullcontext(), run:
        for step in run.steps(4, 1):
            if step == 2 and end == "diverged":
                run.guard(torch.tensor(float("nan")))
            if step == 2 and end == "interrupted":
                os.kill(os.getpid(), signal.SIGINT)
            if end != "nothing logged":
                run.log(loss=1.0 / (1 + step))
    assert (tmp_path / "curves.png").exists() == (end != "nothing logged")
    if end != "nothing logged":
        assert len(Image.open(tmp_path / "curves.png").convert("RGB").getcolors(1 << 24)) > 10


def test_curves_that_cannot_be_drawn_do_not_hide_why_the_run_ended(tmp_path: Path) -> None:
    layer = torch.nn.Linear(1, 1)
    (tmp_path / "curves.png").mkdir()

    def run(steps: int, poison: float) -> None:
        with Run(job(tmp_path), WORLD, {"layer": layer}, layer.state_dict, panels={"loss": ["loss"]}) as this:
            for _ in this.steps(steps, 1):
                this.log(loss=1.0)
                this.guard(torch.tensor(poison))

    with pytest.raises(UserError, match="since step 0"):
        run(2, float("nan"))
    with pytest.raises(IsADirectoryError, match=r"curves\.png"):
        run(2, 1.0)


def test_weights_survive_a_round_trip(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    path = tmp_path / "model.safetensors"
    save_weights(path, model.state_dict(), "line", {"width": 3}, half=True)
    state, config = load_weights(path, "line")
    assert config == {"width": 3}
    assert torch.allclose(state["weight"], model.weight, atol=1e-3) and state["weight"].dtype == torch.float32


def test_the_average_follows_its_definition_and_copies_buffers() -> None:
    model = torch.nn.BatchNorm1d(1)
    ema = ExponentialMovingAverage(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(7.0)
        model.num_batches_tracked.fill_(5)
    ema.update(model)
    assert ema.model.weight.item() == pytest.approx(0.1 * 1.0 + 0.9 * 3.0)
    assert ema.model.running_mean.item() == 7.0 and ema.model.num_batches_tracked.item() == 5


def test_orders_and_seeds_are_functions_of_their_arguments() -> None:
    assert torch.equal(epoch_order(50, 1, 2), epoch_order(50, 1, 2))
    assert not torch.equal(epoch_order(50, 1, 2), epoch_order(50, 1, 3))
    assert sorted(epoch_order(50, 1, 2).tolist()) == list(range(50))
    assert derive_seed(0, "a") != derive_seed(0, "b") and 0 <= derive_seed(0, "a") < 2**63
