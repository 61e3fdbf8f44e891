"""P1 as a user meets it: training, a kill, generation, measurement, and mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from common.paths import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]
TINY = ("--preset", "sample", "--steps", "6", "--batch-size", "4", "--log-every", "1", "--grid-every", "6")


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a tiny training of method B."""
    output = tmp_path_factory.mktemp("p1")
    command = [sys.executable, str(ROOT / "p1_gan/train.py"), "--method", "B", *TINY]
    subprocess.run([*command, "--data-root", data_root, "--output", output], check=True, capture_output=True)
    return output


def weights_of(output: Path) -> Path:
    return output / "runs/sample/p1_B_seed0/weights.safetensors"


def test_training_leaves_logs_curves_weights_and_a_record(trained: Path) -> None:
    run = trained / "runs/sample/p1_B_seed0"
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(6))
    assert {"loss_d", "loss_g", "d_real", "d_fake"} <= rows[0].keys()
    assert (run / "curves.png").is_file() and (run / "grids/000006.png").is_file()
    assert (run / "last_good.safetensors").is_file()
    assert (trained / "images/P1/GAN_B_progress.png").is_file()
    assert rows[-1]["variety"] > 0
    record = json.loads((trained / "results/p1.json").read_text())["train/B/sample/seed0"]
    assert (
        record["steps"] == 6
        and record["train_images"] == 48
        and record["late"]["d_real"] > 0
        and record["dataset"] == "drawn faces (sample)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--meth", "B"), "--method"),
        (("--method", "B", "--diff-augment", "colour"), "invalid choice: 'colour'"),
        (("--method", "B", "--ema-decay", "1"), "--ema-decay 1.0: must be less than 1"),
    ],
)
def test_a_wrong_option_is_refused(run_command: Run, data_root: Path, options: tuple[str, ...], message: str) -> None:
    done = run_command("p1_gan/train.py", *options, "--data-root", data_root)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_killed_training_ends_with_the_same_weights(trained: Path, data_root: Path, tmp_path: Path) -> None:
    # Patched to save after every step and to die in the middle of the fourth.
    program = (
        "import os, runpy, sys; from common import run; "
        "old = run.Run.guard\n"
        "def guard(self, *losses):\n"
        "    old(self, *losses); self.checkpoint_seconds = -1.0\n"
        "    if self.step == 3 and os.environ.get('DIE'): os.kill(os.getpid(), 9)\n"
        "run.Run.guard = guard\n"
        f"sys.argv = ['train.py', '--method', 'B', *{TINY!r}, '--data-root', {str(data_root)!r}, "
        f"'--output', {str(tmp_path)!r}]\n"
        f"runpy.run_path({str(ROOT / 'p1_gan/train.py')!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", program]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "DIE": "1"}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not weights_of(tmp_path).exists()
    resumed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    expected, found = load_file(weights_of(trained)), load_file(weights_of(tmp_path))
    assert all(expected[name].equal(found[name]) for name in expected)
    logs = [(output / "runs/sample/p1_B_seed0/stats.jsonl").read_bytes() for output in (trained, tmp_path)]
    assert logs[0] == logs[1]


