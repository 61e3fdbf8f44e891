"""What the problems share: command lines, files, seeds, weights, measures, images."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import common.data
import common.device
from common import ROOT, usable_cores
from common.cli import (
    LARGEST_SEED,
    UserError,
    add_common_arguments,
    add_run_arguments,
    make_parser,
    option,
    parse_config,
    run_main,
)
from common.data import EpochSampler, digest, thread_map
from common.device import Distributed, init_distributed, pick_device
from common.files import atomic_path, file_digest, write_bytes, write_text
from common.metrics import accuracy, baseline_images, frechet_distance, per_class_accuracy
from common.seed import derive_seed, generator, random_state, set_random_state
from common.training import ExponentialMovingAverage
from common.viz import make_grid, normalize, save_gif, save_image, to_uint8
from common.weights import WEIGHTS, load_into, load_weights, measured, run_folder, save_weights
from tests.conftest import Capture, Patch

import numpy as np
import pytest
import torch
from PIL import Image

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = option(100, "optimizer steps", "[1, inf)")
    learning_rate: float = option(1e-3, "of Adam; 50% of the usual", "(0, 1]")
    loss: Literal["bce", "hinge"] = option("bce", "of the discriminator")
    size: Literal[28, 32] = option(28, "side in pixels")
    augment: tuple[str, ...] = option(("color", "shift"), "augmentations")
    compile: bool = option(False, "torch.compile")


CONFIGS = {"A": Config(), "B": Config(steps=200, loss="hinge")}


def parse(*argv: str) -> tuple[argparse.Namespace, Config]:
    parser = make_parser("Train.\n\n    python train.py\n\nMore.")
    parser.add_argument("--method", choices=tuple(CONFIGS), default="A")
    add_common_arguments(parser)
    add_run_arguments(parser, ["cpu"])
    with patch.object(sys, "argv", ["train.py", *argv]):
        return parse_config(parser, lambda arguments: CONFIGS[arguments.method])


def test_every_field_is_an_option_whose_default_the_method_sets() -> None:
    arguments, config = parse()
    assert config == CONFIGS["A"] and arguments.overrides == [] and arguments.seed == 0
    arguments, config = parse("--steps", "7", "--method", "B", "--augment", "color", "--compile", "--size", "32")
    assert config == Config(7, 1e-3, "hinge", 32, ("color",), True)
    assert arguments.overrides == ["augment", "compile", "size", "steps"]
    assert parse("--augment")[1].augment == ()
    assert parse("--steps", "100", "--no-compile")[0].overrides == [], "a default that is written out changes nothing"


def test_help_shows_the_defaults_of_the_method_that_is_asked_about(capsys: Capture) -> None:
    for method, steps in (("A", "100"), ("B", "200")):
        with pytest.raises(SystemExit) as ended:
            parse("--method", method, "--help")
        assert ended.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert f"optimizer steps (default: {steps})" in shown and "50% of the usual" in shown
        assert "(default: color shift)" in shown and "{bce,hinge}" in shown and "--no-compile" in shown


@pytest.mark.parametrize("words", ["--steps 0", "--learning-rate 0", "--learning-rate 1.5", "--learning-rate nan"])
def test_values_outside_their_interval_are_refused_by_name(words: str) -> None:
    with pytest.raises(UserError, match=words.split()[0]):
        parse(*words.split())


@pytest.mark.parametrize("words", ["--loss mse", "--size 30", "--steps x", "--seed -1", f"--seed {2**64}", "--step 3"])
def test_words_that_mean_nothing_are_refused(words: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*words.split())
    assert ended.value.code == 2 and words.split()[1] in capsys.readouterr().err.splitlines()[-1]
    assert parse("--seed", str(LARGEST_SEED))[0].seed == 2**64 - 1


def fail_with(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("a.png: damaged\nimage"), 2, "error: a.png: damaged image"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "full", "a.pt"), 2, "a.pt"),
        (OSError(errno.EROFS, "read-only", "a.pt"), 2, "a.pt"),
        (NotADirectoryError(errno.ENOTDIR, "no", "a/b"), 2, "a/b"),
        (OSError(errno.ELOOP, "loop", "loop"), 2, "loop"),
        (FileNotFoundError(errno.ENOENT, "none", "x.csv"), 2, "x.csv: none"),
        (MemoryError(), 2, "--batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "--batch-size"),
    ],
)
def test_expected_failures_are_one_line(error: BaseException, code: int, words: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        run_main(fail_with(error))
    assert ended.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


def test_failures_of_the_program_keep_their_traceback() -> None:
    for error in (RuntimeError("shapes"), OSError(errno.EIO, "disk"), KeyError("x")):
        with pytest.raises(type(error)):
            run_main(fail_with(error))
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: torch.empty(2**60, dtype=torch.uint8))
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "99900000 100000\n"}, None),
    ],
)
def test_threads_follow_affinity_and_quota(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_the_users_choice_of_threads_counts() -> None:
    program = "common; print(*(os.environ.get(name) for name in ('OMP_NUM_THREADS', 'GOMP_SPINCOUNT')))"
    own = {"OMP_NUM_THREADS": "7", "GOMP_SPINCOUNT": "5"}
    cases = [("", own, ["7", "5"]), ("", {}, [str(usable_cores()), "1000"]), ("torch, ", {}, ["None", "None"])]
    for before, environment, expected in cases:  # a program that loaded torch keeps its own settings
        command = [sys.executable, "-c", f"import os, {before}{program}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == expected


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells how long threads waited")
def test_waiting_for_a_busy_core_is_noticed() -> None:
    program = """if True:
        import os, subprocess, sys, time
        from common.device import seconds_without_core
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        begun, before = time.time(), seconds_without_core()
        while time.time() < begun + 1:
            pass
        print((seconds_without_core() - before) / (time.time() - begun))
        other.kill()
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.2 < float(done.stdout) < 1


