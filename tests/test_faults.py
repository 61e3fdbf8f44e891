"""Faults of the machine around real commands: a disk that is full or read-only, and a second start of one run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.checkpoint import load_checkpoint
from common.paths import ROOT
from p3_dann.evaluate import KIND

TRAIN = ("p3_dann/train.py", "--mode", "source", "--target", "usps", "--preset", "sample", "--device", "cpu")
TRAIN += ("--steps", "4", "--batch-size", "16")
RUN = Path("runs/sample/p3_usps_source_seed0")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def patched(change: str, *command: object) -> list[str]:
    """Return the command line of ``command`` under tests/patched_command.py."""
    return [sys.executable, str(ROOT / "tests/patched_command.py"), change, *map(str, command)]


class Disk:
    """A small disk in memory, mounted in a mount namespace that ends with the process holding it."""

    def __init__(self, path: Path, size: int) -> None:
        path.mkdir()
        self.path = path
        script = 'mount -t tmpfs -o size="$2" tmpfs "$1" && echo ready && exec cat'
        self.holder = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(path), str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.holder.stdout.readline() != "ready\n":
            pytest.skip(f"mounts are not allowed here: {' '.join(self.holder.communicate()[1].split())}")

    @property
    def seen_from_outside(self) -> Path:
        """Where processes outside the namespace find the disk's files."""
        return Path(f"/proc/{self.holder.pid}/root{self.path}")

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Run ``command`` where the disk is mounted."""
        enter = ("nsenter", "--target", str(self.holder.pid), "--user", "--mount", "--preserve-credentials", "--")
        return subprocess.run(
            [*enter, *map(str, command)], capture_output=True, text=True, timeout=300, env=ENVIRONMENT
        )


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
    command = patched("save-every-step", *TRAIN, "--data-root", data_root, "--output", output)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return output / RUN


def assert_same_end(folder: Path, undisturbed: Path) -> None:
    for name in ("weights.safetensors", "stats.jsonl"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *fragments: str) -> None:
    """After the progress bar, if there is one."""
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and line.startswith("error: "), done.stderr
    assert done.stderr.count("error") == 1 and "Traceback" not in done.stderr, done.stderr
    for fragment in fragments:
        assert fragment in line, done.stderr


def test_a_full_disk_ends_in_one_clear_line_and_with_more_room_the_run_goes_on(
    make_disk: Callable[[int], Disk], data_root: Path, undisturbed: Path
) -> None:
    size = (undisturbed / "checkpoint.pt").stat().st_size
    disk = make_disk(6 * size)
    ballast = disk.seen_from_outside / "ballast"
    # Room for two checkpoints; the third needs a third until the first is let go.
    ballast.write_bytes(bytes(6 * size - 5 * size // 2))
    command = patched("save-every-step", *TRAIN, "--data-root", data_root, "--output", disk.path)
    full = disk.run(*command)
    assert_one_clear_line(full, f"no space left on the disk while writing {disk.path / RUN / 'checkpoint.pt'}:")
    folder = disk.seen_from_outside / RUN
    assert load_checkpoint(folder / "checkpoint.pt", KIND)["step"] == 2
    assert not list(folder.glob(".*"))

    ballast.unlink()
    done = disk.run(*command)
    assert done.returncode == 0, done.stderr
    assert_same_end(folder, undisturbed)


@pytest.mark.parametrize("script", ["training", "inference"])
def test_a_read_only_disk_is_one_clear_line(make_disk: Callable[[int], Disk], data_root: Path, script: str) -> None:
    disk = make_disk(2**20)
    assert disk.run("mount", "-o", "remount,ro", disk.path).returncode == 0
    if script == "training":
        command, named = (*TRAIN, "--data-root", data_root, "--output", disk.path), disk.path
    else:
        named = disk.path / "pred.csv"
        command = ("p3_dann/inference.py", data_root / "digits/usps/data", named)
    done = disk.run(sys.executable, ROOT / command[0], *command[1:])
    assert_one_clear_line(done, f"error: {named}", "choose a folder you may write to")


def test_a_second_start_of_one_run_is_refused_and_the_first_ends_well(
    run_command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, data_root: Path, undisturbed: Path
) -> None:
    command = (*TRAIN, "--data-root", data_root, "--output", tmp_path)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(patched("pause", *command), env=ENVIRONMENT, **pipes)
    _, status = os.waitpid(first.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), first.communicate()[1]
    try:
        for options in ((), ("--fresh",)):
            assert_one_clear_line(
                run_command(*command, *options), f"{tmp_path / RUN}: another run is using this folder"
            )
    finally:
        os.kill(first.pid, signal.SIGCONT)
    _, errors = first.communicate(timeout=300)
    assert first.returncode == 0, errors
    assert_same_end(tmp_path / RUN, undisturbed)
