"""Real, tiny trainings of P3: every mode, label blindness, resuming, and repeatability."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from common.errors import UserError
from common.paths import ROOT
from p3_dann import train
from p3_dann.dataset import load_unlabelled
from p3_dann.presets import PRESETS, TARGETS

TINY = ("--preset", "sample", "--steps", "6", "--batch-size", "16", "--log-every", "2", "--device", "cpu")
Train = Callable[..., Path]


@pytest.fixture
def run_training(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Return a function that trains in this process, as the command line does, and returns the run's folder."""

    def run(
        mode: str,
        target: str,
        *options: object,
        name: str = "run",
        data: Path = data_root,
        tiny: tuple[str, ...] = TINY,
    ) -> Path:
        folder = tmp_path / name
        places = ("--data-root", data, "--output", tmp_path, "--run-dir", folder)
        arguments = ("train.py", "--mode", mode, "--target", target, *tiny, *places, *options)
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
        train.main()
        return folder

    return run


def copy_with_labels(data_root: Path, folder: Path, target: str, change: Callable[[int, str], str]) -> Path:
    """Return a copy of the data whose CSV files of ``target`` have every line after the header changed."""
    copy = folder / "changed_data"
    shutil.copytree(data_root / "digits", copy / "digits")
    for path in (copy / "digits" / target).glob("*.csv"):
        header, *lines = path.read_text().splitlines()
        path.write_text("\n".join([header, *(change(number, line) for number, line in enumerate(lines))]) + "\n")
    return copy


@pytest.mark.parametrize(
    ("mode", "target", "options"),
    [
        ("source", "svhn", ()),
        ("target", "usps", ()),
        ("dann", "svhn", ("--batchnorm", "joint")),
        ("dann", "usps", ("--batchnorm", "separate", "--entropy-weight", "0.1", "--consistency-weight", "0.5")),
    ],
)
def test_every_mode_trains_evaluates_and_records(
    run_training: Train, tmp_path: Path, mode: str, target: str, options: tuple[str, ...]
) -> None:
    folder = run_training(mode, target, *options)
    measured = json.loads((tmp_path / "results" / "p3.json").read_text())[f"sample/{target}/{mode}/seed0"]
    assert 0.0 <= measured["accuracy"] <= 1.0
    assert 0.0 <= measured["test_accuracy"] <= 1.0 and measured["test_images"] == 32
    assert measured["counts"] == {"labelled": 96, "unlabelled": 96 if mode == "dann" else 0, "val": 32}
    assert measured["steps"] == 6 and measured["epochs"] == 1.0
    rows = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 4, 5]
    assert all(("domain_loss" in row and "domain_accuracy" in row) == (mode == "dann") for row in rows)
    assert ("domain_accuracy" in measured) == (mode == "dann")
    assert Image.open(folder / "curves.png").format == "PNG"
    assert (folder / "weights.safetensors").is_file()


def test_training_learns(run_training: Train) -> None:
    tiny = ("--preset", "sample", "--steps", "60", "--batch-size", "32", "--log-every", "1", "--device", "cpu")
    rows = (run_training("target", "usps", tiny=tiny) / "stats.jsonl").read_text().splitlines()
    losses = [json.loads(row)["class_loss"] for row in rows]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("target", TARGETS)
def test_dann_never_sees_a_label_of_the_target(
    run_training: Train, tmp_path: Path, data_root: Path, target: str
) -> None:
    expected = load_file(run_training("dann", target, name="with_labels") / "weights.safetensors")

    scrambled = copy_with_labels(data_root, tmp_path / "a", target, lambda n, line: f"{line.split(',')[0]},{n % 10}")
    found = load_file(run_training("dann", target, name="scrambled", data=scrambled) / "weights.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    stripped = copy_with_labels(data_root, tmp_path / "b", target, lambda _, line: line.split(",")[0])
    with pytest.raises(UserError, match=r"val\.csv: line 2: the label must be a digit 0-9.*only evaluates"):
        run_training("dann", target, name="stripped", data=stripped)
    found = load_file(tmp_path / "stripped" / "weights.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_target_only_does_see_them(run_training: Train, tmp_path: Path, data_root: Path) -> None:
    """The control of the test above: where labels are used, changing them changes the weights."""
    expected = load_file(run_training("target", "usps", name="with_labels") / "weights.safetensors")
    scrambled = copy_with_labels(data_root, tmp_path / "a", "usps", lambda n, line: f"{line.split(',')[0]},{n % 10}")
    found = load_file(run_training("target", "usps", name="scrambled", data=scrambled) / "weights.safetensors")
    assert any(not torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_validation_pictures_are_never_trained_on(data_root: Path, tmp_path: Path) -> None:
    for target in TARGETS:
        copy = tmp_path / target
        shutil.copytree(data_root / "digits" / target, copy / "digits" / target)
        (copy / "digits" / target / "val.csv").unlink()
        assert len(load_unlabelled(copy, target)) == 96


def test_interrupted_and_resumed_equals_uninterrupted(run_training: Train, tmp_path: Path, data_root: Path) -> None:
    tiny = ("--preset", "sample", "--steps", "30", "--batch-size", "16", "--log-every", "1", "--device", "cpu")
    whole = run_training("dann", "usps", name="whole", tiny=tiny)
    cut = tmp_path / "cut"
    command = [sys.executable, str(ROOT / "p3_dann/train.py"), "--mode", "dann", "--target", "usps", *tiny]
    command += ["--data-root", str(data_root), "--output", str(tmp_path), "--run-dir", str(cut)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (cut / "stats.jsonl").is_file():
            time.sleep(0.01)
        while process.poll() is None and (cut / "stats.jsonl").read_text().count("\n") < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert not (cut / "weights.safetensors").exists()
    run_training("dann", "usps", name="cut", tiny=tiny)
    for name in ("weights.safetensors", "stats.jsonl", "curves.png", "config.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_finished_training_is_only_reported(run_training: Train, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run_training("source", "svhn") / "weights.safetensors"
    first, written = capsys.readouterr().out, weights.stat().st_mtime_ns
    run_training("source", "svhn")
    assert capsys.readouterr().out == first
    assert weights.stat().st_mtime_ns == written


def test_other_options_need_another_folder(run_training: Train) -> None:
    run_training("source", "svhn")
    with pytest.raises(UserError, match=r"trained with learning_rate 0.001, asked for 0.1; .*--fresh"):
        run_training("source", "svhn", "--learning-rate", "0.1")
    run_training("source", "svhn", "--learning-rate", "0.1", "--fresh")


def test_learning_rate_and_ramp_schedules() -> None:
    config = PRESETS["cpu"]
    assert 0.0 < train.learning_rate_at(0.0, config) < 0.1
    assert train.learning_rate_at(config.warmup, config) == pytest.approx(1.0, abs=0.01)
    assert train.learning_rate_at(1.0, config) == pytest.approx(0.0)
    assert train.learning_rate_at(0.9, PRESETS["original"]) == 1.0
    assert [train.ramp_up(progress, 0.5) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert train.ramp_up(0.0, 0.0) == 1.0


def test_two_processes_train_together(tmp_path: Path, data_root: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "p3_dann/train.py"), "--mode", "dann", "--target", "svhn", *TINY, "--batchnorm", "separate"]
    command += ["--data-root", str(data_root), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sample/svhn/dann/seed0") == 1
