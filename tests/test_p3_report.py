"""P3's section of the report says what was measured, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from common.files import write_json
from common.paths import Workspace, workspace
from p3_dann.presets import PARTS, PRESETS
from p3_dann.report import render

ACCURACY = {"source": 0.60, "dann": 0.80, "target": 0.90}


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace("cpu", tmp_path)


def measured(preset: str, target: str, mode: str, seed: int, accuracy: float) -> dict[str, object]:
    return (
        dataclasses.asdict((PRESETS | PARTS)[preset])
        | {
            "preset": preset,
            "mode": mode,
            "target": target,
            "seed": seed,
            "accuracy": accuracy,
            "source_accuracy": 0.95,
            "counts": {"labelled": 1234, "unlabelled": 567, "val": 89},
            "source_data": "MNIST-M (test)",
            "target_data": f"{target} (test)",
            "seconds": 61.0,
            "device": "a machine",
        }
        | ({"domain_accuracy": 0.61, "domain_loss": 0.66} if mode == "dann" else {})
    )


def write_results(
    space: Workspace,
    accuracy: dict[str, float],
    seeds: tuple[int, ...] = (0, 1, 2),
    parts: dict[str, float] | None = None,
) -> None:
    results = {
        f"cpu/{target}/{mode}/seed{seed}": measured("cpu", target, mode, seed, value + 0.01 * seed)
        for target in ("svhn", "usps")
        for mode, value in accuracy.items()
        for seed in seeds
    }
    results["original/svhn/dann/seed0"] = measured("original", "svhn", "dann", 0, 0.45)
    for part, value in (parts or {}).items():
        results[f"{part}/svhn/dann/seed0"] = measured(part, "svhn", "dann", 0, value)
    write_json(space.results / "p3.json", results)


def test_nothing_measured_is_said_in_words(space: Workspace) -> None:
    text = render(space)
    assert text.count("not run |") == 10
    assert "bash scripts/train_p3.sh" in text
    assert "not made in this run" in text
    assert "DANN_model(" in text and "Total params: 355,164" in text


def test_table_and_discussion_come_from_the_results(space: Workspace) -> None:
    write_results(space, ACCURACY)
    text = render(space)
    assert "mean ± standard deviation over 3 training seeds" in text
    assert "| DANN with self-ensembling | 81.0 ± 1.0 % | 81.0 ± 1.0 % |" in text
    assert "| Original recipe: trained on source | not run | not run |" in text
    assert "| Original recipe: DANN | 45.0 % (1 seed) | not run |" in text
    assert "raises accuracy by 20.0 points over source-only, and the worst of 3 seeds" in text
    assert "67 % of the way" in text
    assert "36.0 points above the original one" in text
    assert "right in 61.0 % of cases" in text
    assert "how much each contributes was not measured" in text
    assert (
        "labelled pictures of MNIST-M (test), 567 unlabelled ones of svhn (test); evaluated on 89 pictures of it"
        in text
    )
    assert render(space) == text


def test_a_loss_is_called_a_loss(space: Workspace) -> None:
    write_results(space, {"source": 0.70, "dann": 0.65, "target": 0.92}, seeds=(0,))
    text = render(space)
    assert "loses 5.0 points against source-only (1 seed(s) of DANN, 1 of source-only, too few to confirm it)" in text
    assert "raises accuracy" not in text


@pytest.mark.parametrize(
    ("ensembling", "verdict"),
    [
        (0.78, "Every seed with both is better than every seed with less"),
        (0.81, "The ranges of the seeds of both and of *Self-ensembling alone (no gradient reversal)* overlap"),
        (0.83, "Every seed with both is worse than every seed of *Self-ensembling alone (no gradient reversal)*"),
    ],
)
def test_parts_of_adaptation_are_told_apart(space: Workspace, ensembling: float, verdict: str) -> None:
    write_results(space, ACCURACY, parts={"adversarial": 0.70, "self_ensembling": ensembling})
    text = render(space)
    assert "| DANN alone (gradient reversal) | 70.0 % (1 seed) | not run |" in text
    assert "| No adaptation loss, BatchNorm sees the target | not run | not run |" in text
    assert "*DANN alone (gradient reversal)* +9.0" in text
    assert "*DANN with self-ensembling* +20.0" in text
    assert verdict in text
    assert text.count("how much each contributes was not measured") == 1  # USPS has no such runs


def test_parts_stand_beside_the_preset_they_belong_to(space: Workspace) -> None:
    write_results(space, ACCURACY, parts={"adversarial": 0.70})
    results = json.loads((space.results / "p3.json").read_text())
    results["full/svhn/dann/seed0"] = measured("full", "svhn", "dann", 0, 0.95)
    write_json(space.results / "p3.json", results)
    full, _, cpu = render(space).partition("Preset `cpu`: ")
    assert "DANN alone" not in full and "DANN alone (gradient reversal)" in cpu


def test_the_original_recipe_with_and_without_gradient_reversal(space: Workspace) -> None:
    write_results(space, ACCURACY)
    results = json.loads((space.results / "p3.json").read_text())
    results["original/svhn/source/seed0"] = measured("original", "svhn", "source", 0, 0.30)
    write_json(space.results / "p3.json", results)
    text = render(space)
    assert "| Original recipe: trained on source | 30.0 % (1 seed) | not run |" in text
    assert "DANN gains 15.0 points over source-only: 45.0 % (1 seed) against 30.0 % (1 seed)" in text


def test_neighbours_before_and_after_adaptation_stand_side_by_side(space: Workspace) -> None:
    def neighbours(domain: float, digit: float) -> dict[str, object]:
        data = {"source_data": "MNIST-M (test)", "target_data": "svhn (test)", "points_per_domain": 30}
        data |= {"preset": "cpu", "seed": 0}
        return data | {"neighbours": 15, "knn_domain_accuracy": domain, "knn_transfer_accuracy": digit}

    records = {"tsne/svhn/dann": neighbours(0.7, 0.6)}
    write_json(space.results / "p3.json", records)
    assert "in 70.0 % of cases (perfectly mixed: 50 %). A vote" in render(space)
    write_json(space.results / "p3.json", records | {"tsne/svhn/source": neighbours(0.9, 0.3)})
    text = render(space)
    assert "in 70.0 % of cases (perfectly mixed: 50 %; trained on source: 90.0 %)" in text
    assert "in 60.0 % (guessing: 10 %; trained on source: 30.0 %)" in text
    assert "P3/SOURCE_domain_TSNE_SVHN.png: not made in this run" in text
