"""P3's commands as a user runs them: predictions, plots, the training script, and every kind of bad input."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.paths import ROOT
from common.weights import load_weights, save_weights
from p3_dann import inference, train
from p3_dann.evaluate import KIND, load_model, predict
from p3_dann.presets import PARTS

Command = Callable[..., subprocess.CompletedProcess[str]]
TINY = ("--preset", "sample", "--steps", "4", "--batch-size", "16", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny DANN trainings; returns the folder given as --output."""
    output, arguments = tmp_path_factory.mktemp("p3"), sys.argv
    try:
        for target, batchnorm in (("svhn", "joint"), ("usps", "separate")):
            places = ("--data-root", str(data_root), "--output", str(output))
            sys.argv = ["train.py", "--mode", "dann", "--target", target, "--batchnorm", batchnorm, *TINY, *places]
            train.main()
    finally:
        sys.argv = arguments
    return output


def weights_of(trained: Path, target: str) -> Path:
    return trained / "runs" / "sample" / f"p3_{target}_dann_seed0" / "weights.safetensors"


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *fragments: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for fragment in fragments:
        assert fragment in done.stderr


def test_inference_writes_every_picture_sorted(
    run_command: Command, trained: Path, data_root: Path, tmp_path: Path
) -> None:
    folder, weights = data_root / "digits" / "usps" / "data", weights_of(trained, "usps")
    done = run_command("p3_dann/inference.py", folder, "new/pred.csv", "--checkpoint", weights, "--batch-size", "50")
    assert done.returncode == 0, done.stderr
    rows = list(csv.reader((tmp_path / "new" / "pred.csv").open()))
    assert rows[0] == ["image_name", "label"]
    names = [name for name, _ in rows[1:]]
    assert names == sorted(path.name for path in folder.iterdir())
    model, config, _ = load_model(weights, torch.device("cpu"))
    picture = torch.from_numpy(np.array(Image.open(folder / names[7]))).view(1, 1, 28, 28)
    assert int(rows[8][1]) == predict(model, picture.expand(-1, 3, -1, -1), config).item()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"pred.csv"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [("x/digits/svhn/data", "svhn"), ("x/USPS_test", "usps"), ("x/svhn/usps/data", "usps"), ("svhn/usps_svhn", "svhn")],
)
def test_target_named_by_the_path(path: str, expected: str) -> None:
    assert inference.target_named_by(Path(path)) == expected


def test_predictions_are_compared_by_name(run_command: Command, tmp_path: Path) -> None:
    (tmp_path / "pred.csv").write_text("image_name,label\nc.png,3\na.png,1\nb.png,2\nunlisted.png,9\n")
    (tmp_path / "val.csv").write_text("image_name,label\na.png,1\nb.png,7\nc.png,3\n")
    done = run_command("p3_dann/evaluate.py", "pred.csv", "val.csv")
    assert done.returncode == 0, done.stderr
    assert "accuracy 66.67 % on 3 pictures" in done.stdout
    assert "1: 100.0 %, 3: 100.0 %, 7: 0.0 %" in done.stdout
    (tmp_path / "val.csv").write_text("image_name,label\nmissing.png,1\n")
    assert_one_clear_line(run_command("p3_dann/evaluate.py", "pred.csv", "val.csv"), "no line for missing.png")


def test_tsne_draws_four_plots_and_measures_mixing(run_command: Command, trained: Path, data_root: Path) -> None:
    arguments = ("--preset", "sample", "--output", trained, "--data-root", data_root, "--points", "30")
    done = run_command("p3_dann/tsne.py", *arguments)
    assert done.returncode == 0, done.stderr
    measured = json.loads((trained / "results" / "p3.json").read_text())
    for target in ("svhn", "usps"):
        for colouring in ("class", "domain"):
            picture = Image.open(trained / "images" / "P3" / f"DANN_{colouring}_TSNE_{target.upper()}.png")
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
        assert measured[f"tsne/{target}/dann"]["points_per_domain"] == 30
        assert 0.0 <= measured[f"tsne/{target}/dann"]["knn_domain_accuracy"] <= 1.0


def test_tsne_before_adaptation_needs_a_preset(run_command: Command, data_root: Path) -> None:
    done = run_command("p3_dann/tsne.py", "--modes", "dann", "source", "--data-root", data_root)
    assert done.returncode == 2 and "weights/ has dann only" in done.stderr


