"""P1 as a user meets it: training, a kill, generation, measurement, figures, the ablation, a blind count, mistakes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from common.training import TrainingRun
from common.viz import save_grid
from common.weights import load_weights
from p1_gan import ablation, blind_count, evaluate, figures, inference, train
from p1_gan.config import METHODS, Method
from p1_gan.model import DCGAN_Discriminator, My_Generator
from tests.conftest import Capture, Patch
from tests.in_process import call, error_of, execute

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

TINY = ("--preset", "sample", "--steps", 4, "--batch-size", 4, "--log-every", 1, "--sample-every", 2, "--channels", 4)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_extractor(monkeypatch: Patch) -> None:
    """Measure distances with features that take no time, and FID not at all: its weights would be downloaded."""

    def extract(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images.float() / 255, 16).flatten(1)[:, :8].contiguous()

    monkeypatch.setattr(evaluate, "efficientnet", lambda _: extract)
    monkeypatch.setattr(evaluate, "cached", lambda _, images, __: extract(images))
    monkeypatch.setattr(evaluate, "inception", lambda _: None)
    monkeypatch.setattr(evaluate, "COURSE_IMAGES", 16)


@pytest.fixture(scope="module")
def runs(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a tiny run of every method."""
    folders = {method: tmp_path_factory.mktemp("runs") / method for method in METHODS}
    for method, folder in folders.items():
        execute(train, "--method", method, *TINY, "--data-root", data_root, "--run-dir", folder)
    return folders


def weights_of(folder: Path) -> Path:
    return folder / "weights.safetensors"


