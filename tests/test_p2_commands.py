"""P2's commands as a user runs them: training, resuming, distilling, sampling, evaluation, sweep and figures."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.cli import EXIT_TRY_AGAIN
from common.data import load_digits
from common.files import file_digest
from common.viz import save_image
from common.weights import load_weights
from p2_diffusion import classifier, distill, evaluate, figures, inference, sweep, train
from p2_diffusion.classifier import NUM_FEATURES, classify, load_classifier, random_affine
from p2_diffusion.config import PRESETS, SWEEPS, Sweep, default_sampler
from p2_diffusion.inference import generate, load_model
from p2_diffusion.model import MODEL
from p2_diffusion.samplers import SAMPLERS, Sampler, SamplerConfig
from tests.conftest import Capture, Patch, contents
from tests.in_process import call, error_of, execute
from tests.test_p2_diffusion import heun

import numpy as np
import pytest
import torch
from PIL import Image

TIMESTEPS = 6
SIZE = ("--channel-mults", 1, 1, "--attention-levels", "--timesteps", TIMESTEPS, "--batch-size", 8)
SCHEDULE = ("--init-from", "", *SIZE, "--steps", 4, "--log-every", 2)
CPU = torch.device("cpu")


def on(data_root: Path, run_dir: Path) -> tuple[object, ...]:
    return ("--data-root", data_root, "--device", "cpu", "--preset", "sample", "--run-dir", run_dir)


@pytest.fixture(scope="module")
def runs(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier, a tiny U-Net and its student of two steps, each in a run folder of this folder."""
    folder = tmp_path_factory.mktemp("p2")
    execute(classifier, *on(data_root, folder / "classifier"), "--epochs", 2, "--batch-size", 16, "--log-every", 1)
    execute(train, *on(data_root, folder / "unet"), *SCHEDULE)
    execute(distill, *on(data_root, folder / "student"), *student_of(folder / "unet"))
    return folder


def student_of(teacher: Path) -> tuple[object, ...]:
    few = ("--student-steps", 2, "--teacher-steps", 4, "--steps", 3, "--batch-size", 8, "--log-every", 1)
    return ("--teacher", weights(teacher), "--init-from", weights(teacher), *few, "--sample-every", 3)


def weights(run: Path) -> Path:
    return run / "weights.safetensors"


def record(run: Path, name: str) -> dict[str, object]:
    return json.loads((run / "records" / f"{name}.json").read_text())


# Training and distillation


