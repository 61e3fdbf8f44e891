"""The same seed gives the same bytes in another process; the commands of P1 and P2 have this in their own tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from common.paths import ROOT, WEIGHTS
from data.layout import PARTS
from data.sample import make_sample
from tests.conftest import TINY_COUNTS

# All in one process, since importing takes longer than what they do.
PROGRAM = """
import runpy, sys
root, data, out = sys.argv[1:]
for command in (
    f"p3_dann/inference.py {data}/digits/usps/data {out}/pred.csv --target usps --device cpu",
    f"p3_dann/tsne.py --checkpoint {root}/weights/p3_usps.safetensors --data-root {data} --output {out} --points 32 "
    "--device cpu",
    f"scripts/render_report.py --output {out}",
):
    sys.argv = command.split()
    runpy.run_path(f"{root}/{sys.argv[0]}", run_name="__main__")
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below ``folder``, but for the caches that reading leaves."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_same(first: Path, second: Path) -> None:
    """Fail with the names of the files that differ."""
    one, two = contents(first), contents(second)
    assert one and one.keys() == two.keys()
    assert not [name for name in one if one[name] != two[name]]


def test_predictions_plots_and_report_of_two_processes_are_the_same(data_root: Path, tmp_path: Path) -> None:
    assert (WEIGHTS / "p3_usps.safetensors").is_file()
    for number in ("1", "2"):
        shutil.copytree(ROOT / "results", tmp_path / number / "results")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(ROOT), str(data_root), str(tmp_path / number)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    assert {"pred.csv", "report.md", "images/P3/DANN_class_TSNE_USPS.png"} <= contents(tmp_path / "1").keys()
    assert_same(tmp_path / "1", tmp_path / "2")


def test_sample_set_is_the_same_whatever_the_workers(data_root: Path, tmp_path: Path) -> None:
    make_sample(tmp_path / "hw2_data", PARTS, seed=0, counts=TINY_COUNTS, workers=2)
    assert_same(data_root, tmp_path / "hw2_data")
