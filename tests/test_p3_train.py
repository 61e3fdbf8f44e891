"""Real, tiny training runs of P3: every method, the wall before target labels, any target, resuming, repeatability."""

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

from common import ROOT
from p3_dann import train
from p3_dann.augment import augment
from p3_dann.config import METHODS, Method
from p3_dann.dataset import TARGETS, load_training_data
from tests.conftest import Capture, Patch
from tests.in_process import call, error_of, execute

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

SIX = ("--preset", "sample", "--steps", 6, "--batch-size", 16, "--device", "cpu", "--log-every", 2)
TINY = (*SIX, "--finetune-fraction", 0)
Train = Callable[..., Path]


@pytest.fixture
def run_training(tmp_path: Path, data_root: Path) -> Train:
    """Return a function that trains in this process, as the command line does, and returns the run's folder."""

    def run(
        method: str, target: str, *options: object, name: str = "run", data: Path = data_root, tiny: Any = TINY
    ) -> Path:
        where = ("--data-root", data, "--run-dir", tmp_path / name)
        execute(train, "--method", method, "--target", target, *tiny, *where, *options)
        return tmp_path / name

    return run


def record_of(folder: Path, name: str = "evaluate") -> dict[str, Any]:
    return json.loads((folder / f"records/{name}.json").read_text())


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def same_weights(first: Path, second: Path) -> bool:
    a, b = (load_file(folder / "weights.safetensors") for folder in (first, second))
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def with_labels(data_root: Path, folder: Path, target: str, change: Callable[[int, str, str], str]) -> Path:
    """Return a copy of the data in which ``change(number, name, label)`` writes the lines of the target's CSV files."""
    copy = folder / "changed_data"
    shutil.copytree(data_root / "digits", copy / "digits")
    for path in (copy / "digits" / target).glob("*.csv"):
        header, *lines = path.read_text().splitlines()
        changed = [change(number, *line.split(",")) for number, line in enumerate(lines)]
        path.write_text("\n".join([header, *changed]) + "\n")
    return copy


def scrambled(number: int, name: str, label: str) -> str:
    return f"{name},{number % 10}"


def stripped(number: int, name: str, label: str) -> str:
    return name


# every method


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_evaluates_and_records(run_training: Train, data_root: Path, method: str) -> None:
    target = "usps" if method in ("dann", "target") else "svhn"
    folder = run_training(method, target, tiny=SIX)
    measured, trained = record_of(folder), record_of(folder, "train")
    assert all(0.0 <= measured[name] <= 1.0 for name in ("accuracy", "test_accuracy", "mutual_information"))
    labels = [int(line.split(",")[1]) for line in (data_root / f"digits/{target}/val.csv").read_text().split()[1:]]
    each = measured["per_class_accuracy"]
    assert sum(each[label] for label in labels) / len(labels) == pytest.approx(measured["accuracy"], abs=1e-3)
    assert (measured["kind"], measured["method"], measured["target"]) == ("evaluate", method, target)
    assert measured["weights"] == trained["weights"] and measured["train_digest"] == trained["train_digest"]
    adapts = method not in ("source", "target")
    log, teaches = log_of(folder), method in ("self_ensembling", "dann_self_ensembling", "ours")
    assert [entry["step"] for entry in log] == ([1, 3, 5, 6] if method == "ours" else [1, 3, 5])
    assert all(("domain_accuracy" in entry) == adapts for entry in log[:3])
    assert all(("consistency_loss" in entry) == teaches for entry in log)
    assert ("domain_accuracy" in trained) == adapts
    assert Image.open(folder / "curves.png").format == "PNG"


def test_a_method_is_added_by_an_entry_of_the_table(run_training: Train, monkeypatch: Patch) -> None:
    fields = {"grl_lambda_max": 0.1, "rotation_probability": 1.0}
    monkeypatch.setitem(METHODS, "weak", Method("a tenth of DANN, with rotations", fields))
    log = log_of(run_training("weak", "svhn"))
    assert 0.0 < log[-1]["grl_lambda"] < 0.1 and "consistency_loss" not in log[-1]


