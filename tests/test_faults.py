"""Faults of the machine around real commands: a disk that is full or read-only, and a second start of one run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import common.run
from common.checkpoint import load_checkpoint
from common.paths import ROOT
from common.run import Run
from tests.conftest import Capture, Patch
from tests.in_process import call, last_line

SCRIPT = "p1_gan/train.py"
OPTIONS = ("--method", "A", "--preset", "sample", "--device", "cpu", "--steps", "4", "--batch-size", "16")
RUN = Path("runs/sample/p1_A_seed0")


class Disk:
    """A small disk in memory, mounted in a mount namespace that ends with the process holding it."""

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir()
        script = 'mount -t tmpfs -o size="$2" tmpfs "$1" && echo ready && exec cat'
        self.holder = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(folder), str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.holder.stdout.readline() != "ready\n":
            pytest.skip(f"mounts are not allowed here: {' '.join(self.holder.communicate()[1].split())}")
        self.folder = folder
        self.path = Path(f"/proc/{self.holder.pid}/root{folder}")  # where other processes find its files

    def make_read_only(self) -> None:
        """Mount it anew, for reading."""
        enter = ["nsenter", "--target", str(self.holder.pid), "--user", "--mount", "--preserve-credentials", "--"]
        subprocess.run([*enter, "mount", "-o", "remount,ro", str(self.folder)], check=True)


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[int], Disk]]:
    """Return a function that mounts a disk of so many bytes; skips the test where that is not allowed."""
    if not (shutil.which("unshare") and shutil.which("nsenter")):
        pytest.skip("unshare and nsenter, which mount a small disk, are Linux's")
    disks = []

    def make(size: int) -> Disk:
        disks.append(Disk(tmp_path / "disk", size))
        return disks[-1]

    yield make
    for disk in disks:
        disk.holder.communicate()


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
    make_disk: Callable[[int], Disk], data_root: Path, undisturbed: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(common.run, "CHECKPOINT_SECONDS", -1.0)
    size = (undisturbed / "checkpoint.pt").stat().st_size
    disk = make_disk(6 * size)
    # Room for two checkpoints; the third needs a third until the first is let go.
    (disk.path / "ballast").write_bytes(bytes(6 * size - 5 * size // 2))
    options, folder = (*OPTIONS, "--data-root", data_root, "--output", disk.path), disk.path / RUN
    assert call(SCRIPT, *options) == 2
    assert str(folder / "checkpoint.pt") in last_line(capsys.readouterr().err)
    assert load_checkpoint(folder / "checkpoint.pt", "p1_gan/A")["step"] == 2
    assert not list(folder.glob(".*"))

    (disk.path / "ballast").unlink()
    assert call(SCRIPT, *options) == 0
    assert_same_end(folder, undisturbed)


@pytest.mark.parametrize("script", ["training", "inference"])
def test_a_read_only_disk_is_one_clear_line(
    make_disk: Callable[[int], Disk], data_root: Path, capsys: Capture, script: str
) -> None:
    disk = make_disk(2**20)
    disk.make_read_only()
    if script == "training":
        status = call(SCRIPT, *OPTIONS, "--data-root", data_root, "--output", disk.path)
    else:
        status = call("p1_gan/inference.py", disk.path / "faces", "--num", "1")
    assert status == 2
    assert str(disk.path) in last_line(capsys.readouterr().err)


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
