"""P3's tables show what was measured, and only where it was measured as they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from common.files import write_json
from common.paths import ROOT, Workspace, workspace
from common.report import Page
from common.results import read_results
from p3_dann.ladder import METHOD_TITLES, RUNG_TITLES, key_of
from p3_dann.presets import ADAPTATIONS, PRESETS
from p3_dann.report import accuracy_table, digit_table, ladder_table, option_table, parts, plots, readme_table
from tests.conftest import cells


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace("cpu", tmp_path)


def measured(preset: str, target: str, mode: str, seed: int, accuracy: float | None) -> dict[str, object]:
    values = dataclasses.asdict(PRESETS[preset])
    values |= {"preset": preset, "mode": mode, "target": target, "seed": seed, "seconds": 61.0, "device": "a machine"}
    values |= {"source_data": "MNIST-M (test)", "target_data": f"{target} (test)", "versions": {"torch": "2"}}
    values |= {"counts": {"labelled": 1234, "unlabelled": 567, "val": 89}, "target_information": 2.0}
    values |= {"predicted_shares": [0.1] * 9 + [0.02]}
    if accuracy is not None:
        values |= {"accuracy": accuracy, "digit_accuracy": {"0": accuracy, "6": 0.5}}
    return values


def results_of(*runs: tuple[str, str, str, int, float | None]) -> dict[str, dict[str, object]]:
    return {f"train/{cell[1]}/{cell[2]}/{cell[0]}/seed{cell[3]}": measured(*cell) for cell in runs}


def render(space: Workspace) -> str:
    page = Page(ROOT / "p3_dann/report.md", read_results(space.results, "p3"), space)
    return page.render(parts(page))


def test_cells_are_means_and_ranges_of_the_seeds(space: Workspace) -> None:
    results = results_of(*(("cpu", "svhn", "dann", seed, 0.8 + 0.01 * seed) for seed in (0, 1, 12)))
    table = accuracy_table(results, "cpu")
    assert cells(table, "Self-ensembling, extended") == ["84.3 % (80.0 % to 92.0 %)", "–", "3"]
    assert cells(digit_table(results, "cpu"), "MNIST-M → SVHN, adapted")[6:8] == ["50.0 %", "–"]
    assert (
        cells(readme_table(results), "Self-ensembling, extended") == ["–", "3"] and readme_table({}) == "*Not run.*\n"
    )
    write_json(space.results / "p3.json", results)
    assert render(space) == render(space)


def test_a_run_with_another_adaptation_is_not_shown_as_the_presets() -> None:
    results = results_of(("cpu", "svhn", "dann", 0, 0.8), ("cpu", "svhn", "source", 0, 0.7))
    results["train/svhn/dann/cpu/seed0"]["grl_lambda_max"] = 1.0
    table = accuracy_table(results, "cpu")
    assert "| Self-ensembling, extended" not in table and cells(table, "Trained on source")[0] == "70.0 %"


def test_every_adaptation_has_a_row_of_options() -> None:
    run = measured("cpu", "usps", "dann", 0, 0.9)
    results = {f"{key_of('usps', 'geometry', method, 'cpu')}/seed0": run for method in ADAPTATIONS}
    rows = [line for line in option_table(results, "cpu").splitlines()[2:] if "90.0 %" in line]
    assert len(rows) == len(ADAPTATIONS)
    assert all("2.00 | 2.0 % | 90.0 %" in line for line in rows)


def test_a_target_of_ones_own_has_columns_and_may_have_no_labels() -> None:
    results = results_of(("sample", "mydigits", "dann", 0, None), ("sample", "svhn", "dann", 0, 0.6))
    table = accuracy_table(results, "sample")
    assert "MNIST-M → mydigits, validation" in table.splitlines()[0]
    assert cells(table, "Self-ensembling, extended") == ["60.0 %", "–", "–", "–", "1, 1"]
    assert "Original recipe" not in table
    assert cells(readme_table(results), "Self-ensembling, extended") == ["–", "–", "1, 1"]


def test_the_ladder_has_a_column_for_each_rung_and_means_of_one_schedule() -> None:
    plain, other = (key_of("svhn", rung, "source", "cpu") for rung in ("plain", "intensity"))
    keys = (f"{plain}/seed0", f"{plain}/seed1", f"{other}/seed0")
    short = {"preset": "cpu", "steps": 1500, "batch_size": 64}
    results = {key: short | {"accuracy": 0.5 + number / 10} for number, key in enumerate(keys)}
    table = ladder_table(results | {f"{plain}/seed2": short | {"steps": 30_000, "accuracy": 0.9}}, "cpu")
    titles = f"{RUNG_TITLES['plain']} | {RUNG_TITLES['intensity']}"
    assert table.splitlines()[0] == f"|  | {titles} |" and ladder_table({}, "cpu") == ""
    assert cells(table, f"MNIST-M → SVHN, {METHOD_TITLES['source']}") == ["55.0 % (50.0 % to 60.0 %)", "70.0 %"]


def test_plots_of_the_adapted_model_and_of_the_original_recipe(space: Workspace) -> None:
    files = {way: f"P3/ORIGINAL_DANN_{way}_TSNE_SVHN.png" for way in ("class", "domain")}
    record = {"preset": "original", "seed": 0, "neighbours": 15, "points_per_domain": 30, "pictures": files}
    write_json(space.results / "p3.json", {"tsne/svhn/dann/original": record | {"other_domain_share": 0.25}})
    (space.images / "P3").mkdir(parents=True)
    (space.images / files["class"]).touch()
    text = render(space)
    assert f"(images/{files['class']})" in text and "25.0 %" in text
    assert len(plots(read_results(space.results, "p3"), "cpu")) == 3
