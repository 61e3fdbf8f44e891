"""The scripts that run many commands: what they run, side by side, stopped, and with which Python."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.paths import ROOT
from tests.conftest import Capture
from tests.in_process import call

SCRIPTS = ("train_p1.sh", "train_p2.sh", "train_p3.sh", "run_all.sh")
SIDE_BY_SIDE = [sys.executable, str(ROOT / "scripts/side_by_side.py")]


def test_commands_run_at_once_and_share_the_cores(tmp_path: Path) -> None:
    # Each waits for what the other makes: one after the other they would never end.
    one = 'echo "$OMP_NUM_THREADS" >{0}/{1}; until [[ -e {0}/{2} ]]; do sleep 0.01; done'
    commands = ["bash", "-c", one.format(tmp_path, "a", "b"), "--", "bash", "-c", one.format(tmp_path, "b", "a")]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    shared = max(1, len(os.sched_getaffinity(0)) // 2)
    for given, expected in (({}, str(shared)), ({"OMP_NUM_THREADS": "7"}, "7")):
        subprocess.run([*SIDE_BY_SIDE, *commands], check=True, env=environment | given, timeout=60)
        assert [(tmp_path / name).read_text().strip() for name in "ab"] == [expected] * 2


def test_a_failure_is_passed_on_after_the_others_have_ended(tmp_path: Path) -> None:
    done = subprocess.run([*SIDE_BY_SIDE, "bash", "-c", "exit 3", "--", "bash", "-c", f"sleep 0.2; touch {tmp_path}/b"])
    assert done.returncode == 3 and (tmp_path / "b").exists()
    # One that a signal ended has the status that it has in a shell.
    assert subprocess.run([*SIDE_BY_SIDE, "bash", "-c", "kill -TERM $$"]).returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_command(tmp_path: Path, number: int) -> None:
    wait = "trap 'touch {0}; exit 130' INT TERM; touch {0}.ready; while true; do sleep 0.01; done"
    commands = ["bash", "-c", wait.format(tmp_path / "a"), "--", "bash", "-c", wait.format(tmp_path / "b")]
    # Tests that run in the background of a shell have interrupts ignored, which bash would not let its trap change.
    process = subprocess.Popen(
        [*SIDE_BY_SIDE, *commands], preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    while not all((tmp_path / f"{name}.ready").exists() for name in ("a", "b")):
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "a.ready", "b.ready"}


def test_a_signal_reaches_the_others_when_one_has_ended(tmp_path: Path) -> None:
    wait = f"trap 'exit 130' TERM; sleep 0.3; touch {tmp_path}/ready; while true; do sleep 0.01; done"
    process = subprocess.Popen([*SIDE_BY_SIDE, "true", "--", "bash", "-c", wait])
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130


@pytest.mark.parametrize(("script", "options"), [("train_p2.sh", ["--run-dir", "x"]), ("train_p1.sh", ["--seed"])])
def test_options_that_the_scripts_cannot_take_are_one_line(script: str, options: list[str]) -> None:
    done = subprocess.run(["bash", str(ROOT / "scripts" / script), *options], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {options[0]}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_head_of_the_script(script: str) -> None:
    done = subprocess.run(["bash", str(ROOT / "scripts" / script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and f"bash scripts/{script} " in done.stdout and "#!" not in done.stdout


def test_what_a_script_lists_trains_to_the_plots_and_a_second_time_only_says_so(
    data_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["bash", str(ROOT / "scripts/train_p3.sh"), "--preset", "sample", "--data-root", str(data_root)]
    command += ["--output", str(tmp_path / "a folder"), "--steps", "2", "--batch-size", "16", "--target", "usps"]
    listed = subprocess.run([*command, "--list"], capture_output=True, text=True, check=True).stdout
    commands = [shlex.split(line)[2:] for line in listed.splitlines() if line.startswith("== python ")]
    trainings = [words for words in commands if words[0].endswith("/train.py")]
    for script, *options in [*commands, *trainings]:
        assert call(script, *options) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("finished before") == len(trainings) == 3
    assert len(list((tmp_path / "a folder/images/P3").glob("*.png"))) == 4


def test_a_target_without_labels_is_not_trained_on_itself(tmp_path: Path) -> None:
    labels = tmp_path / "digits/mine/train.csv"
    labels.parent.mkdir(parents=True)
    command = ["bash", str(ROOT / "scripts/train_p3.sh"), "--list", "--target", "mine", "--data-root", str(tmp_path)]
    for line, modes in (("0.png", {"source", "dann"}), ("0.png,3", {"source", "dann", "target"})):
        labels.write_text(f"image_name,label\n{line}\n")
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert set(re.findall(r"--mode (\w+)", listed)) == modes


def test_a_training_that_its_time_limit_stopped_stops_the_script(data_root: Path, tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "scripts/train_p3.sh"), "--preset", "sample", "--data-root", str(data_root)]
    command += ["--output", str(tmp_path), "--target", "usps", "--steps", "1000000", "--max-seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 75 and "p3_usps_source_seed0: not finished" in done.stderr
    assert done.stdout.count("== python") == 1


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the scripts, with an empty list of what is to be installed."""
    shutil.copytree(ROOT / "scripts", tmp_path / "copy/scripts")
    shutil.copytree(ROOT / "common", tmp_path / "copy/common")
    (tmp_path / "copy/requirements.txt").touch()
    return tmp_path / "copy"


BARE = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}  # nothing is active


def has_torch(environment: dict[str, str]) -> bool:
    program = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
    return subprocess.run(["python3", "-c", program], env=environment).returncode == 0


@pytest.mark.skipif(has_torch(BARE), reason="the system's Python has torch")
def test_an_environment_that_is_not_active_is_used_and_without_one_a_line_says_what_to_do(copy: Path) -> None:
    command = ["bash", str(copy / "scripts/train_p3.sh"), "--target", "svhn", "--data-root", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, env=BARE)
    assert (
        done.returncode == 2 and done.stderr.startswith("error: no Python with torch") and done.stderr.count("\n") == 1
    )
    (copy / ".venv").symlink_to(sys.prefix)
    shutil.copytree(ROOT / "p3_dann", copy / "p3_dann")
    done = subprocess.run(command, capture_output=True, text=True, env=BARE)
    assert done.returncode == 2 and "error: nowhere" in done.stderr, done.stderr


def test_a_half_made_environment_is_completed(copy: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(copy / ".venv")], check=True)
    command = f'source "{copy}/scripts/setup.sh"; "$python" -m pip --version; echo "$PYTHON"'
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(copy / ".venv/bin/python")


def test_an_interpreter_that_is_too_old_is_one_line(copy: Path) -> None:
    environment = os.environ | {"PYTHON": "/bin/false"}
    command = ["bash", str(copy / "scripts/run_all.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.startswith("error: /bin/false") and done.stderr.count("\n") == 1
