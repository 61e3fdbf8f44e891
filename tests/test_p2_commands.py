"""P2's commands as a user runs them: training, resuming, pictures, evaluation, sweep, report, and their errors."""

from __future__ import annotations

import json
import re
import shutil
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
from common.report import Page
from common.results import read_results
from common.run import Job, Run
from common.weights import load_weights, save_weights
from p2_diffusion import evaluate, figures, inference, report, sweep, train, train_judge
from p2_diffusion.build import KIND, build_model, load_model
from p2_diffusion.inference import generate
from p2_diffusion.judge import NUM_FEATURES, judge_images, load_judge
from p2_diffusion.presets import PRESETS, SWEEP_PRESETS, default_sampling
from p2_diffusion.samplers import SAMPLERS, Sampler, SamplerConfig
from p2_diffusion.train_judge import random_affine
from tests.conftest import Capture, Patch
from tests.in_process import execute
from tests.test_p2_diffusion import heun

TIMESTEPS = 6
TINY = replace(PRESETS["sample"], initial_weights="", channel_mults=(1, 1), attention_levels=(), dropout=0.1)
TINY = replace(TINY, timesteps=3, steps=3, batch_size=8, warmup_steps=1, log_every=1, sample_every=3)
SIZE = ("--channel-mults", 1, 1, "--attention-levels", "--timesteps", TIMESTEPS, "--batch-size", 8)
SCHEDULE = ("--initial-weights", "", *SIZE, "--steps", 4, "--log-every", 2)
CPU = torch.device("cpu")


def places(data_root: Path, output: Path) -> tuple[object, ...]:
    return ("--data-root", data_root, "--output", output, "--device", "cpu", "--preset", "sample")


