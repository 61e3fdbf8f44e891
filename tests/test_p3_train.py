"""Real, tiny trainings of P3: every mode and option, label blindness, resuming, and repeatability."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from common.errors import UserError
from common.paths import ROOT
from p3_dann import ladder, train
from p3_dann.augment import augment
from p3_dann.dataset import REPORTED_TARGETS, load_unlabelled
from p3_dann.presets import PRESETS, presets_for
from tests.conftest import Capture, Patch
from tests.in_process import execute

TINY = ("--preset", "sample", "--steps", "6", "--refinement", "0", "--batch-size", "16")
TINY += ("--log-every", "2", "--device", "cpu")
Train = Callable[..., Path]


@pytest.fixture
def run_training(tmp_path: Path, data_root: Path) -> Train:
    """Return a function that trains in this process, as the command line does, and returns the run's folder."""

    def run(
        mode: str, target: str, *options: object, name: str = "run", data: Path = data_root, tiny: Any = TINY
    ) -> Path:
        places = ("--data-root", data, "--output", tmp_path, "--run-dir", tmp_path / name)
        execute(train, "--mode", mode, "--target", target, *tiny, *places, *options)
        return tmp_path / name

    return run


def test_compiled_training_has_the_loss_of_the_uncompiled_one(run_training: Train, monkeypatch: Patch) -> None:
    class Undropped(train.DANN_model):
        """Without dropout, whose compiled form draws other numbers."""

        def __init__(self) -> None:
            super().__init__()
            for module in self.modules():
                if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
                    module.p = 0.0

    monkeypatch.setattr(train, "DANN_model", Undropped)
    steps = ("--steps", 2, "--log-every", 1, "--precision", "fp32")
    plain, compiled = (
        [json.loads(line) for line in (run_training("dann", "svhn", *steps, *more, name=name) / "stats.jsonl").open()]
        for name, more in (("plain", ()), ("compiled", ("--compile",)))
    )
    assert len(plain) == len(compiled) == 2
    for row, other in zip(plain, compiled, strict=True):
        assert row["class_loss"] == pytest.approx(other["class_loss"], rel=1e-3)
        assert row["domain_loss"] == pytest.approx(other["domain_loss"], rel=1e-3)


def copy_with_labels(data_root: Path, folder: Path, target: str, change: Callable[[int, str], str]) -> Path:
    """Return a copy of the data whose CSV files of ``target`` have every line after the header changed."""
    copy = folder / "changed_data"
    shutil.copytree(data_root / "digits", copy / "digits")
    for path in (copy / "digits" / target).glob("*.csv"):
        header, *lines = path.read_text().splitlines()
        path.write_text("\n".join([header, *(change(number, line) for number, line in enumerate(lines))]) + "\n")
    return copy


def record_of(folder: Path, key: str) -> dict[str, Any]:
    return json.loads((folder / "results" / "p3.json").read_text())[key]


TURN = ("--half-turn", "0")
DIRT_T = ("--refinement", "0.34", "--consistency-weight", "0.5")
CDAN = ("--grl-lambda-max", "1", "--adversary", "conditional", "--shared-augmentation")


@pytest.mark.parametrize(
    ("mode", "target", "options"),
    [
        ("source", "svhn", ()),
        ("target", "usps", ()),
        ("dann", "svhn", ("--class-thresholds", *DIRT_T)),
        ("dann", "usps", CDAN),
    ],
)
def test_every_mode_trains_evaluates_and_records(
    run_training: Train, tmp_path: Path, data_root: Path, mode: str, target: str, options: tuple[str, ...]
) -> None:
    folder = run_training(mode, target, *options)
    measured = record_of(tmp_path, f"train/{target}/{mode}/sample/seed0")
    assert all(0.0 <= measured[name] <= 1.0 for name in ("accuracy", "test_accuracy", "source_accuracy"))
    listing = (data_root / "digits" / target / "val.csv").read_text()
    labels = [int(line.split(",")[1]) for line in listing.split()[1:]]
    each = measured["digit_accuracy"]
    assert sum(each[str(label)] for label in labels) / len(labels) == pytest.approx(measured["accuracy"], abs=1e-3)
    assert sum(measured["predicted_shares"]) == pytest.approx(1.0, abs=1e-3)
    unlabelled = 96 if mode == "dann" else 0
    assert measured["counts"] == {"labelled": 96, "unlabelled": unlabelled, "val": 32, "test": 32}
    assert measured["steps"] == 6 and measured["epochs"] == 1.0
    rows = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == ([1, 3, 5, 7] if DIRT_T[0] in options else [1, 3, 5])
    assert all(("domain_loss" in row and "domain_accuracy" in row) == (mode == "dann") for row in rows[:3])
    assert ("domain_accuracy" in measured) == (mode == "dann")
    assert Image.open(folder / "curves.png").format == "PNG"
    assert (folder / "weights.safetensors").is_file()