def train_script(*options: str) -> subprocess.CompletedProcess[str]:
    """scripts/train_p3.sh with every command printed in place of run."""
    return subprocess.run(
        ["bash", str(ROOT / "scripts/train_p3.sh"), *options],
        env={**os.environ, "PYTHON": "echo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("preset", "switches"), [("cpu", ()), ("cpu", ("--parts",)), ("sample", ())])
def test_training_script_runs_the_whole_table(preset: str, switches: tuple[str, ...]) -> None:
    done = train_script("--preset", preset, "--seeds", "0 7", *switches, "--steps", "5")
    assert done.returncode == 0, done.stderr
    commands = [line.split() for line in done.stdout.splitlines() if "--mode" in line]
    chosen = {
        tuple(line[line.index(key) + 1] for key in ("--preset", "--target", "--mode", "--seed")) for line in commands
    }
    modes = [(preset, mode) for mode in ("source", "dann", "target")] + [
        ("original", mode) for mode in ("source", "dann")
    ] * (preset != "sample")
    modes += [(part, "dann") for part in PARTS if switches]
    assert chosen == {
        (name, target, mode, seed) for name, mode in modes for target in ("svhn", "usps") for seed in ("0", "7")
    }
    assert len(commands) == len(chosen)
    assert all(line[-2:] == ["--steps", "5"] for line in commands)


def test_parts_belong_to_one_preset() -> None:
    done = train_script("--preset", "full", "--parts")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --parts:")
    assert "--mode" not in done.stdout


@pytest.fixture
def broken_data(data_root: Path, tmp_path: Path) -> Path:
    """A copy of the digits, to be damaged."""
    shutil.copytree(data_root / "digits", tmp_path / "data" / "digits", ignore=shutil.ignore_patterns(".cache"))
    return tmp_path / "data"


def remove_root(data: Path) -> tuple[str, ...]:
    shutil.rmtree(data)
    return (str(data), "data/prepare.py")


def change_header(data: Path) -> tuple[str, ...]:
    path = data / "digits/mnistm/train.csv"
    path.write_text(path.read_text().replace("image_name,label", "file,digit"))
    return (str(path), "image_name,label", "file,digit")


def change_label(data: Path) -> tuple[str, ...]:
    path = data / "digits/mnistm/train.csv"
    header, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, first.split(",")[0] + ",10", *rest]))
    return (str(path), "line 2", "0-9")


def truncate_picture(data: Path) -> tuple[str, ...]:
    path = data / "digits/mnistm/data" / first_name(data)
    path.write_bytes(path.read_bytes()[:60])
    return (str(path),)


def empty_folder(data: Path) -> tuple[str, ...]:
    shutil.rmtree(data / "digits/mnistm/data")
    (data / "digits/mnistm/data").mkdir()
    return (str(data / "digits/mnistm/data"),)


def make_one_grey(data: Path) -> tuple[str, ...]:
    path = data / "digits/mnistm/data" / first_name(data)
    Image.open(path).convert("L").save(path)
    return (str(path), "RGB")


def first_name(data: Path) -> str:
    return (data / "digits/mnistm/train.csv").read_text().splitlines()[1].split(",")[0]


@pytest.mark.parametrize(
    "damage", [remove_root, change_header, change_label, truncate_picture, empty_folder, make_one_grey]
)
def test_training_on_bad_data_ends_in_one_clear_line(
    run_command: Command, broken_data: Path, tmp_path: Path, damage: Callable[[Path], tuple[str, ...]]
) -> None:
    fragments = damage(broken_data)
    places = ("--data-root", broken_data, "--output", tmp_path / "out")
    done = run_command("p3_dann/train.py", "--mode", "source", "--target", "svhn", *TINY, *places)
    assert_one_clear_line(done, *fragments)
    assert not (tmp_path / "out").exists()


def test_inference_with_weights_of_another_model(run_command: Command, data_root: Path, tmp_path: Path) -> None:
    weights, folder = tmp_path / "other.safetensors", data_root / "digits/usps/data"
    save_weights(weights, {"weight": torch.zeros(1)}, "p1_gan/A", {})
    done = run_command("p3_dann/inference.py", folder, "pred.csv", "--checkpoint", weights)
    assert_one_clear_line(done, str(weights), "p1_gan/A", "p3_dann")
    assert not (tmp_path / "pred.csv").exists()


def test_inference_on_a_mixed_folder(run_command: Command, trained: Path, data_root: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, domain in (("a.png", "svhn"), ("b.png", "usps")):
        shutil.copy(next((data_root / "digits" / domain / "data").iterdir()), pictures / name)
    weights = weights_of(trained, "svhn")
    done = run_command("p3_dann/inference.py", pictures, "pred.csv", "--checkpoint", weights)
    assert_one_clear_line(done, str(pictures / "b.png"), "RGB")
    assert not (tmp_path / "pred.csv").exists()


def test_inference_needs_to_know_the_target(run_command: Command, data_root: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(data_root / "digits/usps/data", pictures)
    done = run_command("p3_dann/inference.py", pictures, "pred.csv")
    assert_one_clear_line(done, str(pictures), "--target")


def test_weights_of_an_older_recipe_still_load(trained: Path, tmp_path: Path) -> None:
    state, config = load_weights(weights_of(trained, "svhn"), KIND)
    del config["noise"]
    save_weights(tmp_path / "older.safetensors", state, KIND, config)
    assert load_model(tmp_path / "older.safetensors", torch.device("cpu"))[1].grey
