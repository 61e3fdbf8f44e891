"""The committed report and README are what the results say, and everything they point to is there."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.paths import ROOT, workspace
from common.report import Page
from scripts.render_report import comparison_table, is_most_of, refresh_tables, render_report
from tests.conftest import Patch

PAGES = ("README.md", "report.md")
SPACE = workspace("cpu")


@pytest.fixture(scope="module")
def rendered() -> tuple[str, list[str]]:
    return render_report(SPACE)


def test_the_committed_report_equals_a_fresh_rendering(rendered: tuple[str, list[str]]) -> None:
    assert (ROOT / "report.md").read_text(encoding="utf-8") == rendered[0]


def test_a_person_has_looked_at_every_paragraph_since_its_results_changed(rendered: tuple[str, list[str]]) -> None:
    assert rendered[1] == []


@pytest.mark.parametrize("page", ["README.md", "weights/README.md"])
def test_the_tables_of_the_pages_are_rendered_from_the_results(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- results:" in text and refresh_tables(text, SPACE) == text


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_resolve(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert targets and not [target for target in targets if not (ROOT / target).exists()]
    limits = {".png": 2_000_000, ".gif": 1_000_000}
    pictures = [ROOT / target for target in targets if target.endswith((".png", ".gif"))]
    assert all(picture.stat().st_size < limits[picture.suffix] for picture in pictures)


def test_an_empty_workspace_renders_without_words_on_results(tmp_path: Path) -> None:
    text, stale = render_report(workspace("cpu", tmp_path))
    assert stale == [] and "](images/" not in text
    prose = re.sub(r"<details>.*?</details>|\n\|[^\n]*", "", text, flags=re.DOTALL)
    assert not re.findall(r"\d+\.\d+ ?(?:%|±|s\b|min\b)", prose)


class Parsed(Exception):
    """The command line was understood."""


def parse(script: str, options: list[str], monkeypatch: Patch) -> None:
    """Let an entry script read ``options``, and no more."""
    real = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        real(parser, *arguments)
        raise Parsed

    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    with monkeypatch.context() as patch, pytest.raises(Parsed):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [script, *options])
        module.main()


def commands(text: str) -> list[str]:
    """Return the command lines in the code blocks of Markdown, without comments."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    return [line.split(" #")[0].strip() for line in blocks.replace("\\\n", " ").splitlines() if line.strip()]


README_COMMANDS = commands((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("line", [line for line in README_COMMANDS if ".py" in line])
def test_a_command_of_the_readme_is_understood(line: str, monkeypatch: Patch) -> None:
    words = shlex.split(line)
    script = next(word for word in words if word.endswith(".py"))
    parse(script, [word for word in words[words.index(script) + 1 :] if word != "--help"], monkeypatch)


@pytest.mark.parametrize("script", sorted({word for line in README_COMMANDS for word in re.findall(r"\S+\.sh", line)}))
def test_a_script_of_the_readme_exists(script: str) -> None:
    assert (ROOT / script).is_file()


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("train_p1.sh", ["--steps", "5"]),
        ("train_p1.sh", ["--preset", "sample"]),
        ("train_p2.sh", ["--steps", "5"]),
        ("train_p2.sh", ["--preset", "sample"]),
        ("train_p3.sh", ["--target", "svhn", "--steps", "5"]),
        ("train_p3.sh", ["--target", "svhn", "--preset", "sample"]),
    ],
)
def test_every_command_that_a_script_lists_is_understood(
    script: str, options: list[str], tmp_path: Path, monkeypatch: Patch
) -> None:
    shared = ["--data-root", "data", "--output", str(tmp_path), "--device", "cpu", "--list"]
    command = ["bash", str(ROOT / "scripts" / script), *options, *shared]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 0, done.stderr
    listed = [shlex.split(line)[2:] for line in done.stdout.splitlines() if line.startswith("== python ")]
    assert len(listed) > 3
    for path, *words in listed:
        parse(path, words, monkeypatch)


def test_a_paragraph_stays_only_as_long_as_its_results(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("common.report.ROOT", tmp_path)
    template = tmp_path / "page.md"
    results = {"evaluate/a": {"value": 1.0, "seconds": 5.0}, "train/a": {"value": 2.0}}

    def render(results: dict[str, Any]) -> tuple[str, list[str]]:
        page = Page(template, results, workspace("cpu", tmp_path))
        return page.render({}), page.stale

    template.write_text("")
    digest = Page(template, results, SPACE).digest("evaluate/*")
    template.write_text(f'{{% call written_for("{digest}", "evaluate/*") %}}\nkept\n{{% endcall %}}\n')
    assert render(results) == ("kept\n", [])
    assert render(results | {"train/a": {"value": 3.0}, "evaluate/a": {"value": 1.0, "seconds": 7.0}})[0] == "kept\n"
    text, (stale,) = render(results | {"evaluate/a": {"value": 1.5}})
    assert "kept" not in text and digest in stale
    elsewhere = Page(template, results, workspace("cpu", tmp_path / "elsewhere"))
    assert "kept" not in elsewhere.render({}) and elsewhere.stale == []


def test_the_first_table_holds_only_what_was_measured_on_the_same_data() -> None:
    entry = {"test_accuracy": 0.5, "target_data": "SVHN (8,500 of 99,289 digits)"}
    results = {
        "p3/train/svhn/source/cpu/seed0": entry,
        "p3/train/svhn/source/cpu/seed1": entry | {"test_accuracy": 0.7},
    }
    assert comparison_table(results) == comparison_table({}) == ""
    assert "| 60.0 % |" in comparison_table({key: entry | {"target_data": "SVHN"} for key, entry in results.items()})
    assert is_most_of("CelebA (aligned, centre crop 178)", "CelebA") and is_most_of("CelebA", "CelebA")
    assert not is_most_of("CelebA (28,000 aligned pictures)", "CelebA") and not is_most_of("LFW (all)", "CelebA")
    assert is_most_of("USPS (7,439 of 9,298 digits)", "USPS") and not is_most_of("SVHN (grey, re-cropped)", "SVHN")


def test_no_measurement_is_typed_into_the_readme() -> None:
    text = re.sub(r"<!-- results:.*?<!-- /results -->", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert not re.findall(r"\d+(?:\.\d+)? ?(?:%|s\b|min\b|h\b|minutes|seconds|hours|times|images/s|img/s)", text)
