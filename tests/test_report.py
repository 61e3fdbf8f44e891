"""Results are collected from runs, tables are filled from results, and the pages say what the repository has."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from common import ROOT
from common.files import file_digest, write_json
from tests.in_process import call

import pytest

COLLECT, TABLES = "scripts/collect.py", "scripts/report_tables.py"
PAGES = ("README.md", "report.md", "weights/README.md", "CONTRIBUTING.md")


def make_run(folder: Path, weights: bytes = b"first", config: dict[str, Any] | None = None, **values: Any) -> None:
    """Write a finished run of P1 with one evaluation; ``values`` are what it measured."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(weights)
    config = {"method": "B", "preset": "cpu", "seed": 0, "overrides": []} | (config or {})
    write_json(folder / "config.json", config | {"model": "p1_gan/B"})
    digest = {"problem": "p1", "weights": file_digest(folder / "weights.safetensors")}
    write_json(folder / "records/train.json", {"kind": "train", "steps": 10} | digest)
    write_json(folder / "records/evaluate.json", {"kind": "evaluate", "num_images": 100} | digest | values)


def read(folder: Path, problem: str = "p1") -> list[dict[str, Any]]:
    """Return the collected lines of a problem."""
    return [json.loads(line) for line in (folder / f"{problem}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_collecting_twice_changes_nothing_and_a_retrained_run_replaces_its_lines(tmp_path: Path) -> None:
    runs, results = tmp_path / "runs", tmp_path / "results"
    make_run(runs / "cpu/p1_B_seed0", fd_lite0=30.0)
    make_run(runs / "cpu/p1_B_seed1", config={"seed": 1}, fd_lite0=40.0)
    assert call(COLLECT, runs, "--results", results) == 0
    first = (results / "p1.jsonl").read_bytes()
    assert call(COLLECT, runs, "--results", results) == 0
    assert (results / "p1.jsonl").read_bytes() == first

    # Seed 0 is trained again and measured on fewer images: nothing of its first weights may stay, seed 1 does.
    make_run(runs / "cpu/p1_B_seed0", weights=b"second", fd_lite0=20.0, num_images=50)
    assert call(COLLECT, runs / "cpu/p1_B_seed0", "--results", results) == 0
    found = {(line["seed"], line["fd_lite0"]) for line in read(results) if line["kind"] == "evaluate"}
    assert found == {(0, 20.0), (1, 40.0)}
    assert len(read(results)) == 4


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"overrides": ["steps"]}, "trial run"), ({"preset": "sample"}, "sample"), ({}, "other weights")],
)
def test_what_is_no_result_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], reason: str
) -> None:
    run, results = tmp_path / "runs/p1_B_seed0", ROOT / "results"
    before = {path: path.read_bytes() for path in results.iterdir()}
    make_run(run, config=config, fd_lite0=30.0)
    if not config:
        (run / "weights.safetensors").write_bytes(b"trained again, not measured yet")
    assert call(COLLECT, tmp_path / "runs") == 0
    assert reason in next(line for line in capsys.readouterr().out.splitlines() if str(run) in line)
    assert {path: path.read_bytes() for path in results.iterdir()} == before


def test_rows_of_an_ablation_and_sample_runs_elsewhere_are_collected(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/hinge_seed0", config={"overrides": ["steps"], "variant": "hinge"}, fd_lite0=30.0)
    make_run(tmp_path / "runs/p1_B_seed0", config={"preset": "sample"}, fd_lite0=90.0)
    assert call(COLLECT, tmp_path / "runs", "--results", tmp_path) == 0
    assert {(line.get("variant"), line["preset"]) for line in read(tmp_path)} == {("hinge", "cpu"), (None, "sample")}


def test_tables_are_filled_checked_and_shown_without_prose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, distance in enumerate((30.0, 31.0)):
        make_run(tmp_path / f"runs/p1_B_seed{seed}", config={"seed": seed}, fd_lite0=distance, fd_lite0_baseline=11.0)
    assert call(COLLECT, tmp_path / "runs", "--results", tmp_path) == 0
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nProse.\n\n<!-- table: p1 -->\nold\n<!-- /table -->\n\nMore.\n", encoding="utf-8")
    assert call(TABLES, page, "--results", tmp_path, "--check") == 1
    assert "page.md: p1" in capsys.readouterr().out and "old" in page.read_text(encoding="utf-8")
    assert call(TABLES, page, "--results", tmp_path) == 0
    assert call(TABLES, page, "--results", tmp_path, "--check") == 0
    text = page.read_text(encoding="utf-8")
    assert (
        "(n = 2) | 30.5\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.5 |" in text
        and "| real images | 11.0 |" in text
        and "Prose." in text
        and "A:" not in text
    )

    page.write_text("<!-- table: nonsense -->\n<!-- /table -->\n", encoding="utf-8")
    assert call(TABLES, page, "--results", tmp_path) == 2
    assert "nonsense" in capsys.readouterr().err


def test_the_page_of_a_sample_run_has_headings_tables_and_images(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/p1_B_seed0", config={"preset": "sample"}, fd_lite0=90.0)
    image = tmp_path / "runs/p1_B_seed0/images/GAN_B_grid.png"
    image.parent.mkdir()
    image.write_bytes(b"")
    assert call(COLLECT, tmp_path / "runs", "--results", tmp_path) == 0
    classifier = {"problem": "p2", "kind": "classifier", "preset": "sample", "accuracy": 0.9}
    classifier["per_class_accuracy"] = [0.875] + [None] * 9
    student = {"problem": "p2", "kind": "train", "method": "student", "preset": "sample", "guidance_scale": 2.0}
    (tmp_path / "p2.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (classifier, student)))
    assert call(TABLES, "--page", tmp_path / "out.md", "--results", tmp_path, "--images", tmp_path) == 0
    text = (tmp_path / "out.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ .*", (ROOT / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(headings) <= set(text.splitlines())
    assert "| 90.0 |" in text and "(runs/p1_B_seed0/images/GAN_B_grid.png)" in text and "*Not run.*" in text


def test_the_committed_tables_are_up_to_date() -> None:
    assert call(TABLES, "--check") == 0


@pytest.mark.parametrize("page", PAGES)
def test_images_and_links_of_the_pages_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def commands(page: str) -> list[list[str]]:
    """Return the commands of this repository in a page's code blocks and code spans, comments left out."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(
        r"`((?:python|bash|torchrun) [^`\n]+)`", text
    )
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if any(re.fullmatch(r"\w+/\w+\.(py|sh)", word) for word in line)]


HELP: dict[tuple[str, ...], str] = {}  # what --help prints, asked once per command


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_pages_exist_with_their_options(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(page):
        place = next(k for k, word in enumerate(command) if re.fullmatch(r"\w+/\w+\.(py|sh)", word))
        script, *words = command[place:]
        assert (ROOT / script).exists(), script
        if script.endswith(".sh"):  # these pass options on
            continue
        asked = (script, words[0]) if script == "data/prepare.py" else (script,)
        if asked not in HELP:
            assert call(*asked, "--help") == 0, asked
            HELP[asked] = capsys.readouterr().out
        for word in words:
            if word.startswith("--"):
                assert re.search(rf"{word.split('=')[0]}\b", HELP[asked]), f"{script} has no {word}"
