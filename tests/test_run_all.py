"""Mistakes on the command line of the script that makes everything, and the weights that are shipped."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from common import weights
from common.errors import UserError
from common.files import sha256
from common.paths import ROOT, WEIGHTS
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
    listed = json.loads(weights.MANIFEST.read_text()) if weights.MANIFEST.exists() else {}
    assert {path.name for path in WEIGHTS.glob("*.safetensors")} == listed.keys()
    assert all(sha256(WEIGHTS / name) == entry["sha256"] for name, entry in listed.items())


def test_a_shipped_file_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(weights, "WEIGHTS", tmp_path)
    monkeypatch.setattr(weights, "MANIFEST", tmp_path / "manifest.json")
    weights.save_weights(path, {"bias": torch.zeros(2)}, "tests/model", {})
    weights.MANIFEST.write_text(json.dumps({path.name: {"sha256": sha256(path)}}))
    assert weights.load_weights(path, "tests/model")[0]["bias"].tolist() == [0.0, 0.0]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="differs from the hash"):
        weights.load_weights(path, "tests/model")


def test_only_a_finished_run_is_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished weights"):
        export(tmp_path, "name", "p1", "key", "metric", tmp_path, half=True)
    assert list(tmp_path.iterdir()) == []
