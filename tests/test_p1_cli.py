"""P1 as a user meets it: training, a kill, generation, measurement, figures, the ablation, and mistakes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from common.files import sha256
from common.paths import ROOT, workspace
from common.pictures import save_grid
from common.report import Page
from common.results import read_results
from common.run import Run
from p1_gan import ablation, evaluate, faces, features, figures, inference, methods, train
from p1_gan.fid import NotRunError
from p1_gan.model import DCGAN_Discriminator, My_Discriminator, My_Generator
from p1_gan.presets import PRESETS_A
from p1_gan.report import parts, readme_table
from tests.conftest import Capture, Patch
from tests.in_process import error_of, execute

TINY = ("--preset", "sample", "--steps", 4, "--batch-size", 4, "--log-every", 1, "--grid-every", 4, "--channels", 4)


@pytest.fixture(autouse=True)
def no_inception(monkeypatch: Patch) -> None:
    """Spare every measurement the attempt to download Inception's weights, unless a file is given."""
    load = evaluate.load_inception

    def load_file_only(weights: Path | None, device: torch.device) -> torch.nn.Module:
        if weights is None:
            raise NotRunError("FID: not run (weights unavailable)")
        return load(weights, device)

    monkeypatch.setattr(evaluate, "load_inception", load_file_only)


@pytest.fixture(autouse=True, scope="module")
def few_fixed_latents() -> Iterator[None]:
    """Let trainings look at a few of the fixed latents only: looking for faces in 200 takes longer than the steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("p1_gan.watch.FIXED_LATENTS", 16)
        yield


class SmallNetwork(torch.nn.Module):
    """A feature network of few numbers, for tests in which the pictures do not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 8, 32, 32)

    def extract_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images).relu()