def sweep_arguments(output: Path) -> tuple[object, ...]:
    """Ten pictures a setting, with the networks of ``trained``."""
    files = ("--checkpoint", weights_of(output), "--judge", judge_of(output))
    few = ("--num-per-digit", 1, "--steps", 2, 3, "--guidance-scales", 1, 2, "--all-steps")
    return (*files, *few, "--guidance-intervals", "0-1", "0.2-0.6")


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny judge, a tiny U-Net, their sweep and figures; returns the folder given as --output."""
    output = tmp_path_factory.mktemp("p2")
    execute(train_judge, *places(data_root, output), "--epochs", 2, "--batch-size", 16, "--log-every", 1)
    execute(train, *places(data_root, output), *SCHEDULE)
    execute(sweep, *places(data_root, output), *sweep_arguments(output))
    drawn = ("--model", "sample", "--checkpoint", weights_of(output), "--guidance-scale", 1)
    execute(figures, *drawn, "--output", output, "--device", "cpu")
    return output


def weights_of(output: Path) -> Path:
    return output / "runs" / "sample" / "p2_seed0" / "weights.safetensors"


def judge_of(output: Path) -> Path:
    return output / "runs" / "sample" / "p2_judge_seed0" / "weights.safetensors"


# Training


def train_in(folder: Path, data_root: Path, config: train.TrainConfig = TINY, max_seconds: float | None = None) -> Run:
    described = json.loads(json.dumps(asdict(config) | {"seed": 3, "preset": "sample", "dataset": "test"}))
    space = workspace("sample", folder)
    job = Job("p2", "train/tiny/seed3", KIND, described, space, folder, max_seconds=max_seconds)
    return train.train(job, config, World(0, 1, CPU), *load_digits(data_root, "mnistm", "train"))


def test_training_stopped_after_every_step_ends_the_same(data_root: Path, tmp_path: Path) -> None:
    whole = train_in(tmp_path / "whole", data_root)
    starts, parts = 0, None
    while starts < 10 and not (parts and parts.is_complete):
        parts = train_in(tmp_path / "parts", data_root, max_seconds=1e-9)
        starts += 1
    assert starts == TINY.steps
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, parts.weights()[name]), name
    for name in ("stats.jsonl", f"samples_{TINY.steps:06d}.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert whole.rows[-1]["step"] == TINY.steps - 1
    assert any(key.startswith("loss_level_") for key in whole.rows[-1])

    state = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)["state"]
    tail = "tail.2.weight"  # starts at zero
    assert state["model"][tail].abs().sum() > state["ema"]["model"][tail].abs().sum() > 0


def test_compiled_training_has_the_loss_of_the_uncompiled_one_and_resumes(data_root: Path, tmp_path: Path) -> None:
    # Without dropout, whose compiled form draws other numbers.
    plain = replace(TINY, channel_mults=(1,), dropout=0.0, steps=2, log_every=1, sample_every=100)
    compiled = replace(plain, compile=True)
    expected = train_in(tmp_path / "plain", data_root, plain).rows
    stopped = train_in(tmp_path / "compiled", data_root, compiled, max_seconds=1e-9)
    assert stopped.step == 1 and not stopped.is_complete
    found = train_in(tmp_path / "compiled", data_root, compiled)
    assert found.is_complete and len(found.rows) == 2
    for row, other in zip(expected, found.rows, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_training_goes_on_from_given_weights(trained: Path, data_root: Path, tmp_path: Path) -> None:
    start = weights_of(trained)
    still = ("--steps", 1, "--learning-rate", 1e-12, "--log-every", 1)
    execute(train, *places(data_root, tmp_path), *SIZE, *still, "--initial-weights", start)
    before, after = (load_weights(path, KIND)[0] for path in (start, weights_of(tmp_path)))
    assert all(torch.allclose(after[name], tensor, atol=1e-6) for name, tensor in before.items())
    record = read_results(tmp_path / "results", "p2")["train/sample/seed0"]
    assert record["initial_sha256"] == sha256(start)
    assert record["initial_dataset"] == "MNIST-M-like (sample)"


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (("--initial-weights", "nowhere.safetensors"), "no such weights"),
        (("--initial-weights", "p2_classifier.safetensors"), "not p2_diffusion/unet"),
        (("--channels", "64"), "does not fit UNet"),
        (("--prediction", "epsilon"), "trained with prediction v, asked for epsilon"),
    ],
)
def test_trainings_that_cannot_begin(options: tuple[str, ...], fragment: str, data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(fragment)):
        execute(train, *places(data_root, tmp_path), *options)
    assert not list(tmp_path.rglob("*.safetensors"))


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


def test_training_is_recorded_with_its_recipe_and_only_once(trained: Path, data_root: Path) -> None:
    path = trained / "results" / "p2.json"
    before = path.read_bytes()
    run = json.loads(before)["train/sample/seed0"]
    assert run["timesteps"] == TIMESTEPS and run["channel_mults"] == [1, 1]
    assert run["dataset"] == "MNIST-M-like (sample)" and run["train_images"] == 96
    assert run["parameters"] == sum(tensor.numel() for tensor in load_weights(weights_of(trained), KIND)[0].values())
    execute(train, *places(data_root, trained), *SCHEDULE)
    execute(train_judge, *places(data_root, trained), "--epochs", 2, "--batch-size", 16, "--log-every", 1)
    assert path.read_bytes() == before


# The judge


def test_judge_learns_from_the_sample_set(trained: Path, data_root: Path) -> None:
    judge = load_judge(judge_of(trained), CPU)
    images, _ = load_digits(data_root, "mnistm", "val")
    digits, features = judge_images(judge, images)
    assert digits.shape == (32,) and features.shape == (32, NUM_FEATURES)
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
        execute(inference, tmp_path / folder, *arguments, "--seed", seed, "--sampler", "ddpm")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(f"{digit}_{number:03d}.png" for digit in range(10) for number in (1, 2))
    contents = {folder: [(tmp_path / folder / name).read_bytes() for name in names] for folder in "abc"}
    assert contents["a"] == contents["b"] != contents["c"]
    picture = Image.open(tmp_path / "a" / "7_002.png")
    assert (picture.size, picture.mode) == ((28, 28), "RGB")


def test_batches_of_another_size_draw_the_same_pictures(trained: Path) -> None:
    model, diffusion, _ = load_model(weights_of(trained), CPU)
    config = SamplerConfig("ddim", 3, 2.0)
    together, parts = (generate(model, diffusion, [0, 3, 3, 9], config, 0, size) for size in (4, 1))
    assert together.shape == (4, 3, 28, 28) and together.dtype == torch.uint8
    assert (together.int() - parts.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--steps", "7"), ("--steps 7", f"between 1 and {TIMESTEPS}")),
        (("--digits", "3", "10"), ("--digits 10", "0-9")),
        (("--digits", "3", "3"), ("every digit once",)),
        (("--guidance-interval", "0.8", "0.2"), ("--guidance-interval 0.8 0.2",)),
        (("--checkpoint", "nowhere.safetensors"), ("nowhere.safetensors", "no such weights")),
    ],
)
def test_inference_errors(trained: Path, tmp_path: Path, options: tuple[str, ...], fragments: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        execute(inference, tmp_path / "out", "--checkpoint", weights_of(trained), *options)
    assert all(fragment in str(error.value) for fragment in fragments)
    assert not (tmp_path / "out").exists()


def test_attention_in_a_level_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match=r"--attention-levels 2: .* 0 to 1"):
        replace(PRESETS["cpu"], channel_mults=(1, 2))


def test_a_model_that_is_not_shipped_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--model huge: .*\bcpu\b"):
        execute(inference, tmp_path / "out", "--model", "huge")


def test_a_network_that_saw_every_label_is_sampled_without_guidance(tmp_path: Path, capsys: Capture) -> None:
    # Wider than a channel a group, whose norm would take away what the label adds, and random, so that it shows.
    config = asdict(TINY) | {"preset": "sample", "channel_mults": (1, 2), "label_dropout": 0.0}
    state = {name: torch.randn(tensor.shape) * 0.2 for name, tensor in build_model(config).state_dict().items()}
    path = tmp_path / "no_null.safetensors"
    save_weights(path, state, KIND, config)
    few = ("--checkpoint", path, "--num-per-digit", 1, "--steps", 2, "--device", "cpu")
    notes = {}
    for folder, options in (("unset", ()), ("none", ("--guidance-scale", 1)), ("asked", ("--guidance-scale", 2))):
        execute(inference, tmp_path / folder, *few, *options)
        notes[folder] = capsys.readouterr().err.count("--guidance-scale")
    assert notes == {"unset": 1, "none": 0, "asked": 0}
    pictures = {folder: [path.read_bytes() for path in sorted((tmp_path / folder).iterdir())] for folder in notes}
    assert pictures["unset"] == pictures["none"] != pictures["asked"]


def test_a_new_sampler_is_one_entry_of_the_table(
    trained: Path, data_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setitem(SAMPLERS, "heun", Sampler("Heun, brand new", heun, steps=10))
    output = shutil.copytree(trained, tmp_path / "output")
    few = ("--checkpoint", weights_of(trained), "--num-per-digit", 1, "--device", "cpu")
    execute(inference, tmp_path / "digits", *few, "--sampler", "heun", "--guidance-scale", 1)
    assert len(list((tmp_path / "digits").iterdir())) == 10
    execute(sweep, *places(data_root, output), *sweep_arguments(output))
    entries = read_results(output / "results", "p2")
    assert entries["sweep/sample/seed0/heun-3-w1"]["passes"] == 2 * 3 - 1
    assert entries["sweep/sample/seed0/heun-3-w2"]["passes"] == 2 * (2 * 3 - 1)
    assert "Heun, brand new" in render(output)


# Evaluation, sweep, figures, report


def test_evaluation_of_real_pictures_finds_the_judges_accuracy(trained: Path, data_root: Path, tmp_path: Path) -> None:
    images, labels = load_digits(data_root, "mnistm", "val")
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        save_image(image, tmp_path / "real" / f"{label}_{number:03d}.png")
    where = ("--judge", judge_of(trained), "--data-root", data_root, "--output", tmp_path / "out")
    execute(evaluate, tmp_path / "real", *where)
    measured = read_results(tmp_path / "out" / "results", "p2")["evaluate/folder/real"]
    judge = read_results(trained / "results", "p2")["judge/sample/seed0"]
    assert all(measured[name] == judge[name] for name in ("accuracy", "per_digit"))
    assert measured["frechet"] == pytest.approx(0.0, abs=1e-4)
    assert measured["frechet_floor"] > 1e-3

    shutil.copy(next((tmp_path / "real").iterdir()), tmp_path / "real" / "seven.png")
    with pytest.raises(UserError, match=r"seven.png: the name must tell the digit, like 7_001.png"):
        execute(evaluate, tmp_path / "real", *where)


def test_evaluation_draws_what_inference_draws_and_measures_it_once(
    trained: Path, data_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    where = ("--judge", judge_of(trained), "--data-root", data_root, "--output", tmp_path)
    drawn = ("--checkpoint", weights_of(trained), "--num-per-digit", 2, "--steps", 2)
    execute(inference, tmp_path / "folder", *drawn)
    execute(evaluate, tmp_path / "folder", *where)
    execute(evaluate, *drawn, *where)
    entries = read_results(tmp_path / "results", "p2")
    of_folder, of_weights = entries["evaluate/folder/folder"], entries["evaluate/sample/seed0/dpmpp-2-w2"]
    assert all(of_weights[name] == of_folder[name] for name in ("images", "accuracy", "per_digit", "frechet"))
    capsys.readouterr()
    execute(evaluate, *drawn, *where)
    assert "measured before" in capsys.readouterr().out
    # Fewer pictures are measured, but do not take the place of more.
    execute(evaluate, *drawn, "--num-per-digit", 1, *where)
    assert "not recorded" in capsys.readouterr().out
    assert read_results(tmp_path / "results", "p2") == entries


def test_one_picture_has_no_distance(trained: Path, data_root: Path, tmp_path: Path) -> None:
    save_image(torch.zeros(3, 28, 28, dtype=torch.uint8), tmp_path / "one" / "7_001.png")
    with pytest.raises(UserError, match=r"one: .*at least two"):
        execute(evaluate, tmp_path / "one", "--judge", judge_of(trained), "--data-root", data_root)

    source, own = data_root / "digits" / "mnistm", tmp_path / "own" / "digits" / "mnistm"
    shutil.copytree(source / "data", own / "data")
    shutil.copy(source / "train.csv", own)
    (own / "val.csv").write_text("\n".join((source / "val.csv").read_text().splitlines()[:2]))
    with pytest.raises(UserError, match=r"val.csv: .*at least two"):
        evaluate.Evaluator(load_judge(judge_of(trained), CPU), tmp_path / "own")


def test_sweep_measures_every_setting_once_and_counts_its_passes(
    trained: Path, data_root: Path, capsys: Capture
) -> None:
    before = read_results(trained / "results", "p2")
    swept = {key: entry for key, entry in before.items() if key.startswith("sweep/")}
    passes = {key.removeprefix("sweep/sample/seed0/"): entry["passes"] for key, entry in swept.items()}
    # Two time steps of T = 6 are 5, 0; three are 5, 2, 0 and, denser near 0, 5, 1, 0. 0.2 T to 0.6 T is 1.2 to 3.6.
    default = default_sampling(before["train/sample/seed0"])
    expected = {default.name: 2 * TIMESTEPS, "ddpm-6-w2": 12}
    for sampler in ("ddim", "dpmpp"):
        expected |= {f"{sampler}-{steps}-w1": steps for steps in (2, 3)}
        expected |= {f"{sampler}-{steps}-w2": 2 * steps for steps in (2, 3)}
        expected |= {f"{sampler}-2-w2-0.2to0.6": 2, f"{sampler}-3-w2-0.2to0.6": 4 if sampler == "ddim" else 3}
    assert passes == expected
    assert (trained / "images" / "P2" / "sampler_sweep_sample.png").is_file()
    execute(sweep, *places(data_root, trained), *sweep_arguments(trained))
    assert read_results(trained / "results", "p2") == before
    printed = capsys.readouterr().out.splitlines()
    assert len([line for line in printed if line.startswith("sweep/")]) == len(passes)


def test_sweep_of_a_network_without_null_label_has_no_guidance() -> None:
    trained = asdict(TINY) | {"preset": "sample", "label_dropout": 0.0}
    found = sweep.settings(SWEEP_PRESETS["full"], default_sampling(trained), TIMESTEPS)
    assert found and {setting.guidance_scale for setting in found} == {1.0}
    with pytest.raises(UserError, match=r"--guidance-intervals 0\.8-0\.2"):
        sweep.settings(replace(SWEEP_PRESETS["cpu"], guidance_intervals=("0.8-0.2",)), default_sampling(trained), 6)


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ([(0.990, 8.0, 40), (0.988, 8.8, 20), (0.990, 8.9, 10)], 1),  # the last is too far, by distance
        ([(0.990, 8.0, 40), (0.987, 8.0, 20)], 0),  # the last is too far, by accuracy
        ([(0.990, 8.5, 20), (0.990, 8.0, 20)], 1),
        ([(0.990, 9.0, 40), (0.900, 8.0, 20)], None),
    ],
)
def test_the_rule_takes_the_fastest_setting_near_the_best(
    settings: list[tuple[float, float, int]], chosen: int | None
) -> None:
    entries = [dict(zip(("accuracy", "frechet", "passes"), setting, strict=True)) for setting in settings]
    assert sweep.choose(entries) == (None if chosen is None else entries[chosen])


def test_drawing_alone_or_in_a_batch_is_the_same(trained: Path) -> None:
    measured = read_results(trained / "results", "p2")["batch/sample/seed0"]
    assert measured["largest_difference"] < 1e-4 < measured["another_noise"]


def test_figures_show_one_run_of_the_sampler(trained: Path, tmp_path: Path) -> None:
    model, diffusion, _ = load_model(weights_of(trained), CPU)
    images, moments = figures.draw_grid(model, diffusion, SamplerConfig("ddpm", TIMESTEPS), seed=0)
    assert sorted(moments) == [*range(TIMESTEPS + 1)]
    assert torch.equal(moments[TIMESTEPS], images[::10])
    folder = trained / "images" / "P2"
    grid, picture = np.asarray(Image.open(folder / "diffusion_grid.png")), images[0].permute(1, 2, 0).numpy()
    assert grid.shape == (10 * (56 + 2) + 2, 10 * (56 + 2) + 2, 3)
    assert np.array_equal(grid[2:58:2, 2:58:2], picture)

    strip = np.asarray(Image.open(folder / "diffusion_grid_time.png"))
    scale, padding = figures.STRIP_SCALE, 8
    last = strip[-28 * scale - padding : -padding : scale, -28 * scale - padding : -padding : scale]
    assert np.array_equal(last, picture)  # so nothing but its frame lies below

    figures.save_animation(moments, tmp_path / "again.gif")
    assert (folder / "reverse.gif").read_bytes() == (tmp_path / "again.gif").read_bytes()
    assert Image.open(folder / "reverse.gif").n_frames == TIMESTEPS + 1

    images, moments = figures.draw_grid(model, diffusion, SamplerConfig("ddim", 3), seed=0)
    assert sorted(moments) == [0, 3, 5, 6]  # T - 1 less the time steps 5, 2 and 0, and T
    assert torch.equal(moments[TIMESTEPS], images[::10])
    assert sorted(figures.evenly(dict.fromkeys(range(201)), 6)) == [0, 40, 80, 120, 160, 200]


def render(output: Path) -> str:
    space = workspace("sample", output)
    page = Page(ROOT / "p2_diffusion/report.md", read_results(space.results, "p2"), space)
    return page.render(report.parts(page))


def test_report_has_what_was_measured_and_no_more(trained: Path, tmp_path: Path) -> None:
    text, nothing = render(trained), render(tmp_path)
    assert text == render(trained)
    results = read_results(trained / "results", "p2")
    titles = [sampler.title for sampler in SAMPLERS.values()]
    for value in ("MNIST-M-like (sample)", "images/P2/reverse.gif", "images/P2/sampler_sweep_sample.png", *titles):
        assert value in text and value not in nothing.replace("*images/P2/reverse.gif: not made yet.*", "")
    assert text.count("33,293,187 parameters") == nothing.count("33,293,187 parameters") > 0
    assert "*Not run.*" in nothing
    assert f"{results['train/sample/seed0']['parameters']:,}" in text
    assert report.readme_table(results) == "*Not run.*\n"  # nothing was evaluated
