"""The script that makes everything, its environment, and the weights that are shipped."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
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


ALL = ["data", "p1", "p2", "p3", "tsne", "report"]
# In place of Python and of the training scripts: note the part's name, then fail or make its result.
STUB = """#!/usr/bin/env bash
script=$0
if [[ $0 == */python ]]; then
    [[ $1 != -* ]] || exec PYTHON "$@"
    script=$1
fi
case "$script" in
*/prepare.py) part=data result=hw2_data/source ;;
*/train_p?.sh) part=$(basename "$script" .sh) part=${part#train_} result=results/$part.json ;;
*/tsne.py) part=tsne result=images/P3/picture ;;
*) part=report result=report.md ;;
esac
echo "$part" >>"ROOT/calls"
[[ $part != "$FAIL" ]] || exit 3
result="ROOT/runs/sample/$result"
mkdir -p "$(dirname "$result")"
echo '{}' >"$result"
"""


class Repository:
    """A copy of the scripts with one small source for each part, whose commands do nothing but note their names."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs = root, root / "runs/sample"
        shutil.copytree(ROOT / "scripts", root / "scripts")
        shutil.copytree(ROOT / "common", root / "common", ignore=shutil.ignore_patterns("__pycache__"))
        for folder in ("data", "p1_gan", "p2_diffusion", "p3_dann"):
            (root / folder).mkdir()
            (root / folder / "part.py").write_text("first")
        shutil.copy(ROOT / "requirements.txt", root)
        (root / ".venv/bin").mkdir(parents=True)
        for name in ("scripts/train_p1.sh", "scripts/train_p2.sh", "scripts/train_p3.sh", ".venv/bin/python"):
            (root / name).write_text(STUB.replace("PYTHON", sys.executable).replace("ROOT", str(root)))
        (root / ".venv/bin/python").chmod(0o755)
        shutil.copy(ROOT / "requirements.txt", root / ".venv/installed-requirements.txt")

    def run_all(self, *options: str, fail: str = "") -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """Return what the script did and the parts it ran."""
        (self.root / "calls").write_text("")
        done = subprocess.run(
            ["bash", str(self.root / "scripts/run_all.sh"), *options],
            env={**os.environ, "FAIL": fail},
            capture_output=True,
            text=True,
        )
        return done, (self.root / "calls").read_text().split()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def test_parts_run_in_order_and_again_only_when_their_sources_change(repository: Repository) -> None:
    done, parts = repository.run_all()
    assert done.returncode == 0, done.stderr
    assert parts == ALL
    table = (repository.runs / "summary.txt").read_text()
    assert [line.split()[0] for line in table.splitlines()] == ["part", *ALL] and table in done.stdout
    recorded = repository.runs / "results/run_all.json"
    whole = json.loads(recorded.read_text())["run_all/sample"]
    assert whole["parts"].keys() == set(ALL) and whole["seconds"] == sum(whole["parts"].values()) and whole["device"]

    recorded.unlink()
    sources = {"": [], "p2_diffusion/part.py": ["p2"], "common/paths.py": ["p1", "p2", "p3", "tsne"]}
    for source, again in sources.items():
        if source:
            (repository.root / source).write_text("second")
        done, parts = repository.run_all()
        assert done.returncode == 0 and parts == [*again, "report"], done.stderr
        assert (repository.runs / "summary.txt").read_text().count("already there") == len(ALL) - len(parts)
    assert not recorded.exists()  # the times of some parts are not those of a whole run


def test_a_part_that_fails_ends_the_script_and_is_the_next_to_run(repository: Repository) -> None:
    done, parts = repository.run_all(fail="p2")
    assert done.returncode == 3 and parts == ["data", "p1", "p2"]
    assert done.stderr == "stopped in part p2; the same command goes on from there\n"
    done, parts = repository.run_all()
    assert done.returncode == 0 and parts == ["p2", "p3", "tsne", "report"], done.stderr
    assert not (repository.runs / "results/run_all.json").exists()


def test_fresh_starts_anew_unless_a_training_runs(repository: Repository) -> None:
    repository.run_all(fail="p2")
    lock = repository.runs / "p1_A_seed0/lock"
    lock.parent.mkdir()
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done, parts = repository.run_all("--fresh")
    assert done.returncode == 2 and parts == [] and lock.exists()
    assert done.stderr == f"error: --fresh: another run is using {lock.parent}; stop it first\n"
    _, parts = repository.run_all("--fresh", fail="p1")
    assert parts == ["data", "p1"] and not lock.exists()


def test_a_half_made_environment_is_made_again(repository: Repository) -> None:
    # An interpreter that can do everything: the environment it makes is itself.
    base, half = repository.root / "python", repository.root / ".venv/bin/python"
    base.write_text(
        f'#!/usr/bin/env bash\necho "${{@:1:3}}" >>"{repository.root}/log"\n'
        f'if [[ $2 == venv ]]; then mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; fi\n'
    )
    base.chmod(0o755)
    half.write_text("#!/usr/bin/env bash\nexit 1\n")
    (repository.root / ".venv/installed-requirements.txt").unlink()
    command = ["bash", "-euo", "pipefail", "-c", f'source "{repository.root}/scripts/setup.sh"; "$PYTHON" ready']
    subprocess.run(command, env={**os.environ, "PYTHON": str(base)}, check=True, capture_output=True)
    log = [line for line in (repository.root / "log").read_text().splitlines() if not line.startswith("-c")]
    assert log == ["-m venv --clear", "-m pip install", "ready"]


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