@pytest.mark.parametrize("command", ["train", "distill"])
def test_a_run_stopped_after_every_step_ends_the_same(
    command: str, runs: Path, data_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    script = {"train": train, "distill": distill}[command]
    tiny = ("--init-from", "", *SIZE, "--dropout", 0.1, "--steps", 3, "--log-every", 1, "--sample-every", 3)
    options = {"train": tiny, "distill": student_of(runs / "unet")}[command]
    execute(script, *on(data_root, tmp_path / "whole"), *options)
    monkeypatch.setattr("common.training.TrainingRun._reason_to_stop", lambda run: 1)  # out of time after each step
    codes = [call(script, *on(data_root, tmp_path / "parts"), *options) for _ in range(3)]
    assert codes == [EXIT_TRY_AGAIN, EXIT_TRY_AGAIN, 0]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for name in ("weights.safetensors", "stats.jsonl", "samples_000003.png"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    assert file_digest(weights(whole)) == record(whole, "train")["weights"]

    state = torch.load(whole / "checkpoint.pt", weights_only=True)["state"]
    model = state["model" if command == "train" else "student"]
    tail = "tail.2.weight"
    assert not torch.equal(model[tail], state["ema"]["model"][tail])


def test_training_starts_from_given_weights(runs: Path, data_root: Path, tmp_path: Path) -> None:
    start = weights(runs / "unet")
    still = ("--steps", 1, "--learning-rate", 1e-12, "--log-every", 1)
    execute(train, *on(data_root, tmp_path), *SIZE, *still, "--init-from", start)
    before, after = (load_weights(path, MODEL)[0] for path in (start, weights(tmp_path)))
    assert all(torch.allclose(after[name], tensor, atol=1e-6) for name, tensor in before.items())
    assert record(tmp_path, "train")["init_digest"] == file_digest(start)


def test_a_student_goes_on_from_given_weights_of_its_teachers_network(
    runs: Path, data_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    start, run = weights(runs / "student"), on(data_root, tmp_path / "run")
    execute(distill, *run, *student_of(runs / "unet"), "--init-from", start, "--learning-rate", 1e-12)
    before, after = (load_weights(path, MODEL)[0] for path in (start, weights(tmp_path / "run")))
    assert all(torch.allclose(after[name], tensor, atol=1e-6) for name, tensor in before.items())
    other = ("--teacher", weights(runs / "unet"), "--student-steps", 2, "--init-from", "p2_unet_student4.safetensors")
    assert "pass --init-from" in error_of(capsys, distill, *on(data_root, tmp_path / "other"), *other)
    student = ("--teacher", start, "--student-steps", 2)
    assert "is a student" in error_of(capsys, distill, *on(data_root, tmp_path / "other"), *student)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (("--init-from", "nowhere.safetensors"), "no such weights"),
        (("--init-from", "p2_classifier.safetensors"), "not of p2_diffusion/unet"),
        (("--channels", "64"), "does not fit UNet"),
        (("--prediction", "epsilon"), "--prediction v"),
        (("--schedule", "linear"), "--schedule cosine"),
        (("--label-dropout", "1"), "--label-dropout 1.0: must be in (0, 1)"),
    ],
)
def test_training_that_cannot_start(
    options: Sequence[str], fragment: str, data_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert fragment in error_of(capsys, train, *on(data_root, tmp_path / "run"), *options)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_learning_rate_warms_up_and_decays() -> None:
    config = replace(PRESETS["sample"], steps=110, warmup_steps=10)
    factors = [train.lr_factor(step, config) for step in range(110)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == 1.0
    assert factors[-1] == pytest.approx(0.01, abs=0.011)


def test_runs_are_recorded_with_their_settings_and_only_once(runs: Path, data_root: Path, capsys: Capture) -> None:
    before = contents(runs)
    unet, student = (record(runs / name, "train") for name in ("unet", "student"))
    assert unet["timesteps"] == TIMESTEPS and unet["channel_mults"] == [1, 1]
    assert unet["dataset"] == "MNIST-M-like (sample)" and unet["train_images"] == 96
    assert (unet["method"], student["method"]) == ("ddpm", "student")
    assert student["teacher_digest"] == file_digest(weights(runs / "unet"))
    assert student["train_digest"] == unet["train_digest"]
    execute(train, *on(data_root, runs / "unet"), *SCHEDULE)
    execute(distill, *on(data_root, runs / "student"), *student_of(runs / "unet"))
    assert capsys.readouterr().out.count("already finished") == 2
    assert {name: before[name] for name in contents(runs) if name.endswith(("s", "json"))} == {
        name: content for name, content in contents(runs).items() if name.endswith(("s", "json"))
    }


# The evaluation classifier


def test_classifier_learns_from_the_sample_set(runs: Path, data_root: Path) -> None:
    network = load_classifier(weights(runs / "classifier"), CPU)
    images, _ = load_digits(data_root, "mnistm", "val")
    digits, features = classify(network, images)
    assert digits.shape == (32,) and features.shape == (32, NUM_FEATURES)
    assert len((runs / "classifier" / "stats.jsonl").read_text().splitlines()) == 12  # 2 epochs of 96 images by 16
    assert record(runs / "classifier", "train")["kind"] == "classifier"


def test_shifts_stay_within_their_limit() -> None:
    torch.manual_seed(0)
    images = torch.zeros(200, 1, 28, 28)
    images[:, :, 14, 14] = 1.0
    torch.testing.assert_close(random_affine(images, 0.0, 0.0, 0.0), images, atol=1e-5, rtol=0)
    moved = random_affine(images, 2.0, 0.0, 0.0)
    grid = torch.arange(28.0)
    centers = (moved.sum((1, 2)) * grid).sum(1) / moved.sum((1, 2, 3))
    assert 1.8 < (centers - 14).abs().max() <= 2.0 + 1e-3
    assert centers.mean().item() == pytest.approx(14, abs=0.3)


# Inference


def test_inference_by_contract_and_byte_for_byte(runs: Path, tmp_path: Path) -> None:
    arguments = ("--checkpoint", weights(runs / "unet"), "--num-per-digit", 2, "--steps", 3, "--device", "cpu")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("stays")
    for folder, seed in (("a", 1), ("a", 0), ("b", 0), ("c", 1)):  # the second replaces the first
        execute(inference, tmp_path / folder, *arguments, "--seed", seed, "--sampler", "ddpm")
    found = {folder: contents(tmp_path / folder) for folder in "abc"}
    assert found["a"].pop("notes.txt") == b"stays"
    assert sorted(found["a"]) == sorted(f"{digit}_{number:03d}.png" for digit in range(10) for number in (1, 2))
    assert found["a"] == found["b"] != found["c"]
    image = Image.open(tmp_path / "a" / "7_002.png")
    assert (image.size, image.mode) == ((28, 28), "RGB")


def test_an_image_does_not_depend_on_its_batch(runs: Path, monkeypatch: Patch) -> None:
    """GroupNorm keeps its statistics within an image."""
    model, diffusion, _ = load_model(weights(runs / "unet"), CPU)
    together = generate(model, diffusion, [0, 3, 3, 9], SamplerConfig("ddim", 3, 2.0), seed=0)
    monkeypatch.setattr(inference, "BATCH_SIZE", 1)
    alone = generate(model, diffusion, [0, 3, 3, 9], SamplerConfig("ddim", 3, 2.0), seed=0)
    assert together.shape == (4, 3, 28, 28) and together.dtype == torch.uint8
    assert (together.int() - alone.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (("--steps", "7"), f"--steps 7: must lie between 1 and {TIMESTEPS}"),
        (("--checkpoint", "nowhere.safetensors"), "nowhere.safetensors: no such weights"),
    ],
)
def test_inference_errors(runs: Path, tmp_path: Path, capsys: Capture, options: Sequence[str], fragment: str) -> None:
    assert fragment in error_of(capsys, inference, tmp_path / "out", "--checkpoint", weights(runs / "unet"), *options)
    assert not (tmp_path / "out").exists()


def test_inference_imports_nothing_slow() -> None:
    import subprocess
    import sys

    slow = ("matplotlib", "sklearn", "torchvision", "scipy", "pandas", "torch._dynamo", "torch._inductor")
    code = f"import sys; import p2_diffusion.inference; print([name for name in {slow} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(inference.__file__).parents[1], capture_output=True)
    assert result.stdout.split() == [b"[]"], result


def test_a_student_is_sampled_at_its_own_timesteps(runs: Path) -> None:
    model, diffusion, trained = load_model(weights(runs / "student"), CPU)
    assert default_sampler(trained) == SamplerConfig("ddim_trailing", 2)
    visited: list[list[int]] = []
    model.register_forward_pre_hook(lambda _, inputs: visited.append(inputs[1].tolist()))
    generate(model, diffusion, [4], default_sampler(trained), seed=0)
    assert visited == [[5], [2]]  # T = 6, then half of it


@pytest.mark.parametrize("option", [("--steps", 3), ("--sampler", "ddpm"), ("--guidance-scale", 2)])
def test_a_student_has_no_other_way_to_sample(
    runs: Path, tmp_path: Path, capsys: Capture, option: tuple[str, object]
) -> None:
    assert "student" in error_of(capsys, inference, tmp_path, "--checkpoint", weights(runs / "student"), *option)


@pytest.mark.parametrize(
    "option",
    [("--channel-mults", 1, 1, 1, 1), ("--attention-levels", 2, "--channel-mults", 1, 2), ("--num-groups", 32)],
)
def test_a_network_that_cannot_be_is_one_line(
    data_root: Path, tmp_path: Path, capsys: Capture, option: tuple[object, ...]
) -> None:
    command = ("--preset", "sample", "--init-from", "", *option, *on(data_root, tmp_path / "run"))
    assert "must" in error_of(capsys, train, *command)


# Evaluation, sweep, figures


def test_evaluation_of_real_images_finds_the_classifiers_accuracy(
    runs: Path, data_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    images, labels = load_digits(data_root, "mnistm", "val")
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        save_image(image, tmp_path / "real" / f"{label}_{number:03d}.png")
    using = ("--classifier", weights(runs / "classifier"), "--data-root", data_root, "--device", "cpu")
    execute(evaluate, tmp_path / "real", *using)
    printed = capsys.readouterr().out
    assert f"accuracy {record(runs / 'classifier', 'train')['accuracy']:.1%}" in printed
    assert re.search(r"Fréchet distance -?0\.00;", printed)

    shutil.copy(next((tmp_path / "real").iterdir()), tmp_path / "real" / "seven.png")
    error = error_of(capsys, evaluate, tmp_path / "real", *using)
    assert "seven.png: the name must tell the digit, like 7_001.png" in error
    save_image(images[0], tmp_path / "one" / "7_001.png")
    assert "needs at least two images" in error_of(capsys, evaluate, tmp_path / "one", *using)


def test_evaluation_measures_what_inference_generates_and_measures_it_once(
    runs: Path, data_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    run = shutil.copytree(runs / "unet", tmp_path / "unet")
    sampled = ("--checkpoint", weights(run), "--num-per-digit", 2, "--device", "cpu")
    using = ("--classifier", weights(runs / "classifier"), "--data-root", data_root)
    execute(evaluate, *sampled, *using)
    (path,) = (run / "records").glob("evaluate_*.json")
    before = path.read_bytes()
    found = json.loads(before)
    assert (found["num_images"], found["nfe"], found["sampler"], found["sampling_steps"]) == (20, 9, "dpmpp", 6)
    assert found["weights"] == file_digest(weights(run)) and found["preset"] == "sample"
    assert found["train_digest"] == record(run, "train")["train_digest"]

    execute(inference, tmp_path / "folder", *sampled)
    images, digits = evaluate.load_generated(tmp_path / "folder")
    evaluator = evaluate.Evaluator(weights(runs / "classifier"), data_root, CPU)
    assert evaluator.measure(images, digits).items() <= found.items()

    monkeypatch.setattr(evaluate, "generate", None)  # would fail if it were measured again
    execute(evaluate, *sampled, *using)
    assert path.read_bytes() == before


def run_sweep(runs: Path, data_root: Path, images: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(SWEEPS, "cpu", Sweep((2, 3), (1.0, 2.0), ((0.0, 1.0), (0.4, 1.0), (0.0, 0.8)), 1))
    files = ("--checkpoint", weights(runs / "unet"), weights(runs / "student"))
    using = ("--classifier", weights(runs / "classifier"), "--data-root", data_root, "--preset", "cpu")
    execute(sweep, *files, *using, "--images", images, "--device", "cpu")


def swept(runs: Path) -> dict[tuple[object, ...], float]:
    paths = runs.glob("*/records/sweep_*.json")
    found = [json.loads(path.read_text()) for path in paths]
    keys = ("method", "sampler", "sampling_steps", "guidance_scale")
    return {(*(entry[key] for key in keys), *entry["guidance_interval"]): entry["nfe"] for entry in found}


def test_sweep_measures_every_setting_once_and_counts_evaluations(
    runs: Path, data_root: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    runs = shutil.copytree(runs, tmp_path / "runs")
    run_sweep(runs, data_root, tmp_path, monkeypatch)
    # Of T = 6, two timesteps are 5, 0, three are 5, 2, 0 (quadratic: 5, 1, 0); guidance from 0.4 T on doubles those
    # above 2.4, up to 0.8 T all but 5.
    expected = {
        ("student", "ddim_trailing", 2, 1, 0, 1): 2,
        ("ddpm", "ddpm", 6, 1, 0, 1): 6,
        ("ddpm", "ddpm", 6, 2, 0.2, 0.8): 9,
        ("ddpm", "dpmpp", 6, 2, 0.2, 0.8): 9,
    }
    for sampler in ("ddim", "dpmpp"):
        expected |= {("ddpm", sampler, steps, 1, 0, 1): steps for steps in (2, 3)}
        expected |= {("ddpm", sampler, steps, 2, 0, 1): 2 * steps for steps in (2, 3)}
        expected |= {("ddpm", sampler, steps, 2, 0.4, 1): steps + 1 for steps in (2, 3)}
        expected |= {("ddpm", sampler, steps, 2, 0, 0.8): 2 * steps - 1 for steps in (2, 3)}
    assert swept(runs) == expected
    assert Image.open(tmp_path / "quality_over_nfe.png").width > 1000
    before = contents(runs)
    run_sweep(runs, data_root, tmp_path, monkeypatch)
    assert contents(runs) == before
    printed = capsys.readouterr().out
    assert printed.count("NFE") == 2 * len(expected)


def test_a_plot_averages_sampling_seeds_and_bears_perfect_accuracy(tmp_path: Path) -> None:
    common = {"preset": "cpu", "method": "ddpm", "sampler": "ddim", "sampling_steps": 5, "guidance_interval": [0, 1]}
    common |= {"weights": "w", "num_images": 100, "guidance_scale": 2.0, "nfe": 10, "frechet_baseline": 4.0}
    records = [common | {"sampling_seed": seed, "accuracy": 1.0, "frechet": 5.0 + seed} for seed in (0, 1, 2)]
    records.append(records[0] | {"guidance_scale": 3.0, "sampling_steps": 10, "nfe": 20, "frechet": 9.0})
    records.append(records[0] | {"num_images": 50, "frechet": 99.0})  # of one seed the larger counts
    default, other = sweep.mean_over_seeds(records)
    assert (default["seeds"], default["num_images"], default["frechet"]) == (3, 300, 6.0)
    assert (other["seeds"], other["frechet"]) == (1, 9.0)
    sweep.plot(records, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").is_file()


def test_a_new_sampler_is_one_entry_of_the_table(
    runs: Path, data_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    runs = shutil.copytree(runs, tmp_path / "runs")
    monkeypatch.setitem(SAMPLERS, "heun", Sampler("Heun", heun))
    few = ("--checkpoint", weights(runs / "unet"), "--num-per-digit", 1, "--device", "cpu")
    execute(inference, tmp_path / "digits", *few, "--sampler", "heun", "--steps", 3)
    assert len(list((tmp_path / "digits").iterdir())) == 10
    run_sweep(runs, data_root, tmp_path, monkeypatch)
    assert swept(runs)["ddpm", "heun", 3, 1, 0, 1] == 2 * 3 - 1
    assert swept(runs)["ddpm", "heun", 3, 2, 0, 1] == 2 * (2 * 3 - 1)


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ([(0.990, 8.0, 40), (0.988, 8.8, 20), (0.990, 8.9, 10)], 1),  # the last is too far, by distance
        ([(0.990, 8.0, 40), (0.987, 8.0, 20)], 0),  # the last is too far, by accuracy
        ([(0.990, 8.5, 20), (0.990, 8.0, 20)], 1),
        ([(1.000, 12.0, 5), (0.990, 8.0, 20)], 1),  # the first is too far, and its accuracy does not count
    ],
)
def test_the_rule_takes_the_fewest_evaluations_near_the_best(
    settings: list[tuple[float, float, int]], chosen: int
) -> None:
    records = [dict(zip(("accuracy", "frechet", "nfe"), setting, strict=True)) for setting in settings]
    assert sweep.choose(records) == records[chosen]


def plot(run: Path, images: Path, *options: object) -> dict[str, object]:
    execute(figures, "--checkpoint", weights(run), "--images", images, "--device", "cpu", *options)
    return record(run, "figures")


def last_of_strip(path: Path) -> np.ndarray:
    strip, scale, padding = np.asarray(Image.open(path)), figures.STRIP_SCALE, 8
    return strip[-28 * scale - padding : -padding : scale, -28 * scale - padding : -padding : scale]


def first_of_grid(path: Path) -> np.ndarray:
    grid = np.asarray(Image.open(path))
    assert grid.shape == (10 * (56 + 2) + 2, 10 * (56 + 2) + 2, 3)
    return grid[2:58:2, 2:58:2]


def test_figures_come_from_one_sampler(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "unet", tmp_path / "unet")
    found = plot(run, tmp_path / "a", "--sampler", "ddpm")  # visits all T
    assert (found["strip_sampler"], found["strip_timesteps_done"]) == ("ddpm", [0, 1, 2, 4, 5, 6])
    first = first_of_grid(tmp_path / "a" / "diffusion_grid.png")
    assert np.array_equal(last_of_strip(tmp_path / "a" / "diffusion_grid_time.png"), first)
    gif = Image.open(tmp_path / "a" / "reverse.gif")
    assert gif.n_frames == 1 + TIMESTEPS + 1
    held, duration = np.asarray(gif.convert("RGB")), gif.info["duration"]
    gif.seek(gif.n_frames - 1)
    assert np.array_equal(held, np.asarray(gif.convert("RGB")))  # begins with what it ends with, and holds it
    assert duration == figures.GIF_HOLD_MILLISECONDS > gif.info["duration"]


def test_strip_of_a_sampler_that_skips_timesteps_visits_them_all(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "unet", tmp_path / "unet")
    found = plot(run, tmp_path / "a", "--sampler", "dpmpp", "--steps", 3)
    assert (found["sampler"], found["sampling_steps"]) == ("dpmpp", 3)
    assert (found["strip_sampler"], found["strip_steps"]) == ("ddim", TIMESTEPS)
    assert found["strip_timesteps_done"] == [0, 1, 2, 4, 5, 6]
    assert Image.open(tmp_path / "a" / "reverse.gif").n_frames == 1 + 3 + 1


def test_strip_of_a_student_shows_the_timesteps_it_knows(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "student", tmp_path / "student")
    found = plot(run, tmp_path / "a")
    assert (found["strip_sampler"], found["strip_timesteps_done"]) == ("ddim_trailing", [0, 3, 6])
    first = first_of_grid(tmp_path / "a" / "diffusion_grid.png")
    assert np.array_equal(last_of_strip(tmp_path / "a" / "diffusion_grid_time.png"), first)


def test_real_digits_are_plotted_beside_generated_ones(data_root: Path, tmp_path: Path) -> None:
    execute(figures, "--real", "--data-root", data_root, "--images", tmp_path)
    images, labels = load_digits(data_root, "mnistm", "val")
    first = images[labels == 0][0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "real_grid.png"))[2:58:2, 2:58:2], first)


def test_the_strip_of_the_report_shows_every_fortieth_timestep() -> None:
    assert [*figures.evenly_spaced(dict.fromkeys(range(201)), figures.STRIP_FRAMES)] == [0, 40, 80, 120, 160, 200]
