"""The scripts that run many commands: what they run, side by side, stopped, and with which Python."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.paths import ROOT
from scripts.launch import read_commands
from tests.in_process import call

SCRIPTS = ("train_p1.sh", "train_p2.sh", "train_p3.sh", "run_all.sh")


def launch(listed: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/launch.py"), "script", "cpu", *options]
    return subprocess.run(command, input=listed, capture_output=True, text=True, env=os.environ | environment)


def test_paragraphs_run_side_by_side_and_their_lines_in_order(tmp_path: Path) -> None:
    # Each paragraph waits for what the other makes: one alone would never end.
    wait = "bash -c 'until [[ -e {path} ]]; do sleep 0.01; done'"
    first, second, last = (tmp_path / name for name in ("first", "second", "last"))
    listed = f"touch {first}\n{wait.format(path=second)}\n\n{wait.format(path=first)}\ntouch {second}\n"
    done = launch(listed + f"wait\ntest -e {first} -a -e {second}\ntouch {last}\n")
    assert done.returncode == 0 and last.exists(), done.stderr


def test_paragraphs_share_the_cores_unless_told_otherwise(tmp_path: Path) -> None:
    listed = f"bash -c 'echo $OMP_NUM_THREADS >{tmp_path}/a'\n\nbash -c 'echo $OMP_NUM_THREADS >{tmp_path}/b'\n"
    os.environ.pop("OMP_NUM_THREADS", None)
    launch(listed)
    shared = max(1, len(os.sched_getaffinity(0)) // 2)
    assert [(tmp_path / name).read_text().strip() for name in "ab"] == [str(shared)] * 2
    launch(listed, OMP_NUM_THREADS="7")
    assert [(tmp_path / name).read_text().strip() for name in "ab"] == ["7"] * 2


def test_a_command_that_fails_ends_its_paragraph_and_then_the_list(tmp_path: Path) -> None:
    done = launch(
        f"false\ntouch {tmp_path}/after\n\nsleep 0.1\ntouch {tmp_path}/beside\nwait\ntouch {tmp_path}/later\n"
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["beside"]


def test_commands_wait_for_weights_that_a_stopped_training_has_not_made(tmp_path: Path) -> None:
    done = launch(f"touch {tmp_path}/first\ntouch {tmp_path}/weights.safetensors\ntouch {tmp_path}/last\n")
    assert done.returncode == 0 and [path.name for path in tmp_path.iterdir()] == ["first"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_command_and_starts_no_other(tmp_path: Path, number: int) -> None:
    wait = "bash -c 'trap \"touch {0}; exit 1\" TERM; touch {0}.ready; while true; do sleep 0.01; done'"
    listed = "\n\n".join(f"{wait.format(tmp_path / name)}\ntouch {tmp_path}/next" for name in ("a", "b"))
    command = [sys.executable, str(ROOT / "scripts/launch.py"), "script", "cpu"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    process.stdin.write(listed)
    process.stdin.close()
    while not all((tmp_path / f"{name}.ready").exists() for name in ("a", "b")):
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "a.ready", "b.ready"}


def test_options_go_where_they_belong(tmp_path: Path) -> None:
    listed = """if sample: a/train.py --mode dann
unless sample unless --quick: p2_diffusion/inference.py {runs}/x --checkpoint {runs}/w.safetensors --seed {second_seed}
if --more unless sample: a/evaluate.py --preset other
b/train_judge.py"""

    def read(*options: str) -> list[list[str]]:
        ((commands,),) = read_commands(listed, options, "cpu")
        assert all(command[0] == sys.executable for command in commands)
        return [command[1:] for command in commands]

    out, a, b = str(tmp_path), str(ROOT / "a"), str(ROOT / "b")
    assert read("--quick", "--more", "--seed", "3", "--steps=5") == [
        [f"{a}/evaluate.py", "--preset", "other", "--seed", "3"],
        [f"{b}/train_judge.py", "--preset", "cpu", "--seed", "3"],
    ]
    assert read("--output", out, "--seed", "3", "--device", "cpu")[0] == [
        str(ROOT / "p2_diffusion/inference.py"),
        f"{out}/runs/cpu/x",
        "--checkpoint",
        f"{out}/runs/cpu/w.safetensors",
        "--seed",
        "4",
        "--device",
        "cpu",
    ]
    assert read("--preset", "sample", "--data-root", "d", "--more", "--steps", "5") == [
        [f"{a}/train.py", "--mode", "dann", "--preset", "sample", "--data-root", "d", "--steps", "5"],
        [f"{b}/train_judge.py", "--preset", "sample", "--data-root", "d"],
    ]


@pytest.mark.parametrize("options", [["--seed"], ["--seed", "x"], ["--run-dir", "x"], ["--method=B"]])
def test_a_mistake_is_one_line_before_anything_is_made(options: list[str]) -> None:
    done = subprocess.run(["bash", str(ROOT / "scripts/train_p1.sh"), *options], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert "error: " in done.stderr and options[0] in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_head_of_the_script(script: str) -> None:
    done = subprocess.run(["bash", str(ROOT / "scripts" / script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and f"bash scripts/{script} " in done.stdout and "#!" not in done.stdout


def test_what_a_script_lists_trains_to_the_plots_and_a_second_time_only_says_so(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bash", str(ROOT / "scripts/train_p3.sh"), "--preset", "sample", "--data-root", str(data_root)]
    command += ["--output", str(tmp_path / "a folder"), "--steps", "2", "--batch-size", "16", "--device", "cpu"]
    listed = subprocess.run([*command, "--list"], capture_output=True, text=True, check=True).stdout
    commands = [shlex.split(line)[1:] for line in listed.splitlines()]
    trainings = [words for words in commands if words[0].endswith("/train.py")]
    for script, *options in [*commands, *trainings]:
        assert call(str(Path(script).relative_to(ROOT)), *options) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("finished before") == len(trainings) == 6
    assert len(list((tmp_path / "a folder/images/P3").glob("*.png"))) == 8


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
    command = ["bash", str(copy / "scripts/train_p3.sh"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=BARE)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    (copy / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(command, capture_output=True, text=True, env=BARE)
    assert done.returncode == 0, done.stderr


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