def test_every_option_of_the_adaptation_changes_the_weights(run_training: Train) -> None:
    base = ("--grl-lambda-max", 0.5, "--consistency-warmup", 0, "--confidence", 1.2, "--ema-decay", 0, "--steps", 3)
    plain = run_training("ours", "svhn", *base, name="plain")
    options = [("--grl-lambda-max", 1), ("--finetune-fraction", 0.34), ("--consistency-weight", 0.5)]
    options += [("--rotation-probability", 0), ("--distribution-alignment", "none")]
    for option in options:
        other = run_training("ours", "svhn", *base, "--confidence", 0, *option, name=option[0])
        assert not same_weights(plain, other), option


def test_fine_tuning_sees_the_target_alone_with_a_schedule_of_its_own(run_training: Train, monkeypatch: Patch) -> None:
    seen = []
    monkeypatch.setattr(
        train, "augment", lambda x, config, domain: (seen.append(domain), augment(x, config, domain))[1]
    )
    options = ("--steps", 2, "--finetune-fraction", 1.5, "--warmup", 0, "--log-every", 1)
    log = log_of(run_training("ours", "svhn", *options))
    assert seen == ["source", "target"] * 2 + ["target"] * 3
    assert ["class_loss" in entry for entry in log] == [True] * 2 + [False] * 3
    assert [round(entry["relative_learning_rate"], 2) for entry in log] == [1.0, 0.5, 1.0, 0.75, 0.25]
    assert all(entry["consistency_loss"] >= 0.0 for entry in log)


# the wall before the target's labels, and data of every kind


@pytest.mark.parametrize(("method", "target"), [("ours", "svhn"), ("dann_self_ensembling", "usps")])
def test_adaptation_never_sees_a_label_of_the_target(
    run_training: Train, tmp_path: Path, data_root: Path, method: str, target: str, capsys: Capture
) -> None:
    with_true_labels = run_training(method, target, name="true", tiny=SIX)
    data = with_labels(data_root, tmp_path / "a", target, scrambled)
    assert same_weights(run_training(method, target, name="scrambled", data=data, tiny=SIX), with_true_labels)

    capsys.readouterr()
    data = with_labels(data_root, tmp_path / "b", target, stripped)
    folder = run_training(method, target, name="stripped", data=data, tiny=SIX)
    assert same_weights(folder, with_true_labels)
    measured, said = record_of(folder), capsys.readouterr().err
    assert "accuracy" not in measured and "test_accuracy" not in measured
    assert all(str(data / f"digits/{target}/{split}.csv") in said for split in ("val", "test"))


def test_method_target_does_see_them(run_training: Train, tmp_path: Path, data_root: Path) -> None:
    """The control of the test above: where labels are used, changing them changes the weights, and the run."""
    expected = run_training("target", "usps", name="true")
    data = with_labels(data_root, tmp_path / "a", "usps", scrambled)
    assert not same_weights(run_training("target", "usps", name="scrambled", data=data), expected)
    where = ("--data-root", data, "--run-dir", expected)
    assert call(train, "--method", "target", "--target", "usps", *TINY, *where) == 2  # its folder is of other data


def test_method_target_needs_no_other_domain_and_takes_the_labels_there_are(
    run_training: Train, tmp_path: Path, data_root: Path, capsys: Capture
) -> None:
    half = with_labels(data_root, tmp_path / "a", "svhn", lambda n, name, label: f"{name},{label}" if n % 2 else name)
    shutil.rmtree(half / "digits/mnistm")
    measured, said = record_of(run_training("target", "svhn", data=half)), capsys.readouterr()
    assert 0.0 <= measured["accuracy"] <= 1.0 and "on 16 images" in said.out and "48 of 96" in said.err