def test_every_option_of_the_adaptation_changes_the_weights(run_training: Train) -> None:
    base = ("--grl-lambda-max", 0.5, "--consistency-warmup", 0, "--confidence", 1.2, "--ema-decay", 0, "--steps", 3)
    plain = load_file(run_training("dann", "svhn", *base, name="plain") / "weights.safetensors")
    for option in (CDAN[2:4], CDAN[4:], ("--grl-lambda-max", "1"), ("--class-thresholds",), DIRT_T[:2], TURN):
        changed = load_file(run_training("dann", "svhn", *base, *option, name=option[0]) / "weights.safetensors")
        assert any(not torch.equal(changed[name], tensor) for name, tensor in plain.items()), option


def test_refinement_sees_the_target_alone_with_a_schedule_of_its_own(run_training: Train, monkeypatch: Patch) -> None:
    seen = []
    monkeypatch.setattr(train, "augment", lambda *inputs: (seen.append(inputs[0]), augment(*inputs))[1])
    options = ("--steps", "2", "--refinement", "1.5", "--warmup", "0", "--log-every", "1")
    rows = [json.loads(line) for line in (run_training("dann", "svhn", *options) / "stats.jsonl").open()]
    assert len(seen) == 2 * 2 + 3
    assert ["class_loss" in row for row in rows] == [True] * 2 + [False] * 3
    assert [round(row["relative_learning_rate"], 2) for row in rows] == [1.0, 0.5, 1.0, 0.75, 0.25]
    assert all(row["consistency_loss"] >= 0.0 for row in rows)


def test_training_learns(run_training: Train) -> None:
    tiny = ("--preset", "sample", "--steps", "60", "--batch-size", "32", "--log-every", "1", "--device", "cpu")
    rows = (run_training("target", "usps", tiny=tiny) / "stats.jsonl").read_text().splitlines()
    losses = [json.loads(row)["class_loss"] for row in rows]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("target", REPORTED_TARGETS)