def test_interrupt_saves_and_says_so(data_root: Path, tmp_path: Path) -> None:
    arguments = ["--method", "A", *TINY, "--steps", "100000", "--data-root", data_root, "--output", tmp_path]
    process = subprocess.Popen(
        [sys.executable, ROOT / "p1_gan/train.py", *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "runs/sample/p1_A_seed0/stats.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.stat().st_size):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in errors and "Traceback" not in errors
    assert (log.parent / "checkpoint.pt").is_file()


def test_generation_is_the_same_for_a_seed_and_measured(
    trained: Path, data_root: Path, tmp_path: Path, run_command: Run
):
    for name in ("first", "second"):
        done = run_command("p1_gan/inference.py", tmp_path / name, "--num", 16, "--checkpoint", weights_of(trained))
        assert done.returncode == 0, done.stderr
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("first", "second"))
    assert [file.name for file in first] == [f"{index:04d}.png" for index in range(16)]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]

    measured = run_command(
        "p1_gan/evaluate.py", tmp_path / "first", "--preset", "sample", "--data-root", data_root, "--output", tmp_path,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    record = json.loads((tmp_path / "results/p1.json").read_text())["evaluate/B/sample/seed0"]
    assert record["images"] == 16 and record["fd_hog"] > record["fd_hog_floor"] > 0
    assert record["fid"] == "FID: not run (weights unavailable)" or record["fid"] > 0
    for name in ("brightness", "colourfulness", "blank_border", "variety"):
        assert 0 <= record[name] <= 1 and 0 <= record[f"{name}_of_val"] <= 1
    if "face_rate" in record:
        assert record["face_rate"] == pytest.approx(1 - record["no_face"] - record["several_faces"])
    assert (tmp_path / "images/P1/GAN_B_grid.png").is_file()


def test_wrong_inception_weights_are_refused_before_anything_is_measured(
    data_root: Path, tmp_path: Path, run_command: Run
) -> None:
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    done = run_command(
        "p1_gan/evaluate.py", data_root / "face/val", "--preset", "sample", "--data-root", data_root,
        "--output", tmp_path / "out", "--inception-weights", tmp_path / "torn.pth",
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "out").exists()
    assert done.stderr.count("\n") == 1 and "torn.pth: damaged, or not a file of weights" in done.stderr


def test_a_finished_run_draws_its_strip_again(trained: Path, data_root: Path, run_command: Run) -> None:
    strip = trained / "images/P1/GAN_B_progress.png"
    before = strip.read_bytes()
    strip.unlink()
    done = run_command("p1_gan/train.py", "--method", "B", *TINY, "--data-root", data_root, "--output", trained)
    assert done.returncode == 0 and "finished before" in done.stdout
    assert strip.read_bytes() == before


def test_a_discriminator_that_wins_is_said(data_root: Path, tmp_path: Path, run_command: Run) -> None:
    done = run_command(
        "p1_gan/train.py", "--method", "A", *TINY, "--steps", 60, "--grid-every", 60, "--channels", 4,
        "--discriminator-learning-rate", 0.02, "--generator-learning-rate", 1e-5, "--real-label", 0.9,
        "--data-root", data_root, "--output", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0 and "the discriminator has won" in done.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("inference.py", ("{new}", "--checkpoint", "{new}/none.safetensors"), "no such weights"),
        ("inference.py", ("{full}", "--checkpoint", "{weights}"), "is not empty"),
        ("inference.py", ("{new}", "--method", "A", "--checkpoint", "{weights}"), "holds p1_gan/B, not p1_gan/A"),
        ("inference.py", ("{new}", "--checkpoint", "{broken}"), "not a whole safetensors file"),
        ("train.py", ("--method", "A", "--preset", "sample", "--data-root", "{new}"), "no such data root"),
        ("train.py", ("--method", "A", "--preset", "sample", "--batch-size", "0"), "must be at least"),
        ("evaluate.py", ("{empty}", "--data-root", "{data}"), "holds no PNG or JPEG file"),
    ],
)
def test_mistakes_are_one_clear_line(
    script: str,
    arguments: tuple[str, ...],
    message: str,
    trained: Path,
    data_root: Path,
    tmp_path: Path,
    run_command: Run,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(weights_of(trained).read_bytes()[:1000])
    places = {"new": "new", "full": "full", "empty": "empty", "broken": "broken.safetensors"}
    values = {name: str(tmp_path / place) for name, place in places.items()}
    values |= {"weights": str(weights_of(trained)), "data": str(data_root)}
    done = run_command(f"p1_gan/{script}", *(argument.format(**values) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and message in done.stderr
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["a.txt"]


def test_weights_of_another_shape_are_refused(trained: Path, tmp_path: Path, run_command: Run) -> None:
    state = load_file(weights_of(trained))
    state["main.0.weight"] = state["main.0.weight"][:50].contiguous()
    path = tmp_path / "narrow.safetensors"
    save_file(state, path, metadata={"kind": "p1_gan/B", "config": '{"channels": 16}'})
    done = run_command("p1_gan/inference.py", tmp_path / "out", "--checkpoint", path)
    assert done.returncode == 2 and "does not fit My_Generator" in done.stderr


def test_ablation_trains_apart_and_measures_later(data_root: Path, tmp_path: Path, run_command: Run) -> None:
    arguments = ("--preset", "sample", "--rows", "no-ema", "--steps", 1, "--num", 8)
    places = ("--data-root", data_root, "--output", tmp_path)
    early = run_command("p1_gan/ablation.py", *arguments, *places, "--evaluate-only")
    assert early.returncode == 2 and "holds no finished training of 1 steps" in early.stderr
    trained = run_command("p1_gan/ablation.py", *arguments, *places, "--train-only")
    assert trained.returncode == 0, trained.stderr
    assert not (tmp_path / "results").exists()  # the record of a row's training must not replace that of B
    measured = run_command("p1_gan/ablation.py", *arguments, *places, "--evaluate-only")
    assert measured.returncode == 0, measured.stderr
    results = json.loads((tmp_path / "results/p1.json").read_text())
    assert set(results) == {"ablation/no-ema/sample/seed0"}
    record = results["ablation/no-ema/sample/seed0"]
    assert record["settings"] == {"ema_decay": 0.0} and record["config"]["ema_decay"] == 0.0
    assert record["steps"] == 1 and record["fd_hog"] > 0


def test_script_measures_both_methods_with_three_sampling_seeds(tmp_path: Path) -> None:
    def commands(*options: str) -> list[list[str]]:
        done = subprocess.run(
            ["bash", str(ROOT / "scripts/train_p1.sh"), "--output", str(tmp_path), *options],
            env={**os.environ, "PYTHON": "echo", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split() for line in done.stdout.splitlines() if line.startswith(str(ROOT))]

    def draws(lines: list[list[str]], script: str) -> set[tuple[str, str]]:
        return {
            (line[line.index("--method") + 1], line[len(line) - line[::-1].index("--seed")])
            for line in lines
            if Path(line[0]).stem == script
        }

    trainings = {("A", "4"), ("B", "4")}
    lines = commands("--seed", "4")
    assert draws(lines, "train") == trainings and len(lines) == 2  # echo trains nothing: there is nothing to draw with
    for method in "AB":
        weights = tmp_path / f"runs/cpu/p1_{method}_seed4/weights.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_text("weights")
    lines = commands("--seed", "4")
    expected = {(method, seed) for method in "AB" for seed in "456"}
    assert draws(lines, "inference") == draws(lines, "evaluate") == expected and len(lines) == 14
    assert draws(commands("--seed", "4"), "inference") == set()  # the weights are the same


def test_script_refuses_another_seed_beside_the_report_of_this_one() -> None:
    done = subprocess.run(["bash", str(ROOT / "scripts/train_p1.sh"), "--seed", "1"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --seed 1") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_script_waits_until_both_methods_have_saved(number: signal.Signals, tmp_path: Path) -> None:
    # Instead of Python: a training that takes a moment to save when asked to stop, and notes how often it was asked.
    python = tmp_path / "python"
    python.write_text(
        "#!/usr/bin/env bash\n[[ $1 != -c ]] || { echo 2; exit; }\n"
        f'name="{tmp_path}/$5"; trap \'echo asked >>"$name"\' TERM; touch "$name.began"\n'
        'until [[ -s $name ]]; do sleep 0.05; done; sleep 0.3; echo saved >>"$name"; exit 130\n'
    )
    python.chmod(0o755)
    command = ["bash", str(ROOT / "scripts/train_p1.sh"), "--output", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHON": str(python), "OMP_NUM_THREADS": "1"}
    script = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        # A shell cannot trap what it was started ignoring, as tests in the background ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not all((tmp_path / f"{method}.began").exists() for method in "AB"):
        assert script.poll() is None
        time.sleep(0.05)
    script.send_signal(number)
    assert script.wait(timeout=20) == 130
    assert [(tmp_path / method).read_text().split() for method in "AB"] == [["asked", "saved"]] * 2