@pytest.fixture
def small_judge(monkeypatch: Patch) -> None:
    """Measure distances with a network of which a thousand pictures take no time."""
    network = features.FeatureNetwork(SmallNetwork(), "small")
    for script in (evaluate, ablation):
        monkeypatch.setattr(script, "feature_network", lambda _: network)


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a tiny training of method B."""
    output = tmp_path_factory.mktemp("p1")
    execute(train, "--method", "B", *TINY, "--data-root", data_root, "--output", output)
    return output


def run_of(output: Path, method: str = "B") -> Path:
    return output / f"runs/sample/p1_{method}_seed0"


def weights_of(output: Path, method: str = "B") -> Path:
    return run_of(output, method) / "weights.safetensors"


def results_of(output: Path) -> dict[str, dict[str, Any]]:
    return read_results(output / "results", "p1")


def test_training_leaves_logs_curves_weights_and_a_record(trained: Path) -> None:
    run = run_of(trained)
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(4))
    assert {"loss_d", "loss_g", "d_real", "d_fake"} <= rows[0].keys() and rows[-1]["variety"] > 0
    for name in ("curves.png", "grids/000004.png", "last_good.safetensors"):
        assert (run / name).is_file()
    assert (trained / "images/P1/GAN_B_progress.png").is_file()
    record = results_of(trained)["train/B/sample/seed0"]
    assert record["steps"] == 4 and record["train_images"] == 48 and record["late"]["d_real"] > 0


def test_training_goes_on_from_given_weights(trained: Path, data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    start, command = weights_of(trained), ("--method", "B", *TINY, "--data-root", data_root, "--output", tmp_path)
    still = ("--steps", 1, "--generator-learning-rate", 1e-12, "--discriminator-learning-rate", 1e-12)
    execute(train, *command, *still, "--weight-decay", 0, "--initial-weights", start)
    continued = tmp_path / "runs/sample/p1_B_continued_seed0/weights.safetensors"
    before, after = load_file(start), load_file(continued)
    learned = {name for name, _ in methods.pair(My_Generator(4), My_Discriminator(4)).named_parameters()}
    assert len(learned & before.keys()) == len(learned)
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in learned)
    assert (tmp_path / "images/P1/GAN_B_progress_continued.png").is_file()
    record = results_of(tmp_path)["train/B/sample/continued/seed0"]
    assert record["initial_sha256"] == sha256(start) and record["initial_images"] == 16
    assert "asked for 8" in error_of(capsys, train, *command, "--initial-weights", start, "--channels", 8)
    assert "not p1_gan/A" in error_of(capsys, train, "--method", "A", *command[2:], "--initial-weights", start)


def test_a_killed_training_ends_with_the_same_weights(
    trained: Path, data_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    class Killed(BaseException):
        pass

    guard = Run.guard

    def die(run: Run, *losses: torch.Tensor) -> None:
        guard(run, *losses)
        if run.step == 2:
            raise Killed

    command = ("--method", "B", *TINY, "--data-root", data_root, "--output", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("common.run.CHECKPOINT_SECONDS", -1.0)
        patched.setattr(Run, "guard", die)
        with pytest.raises(Killed):
            execute(train, *command)
    assert not weights_of(tmp_path).exists()
    execute(train, *command)
    expected, found = load_file(weights_of(trained)), load_file(weights_of(tmp_path))
    assert all(expected[name].equal(found[name]) for name in expected)
    logs = [(run_of(output) / "stats.jsonl").read_bytes() for output in (trained, tmp_path)]
    assert logs[0] == logs[1]


def test_compiled_training_has_the_losses_of_the_other(data_root: Path, tmp_path: Path) -> None:
    rows = []
    for name in ("no-compile", "compile"):
        command = ("--method", "B", *TINY, "--steps", 2, "--grid-every", 2, "--precision", "fp32", f"--{name}")
        execute(train, *command, "--data-root", data_root, "--output", tmp_path / name)
        log = (run_of(tmp_path / name) / "stats.jsonl").read_text()
        rows.append([json.loads(line) for line in log.splitlines()])
    for plain, compiled in zip(*rows, strict=True):
        assert compiled == pytest.approx(plain, rel=1e-3, abs=1e-5)


def test_a_broken_face_detector_counts_as_missing(trained: Path, data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "dlib").mkdir()
    (tmp_path / "dlib/__init__.py").write_text("raise OSError('libopenblas.so.0: cannot open shared object file')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    options = ("--method", "A", *TINY, "--steps", 2, "--grid-every", 2, "--data-root", data_root, "--output", tmp_path)
    command = [sys.executable, ROOT / "p1_gan/train.py", *options]
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and weights_of(tmp_path, "A").is_file()
    assert done.stderr.count("libopenblas") == 1 and "Traceback" not in done.stderr
    last = json.loads((run_of(tmp_path, "A") / "stats.jsonl").read_text().splitlines()[-1])
    assert "variety" in last and "face_rate" not in last


@pytest.fixture
def nothing_installed(monkeypatch: Patch) -> None:
    """Take away the packages of both judges."""
    for module in ("dlib", "efficientnet_lite_pytorch"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(faces, "detector", faces.detector.__wrapped__)
    for script in (evaluate, ablation):
        monkeypatch.setattr(script, "feature_network", features.feature_network.__wrapped__)


def test_without_the_judges_the_rest_is_measured(
    nothing_installed: None, trained: Path, data_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    places = ("--data-root", data_root, "--output", tmp_path)
    execute(evaluate, "--checkpoint", weights_of(trained), "--num", 4, *places)
    execute(ablation, "--preset", "sample", "--rows", "B", "--budget", 16, "--num", 4, *places)
    assert capsys.readouterr().err.count("EfficientNet-Lite0: not run") == 2  # once a command
    for record in results_of(tmp_path).values():
        assert record["images"] == 4 and record.keys().isdisjoint({"fd_lite0", "kid_lite0", "face_rate"})
    assert results_of(tmp_path)["evaluate/B/sample/weights0/seed0"]["brightness"] > 0


def test_generation_is_the_same_for_a_seed(trained: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        execute(inference, tmp_path / name, "--num", 12, "--checkpoint", weights_of(trained))
    first, second = (sorted((tmp_path / name).glob("*.png")) for name in ("first", "second"))
    assert [file.name for file in first] == [f"{index:04d}.png" for index in range(12)]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert Image.open(first[0]).size == (64, 64) and Image.open(first[0]).mode == "RGB"


def test_weights_and_the_folder_they_drew_have_the_same_measures(
    small_judge: None, trained: Path, data_root: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    checkpoint, places = ("--checkpoint", weights_of(trained)), ("--data-root", data_root, "--output", tmp_path)
    execute(evaluate, *checkpoint, "--num", 12, "--memorisation", *places)
    execute(inference, tmp_path / "drawn", *checkpoint, "--num", 12)
    execute(evaluate, tmp_path / "drawn", *places)
    results = results_of(tmp_path)
    from_weights, from_folder = (results[f"evaluate/{name}"] for name in ("B/sample/weights0/seed0", "folder/drawn"))
    assert from_folder.items() <= from_weights.items()
    assert from_weights["fd_lite0"] > 0 and from_weights["fd_lite0_floor"] > 0
    assert from_weights["training_seed"] == 0 and from_weights["steps"] == 4
    assert from_weights["nearest_train_median"] > 0
    for name in ("brightness", "colourfulness", "blank_border", "variety"):
        assert 0 <= from_weights[name] <= 1 and 0 <= from_weights[f"{name}_of_val"] <= 1
    # Real faces may not be published, so none goes where pictures are committed.
    assert (tmp_path / "runs/sample/p1_neighbours/B_sample_weights0_seed0.png").is_file()
    assert not (tmp_path / "images").exists()

    execute(evaluate, *checkpoint, "--num", 12, "--val", data_root / "face/train", *places)  # for the screen alone
    assert results_of(tmp_path) == results
    monkeypatch.setattr(evaluate, "generate", None)  # nothing is drawn a second time
    capsys.readouterr()
    execute(evaluate, *checkpoint, "--num", 12, *places)
    assert capsys.readouterr().out.startswith("measured before")


def test_figures_are_the_first_pictures_and_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    checkpoint = ("--checkpoint", weights_of(trained), "--seed", 3)
    for name in ("first", "second"):
        execute(figures, *checkpoint, "--output", tmp_path / name)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*")} for name in ("first", "second")
    )
    assert first == second and set(first) == {"GAN_B_grid.png", "GAN_B_sheet.png", "walk.gif"}
    assert len(first["walk.gif"]) < 1_000_000
    model, _ = methods.load_generator(weights_of(trained), "B", torch.device("cpu"))
    save_grid(inference.generate(model, inference.draw_latents(32, 3)), tmp_path / "grid.png", columns=8)
    assert first["GAN_B_grid.png"] == (tmp_path / "grid.png").read_bytes()
    with Image.open(tmp_path / "first/images/P1/walk.gif") as walk:
        assert walk.n_frames == 32 and walk.info["loop"] == 0


def test_walks_leave_no_gap_and_stay_on_the_sphere() -> None:
    latents = figures.walk_latents(seed=1)
    assert torch.allclose(latents[0], inference.draw_latents(4, seed=1))
    steps = (latents - latents.roll(1, 0)).flatten(2).norm(dim=2)
    assert steps.max() < 0.35 * latents.flatten(2).norm(dim=2).mean()
    norms = latents.flatten(2).norm(dim=2)
    assert norms.min() > 0.9 * norms[::8].min() and norms.max() < 1.1 * norms[::8].max()
    half = figures.interpolate(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    assert half.tolist() == pytest.approx([0.5**0.5, 0.5**0.5])


def test_ablation_goes_on_where_it_stopped(
    small_judge: None, data_root: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    arguments = ("--preset", "sample", "--budget", 32, "--num", 4, "--data-root", data_root, "--output", tmp_path)
    execute(ablation, *arguments, "--rows", "no-averaging")
    first = results_of(tmp_path)
    record = first["ablation/no-averaging/sample/seed0"]
    assert record["steps"] == 2 and record["ema_decay"] == 0 and record["fd_lite0"] > 0 and record["images"] == 4
    rows, train_one = [], ablation.train

    def note(job: Any, *others: Any) -> Run:
        rows.append(job.key)
        return train_one(job, *others)

    monkeypatch.setattr(ablation, "train", note)
    execute(ablation, *arguments, "--rows", "no-averaging", "no-spectral-norm")
    assert rows == ["ablation/no-spectral-norm/sample/seed0"]
    assert results_of(tmp_path)["ablation/no-averaging/sample/seed0"] == record
    assert "--run-dir" in error_of(capsys, ablation, *arguments, "--run-dir", tmp_path)


def test_a_new_method_is_one_entry(small_judge: None, data_root: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    presets = {name: replace(preset, ema_decay=0.5) for name, preset in PRESETS_A.items()}
    new = methods.Method("averaged DCGAN", My_Generator, DCGAN_Discriminator, presets)
    monkeypatch.setitem(methods.METHODS, "C", new)
    places = ("--data-root", data_root, "--output", tmp_path)
    execute(train, "--method", "C", *TINY, *places)
    drawn = ("--checkpoint", weights_of(tmp_path, "C"))
    execute(inference, tmp_path / "drawn", *drawn, "--num", 2)
    execute(evaluate, *drawn, "--num", 4, *places)
    execute(figures, "grid", *drawn, "--output", tmp_path)
    space = workspace("sample", tmp_path)
    page = Page(ROOT / "p1_gan/report.md", read_results(space.results, "p1"), space)
    shown = parts(page)
    for name in ("trainings", "measures", "looks"):
        assert "\n| C | " in shown[name]
    assert "C: averaged DCGAN" in shown["settings"] and "| C |" in readme_table(page.results)
    assert "GAN_C_grid.png)" in page.render(shown)


PLACES = ("--data-root", "{data}", "--output", "{new}")


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (inference, ("{new}", "--checkpoint", "{new}/none.safetensors"), "no such weights"),
        (inference, ("{new}", "--method", "A", "--checkpoint", "{weights}"), "holds p1_gan/B, not p1_gan/A"),
        (inference, ("{new}", "--checkpoint", "{broken}"), "not a whole safetensors file"),
        (inference, ("{new}", "--checkpoint", "{narrow}"), "does not fit My_Generator"),
        (inference, ("{new}", "--checkpoint", "{weights}", "--truncation", "nan"), "--truncation nan"),
        (train, ("--method", "A", "--preset", "sample", "--data-root", "{new}"), "no such data root"),
        (evaluate, ("{empty}", *PLACES), "holds no PNG or JPEG file"),
        (evaluate, ("{one}", *PLACES), "needs at least two pictures"),
        (evaluate, ("{two}", "--val", "{one}", *PLACES), "needs at least two pictures"),
        (evaluate, ("--checkpoint", "{weights}", "--num", "1", *PLACES), "needs at least two pictures"),
        (evaluate, ("{two}", "--inception-weights", "{broken}", *PLACES), "damaged, or not a file of weights"),
    ],
)
def test_mistakes_are_one_clear_line(
    script: Any, options: tuple[str, ...], message: str, trained: Path, data_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name, count in (("empty", 0), ("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        for path in sorted((data_root / "face/val").iterdir())[:count]:
            shutil.copy(path, tmp_path / name)
    (tmp_path / "broken").write_bytes(weights_of(trained).read_bytes()[:1000])
    state = load_file(weights_of(trained))
    state["generator.main.0.weight"] = state["generator.main.0.weight"][:50].contiguous()
    save_file(state, tmp_path / "narrow", metadata={"kind": "p1_gan/B", "config": '{"channels": 4, "method": "B"}'})
    values = {name: tmp_path / name for name in ("new", "empty", "one", "two", "broken", "narrow")}
    values |= {"weights": weights_of(trained), "data": data_root}
    assert message in error_of(capsys, script, *(option.format(**values) for option in options))
    assert not (tmp_path / "new").exists()