def record_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"records/{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("method", METHODS)
def test_training_leaves_log_curves_samples_weights_and_a_record(runs: dict[str, Path], method: str) -> None:
    folder = runs[method]
    log = [json.loads(line) for line in (folder / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["step"] for entry in log] == list(range(4))
    assert all({"loss_d", "loss_g", "d_real", "d_fake"} <= entry.keys() for entry in log)
    for name in ("curves.png", "grids/000002.png", "grids/000004.png", "snapshots/000002.safetensors"):
        assert (folder / name).is_file(), name
    record = record_of(folder, "train")
    assert record["method"] == method and record["images_seen"] == 16
    assert record["overrides"] == ["batch_size", "channels", "log_every", "sample_every", "steps"]
    assert 0 < record["d_real"] < 1


def test_the_last_snapshot_is_the_generator_of_the_run(runs: dict[str, Path]) -> None:
    first, config = load_weights(runs["B"] / "snapshots/000002.safetensors", "p1_gan/B")
    last, _ = load_weights(runs["B"] / "snapshots/000004.safetensors", "p1_gan/B")
    final = load_file(weights_of(runs["B"]))
    assert config["step"] == 2 and len(last) == sum(name.startswith("generator.") for name in final)
    assert all(torch.equal(last[name], final[name].half().float()) for name in last if "num_batches" not in name)
    assert not all(torch.equal(last[name], first[name]) for name in last)
    model, _ = inference.load_generator(runs["B"] / "snapshots/000002.safetensors", CPU)
    assert inference.generate(model, inference.sample_latents(2, seed=0)).shape == (2, 3, 64, 64)


def test_a_finished_run_is_not_trained_again(runs: dict[str, Path], data_root: Path, capsys: Capture) -> None:
    execute(train, "--method", "B", *TINY, "--data-root", data_root, "--run-dir", runs["B"])
    assert "already finished" in capsys.readouterr().out


def test_a_killed_run_ends_with_the_same_bytes(
    runs: dict[str, Path], data_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    class Killed(BaseException):
        pass

    check_finite = TrainingRun.check_finite

    def die(run: TrainingRun, *losses: torch.Tensor) -> None:
        check_finite(run, *losses)
        if run.step == 2:
            raise Killed

    command = ("--method", "B", *TINY, "--data-root", data_root, "--run-dir", tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr("common.training.CHECKPOINT_SECONDS", -1.0)
        patched.setattr(TrainingRun, "check_finite", die)
        with pytest.raises(Killed):
            execute(train, *command)
    assert not weights_of(tmp_path / "run").exists()
    execute(train, *command)
    for name in ("weights.safetensors", "stats.jsonl", "grids/000004.png", "snapshots/000004.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (runs["B"] / name).read_bytes(), name


def test_training_starts_from_given_weights(runs: dict[str, Path], data_root: Path, tmp_path: Path) -> None:
    still = ("--steps", 1, "--generator-learning-rate", 1e-12, "--discriminator-learning-rate", 1e-12)
    command = ("--method", "A", *TINY, *still, "--data-root", data_root, "--run-dir", tmp_path / "run")
    execute(train, *command, "--init-from", weights_of(runs["A"]), "--variant", "continued")
    before, after = load_file(weights_of(runs["A"])), load_file(weights_of(tmp_path / "run"))
    learned = [name for name in before if name.endswith("weight")]
    assert learned and all(torch.allclose(after[name], before[name], atol=1e-6) for name in learned)
    assert record_of(tmp_path / "run", "train")["variant"] == "continued"


def test_generation_is_the_same_for_a_seed_whatever_the_number(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first/notes.txt").write_text("kept", encoding="utf-8")
    for name, num in (("first", 12), ("second", 12), ("third", 300)):
        execute(inference, tmp_path / name, "--num", num, "--checkpoint", weights_of(runs["B"]))
    first, second, third = (sorted((tmp_path / name).glob("*.png")) for name in ("first", "second", "third"))
    assert [file.name for file in first] == [f"{index:04d}.png" for index in range(12)]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert len(third) == 300 and (tmp_path / "first/notes.txt").exists()
    with Image.open(first[0]) as image:
        assert image.size == (64, 64) and image.mode == "RGB"


def test_latents_do_not_depend_on_their_number() -> None:
    sample = inference.sample_latents
    assert torch.equal(sample(3, seed=1), sample(8, seed=1)[:3])
    assert not torch.equal(sample(3, seed=1), sample(3, seed=2))


def test_evaluation_is_recorded_next_to_the_weights_and_once(
    runs: dict[str, Path], data_root: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    command = ("--checkpoint", weights_of(runs["B"]), "--num", 12, "--data-root", data_root)
    execute(evaluate, *command, "--snapshots")
    record = record_of(runs["B"], "evaluate_seed0")
    assert record["method"] == "B" and record["images_seen"] == 16 and record["num_images"] == 12
    for name in ("fd_lite0", "kid_lite0", "brightness", "blank_border", "face_rate", "nearest_train_median"):
        assert record.keys() >= {name, f"{name}_baseline"}, name
    assert record["fd_lite0"] > record["fd_lite0_baseline"] > 0 and 0 < record["brightness"] < 1
    progress = record_of(runs["B"], "progress_seed0")
    assert progress["images_seen_at"] == [8, 16] and len(progress["kid_lite0"]) == 2

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "generate", None)  # nothing is sampled or measured a second time
        execute(evaluate, *command, "--snapshots")
    execute(inference, runs["B"] / "out", "--num", 12, "--checkpoint", weights_of(runs["B"]))
    capsys.readouterr()
    execute(evaluate, runs["B"] / "out", "--data-root", data_root)  # printed, recorded nowhere
    assert f"brightness: {record['brightness']:.4g}\n" in capsys.readouterr().out
    assert {path.stem for path in (runs["B"] / "records").iterdir()} == {"evaluate_seed0", "progress_seed0", "train"}


def test_a_metric_that_becomes_available_is_measured_and_is_not_lost(
    runs: dict[str, Path], data_root: Path, monkeypatch: Patch
) -> None:
    command = ("--checkpoint", weights_of(runs["A"]), "--num", 4, "--data-root", data_root)
    recorded = []
    for detector_is_installed in (False, True, False):
        with monkeypatch.context() as patched:
            if not detector_is_installed:
                patched.setattr(evaluate, "find_spec", lambda _: None)
                patched.setitem(sys.modules, "dlib", None)
            execute(evaluate, *command)
        recorded.append("face_rate" in record_of(runs["A"], "evaluate_seed0"))
    assert recorded == [False, True, True]


def test_other_weights_have_other_records(runs: dict[str, Path], data_root: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    for method in ("A", "B"):  # one folder, as after training again
        shutil.copy(weights_of(runs[method]), weights)
        execute(evaluate, "--checkpoint", weights, "--num", 4, "--data-root", data_root)
        assert record_of(tmp_path, "evaluate_seed0")["method"] == method


def test_figures_are_the_first_images_and_the_same_bytes(runs: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = ("--checkpoint", weights_of(runs["A"]), "--seed", 3)
    for name in ("first", "second"):
        execute(figures, *checkpoint, "--images", tmp_path / name)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert first == second
    assert set(first) == {"GAN_A_grid.png", "GAN_A_sheet.png", "GAN_A_progress.png", "GAN_A_walk.gif"}
    model, _ = inference.load_generator(weights_of(runs["A"]), CPU)
    save_grid(inference.generate(model, inference.sample_latents(32, 3)), tmp_path / "grid.png", columns=8)
    assert first["GAN_A_grid.png"] == (tmp_path / "grid.png").read_bytes()
    with Image.open(tmp_path / "first/GAN_A_walk.gif") as walk:
        assert walk.n_frames == 64 and walk.size == (128, 128) and walk.info["loop"] == 0
    execute(figures, "grid", "--checkpoint", weights_of(runs["A"]))
    assert [path.name for path in (runs["A"] / "images").iterdir()] == ["GAN_A_grid.png"]


def test_distances_of_several_runs_are_one_figure(
    runs: dict[str, Path], data_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    both = [weights_of(runs[method]) for method in ("A", "B")]
    command = ("distances", "--checkpoint", *both, "--images", tmp_path)
    assert "evaluate.py --snapshots" in error_of(capsys, figures, *command)
    for weights in both:
        execute(evaluate, "--checkpoint", weights, "--num", 4, "--snapshots", "--data-root", data_root)
    execute(figures, *command)
    assert (tmp_path / "GAN_distances.png").is_file()


def test_walks_leave_no_gap_and_stay_on_the_sphere() -> None:
    latents = figures.walk_latents(seed=1)
    assert torch.allclose(latents[::8], inference.sample_latents(8, seed=1))
    steps = (latents - latents.roll(1, 0)).flatten(1).norm(dim=1)
    norms = latents.flatten(1).norm(dim=1)
    assert steps.max() < 0.35 * norms.mean()
    assert norms.min() > 0.9 * norms[::8].min() and norms.max() < 1.1 * norms[::8].max()
    half = figures.interpolate(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    assert half.tolist() == pytest.approx([0.5**0.5, 0.5**0.5])


def test_the_strip_shows_no_more_snapshots_than_fit(runs: dict[str, Path], tmp_path: Path, monkeypatch: Patch) -> None:
    widths = []
    for most in (2, 1):  # the run has two
        monkeypatch.setattr(figures, "STRIP_SNAPSHOTS", most)
        execute(figures, "progress", "--checkpoint", weights_of(runs["A"]), "--images", tmp_path)
        widths.append(Image.open(tmp_path / "GAN_A_progress.png").width)
    assert widths[0] == 2 * widths[1]


def test_ablation_resumes_with_the_next_variant(data_root: Path, tmp_path: Path) -> None:
    command = ("--preset", "sample", "--budget", 32, "--num", 4, "--data-root", data_root, "--run-dir", tmp_path)
    execute(ablation, *command, "--variants", "no-ema")
    folder = tmp_path / "no-ema_seed0"
    trained, evaluated = record_of(folder, "train"), record_of(folder, "evaluate_seed0")
    assert trained["variant"] == evaluated["variant"] == "no-ema" and trained["ema_decay"] == 0
    assert evaluated["images_seen"] == 32 and evaluated["num_images"] == 4 and evaluated["fd_lite0"] > 0
    before = weights_of(folder).stat().st_mtime_ns
    execute(ablation, *command, "--variants", "no-ema", "hinge")
    assert weights_of(folder).stat().st_mtime_ns == before
    assert record_of(tmp_path / "hinge_seed0", "train")["loss"] == "hinge"


def test_a_new_method_is_one_entry(data_root: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setitem(METHODS, "D", Method("hinge", My_Generator, DCGAN_Discriminator, {"loss": "hinge"}))
    folder = tmp_path / "run"
    execute(train, "--method", "D", *TINY, "--data-root", data_root, "--run-dir", folder)
    execute(inference, tmp_path / "out", "--checkpoint", weights_of(folder), "--num", 2)
    execute(evaluate, "--checkpoint", weights_of(folder), "--num", 4, "--data-root", data_root)
    execute(figures, "grid", "--checkpoint", weights_of(folder))
    assert record_of(folder, "evaluate_seed0")["method"] == "D" and (folder / "images/GAN_D_grid.png").is_file()
    capsys.readouterr()
    assert call(train, "--help") == 0 and "D: hinge" in " ".join(capsys.readouterr().out.split())


def test_a_blind_count_finds_who_was_broken(
    runs: dict[str, Path], data_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    checkpoints = [weights_of(runs[method]) for method in ("A", "B")]
    make = ("--checkpoint", *checkpoints, "--num", 30, "--real", "--data-root", data_root)
    for name in ("count", "again"):
        execute(blind_count, tmp_path / name, *make)
    sheets = sorted((tmp_path / "count").glob("*.png"))
    assert [path.name for path in sheets] == ["sheet_01.png", "sheet_02.png"]
    assert sheets[0].read_bytes() == (tmp_path / "again/sheet_01.png").read_bytes()
    key = json.loads((tmp_path / "count" / blind_count.KEY).read_text(encoding="utf-8"))
    sources = {name: [i for i, source in enumerate(key["sources"], 1) if source == name] for name in key["sources"]}
    assert sorted(map(len, sources.values())) == [30, 30, 30]
    assert len({key["sources"][index] for index in range(10)}) > 1  # shuffled
    # A rater who calls six faces of A and one of C broken.
    a, c = (sources[str(path.resolve())] for path in checkpoints)
    (tmp_path / "anna.txt").write_text(f"{' '.join(map(str, a[:6]))}\n{c[0]},", encoding="utf-8")
    capsys.readouterr()
    execute(blind_count, tmp_path / "count", "--score", tmp_path / "anna.txt")
    assert "6 of 30 broken, 20.0%" in capsys.readouterr().out
    record = record_of(runs["A"], "blind_count_anna")
    assert (record["broken"], record["num_images"], record["rater"], record["method"]) == (6, 30, "anna", "A")
    assert record["broken_low"] < record["broken_rate"] == 0.2 < record["broken_high"]
    assert record_of(runs["B"], "blind_count_anna")["broken"] == 1
    (tmp_path / "ben.txt").write_text("3 91", encoding="utf-8")
    assert "'91'" in error_of(capsys, blind_count, tmp_path / "count", "--score", tmp_path / "ben.txt")
    assert "holds no sheets" in error_of(capsys, blind_count, tmp_path, "--score", tmp_path / "anna.txt")


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (inference, ("{new}", "--checkpoint", "{new}/none.safetensors"), "no such weights"),
        (inference, ("{new}", "--checkpoint", "{broken}"), "damaged"),
        (inference, ("{new}", "--checkpoint", "{narrow}"), "does not fit My_Generator"),
        (
            train,
            ("--method", "A", "--preset", "sample", "--data-root", "{new}", "--run-dir", "{new}"),
            "no such data root",
        ),
        (train, ("--method", "A", "--ema-decay", 1), "--ema-decay 1.0"),
        (
            train,
            ("--method", "A", *TINY, "--data-root", "{data}", "--run-dir", "{empty}", "--init-from", "{weights}"),
            "p1_gan/B",
        ),
        (evaluate, ("{empty}", "--data-root", "{data}"), "no images"),
        (evaluate, ("{one}", "--data-root", "{data}"), "needs at least two images"),
        (evaluate, ("--checkpoint", "{weights}", "--num", "1", "--data-root", "{data}"), "needs at least two images"),
    ],
)
def test_mistakes_are_one_clear_line(
    script: Any,
    options: tuple[object, ...],
    message: str,
    runs: dict[str, Path],
    data_root: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    for name, count in (("empty", 0), ("one", 1)):
        (tmp_path / name).mkdir()
        for path in sorted((data_root / "face/val").glob("*.png"))[:count]:
            shutil.copy(path, tmp_path / name)
    weights = weights_of(runs["B"])
    (tmp_path / "broken").write_bytes(weights.read_bytes()[:1000])
    state = load_file(weights)
    state["generator.main.0.weight"] = state["generator.main.0.weight"][:50].contiguous()
    config = json.dumps({"model": "p1_gan/B", "channels": 4, "method": "B"})
    save_file(state, tmp_path / "narrow", metadata={"config": config})
    values = {name: tmp_path / name for name in ("new", "empty", "one", "broken", "narrow")}
    values |= {"weights": weights, "data": data_root}
    assert message in error_of(capsys, script, *(str(option).format(**values) for option in options))
    assert not (tmp_path / "new").exists()