def test_method_target_without_labels_is_refused_before_the_first_step(
    tmp_path: Path, data_root: Path, capsys: Capture
) -> None:
    data = with_labels(data_root, tmp_path / "a", "svhn", stripped)
    options = ("--method", "target", *TINY, "--data-root", data, "--run-dir", tmp_path / "run")
    assert "svhn/train.csv" in error_of(capsys, train, *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("target", ["mnistm", "nowhere", "../digits/svhn"])
def test_what_is_no_target_is_refused(tmp_path: Path, data_root: Path, target: str, capsys: Capture) -> None:
    options = ("--target", target, *TINY, "--data-root", data_root, "--run-dir", tmp_path / "run")
    assert target in error_of(capsys, train, *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["no root", "label", "image"])
def test_training_on_bad_data_names_the_file(data_root: Path, tmp_path: Path, damage: str, capsys: Capture) -> None:
    data = tmp_path / "data"
    shutil.copytree(data_root / "digits", data / "digits", ignore=shutil.ignore_patterns(".cache"))
    listed = data / "digits/mnistm/train.csv"
    header, first, *rest = listed.read_text().splitlines()
    image = listed.parent / "data" / first.split(",")[0]
    if damage == "no root":
        shutil.rmtree(data)
    elif damage == "label":
        listed.write_text("\n".join([header, f"{image.name},10", *rest]))
    else:
        image.write_bytes(image.read_bytes()[:60])
    said = error_of(capsys, train, "--method", "source", *TINY, "--data-root", data, "--run-dir", tmp_path / "out")
    assert said.startswith(f"error: { {'no root': data, 'label': listed, 'image': image}[damage] }: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["label", "image"])
def test_bad_validation_data_does_not_cost_the_weights_and_can_be_corrected(
    data_root: Path, tmp_path: Path, damage: str, capsys: Capture
) -> None:
    data = tmp_path / "data"
    shutil.copytree(data_root / "digits", data / "digits")
    listed = data / "digits/svhn/val.csv"
    good = listed.read_text()
    header, first, *rest = good.splitlines()
    name = f"{first.split(',')[0]},ten" if damage == "label" else "gone.png,1"
    listed.write_text("\n".join([header, name, *rest]))
    options = ("--method", "source", *TINY, "--data-root", data, "--run-dir", tmp_path / "run")
    assert call(train, *options) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and ("svhn/val.csv" if damage == "label" else "gone.png") in said[0]
    weights = (tmp_path / "run/weights.safetensors").read_bytes()

    listed.write_text(good)
    execute(train, *options)
    assert (tmp_path / "run/weights.safetensors").read_bytes() == weights
    accuracy = record_of(tmp_path / "run")["accuracy"]
    # Labels that are corrected later give new numbers, without training again.
    predicted = {line.split(",")[0]: (int(line.split(",")[1]) + 1) % 10 for line in good.splitlines()[1:]}
    listed.write_text("image_name,label\n" + "".join(f"{name},{label}\n" for name, label in predicted.items()))
    execute(train, *options)
    assert record_of(tmp_path / "run")["accuracy"] != accuracy
    assert (tmp_path / "run/weights.safetensors").read_bytes() == weights


def test_validation_images_are_never_trained_on(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "digits/mnistm", tmp_path / "digits/mnistm")
    for target in TARGETS:
        shutil.copytree(data_root / "digits" / target, tmp_path / "digits" / target)
        (tmp_path / "digits" / target / "val.csv").unlink()
        assert len(load_training_data(tmp_path, "dann", target)[2]) == 96


# runs


def test_interrupted_in_either_stage_and_resumed_equals_uninterrupted(
    run_training: Train, tmp_path: Path, data_root: Path
) -> None:
    tiny = ("--preset", "sample", "--steps", 8, "--finetune-fraction", 1, "--batch-size", 16, "--log-every", 1)
    tiny += ("--device", "cpu")
    whole, cut = run_training("ours", "usps", name="whole", tiny=tiny), tmp_path / "cut"
    command = [sys.executable, str(ROOT / "p3_dann/train.py"), "--target", "usps", *map(str, tiny)]
    command += ["--data-root", str(data_root), "--run-dir", str(cut)]
    for lines in (3, 11):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not (cut / "stats.jsonl").is_file():
                time.sleep(0.01)
            while process.poll() is None and (cut / "stats.jsonl").read_text().count("\n") < lines:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
        assert process.returncode == 130
        assert not (cut / "weights.safetensors").exists()
    run_training("ours", "usps", name="cut", tiny=tiny)
    for name in ("weights.safetensors", "stats.jsonl", "config.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_the_folder_of_a_run_says_what_it_is(data_root: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("common.training.ROOT", tmp_path)
    where = (*TINY[2:], "--data-root", data_root, "--steps", 2)
    execute(train, "--method", "dann", "--preset", "course", "--inputs", "plain", *where)
    execute(train, "--method", "source", "--target", "usps", "--preset", "sample", "--seed", 1, *where)
    found = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.glob("runs/*/*/weights.safetensors")}
    assert found == {"runs/course/p3_svhn_dann_plain_seed0", "runs/sample/p3_usps_source_seed1"}
