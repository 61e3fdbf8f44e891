"""P2's commands as a user runs them: training, resuming, pictures, evaluation, sweep, report, and their errors."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.dataset import load_digits
from common.distributed import World
from common.errors import UserError
from common.files import sha256
from common.frechet import frechet_distance
from common.paths import ROOT, workspace
from common.pictures import save_image
from common.results import read_results
from common.weights import load_weights, save_weights
from p2_diffusion import classifier, evaluate, figures, inference, report, sweep, train
from p2_diffusion.classifier import judge_images, load_judge, random_affine
from p2_diffusion.inference import generate, load_model
from p2_diffusion.presets import PRESETS
from p2_diffusion.samplers import SamplerConfig

Command = Callable[..., subprocess.CompletedProcess[str]]
TIMESTEPS = 6
TINY = replace(
    PRESETS["sample"],
    initial_weights="",
    channel_mults=(1, 1),
    attention_levels=(),
    timesteps=TIMESTEPS,
    steps=4,
    batch_size=8,
    warmup_steps=1,
    log_every=2,
    sample_every=4,
    dropout=0.1,
)
SIZE = ("--channel-mults", 1, 1, "--attention-levels", "--timesteps", TIMESTEPS, "--batch-size", 8)
CPU = torch.device("cpu")


def call(main: Callable[[], None], *arguments: object) -> None:
    """Call an entry script's ``main`` with a command line, in this process."""
    before = sys.argv
    sys.argv = ["script.py", *map(str, arguments)]
    try:
        main()
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny judge, a tiny U-Net, their sweep and figures; returns the folder given as --output."""
    output = tmp_path_factory.mktemp("p2")
    places = ("--data-root", data_root, "--output", output, "--device", "cpu", "--preset", "sample")
    call(classifier.main, *places, "--epochs", 2, "--batch-size", 16, "--log-every", 1)
    call(train.main, *places, "--initial-weights", "", *SIZE, "--steps", 4, "--log-every", 2, "--sample-every", 4)
    weights, judge = weights_of(output), judge_of(output)
    few = ("--num-per-digit", 1, "--steps", 2, 3, "--guidance-scales", 1, 2)
    call(sweep.main, *places, "--checkpoint", weights, "--judge", judge, *few, "--ancestral")
    call(figures.main, "--model", "sample", "--output", output, "--device", "cpu", "--checkpoint", weights)
    return output


def weights_of(output: Path) -> Path:
    return output / "runs" / "sample" / "p2_seed0" / "weights.safetensors"


def judge_of(output: Path) -> Path:
    return output / "runs" / "sample" / "p2_judge_seed0" / "weights.safetensors"


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *fragments: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for fragment in fragments:
        assert fragment in done.stderr


# Training


def train_in(folder: Path, data_root: Path, max_seconds: float | None) -> train.Run:
    arguments = argparse.Namespace(data_root=data_root, seed=3, fresh=False, tensorboard=False, max_seconds=max_seconds)
    return train.train(
        TINY, asdict(TINY) | {"seed": 3, "preset": "tiny", "dataset": "test"}, None, folder, arguments, World(0, 1, CPU)
    )[0]


def test_training_stopped_after_every_step_ends_the_same(data_root: Path, tmp_path: Path) -> None:
    whole = train_in(tmp_path / "whole", data_root, None)
    starts = 0
    while starts < 10:
        parts = train_in(tmp_path / "parts", data_root, 1e-9)
        starts += 1
        if parts.step == TINY.steps:
            break
    assert starts == TINY.steps
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, parts.weights()[name]), name
    for name in ("stats.jsonl", f"samples_{TINY.steps:06d}.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert whole.rows[-1]["step"] == TINY.steps - 1
    assert any(key.startswith("loss_level_") for key in whole.rows[-1])


def test_training_goes_on_from_given_weights(trained: Path, data_root: Path, tmp_path: Path) -> None:
    start = weights_of(trained)
    places = ("--data-root", data_root, "--output", tmp_path, "--device", "cpu", "--preset", "sample")
    still = ("--steps", 1, "--learning-rate", 1e-12, "--log-every", 1)
    call(train.main, *places, *SIZE, *still, "--initial-weights", start)
    before, after = (load_weights(path, train.KIND)[0] for path in (start, weights_of(tmp_path)))
    assert all(torch.allclose(after[name], tensor, atol=1e-6) for name, tensor in before.items())
    record = read_results(tmp_path / "results", "p2")["train/sample/seed0"]
    assert record["initial_sha256"] == sha256(start)
    assert record["initial_dataset"] == "MNIST-M-like (sample)"
    assert "trained on MNIST-M-like (sample)" in report.render(workspace("sample", tmp_path))


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (("--initial-weights", "nowhere.safetensors"), "no such weights"),
        (("--initial-weights", "p2_classifier.safetensors"), "not p2_diffusion/unet"),
        (("--channels", "64"), "does not fit UNet"),
        (("--prediction", "epsilon"), "trained with prediction v, asked for epsilon"),
    ],
)
def test_weights_that_cannot_begin_a_training(
    options: tuple[str, ...], fragment: str, data_root: Path, tmp_path: Path, run_command: Command
) -> None:
    places = ("--data-root", data_root, "--output", tmp_path, "--preset", "sample")
    assert_one_clear_line(run_command("p2_diffusion/train.py", *places, *options), fragment)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_training_moves_the_weights_and_the_average_lags_behind(data_root: Path, tmp_path: Path) -> None:
    train_in(tmp_path / "run", data_root, None)
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]
    tail = "tail.2.weight"  # starts at zero
    assert state["model"][tail].abs().sum() > state["ema"]["model"][tail].abs().sum() > 0


def test_loss_levels_split_the_time_steps_evenly() -> None:
    meter = train.LossMeter(200, CPU)
    meter.add(torch.tensor([1.0, 3.0, 5.0, 7.0]), torch.tensor([0, 49, 50, 199]))
    assert meter.read() == {"loss_level_0": 2.0, "loss_level_1": 5.0, "loss_level_3": 7.0}
    assert meter.read() == {}


def test_learning_rate_warms_up_and_decays() -> None:
    config = replace(TINY, steps=110, warmup_steps=10)
    factors = [train.learning_rate_factor(step, config) for step in range(110)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == 1.0
    assert factors[-1] == pytest.approx(0.01, abs=0.011)


def test_training_is_recorded_with_its_recipe(trained: Path) -> None:
    run = read_results(trained / "results", "p2")["train/sample/seed0"]
    assert run["timesteps"] == TIMESTEPS and run["channel_mults"] == [1, 1]
    assert run["dataset"] == "MNIST-M-like (sample)" and run["train_images"] == 96
    assert run["parameters"] == sum(
        tensor.numel() for tensor in load_weights(weights_of(trained), train.KIND)[0].values()
    )


# The judge


def test_judge_learns_from_the_sample_set(trained: Path, data_root: Path) -> None:
    judge = load_judge(judge_of(trained), CPU)
    images, _ = load_digits(data_root, "mnistm", "val")
    digits, features = judge_images(judge, images)
    assert digits.shape == (32,) and features.shape == (32, classifier.NUM_FEATURES)
    in_parts = judge_images(judge, images, batch_size=5)
    assert torch.equal(digits, in_parts[0])
    torch.testing.assert_close(features, in_parts[1], atol=1e-5, rtol=1e-4)
    rows = (judge_of(trained).parent / "stats.jsonl").read_text().splitlines()
    assert len(rows) == 12  # 2 epochs of 96 pictures in batches of 16


def test_no_change_asked_for_is_no_change() -> None:
    images = torch.rand(4, 3, 28, 28)
    torch.testing.assert_close(random_affine(images, 0.0, 0.0, 0.0), images, atol=1e-5, rtol=0)
    moved = random_affine(images, 2.0, 10.0, 0.1)
    assert moved.shape == images.shape and not torch.allclose(moved, images, atol=1e-2)


def test_shifts_stay_within_their_limit() -> None:
    torch.manual_seed(0)
    images = torch.zeros(200, 1, 28, 28)
    images[:, :, 14, 14] = 1.0
    moved = random_affine(images, 2.0, 0.0, 0.0)
    grid = torch.arange(28.0)
    centres = (moved.sum((1, 2)) * grid).sum(1) / moved.sum((1, 2, 3))
    assert 1.8 < (centres - 14).abs().max() <= 2.0 + 1e-3
    assert centres.mean().item() == pytest.approx(14, abs=0.3)


@pytest.mark.parametrize("count", [5, 400])
def test_frechet_distance_closed_forms(count: int) -> None:
    """For equal covariances it is the squared distance of the means; for scaled data (s - 1)^2 tr C."""
    first = torch.randn(count, 12, generator=torch.Generator().manual_seed(0))
    shift = torch.linspace(-1, 1, 12)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-5)
    assert frechet_distance(first, first + shift) == pytest.approx(float(shift.square().sum()), abs=1e-4)
    centred = first - first.mean(0)
    expected = float(centred.double().T.cov().trace())
    assert frechet_distance(centred, 2 * centred) == pytest.approx(expected, rel=1e-4)


# Inference


def test_inference_by_contract_and_byte_for_byte(trained: Path, tmp_path: Path) -> None:
    arguments = ("--checkpoint", weights_of(trained), "--num-per-digit", 2, "--steps", 3, "--device", "cpu")
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        call(inference.main, tmp_path / folder, *arguments, "--seed", seed, "--sampler", "ddpm")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(f"{digit}_{number:03d}.png" for digit in range(10) for number in (1, 2))
    contents = {folder: [(tmp_path / folder / name).read_bytes() for name in names] for folder in "abc"}
    assert contents["a"] == contents["b"] != contents["c"]
    picture = Image.open(tmp_path / "a" / "7_002.png")
    assert (picture.size, picture.mode) == ((28, 28), "RGB")


def test_batches_of_another_size_draw_the_same_pictures(trained: Path) -> None:
    model, diffusion = load_model(weights_of(trained), CPU)
    config = SamplerConfig("ddim", 3, 2.0)
    together, parts = (generate(model, diffusion, [0, 3, 3, 9], config, 0, size) for size in (4, 1))
    assert together.shape == (4, 3, 28, 28) and together.dtype == torch.uint8
    assert (together.int() - parts.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--steps", "7"), ("--steps 7", f"between 1 and {TIMESTEPS}")),
        (("--steps", "0"), ("--steps 0",)),
        (("--digits", "3", "10"), ("--digits 10", "0-9")),
        (("--digits", "3", "3"), ("every digit once",)),
        (("--checkpoint", "nowhere.safetensors"), ("nowhere.safetensors", "no such weights")),
    ],
)
def test_inference_errors(trained: Path, tmp_path: Path, options: tuple[str, ...], fragments: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        call(inference.main, tmp_path / "out", "--checkpoint", weights_of(trained), *options)
    assert all(fragment in str(error.value) for fragment in fragments)
    assert not (tmp_path / "out").exists()


def test_inference_never_writes_into_a_folder_with_content(run_command: Command, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    arguments = ("--checkpoint", weights_of(trained), "--num-per-digit", 1)
    done = run_command("p2_diffusion/inference.py", "full", *arguments)
    assert_one_clear_line(done, "full", "not empty")
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["mine.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file: is a file"):
        call(inference.main, tmp_path / "file", *arguments)


def test_weights_of_another_model_or_width_are_refused(trained: Path, tmp_path: Path) -> None:
    state, config = load_weights(weights_of(trained), train.KIND)
    save_weights(tmp_path / "gan.safetensors", state, "p1_gan/A", config)
    save_weights(tmp_path / "longer.safetensors", state, train.KIND, config | {"timesteps": 200})
    with pytest.raises(UserError, match="holds p1_gan/A, not p2_diffusion/unet"):
        load_model(tmp_path / "gan.safetensors", CPU)
    with pytest.raises(UserError, match=r"longer.safetensors: does not fit UNet.*time_embedding"):
        load_model(tmp_path / "longer.safetensors", CPU)


# Evaluation, sweep, figures, report


def test_evaluation_of_real_pictures_finds_the_judges_accuracy(trained: Path, data_root: Path, tmp_path: Path) -> None:
    images, labels = load_digits(data_root, "mnistm", "val")
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        save_image(image, tmp_path / "real" / f"{label}_{number:03d}.png")
    places = ("--judge", judge_of(trained), "--data-root", data_root, "--output", tmp_path / "out")
    call(evaluate.main, tmp_path / "real", *places, "--name", "val")
    measured = read_results(tmp_path / "out" / "results", "p2")["evaluate/val"]
    judge = read_results(trained / "results", "p2")["judge/sample/seed0"]
    assert measured["accuracy"] == judge["accuracy"]
    assert measured["per_digit"] == judge["per_digit"]
    assert measured["frechet"] == pytest.approx(0.0, abs=1e-4)
    assert measured["frechet_floor"] > 1e-3

    shutil.copy(tmp_path / "real" / next(iter(os.listdir(tmp_path / "real"))), tmp_path / "real" / "seven.png")
    with pytest.raises(UserError, match=r"seven.png: the name must tell the digit, like 7_001.png"):
        call(evaluate.main, tmp_path / "real", *places)


def test_sweep_measures_every_setting_once_and_skips_what_is_known(
    trained: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_results(trained / "results", "p2")
    keys = {key.removeprefix("sweep/sample/") for key in before if key.startswith("sweep/")}
    pairs = {(sampler, steps) for sampler in ("ddim", "dpmpp") for steps in (2, 3)}
    ancestral = f"ddpm-{TIMESTEPS}-w2"
    assert keys == {f"{sampler}-{steps}-w2" for sampler, steps in pairs} | {
        ancestral,
        f"{SamplerConfig().sampler}-{TIMESTEPS}-w1",
        f"{SamplerConfig().sampler}-{TIMESTEPS}-w2",
    }
    assert (trained / "images" / "P2" / "sampler_sweep_sample.png").is_file()
    places = ("--data-root", data_root, "--output", trained, "--device", "cpu", "--preset", "sample")
    weights = ("--checkpoint", weights_of(trained), "--judge", judge_of(trained))
    few = ("--num-per-digit", 1, "--steps", 2, 3, "--guidance-scales", 1, 2, "--ancestral")
    call(sweep.main, *places, *weights, *few)
    assert read_results(trained / "results", "p2") == before
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("sweep/")]) == len(keys)


def test_drawing_alone_or_in_a_batch_is_the_same(trained: Path) -> None:
    measured = read_results(trained / "results", "p2")["batch/sample"]
    assert measured["largest_difference"] < 1e-4 < measured["another_noise"]


def test_a_finished_training_keeps_its_record(trained: Path, data_root: Path) -> None:
    path = trained / "results" / "p2.json"
    before = path.read_bytes()
    places = ("--data-root", data_root, "--output", trained, "--device", "cpu", "--preset", "sample")
    call(train.main, *places, "--initial-weights", "", *SIZE, "--steps", 4, "--log-every", 2, "--sample-every", 4)
    assert path.read_bytes() == before


def test_strip_shows_the_first_zero_of_the_grid(trained: Path) -> None:
    model, diffusion = load_model(weights_of(trained), CPU)
    images, frames = figures.draw_grid(model, diffusion, SamplerConfig("ddpm", TIMESTEPS, 2.0), seed=0)
    assert sorted(frames) == [0, 1, 2, 4, 5, 6]
    assert torch.equal(frames[TIMESTEPS], images[0])
    grid = np.asarray(Image.open(trained / "images" / "P2" / "diffusion_grid.png"))
    assert grid.shape == (10 * (56 + 2) + 2, 10 * (56 + 2) + 2, 3)
    assert np.array_equal(grid[2:58:2, 2:58:2], images[0].permute(1, 2, 0).numpy())
    assert (trained / "images" / "P2" / "diffusion_grid_time.png").is_file()


def test_strip_of_a_fast_sampler_counts_time_steps(trained: Path) -> None:
    model, diffusion = load_model(weights_of(trained), CPU)
    images, frames = figures.draw_grid(model, diffusion, SamplerConfig("ddim", 3, 2.0), seed=0)
    assert sorted(frames) == [0, 3, 5, 6]  # T - 1 less the time steps 5, 2 and 0 of the three passes, and T
    assert torch.equal(frames[TIMESTEPS], images[0])


def test_report_says_what_is_measured_and_what_is_not(trained: Path, tmp_path: Path) -> None:
    space = workspace("sample", trained)
    text = report.render(space)
    assert text == report.render(space)
    assert text.startswith("## Problem 2")
    assert "33,293,187 parameters" in text and "MNIST-M-like (sample)" in text
    assert "images/P2/diffusion_grid.png" in text and "images/P2/sampler_sweep_sample.png" in text
    assert "no folder of generated pictures is evaluated yet" in text
    assert "Not run: this compares presets `cpu` and `full`" in text
    nothing = report.render(workspace("sample", tmp_path))
    assert "no training is recorded yet" in nothing and "diffusion_grid.png: not made" in nothing
    assert report.readme_table(space) == "*Not run.*\n"


# The script


def test_script_runs_every_part_once(tmp_path: Path) -> None:
    runs = tmp_path / "out" / "runs" / "cpu"

    def commands() -> list[list[str]]:
        done = subprocess.run(
            ["bash", str(ROOT / "scripts/train_p2.sh"), "--output", str(tmp_path / "out"), "--seed=4", "--steps", "9"],
            env={**os.environ, "PYTHON": "echo"},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split() for line in done.stdout.splitlines() if line.startswith(str(ROOT))]

    def names(lines: list[list[str]]) -> list[str]:
        return [Path(line[0]).stem for line in lines]

    assert names(commands()) == ["classifier", "train"]  # echo trains nothing, so there is nothing to draw with
    for name in ("p2_judge_seed4", "p2_seed4"):
        (runs / name).mkdir(parents=True)
        (runs / name / "weights.safetensors").write_text("first")
    lines = commands()
    assert names(lines) == ["classifier", "train", "inference", "evaluate", "figures", "sweep"]
    assert all(line[line.index("--seed") + 1] == "4" for line in lines)
    assert ["--steps" in line for line in lines] == [name == "train" for name in names(lines)]
    assert names(commands()) == ["classifier", "train", "sweep"]
    (runs / "p2_seed4" / "weights.safetensors").write_text("second")
    assert names(commands()) == ["classifier", "train", "inference", "evaluate", "figures", "sweep"]
