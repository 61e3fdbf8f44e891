"""Machines as people have them: notebooks, systems without locks or links, folders that are not quite empty."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import common.locks
from common.distributed import World, join_world
from common.errors import UserError
from common.paths import ROOT
from tests.conftest import Capture, Patch
from tests.in_process import call, error_of, last_line

TRAIN = ("p1_gan/train.py", "--preset", "sample", "--device", "cpu", "--steps", "2", "--batch-size", "4")
ENTRY_SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("benchmarks", "data", "p1_gan", "p2_diffusion", "p3_dann", "scripts")
    for path in (ROOT / folder).glob("*.py")
    if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
)
# Entry scripts in one process of their own, since importing torch takes longer than what they do.
PROGRAM = """
import shlex, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2].split():
    sys.modules[name] = None
from tests.in_process import call
for line in sys.stdin.read().splitlines():
    script, *options = shlex.split(line)
    if call(script, *options) != 0:
        sys.exit(f"failed: {line}")
"""


def run_together(
    lines: list[str], folder: Path, missing: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run command lines without ``python`` in ``folder``, where the modules ``missing`` cannot be imported."""
    command = [sys.executable, "-c", PROGRAM, str(ROOT), missing]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    text = "\n".join(lines)
    return subprocess.run(command, input=text, capture_output=True, text=True, cwd=folder, env=environment)


CHEAP = {
    "p1_gan/inference.py": "--num 4",
    "p2_diffusion/inference.py": "--num-per-digit 1",
    "p3_dann/tsne.py": "--points 32",
}


def test_the_first_commands_of_the_readme_run_in_a_notebook(data_root: Path, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = next(block for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "inference.py" in block)
    lines = [line.split(" #")[0].removeprefix("python ").strip() for line in first.splitlines() if "python " in line]
    assert {"p1_gan/inference.py", "p3_dann/tsne.py"} <= {line.split()[0] for line in lines}
    shutil.copytree(data_root, tmp_path / "sample_data")  # as prepare.py would have made it, only smaller
    lines = [f"{line} {CHEAP.get(line.split()[0], '')}" for line in lines if not line.startswith("data/prepare.py")]
    lines.append(shlex.join([*TRAIN, "--method", "B", "--data-root", "sample_data", "--output", "mine"]))
    kernel = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "JPY_PARENT_PID": "1", "TERM": "xterm-color"}
    kernel |= {"PYDEVD_USE_FRAME_EVAL": "NO", "CLICOLOR": "1", "PAGER": "cat", "GIT_PAGER": "cat"}
    done = run_together(lines, tmp_path, **kernel)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine/runs/sample/p1_B_seed0/curves.png").is_file()
    assert list((tmp_path / "mine/images/P3").glob("*.png")) and (tmp_path / "pred.csv").is_file()


def test_no_command_needs_the_modules_that_only_unix_has(data_root: Path, tmp_path: Path) -> None:
    lines = [f"{script} --help" for script in ENTRY_SCRIPTS]
    assert len(lines) > 15
    lines.append("p1_gan/inference.py faces --num 2")
    lines.append(shlex.join([*TRAIN, "--method", "A", "--data-root", str(data_root), "--output", "mine"]))
    done = run_together(lines, tmp_path, missing="fcntl resource pwd grp termios")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine/runs/sample/p1_A_seed0/weights.safetensors").is_file()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_where_the_file_system_has_no_locks_a_training_says_so_once_and_runs(
    data_root: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    common.locks._say_once.cache_clear()
    # What a lock leaves where there are locks: the folder may come from there.
    for path in (tmp_path / "runs/sample/p1_A_seed0/lock", tmp_path / "results/.lock"):
        path.parent.mkdir(parents=True)
        path.touch()
    assert call(*TRAIN, "--method", "A", "--data-root", data_root, "--output", tmp_path) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == len(set(notes)) and any(str(tmp_path) in note for note in notes)
    assert (tmp_path / "runs/sample/p1_A_seed0/weights.safetensors").is_file()


def test_where_there_are_no_links_a_training_runs_and_keeps_two_checkpoints(
    data_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(os, "symlink", no_link)
    monkeypatch.setattr("common.run.CHECKPOINT_SECONDS", -1.0)
    assert call(*TRAIN, "--method", "A", "--data-root", data_root, "--output", tmp_path) == 0
    assert len(list((tmp_path / "runs/sample/p1_A_seed0").glob("checkpoint*.pt"))) == 2


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_clone_with_windows_line_ends_has_scripts_that_run(tmp_path: Path) -> None:
    subprocess.run(["git", "init", str(tmp_path)], check=True, capture_output=True)
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    names = [*(f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.sh")), "images/P1/GAN_A_grid.png"]
    command = ["git", "-C", str(tmp_path), "check-attr", "eol", "text", "--", *names]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert all(f"{name}: eol: lf" in said for name in names[:-1]) and f"{names[-1]}: text: unset" in said


@pytest.mark.parametrize("least", [1, 2])
def test_a_batch_that_leaves_a_process_too_little_is_one_line(least: int) -> None:
    world = World(0, 2, torch.device("cpu"))
    world.check_batch(2 * least, least)
    for batch_size in (2 * least - 1, 2 * least + 1, 1):
        with pytest.raises(UserError, match=f"--batch-size {batch_size}:"):
            world.check_batch(batch_size, least)


def test_more_processes_than_gpus_are_one_line(monkeypatch: Patch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="torchrun"), join_world("auto"):
        pass


PLACES = "--data-root {data} --output {out}"
TINY = "--preset sample --steps 1 --batch-size 8"
SEEDED = [
    f"p1_gan/train.py --method A {TINY} {PLACES}",
    "p1_gan/inference.py {out}/faces --num 2",
    "p1_gan/figures.py grid --output {out}",
    f"p2_diffusion/train.py {TINY} --initial-weights '' {PLACES}",
    "p2_diffusion/inference.py {out}/digits --num-per-digit 1 --steps 2",
    f"p3_dann/train.py --mode dann --target usps {TINY} {PLACES}",
    "p3_dann/inference.py {data}/digits/usps/data {out}/pred.csv",
    f"p3_dann/tsne.py --target usps --points 32 {PLACES}",
]


@pytest.mark.parametrize("line", SEEDED, ids=[line.split()[0] for line in SEEDED])
def test_every_seed_that_torch_takes_works_and_the_next_is_one_line(
    data_root: Path, tmp_path: Path, capsys: Capture, line: str
) -> None:
    for seed, status in ((2**64 - 1, 0), (2**64, 2)):
        words = shlex.split(line.format(data=data_root, out=tmp_path / str(seed)))
        assert call(*words, "--device", "cpu", "--seed", seed) == status, capsys.readouterr().err
    assert str(2**64) in last_line(capsys.readouterr().err) and not (tmp_path / str(2**64)).exists()


@pytest.mark.parametrize("script", ["p1_gan/inference.py", "p2_diffusion/inference.py"])
def test_a_folder_for_pictures_may_hold_what_systems_leave_there_and_nothing_else(
    tmp_path: Path, capsys: Capture, script: str
) -> None:
    options = ("--num", 1) if "p1" in script else ("--num-per-digit", 1, "--digits", 3, "--steps", 2)
    for name in (".DS_Store", ".gitkeep"):
        (tmp_path / name).touch()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert call(script, tmp_path, *options) == 0
    (picture,) = tmp_path.glob("*.png")
    for folder in (tmp_path, picture, picture / "below"):
        assert picture.name in error_of(capsys, script, folder, *options)
