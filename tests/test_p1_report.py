"""Problem 1's section of the report, from small records."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.files import write_json
from common.paths import Workspace, workspace
from p1_gan.report import ablation_lines, looks, render


def row(fd_hog: float, steps: int = 300, seed: int = 0) -> dict[str, float]:
    return {
        "steps": steps,
        "seed": seed,
        "batch_size": 32,
        "images": 1000,
        "fd_hog": fd_hog,
        "fd_hog_floor": 0.5,
        "face_rate": 0.25,
    }


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace("cpu", tmp_path)


def test_ablation_gives_mean_and_range_of_seeds_with_one_budget(space: Workspace) -> None:
    records = {
        "ablation/B/cpu/seed0": row(10.0),
        "ablation/B/cpu/seed1": row(12.0, seed=1),
        "ablation/B/cpu/seed2": row(3.0, steps=600),  # another budget: not comparable with the others
        "ablation/no-ema/cpu/seed0": row(15.0),
    }
    write_json(space.results / "p1.json", records)
    text = render(space)
    assert "| B | 11.00 (10.00 to 12.00, 2 seeds) |  | 25.0 % (25.0 % to 25.0 %, 2 seeds) |" in text
    assert "| no-ema | 15.00 | +4.00 | 25.0 % |" in text
    assert "300 steps of 32 in every row" in text
    assert "*Not run: no-spectral-norm, no-adamw," in text


def test_ablation_calls_no_difference_real_that_repetition_shows_too() -> None:
    distance = {
        "B": {0: 10.0, 1: 11.0},
        "no-adamw": {0: 9.0, 1: 12.0},
        "no-ema": {0: 12.5, 1: 13.0},
        "hinge": {0: 8.0, 1: 8.5},
        "no-instance-noise": {0: 9.5, 1: 10.5},
        "A": {0: 12.0, 1: 12.6},
        "A-with-ema": {0: 9.5, 1: 11.4},
    }
    lines = ablation_lines(distance, 300)
    assert "4 repetitions" in lines[0] and "9.00 to 12.00" in lines[0]
    assert lines[1:4] == [
        "Worse than all of these in every seed: no-ema.",
        "Better than all of these in every seed: hinge.",
        "Not distinguishable from repeating the training: no-instance-noise, A, A-with-ema.",
    ]
    assert "with all 2 seeds: hinge, no-instance-noise. Chance alone does that to one row in 4." in lines[4]
    assert lines[5].startswith("Without averaging B is not better than A after 300 steps: FD-HOG 12.75")
    assert lines[6].startswith("With averaging alone A cannot be told from B after 300 steps")


def test_ablation_of_one_seed_tells_no_rows_apart() -> None:
    lines = ablation_lines({"B": {0: 10.0}, "no-adamw": {0: 9.0}, "no-ema": {0: 20.0}}, 300)
    assert len(lines) == 1 and "With one seed a row" in lines[0]
    assert ablation_lines({"B": {0: 10.0}, "no-ema": {0: 20.0}}, 300) == []


@pytest.mark.parametrize(("worst_of_b", "verdict"), [(4.9, "the ranges do not overlap"), (5.5, "the ranges overlap")])
def test_methods_are_compared_over_sampling_seeds(space: Workspace, worst_of_b: float, verdict: str) -> None:
    def measured(fd_hog: float) -> dict[str, float | str]:
        return row(fd_hog) | {
            "fid": "FID: not run (weights unavailable)",
            "dataset": "LFW",
            "face_rate_of_val": 0.98,
            "nearest_train_median": 4.0,
            "nearest_train_median_of_val": 3.8,
            "nearer_than_closest_percent_of_val": 0.001,
        }

    records = {
        "evaluate/A/cpu/seed0": measured(5.0) | {"seed": 0},
        "evaluate/A/cpu/weights0/seed1": measured(5.2),
        "evaluate/B/cpu/seed0": measured(4.5) | {"seed": 0},
        "evaluate/B/cpu/weights0/seed1": measured(worst_of_b),
    }
    write_json(space.results / "p1.json", records)
    text = render(space)
    assert f"against 5.10 (5.00 to 5.20, 2 sampling seeds); {verdict}" in text
    assert "high by construction" in text
    assert "It saw A whiter than B; here: not measured." in text
    assert "no evidence of copying by this measure" in text


def test_remarks_of_the_original_report_meet_what_was_measured(space: Workspace) -> None:
    def measured(brightness: float, width: float) -> dict[str, float | str | int]:
        faces = {"face_width_mean": width, "face_width_mean_of_val": 40.0, "brightness_of_val": 0.43}
        return row(5.0) | faces | {"brightness": brightness}

    results = {
        "evaluate/A/cpu/seed0": measured(0.5, 44.0),
        "evaluate/A/cpu/weights0/seed1": measured(0.52, 45.0),
        "evaluate/B/cpu/seed0": measured(0.4, 43.0),
        "evaluate/B/cpu/weights0/seed1": measured(0.42, 44.5),
    }
    text = looks(results, "cpu")
    assert "| mean brightness, 0 to 1 | 0.510 | 0.410 | 0.430 |" in text
    assert "A 0.510 and B 0.410, so it is here too." in text
    assert "A 44.5 and B 43.8, no difference beyond that between sampling seeds." in text
    assert "It saw more and larger white or black areas around A's faces; here: not measured." in text
