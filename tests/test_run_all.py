"""Mistakes on the command line of the script that makes everything, and the weights that are shipped."""

from __future__ import annotations

import json
import subprocess

import pytest

from common.errors import UserError
from common.files import sha256
from common.paths import ROOT, WEIGHTS
from common.weights import MANIFEST
from scripts.export_weights import export


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "cpu"], "--data-root"),
        (["--preset", "huge"], "--preset huge"),
        (["--steps", "5"], "--steps"),
        (["--seed"], "needs a value"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_made(arguments: list[str], message: str) -> None:
    done = subprocess.run(["bash", str(ROOT / "scripts/run_all.sh"), *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1


def test_shipped_weights_are_those_of_the_manifest() -> None:
    listed = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {}
    assert {path.name for path in WEIGHTS.glob("*.safetensors")} == listed.keys()
    assert all(sha256(WEIGHTS / name) == entry["sha256"] for name, entry in listed.items())


def test_only_a_finished_run_is_exported(tmp_path) -> None:
    with pytest.raises(UserError, match="no finished weights"):
        export(tmp_path, "name", "p1", "key", "metric", tmp_path, half=True)
    assert list(tmp_path.iterdir()) == []
