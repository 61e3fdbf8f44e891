"""The shell scripts: help, options, exit status, both targets at once, and which Python they use."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from common import ROOT
from tests.conftest import Capture
from tests.in_process import call

import pytest

# Instead of training, say what would be run.
ECHO = '#!/usr/bin/env bash\n[[ $1 == -c ]] || echo "ran $(basename "$(dirname "$1")")/$(basename "$1") ${*:2}"\n'


@pytest.fixture
def echo(tmp_path: Path) -> dict[str, str]:
    """An environment in which PYTHON only prints its command line."""
    python = tmp_path / "python"
    python.write_text(ECHO)
    python.chmod(0o755)
    return os.environ | {"PYTHON": str(python)}


def bash(script: str, *options: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "scripts" / script), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


@pytest.mark.parametrize("script", ["train_p1.sh", "train_p2.sh", "train_p3.sh", "run_all.sh", "test.sh"])
def test_help_is_the_head_of_the_script(script: str) -> None:
    done = bash(script, "--help")
    assert done.returncode == 0 and f"bash scripts/{script} " in done.stdout and "#!" not in done.stdout


def test_common_options_reach_every_command_and_the_others_only_training(echo: dict[str, str]) -> None:
    done = bash("train_p1.sh", "--device=cpu", "--data-root", "a b", "--preset", "sample", "--steps", 5, env=echo)
    lines = re.findall("^ran (.*)", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stderr
    assert all("a b" in line for line in lines if re.match(r"p1_gan/(train|evaluate)", line))
    assert all("--device cpu" in line for line in lines if re.match(r"p1_gan/(train|evaluate|figures)", line))
    trained = [line for line in lines if "--steps 5" in line]
    assert len(trained) >= 2 and all(line.startswith("p1_gan/train.py --method ") for line in trained)
    assert lines[-1].startswith("scripts/collect.py")


def test_restart_reaches_everything_that_trains(echo: dict[str, str], tmp_path: Path) -> None:
    done = bash("train_p2.sh", "--restart", "--data-root", tmp_path, env=echo)
    commands = re.findall("^ran p2_diffusion/(.*)", done.stdout, re.MULTILINE)
    trained = [line.split()[0] for line in commands if "--restart" in line]
    assert trained == ["classifier.py", "train.py", "distill.py", "distill.py", "distill.py"]


@pytest.mark.parametrize("preset", ["sample", "cpu"])
@pytest.mark.parametrize("script", ["train_p1.sh", "train_p2.sh", "train_p3.sh"])
def test_every_command_has_the_options_it_is_given(
    script: str, preset: str, echo: dict[str, str], tmp_path: Path, capsys: Capture
) -> None:
    target = ("--target", "usps") if script == "train_p3.sh" else ()
    done = bash(script, "--preset", preset, "--data-root", tmp_path, *target, env=echo)
    commands = [line.split() for line in re.findall("^ran (.*)", done.stdout, re.MULTILINE)]
    assert done.returncode == 0 and len(commands) > 3, done.stderr
    for name in {words[0] for words in commands}:
        assert call(name, "--help") == 0
        known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        given = {word for words in commands if words[0] == name for word in words if word.startswith("--")}
        assert given <= known, name


@pytest.mark.parametrize("options", [["--run-dir", "x"], ["--method", "A"], ["--variant", "x"], ["--inputs", "plain"]])
def test_options_of_a_single_run_are_one_line(options: list[str]) -> None:
    done = bash("train_p2.sh", *options)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {options[0]}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("label", "also"), [("", set()), ("3", {"target"})])
def test_target_only_is_trained_where_there_are_labels(
    label: str, also: set[str], tmp_path: Path, echo: dict[str, str]
) -> None:
    (tmp_path / "digits/mine").mkdir(parents=True)
    (tmp_path / "digits/mine/train.csv").write_text(f"image_name,label\n0.png,\n1.png,{label}\n")
    done = bash("train_p3.sh", "--target", "mine", "--preset", "sample", "--data-root", tmp_path, env=echo)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"train\.py --method (\w+)", done.stdout)) == {"source", "dann", "ours"} | also


def test_time_limit_ends_both_targets_with_status_75(data_root: Path) -> None:
    seed = str(os.getpid())  # a run folder of this test's own
    options = ("--preset", "sample", "--data-root", data_root, "--seed", seed, "--steps", 10**6, "--max-seconds", 1)
    try:
        done = bash("train_p3.sh", *options)
        assert done.returncode == 75, done.stderr
        assert done.stderr.count("the same command resumes") == 2 and "Traceback" not in done.stderr
    finally:
        for path in (ROOT / "runs/sample").glob(f"p3_*_seed{seed}"):
            shutil.rmtree(path)


@pytest.mark.parametrize("script", ["train_p1.sh", "train_p3.sh"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both_of_a_pair(tmp_path: Path, script: str, number: int) -> None:
    python = tmp_path / "python"
    python.write_text(
        '#!/usr/bin/env bash\n[[ $1 == -c ]] && exit\ntrap "touch $0.$$; exit 130" INT TERM\n'
        "touch $0.ready.$$\nwhile true; do sleep 0.01; done\n"
    )
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python)}
    command = ["bash", str(ROOT / "scripts" / script), "--data-root", str(tmp_path)]
    # Tests that run in the background of a shell have interrupts ignored, which bash would not let its trap change.
    process = subprocess.Popen(
        command,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        start_new_session=True,
    )
    while len(list(tmp_path.glob("python.ready.*"))) < 2:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) != 0
    assert len(list(tmp_path.glob("python.[0-9]*"))) == 2


def test_after_a_signal_to_the_script_alone_no_other_command_begins(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/usr/bin/env bash\n[[ $1 == -c ]] && exit\necho begun\nsleep 1\n")
    python.chmod(0o755)
    command = ["bash", str(ROOT / "scripts/train_p2.sh"), "--data-root", str(tmp_path)]
    environment = os.environ | {"PYTHON": str(python)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "begun\n":
            pass
        process.terminate()
        assert "begun" not in process.stdout.read()
    assert process.returncode == 143


def test_an_old_interpreter_is_one_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "requirements.txt").touch()
    done = subprocess.run(
        ["bash", str(tmp_path / "scripts/run_all.sh")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": "/bin/false"},
    )
    assert done.returncode == 2 and done.stderr.startswith("error: /bin/false") and done.stderr.count("\n") == 1


def test_other_shells_hand_over_to_bash() -> None:
    done = subprocess.run(["sh", str(ROOT / "scripts/train_p1.sh"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "train_p1.sh" in done.stdout, done.stderr


EXAMPLE = re.compile(
    r"^\s*(?:python|torchrun --nproc_per_node \d) ((?:p\d_\w+|data|scripts|benchmarks)/\w+\.py)(.*)", re.M
)
DOCUMENTED = [*ROOT.glob("*.md"), *ROOT.glob("weights/*.md"), *ROOT.glob("*/*.py")]


@pytest.mark.parametrize("document", [path for path in DOCUMENTED if EXAMPLE.search(path.read_text(encoding="utf-8"))])
def test_examples_have_options_that_exist(document: Path, capsys: Capture) -> None:
    for name, rest in EXAMPLE.findall(document.read_text(encoding="utf-8")):
        words = rest.split("#")[0].split()
        assert call(name, *words, "--help") == 0, f"{name}{rest}"  # after the others, so that their values are checked
        assert {word for word in words if word.startswith("--")} <= set(
            re.findall(r"--[\w-]+", capsys.readouterr().out)
        )