def test_dann_never_sees_a_label_of_the_target(
    run_training: Train, tmp_path: Path, data_root: Path, target: str, capsys: Capture
) -> None:
    options = ("--class-thresholds", "--grl-lambda-max", "1")
    expected = load_file(run_training("dann", target, *options, name="with_labels") / "weights.safetensors")

    scrambled = copy_with_labels(data_root, tmp_path / "a", target, lambda n, line: f"{line.split(',')[0]},{n % 10}")
    found = load_file(run_training("dann", target, *options, name="scrambled", data=scrambled) / "weights.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    capsys.readouterr()
    stripped = copy_with_labels(data_root, tmp_path / "b", target, lambda _, line: line.split(",")[0])
    run_training("dann", target, *options, name="stripped", data=stripped)
    found = load_file(tmp_path / "stripped" / "weights.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    measured, said = record_of(tmp_path, f"train/{target}/dann/sample/seed0"), capsys.readouterr().err
    assert "accuracy" not in measured and "test_accuracy" not in measured and measured["source_accuracy"] >= 0.0
    assert all(str(stripped / "digits" / target / f"{split}.csv") in said for split in ("val", "test"))


def test_target_only_needs_no_other_domain(run_training: Train, tmp_path: Path, data_root: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(data_root / "digits" / "svhn", alone / "digits" / "svhn")
    run_training("target", "svhn", data=alone)
    measured = record_of(tmp_path, "train/svhn/target/sample/seed0")
    assert "source_accuracy" not in measured and 0.0 <= measured["accuracy"] <= 1.0


def test_target_only_without_labels_is_refused_before_the_first_step(
    run_training: Train, tmp_path: Path, data_root: Path
) -> None:
    stripped = copy_with_labels(
        data_root, tmp_path / "a", "svhn", lambda n, line: line.split(",")[0] + f",{n % 10}" * (n > 0)
    )
    with pytest.raises(UserError, match=r"svhn/train\.csv"):
        run_training("target", "svhn", data=stripped)
    assert not (tmp_path / "run").exists()


def test_accuracy_is_of_those_pictures_that_have_labels(run_training: Train, tmp_path: Path, data_root: Path) -> None:
    half = copy_with_labels(data_root, tmp_path / "a", "svhn", lambda n, line: line if n % 2 else line.split(",")[0])
    run_training("source", "svhn", data=half)
    assert record_of(tmp_path, "train/svhn/source/sample/seed0")["counts"]["val"] == 16


def test_a_training_on_replaced_data_is_another_one(run_training: Train, tmp_path: Path, data_root: Path) -> None:
    run_training("target", "usps")
    scrambled = copy_with_labels(data_root, tmp_path / "a", "usps", lambda n, line: f"{line.split(',')[0]},{n % 10}")
    with pytest.raises(UserError, match=r"data_digest .*--fresh"):
        run_training("target", "usps", data=scrambled)


@pytest.mark.parametrize("target", ["mnistm", "nowhere", "../digits/svhn"])
def test_what_is_no_target_is_refused(run_training: Train, tmp_path: Path, target: str) -> None:
    with pytest.raises(UserError, match=f"--target {target}"):
        run_training("dann", target)
    assert not (tmp_path / "run").exists()


def test_target_only_does_see_them(run_training: Train, tmp_path: Path, data_root: Path) -> None:
    """The control of the test above: where labels are used, changing them changes the weights."""
    expected = load_file(run_training("target", "usps", name="with_labels") / "weights.safetensors")
    scrambled = copy_with_labels(data_root, tmp_path / "a", "usps", lambda n, line: f"{line.split(',')[0]},{n % 10}")
    found = load_file(run_training("target", "usps", name="scrambled", data=scrambled) / "weights.safetensors")
    assert any(not torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_validation_pictures_are_never_trained_on(data_root: Path, tmp_path: Path) -> None:
    for target in REPORTED_TARGETS:
        copy = tmp_path / target
        shutil.copytree(data_root / "digits" / target, copy / "digits" / target)
        (copy / "digits" / target / "val.csv").unlink()
        assert len(load_unlabelled(copy, target)) == 96


def test_interrupted_and_resumed_equals_uninterrupted(run_training: Train, tmp_path: Path, data_root: Path) -> None:
    tiny = ("--preset", "sample", "--steps", "16", "--batch-size", "16", "--log-every", "1", "--device", "cpu")
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


def test_other_options_need_another_folder(run_training: Train) -> None:
    run_training("source", "svhn")
    with pytest.raises(UserError, match=r"trained with learning_rate 0.001, asked for 0.1; .*--fresh"):
        run_training("source", "svhn", "--learning-rate", "0.1")
    run_training("source", "svhn", "--learning-rate", "0.1", "--fresh")


def test_learning_rate_and_ramp_schedules() -> None:
    config = PRESETS["cpu"]
    assert 0.0 < train.learning_rate_at(0.0, 10_000, config) < 0.1
    assert train.learning_rate_at(config.warmup, 100, config) == pytest.approx(1.0, abs=0.01)
    assert train.learning_rate_at(1.0, 100, config) == pytest.approx(0.0)
    assert train.learning_rate_at(0.9, 100, PRESETS["original"]) == 1.0
    assert [train.ramp_up(progress, 0.5) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert train.ramp_up(0.0, 0.0) == 1.0


def test_a_rung_of_the_ladder_has_all_treatments_below_it() -> None:
    rungs = {rung: ladder.recipe(rung, "both", "usps", "cpu", 7) for rung in ladder.RUNGS}
    original, usps = PRESETS["original"], presets_for("usps")["cpu"]
    fields = [field for rung in ladder.RUNGS.values() for field in rung]
    assert all(getattr(rungs["plain"], field) == getattr(original, field) for field in fields)
    assert all(getattr(rungs["geometry"], field) == getattr(usps, field) for field in fields)
    assert rungs["normalised"].grey and not rungs["normalised"].blur and rungs["intensity"].blur
    assert rungs["intensity"].source_zoom == (1.0, 1.0)
    assert {config.steps for config in rungs.values()} == {7} and rungs["plain"].grl_lambda_max == 1.0


def test_the_ladder_trains_records_and_draws(tmp_path: Path, data_root: Path, capsys: Capture) -> None:
    command = ("--preset", "sample", "--steps", 2, "--device", "cpu", "--data-root", data_root, "--output", tmp_path)
    command += ("--targets", "usps", "--rungs", "plain", "geometry", "--methods", "source", "adversarial")
    execute(ladder, *command)
    results = json.loads((tmp_path / "results" / "p3.json").read_text())
    runs = [(rung, method) for rung in ("plain", "geometry") for method in ("source", "adversarial")]
    assert results.keys() == {f"ladder/usps/{rung}/{method}/sample/seed0" for rung, method in runs}
    assert results["ladder/usps/plain/adversarial/sample/seed0"]["grl_lambda_max"] == 1.0
    assert Image.open(tmp_path / "images" / ladder.FIGURE).format == "PNG"
    capsys.readouterr()
    execute(ladder, *command)
    assert capsys.readouterr().out.count("finished before") == 4
    # A way to adapt that is in the table alone leaves no empty figure behind.
    command = (*command[:9], tmp_path / "other", "--targets", "usps", "--rungs", "geometry", "--methods", "unaligned")
    execute(ladder, *command)
    assert not (tmp_path / "other/images").exists() and (tmp_path / "other/results/p3.json").is_file()
