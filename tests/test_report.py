"""The committed report and README are what the results say, and everything they point to is there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from common.paths import ROOT, workspace
from common.report import architecture, duration, mean_std, percent, picture, table
from scripts.render_report import refresh_readme, render_report

PAGES = ("README.md", "report.md")
SPACE = workspace("cpu")


def test_committed_report_equals_a_fresh_rendering() -> None:
    assert (ROOT / "report.md").read_text() == render_report(SPACE)


def test_tables_of_the_readme_are_rendered_from_the_results() -> None:
    text = (ROOT / "README.md").read_text()
    assert "<!-- results:" in text
    assert refresh_readme(text, SPACE) == text


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_resolve(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing
    assert all((ROOT / target).stat().st_size < 1_000_000 for target in targets if target.endswith(".png"))


def test_scripts_named_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:python|bash) ((?:\w+/)+\w+\.(?:py|sh))", text))
    assert {"p3_dann/inference.py", "scripts/test.sh"} <= named
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_an_empty_workspace_says_that_nothing_was_run(tmp_path: Path) -> None:
    space = workspace("cpu", tmp_path)
    report = render_report(space)
    assert "Nothing is measured yet" in report and "Not run" in report
    assert not re.search(r"\d+\.\d % \(\d seed", report)


def test_pieces() -> None:
    assert table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |\n"
    assert percent(0.97651) == "97.7 %"
    assert mean_std([0.5]) == "50.0 % (1 seed)"
    assert mean_std([0.5, 0.6, 0.7]) == "60.0 ± 10.0 % (3 seeds)"
    assert [duration(value) for value in (42.4, 450, 3900)] == ["42 s", "7 min 30 s", "1 h 05 min"]


def test_a_missing_picture_is_said_not_linked(tmp_path: Path) -> None:
    space = workspace("cpu", tmp_path)
    assert picture(space, "P1/none.png", "caption") == "*P1/none.png: not made in this run.*\n"


def test_norm_layers_print_as_in_the_original_report() -> None:
    import torch

    printed = architecture(torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 1)))
    assert "BatchNorm2d(2, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)" in printed
    assert "Linear(in_features=2, out_features=1, bias=True)" in printed


def test_no_measurement_is_typed_into_the_readme() -> None:
    text = re.sub(r"<!-- results:.*?<!-- /results -->", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert not re.findall(r"\d+(?:\.\d+)? ?(?:%|s\b|min\b|h\b|minutes|seconds|hours|times|images/s|img/s)", text)


def test_every_figure_of_the_rendered_pages_follows_the_results(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    shutil.copytree(ROOT / "images", tmp_path / "images")
    for path in (tmp_path / "results").glob("*.json"):
        path.write_text("{}")
    text = render_report(workspace("cpu", tmp_path))
    text = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)  # architectures
    text = re.sub(r"\n\|[^\n]*", "", text)  # tables of what others published
    assert not re.findall(r"\d+\.\d+ ?(?:%|±|s\b|min\b)", text)
