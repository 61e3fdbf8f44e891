"""Faults of the machine around real commands: a full or read-only disk, no memory, and a second start of one run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import common.run
from common.checkpoint import load_checkpoint
from common.errors import run_main
from common.paths import ROOT
from common.run import Run
from tests.conftest import Capture, Patch
from tests.in_process import call, last_line

SCRIPT = "p1_gan/train.py"
OPTIONS = ("--method", "A", "--preset", "sample", "--device", "cpu", "--steps", "4", "--batch-size", "16")
RUN = Path("runs/sample/p1_A_seed0")


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a disk in memory, with options for mount; skips the test where it may not.

    The disk is in a mount namespace that ends with the process holding it.
    """
    if not shutil.which("unshare"):
        pytest.skip("unshare, which mounts a small disk, is Linux's")
    holders = []

    def make(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        script = 'mount -t tmpfs -o "$2" tmpfs "$1" && echo ready && exec cat'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(folder), options]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        holder = subprocess.Popen(command, text=True, **pipes)
        if holder.stdout.readline() != "ready\n":
            pytest.skip(f"mounts are not allowed here: {' '.join(holder.communicate()[1].split())}")
        holders.append(holder)
        return Path(f"/proc/{holder.pid}/root{folder}")  # where other processes find its files

    yield make
    for holder in holders:
        holder.communicate()


@pytest.fixture(scope="module")
def undisturbed(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the training that nothing disturbs."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert call(SCRIPT, *OPTIONS, "--data-root", data_root, "--output", output) == 0
    return output / RUN


def assert_same_end(folder: Path, undisturbed: Path) -> None:
    for name in ("weights.safetensors", "stats.jsonl"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_a_full_disk_ends_in_one_clear_line_and_with_more_room_the_run_goes_on(
    make_disk: Callable[[str], Path], data_root: Path, undisturbed: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(common.run, "CHECKPOINT_SECONDS", -1.0)
    size = (undisturbed / "checkpoint.pt").stat().st_size
    disk = make_disk(f"size={6 * size}")
    # Room for two checkpoints; the third needs a third until the first is let go.
    (disk / "ballast").write_bytes(bytes(6 * size - 5 * size // 2))
    options, folder = (*OPTIONS, "--data-root", data_root, "--output", disk), disk / RUN
    assert call(SCRIPT, *options) == 2
    assert str(folder / "checkpoint.pt") in last_line(capsys.readouterr().err)
    assert load_checkpoint(folder / "checkpoint.pt", "p1_gan/A")["step"] == 2
    assert not list(folder.glob(".*"))

    (disk / "ballast").unlink()
    assert call(SCRIPT, *options) == 0
    assert_same_end(folder, undisturbed)


@pytest.mark.parametrize("script", ["training", "inference"])
def test_a_read_only_disk_is_one_clear_line(
    make_disk: Callable[[str], Path], data_root: Path, capsys: Capture, script: str
) -> None:
    disk = make_disk("ro")
    if script == "training":
        status = call(SCRIPT, *OPTIONS, "--data-root", data_root, "--output", disk)
    else:
        status = call("p1_gan/inference.py", disk / "faces", "--num", "1")
    assert status == 2
    assert str(disk) in last_line(capsys.readouterr().err)


def test_a_second_start_of_one_run_is_refused_and_the_first_ends_well(
    tmp_path: Path, data_root: Path, undisturbed: Path, monkeypatch: Patch
) -> None:
    options = (*OPTIONS, "--data-root", data_root, "--output", tmp_path)
    log, seconds = Run.log, []

    def start_a_second(run: Run, **values: object) -> None:
        log(run, **values)
        if not seconds:
            command = [sys.executable, ROOT / SCRIPT, *options, "--fresh"]
            seconds.append(subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300))

    monkeypatch.setattr(Run, "log", start_a_second)
    monkeypatch.setattr(common.run, "CHECKPOINT_SECONDS", -1.0)
    assert call(SCRIPT, *options) == 0
    assert seconds[0].returncode == 2
    assert str(tmp_path / RUN) in last_line(seconds[0].stderr)
    assert_same_end(tmp_path / RUN, undisturbed)


def test_an_output_folder_that_cannot_be_made_is_one_clear_line(
    tmp_path: Path, data_root: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert call(SCRIPT, *OPTIONS, "--data-root", data_root, "--output", tmp_path / "file") == 2
    assert str(tmp_path / "file") in last_line(capsys.readouterr().err)


LIMITED = """
import resource, runpy, sys
import torch
with open("/proc/self/status") as file:
    used = next(int(line.split()[1]) for line in file if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory as Linux does")
def test_a_batch_too_large_for_the_memory_is_one_clear_line(tmp_path: Path, data_root: Path) -> None:
    options = (*OPTIONS, "--batch-size", 200_000, "--data-root", data_root, "--output", tmp_path)
    command = [sys.executable, "-c", LIMITED, ROOT / SCRIPT, *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "--batch-size" in last_line(done.stderr)


@pytest.mark.parametrize(
    "allocate",
    [lambda: bytearray(2**62), lambda: np.empty(2**60, np.uint8), lambda: torch.empty(2**60, dtype=torch.uint8)],
    ids=["python", "numpy", "torch"],
)
def test_whoever_asks_for_the_memory_the_line_is_the_same(capsys: Capture, allocate: Callable[[], object]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_main(allocate)
    assert ended.value.code == 2
    assert "--batch-size" in last_line(capsys.readouterr().err)