def test_atomic_writing_leaves_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: Patch) -> None:
    path = tmp_path / "inner/value.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and [entry.name for entry in path.parent.iterdir()] == ["value.txt"]

    write_text(path, "n\udce9w")
    assert path.read_bytes() == b"n\xe9w"
    monkeypatch.setattr(os, "fsync", fail_with(OSError(errno.EIO, os.strerror(errno.EIO))))
    with pytest.raises(OSError) as caught:
        write_bytes(path, b"newer")
    assert caught.value.filename == str(path) and path.read_bytes() == b"n\xe9w"
    assert [entry.name for entry in path.parent.iterdir()] == ["value.txt"]


def test_streams_are_functions_of_seed_and_name() -> None:
    assert derive_seed(0, "a") == derive_seed(0, "a") != derive_seed(0, "b") != derive_seed(1, "b")
    assert 0 <= derive_seed(LARGEST_SEED, "a") < 2**63
    first, again = (torch.rand(3, generator=generator(5, "a", 1)) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, torch.rand(3, generator=generator(5, "a", 2)))
    state = random_state()
    drawn = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (7, 7), (3, 8)])
def test_every_epoch_visits_every_sample_once_and_any_step_can_be_asked_for(count: int, batch_size: int) -> None:
    sampler = EpochSampler(count, batch_size, 0, "train", CPU)
    batches = [sampler(step) for step in range(2 * count)]
    assert {len(batch) for batch in batches} == {batch_size}
    visited = torch.cat(batches).tolist()
    epochs = [visited[start : start + count] for start in range(0, len(visited), count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1, "epochs differ in order"
    resumed = EpochSampler(count, batch_size, 0, "train", CPU)
    for step in (5, 0, 3):  # a pure function of the step
        assert torch.equal(resumed(step), batches[step])
    assert not torch.equal(EpochSampler(count * 9, 9, 0, "other", CPU)(0), EpochSampler(count * 9, 9, 0, "one", CPU)(0))


def test_threads_keep_the_order_take_items_as_needed_and_pass_errors_on(monkeypatch: Patch) -> None:
    monkeypatch.setattr(common.data, "usable_cores", lambda: 2)
    taken: list[int] = []

    def items() -> Any:
        for number in range(1000):
            taken.append(number)
            yield number

    results = thread_map(lambda number: number * 2, items())
    assert [next(results) for _ in range(3)] == [0, 2, 4] and len(taken) < 100
    assert list(results) == [number * 2 for number in range(3, 1000)]
    with pytest.raises(ZeroDivisionError):
        list(thread_map(lambda number: 1 // (5 - number), range(100)))


def test_digests_tell_data_apart(tmp_path: Path) -> None:
    images, labels = torch.arange(12, dtype=torch.uint8).reshape(2, 6), torch.tensor([1, 2])
    known = [digest(images), digest(images, labels), digest(images, labels.flip(0)), digest(images.reshape(3, 4))]
    assert len(set(known)) == 4 and all(len(text) == 12 for text in known)
    assert digest(images.t().contiguous().t(), labels) == known[1], "the order in memory does not matter"
    write_bytes(tmp_path / "a", b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea"


def test_the_same_weights_give_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    model, config = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)), {"model": "line", "width": 3}
    for name in ("a", "b"):
        save_weights(tmp_path / f"{name}.safetensors", model.state_dict(), config)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    state, stored = load_weights(tmp_path / "a.safetensors", "line")
    assert stored == config and all(state[name].equal(value) for name, value in model.state_dict().items())
    save_weights(tmp_path / "half.safetensors", model.state_dict(), config, half=True)
    half = load_weights(tmp_path / "half.safetensors", "other", "line")[0]
    assert half["0.weight"].dtype == torch.float32 and half["1.num_batches_tracked"].dtype == torch.int64
    assert torch.allclose(half["0.weight"], model[0].weight, atol=1e-3)
    load_into(model, half, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match=r"half\.safetensors"):
        load_into(torch.nn.Linear(5, 2), half, tmp_path / "half.safetensors")


class Payload:
    """What a hostile checkpoint would hold: unpickling it creates a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.witness), "w"))


def test_damaged_and_foreign_weights_are_one_line_and_nothing_in_them_is_run(tmp_path: Path) -> None:
    save_weights(tmp_path / "other.safetensors", {"a": torch.ones(3)}, {"model": "somebody/else"})
    whole = (tmp_path / "other.safetensors").read_bytes()
    files = {"cut": whole[:-1], "empty": b"", "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"}
    for name, content in files.items():
        for suffix in ("safetensors", "pt"):
            (tmp_path / f"{name}.{suffix}").write_bytes(content)
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3)}, tmp_path / "no header.safetensors")
    torch.save({"a": torch.ones(3)}, tmp_path / "foreign.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": torch.ones(3)}, tmp_path / "before zip.pt", _use_new_zipfile_serialization=False)
    torch.save({"config": {}, "step": 0, "weights": Payload(tmp_path / "executed")}, tmp_path / "hostile.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Payload(tmp_path / "executed"), protocol=2))
    paths = [
        *tmp_path.glob("*.pt"),
        *tmp_path.glob("*.safetensors"),
        tmp_path / "none.pt",
        tmp_path / "none.safetensors",
    ]
    assert len(paths) == 15
    for path in paths:
        with pytest.raises(UserError, match=path.name.split(".")[0]):
            load_weights(path, "line")
    assert not (tmp_path / "executed").exists()


def test_a_measurement_belongs_to_what_it_was_measured_on(tmp_path: Path) -> None:
    asked = []

    def measure() -> dict[str, float]:
        asked.append(1)
        return {"accuracy": 0.5}

    identity = {"problem": "p3", "weights": "0" * 16, "val_digest": "a", "dataset": "Fête"}
    first = measured(tmp_path, "evaluate_val", identity, measure, CPU)
    assert first["accuracy"] == 0.5 and first["device"].startswith("CPU")
    assert measured(tmp_path, "evaluate_val", identity, measure, CPU) == first and len(asked) == 1
    for key, value in (("weights", "1" * 16), ("val_digest", "b"), ("dataset", "Fete")):
        assert measured(tmp_path, "evaluate_val", identity | {key: value}, measure, CPU)[key] == value
    assert len(asked) == 4
    (tmp_path / "records/evaluate_val.json").write_text("damaged")
    assert measured(tmp_path, "evaluate_val", identity, measure, CPU).items() >= identity.items()
    assert json.loads((tmp_path / "records/evaluate_val.json").read_text(encoding="utf-8"))["dataset"] == "Fête"
    assert run_folder(tmp_path / "weights.safetensors") == tmp_path
    assert run_folder(WEIGHTS / "p1_gan_A.safetensors") == ROOT / "runs/shipped/p1_gan_A"


def test_frechet_distance_of_gaussians_is_its_closed_form() -> None:
    rng = generator(0, "test")
    first = torch.randn(20_000, 3, generator=rng, dtype=torch.float64)
    first = (first - first.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(first.T.cov())).T  # exactly N(0, 1)
    scale, shift = torch.tensor([2.0, 0.5, 3.0], dtype=torch.float64), torch.tensor([1.0, -2.0, 0.0])
    # For commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2.
    expected = float(shift.square().sum() + (scale - 1).square().sum())
    assert frechet_distance(first, first * scale + shift) == pytest.approx(expected, rel=1e-6)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))[0]
    assert frechet_distance(first @ rotation, (first * scale + shift) @ rotation) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    few = torch.randn(4, 20, generator=rng)  # singular covariances
    assert frechet_distance(few, few + 1) == pytest.approx(20, rel=1e-4)
    with pytest.raises(UserError, match="two"):
        frechet_distance(few, few[:1])


def test_accuracies_and_the_baseline() -> None:
    predicted, labels = torch.tensor([0, 1, 1, 9]), torch.tensor([0, 1, 2, 9])
    assert accuracy(predicted, labels) == 0.75
    assert per_class_accuracy(predicted, labels) == [1.0, 1.0, 0.0, *[None] * 6, 1.0]
    images = torch.arange(50)
    chosen = baseline_images(images, 20)
    assert len(set(chosen.tolist())) == 20 and torch.equal(chosen, baseline_images(images, 20))
    assert sorted(baseline_images(images, 90).tolist()) == images.tolist()


def test_pixels_survive_the_range_of_the_networks() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert normalize(pixels).min() == -1 and normalize(pixels).max() == 1
    assert torch.equal(to_uint8(normalize(pixels)), pixels)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_grids_and_animations(tmp_path: Path) -> None:
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 4, 6)
    grid = make_grid(images, columns=3, padding=2, scale=2)
    assert grid.shape == (3, 2 * (8 + 2) + 2, 3 * (12 + 2) + 2)
    assert grid[0, 2:10, 16:28].unique().tolist() == [1] and grid[0, 12:20, 2:14].unique().tolist() == [3]
    assert grid[0, 12:20, 30:].unique().tolist() == [255] and grid[0, :2].unique().tolist() == [255]
    save_image(grid, tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), grid.permute(1, 2, 0).numpy())
    frames = [torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (0, 100, 200)]
    save_gif(frames, tmp_path / "a.gif", [100, 100, 500])
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 3 and animation.info["loop"] == 0
        for number, frame in enumerate(frames):
            animation.seek(number)
            assert np.abs(np.asarray(animation.convert("RGB")).astype(int) - int(frame[0, 0, 0])).max() <= 2
        assert animation.info["duration"] == 500


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


@pytest.mark.parametrize("name", ["meta", "hpu", "xpu", "cuda:99", "nonsense"])
def test_devices_that_are_not_there_are_one_line(name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}"):
        pick_device(name)


@pytest.mark.parametrize(("named", "picked"), [("auto", "cuda:1"), ("cuda:0", "cuda:1"), ("cpu", "cpu")])
def test_each_process_of_torchrun_has_a_gpu_of_its_own(named: str, picked: str, monkeypatch: Patch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def pick(name: str) -> torch.device:
        raise UserError(f"picks {name}")

    monkeypatch.setattr(common.device, "pick_device", pick)
    with pytest.raises(UserError, match=f"picks {picked}$"), init_distributed(named):
        pass


def test_batches_and_processes_that_do_not_fit_are_one_line(monkeypatch: Patch) -> None:
    dist = Distributed(0, 2, CPU)
    dist.check_batch_size(4, 2)
    for batch_size in (2, 5):
        with pytest.raises(UserError, match=f"--batch-size {batch_size}:"):
            dist.check_batch_size(batch_size, 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for local_rank in (None, "1"):
        if local_rank:
            monkeypatch.setenv("LOCAL_RANK", local_rank)
        with pytest.raises(UserError, match="torchrun"), init_distributed("auto"):
            pass
