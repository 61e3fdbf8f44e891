"""The same seed gives the same bytes in another process; the commands of P1 and P2 have this in their own tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from common.paths import ROOT
from data.layout import PARTS
from data.sample import make_sample
from tests.conftest import TINY_COUNTS, contents
from tests.in_process import call

COMMANDS = (
    "p3_dann/inference.py {data}/digits/usps/data {out}/pred.csv --target usps --device cpu",
    "p3_dann/tsne.py --target usps --data-root {data} --output {out} --points 32 --device cpu",
    "scripts/render_report.py --output {out}",
)


def run(data: Path, out: Path) -> None:
    for command in COMMANDS:
        assert call(*command.format(data=data, out=out).split()) == 0, command


def assert_same(first: Path, second: Path) -> None:
    """Fail with the names of the files that differ."""
    one, two = contents(first), contents(second)
    assert one and one.keys() == two.keys()
    assert not [name for name in one if one[name] != two[name]]


def test_predictions_plots_and_report_of_two_processes_are_the_same(data_root: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "1", tmp_path / "2"
    for out in (here, there):
        shutil.copytree(ROOT / "results", out / "results")
    run(data_root, here)
    program = "import sys, tests.test_determinism as t; t.run(*map(t.Path, sys.argv[1:]))"
    command = [sys.executable, "-c", program, str(data_root), str(there)]
    # As many threads as here, and sets in another order.
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "1"}, check=True, capture_output=True)
    assert {"pred.csv", "report.md", "images/P3/DANN_class_TSNE_USPS.png"} <= contents(here).keys()
    assert_same(here, there)


def test_sample_set_is_the_same_whatever_the_workers(data_root: Path, tmp_path: Path) -> None:
    make_sample(tmp_path / "hw2_data", PARTS, seed=0, counts=TINY_COUNTS, workers=2)
    assert_same(data_root, tmp_path / "hw2_data")
