"""Problem 1's part of the report, from small records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.files import write_json
from common.paths import ROOT, workspace
from common.report import Page
from common.results import read_results
from p1_gan.ablation import ROWS
from p1_gan.methods import METHODS
from p1_gan.report import parts, readme_table
from tests.conftest import cells

VERSIONS = {"torch": "2", "numpy": "2"}


def measured(fd: float, **others: Any) -> dict[str, Any]:
    machine = {"device": "CPU", "versions": VERSIONS, "images": 1000}
    return machine | {"fd_lite0": fd, "fd_lite0_floor": 9.0, "kid_lite0": 0.05, "face_rate": 0.25} | others


def training(seed: int, steps: int, **others: Any) -> dict[str, Any]:
    preset = vars(METHODS["B"].presets["cpu"]) | {"steps": steps, "batch_size": 10, "seed": seed}
    run = {"seconds": 60.0, "images_per_second": 20.0, "late": {"d_real": 0.5, "d_fake": 0.25}}
    return preset | run | {"train_images": 500, "dataset": "faces", "device": "CPU", "versions": VERSIONS} | others


def page(tmp_path: Path, records: dict[str, Any]) -> Page:
    space = workspace("cpu", tmp_path)
    write_json(space.results / "p1.json", records)
    return Page(ROOT / "p1_gan/report.md", read_results(space.results, "p1"), space)


def test_an_empty_workspace_has_every_table_and_says_not_run(tmp_path: Path) -> None:
    empty = Page(ROOT / "p1_gan/report.md", {}, workspace("sample", tmp_path))
    shown = parts(empty)
    for name in ("measures", "looks", "trainings", "memorisation", "ablation"):
        assert shown[name] == "*Not run.*\n", name
    assert cells(shown["settings"], "learning rate of D") == ["0.0002", "0.0004"]
    assert shown["repetitions"] == "" and empty.render(shown).count("images/P1/") >= 6
    assert readme_table({}) == "*Not run.*\n"


def test_measures_are_mean_and_range_over_sampling_seeds_of_the_first_training(tmp_path: Path) -> None:
    records = {
        "train/B/cpu/seed3": training(3, 100),
        "evaluate/B/cpu/weights3/seed0": measured(10.0, fid="FID: not run (weights unavailable)"),
        "evaluate/B/cpu/weights3/seed1": measured(12.0, face_rate=0.75, face_rate_of_val=0.9),
        "evaluate/B/cpu/weights4/seed0": measured(90.0),  # another training
        "evaluate/folder/mine": measured(1.0),
    }
    shown = parts(page(tmp_path, records))
    rates = "50.0 % (25.0 % to 75.0 %)"
    assert cells(shown["measures"], "B") == ["11.0 (10.0 to 12.0)", "50.0 (50.0 to 50.0)", rates]
    assert cells(shown["measures"], "real pictures") == ["9.0", "not run", "90.0 %"]
    assert shown["measures"].endswith("*Not run: FID; A.*\n")
    assert rates in cells(shown["looks"], "B") and "10.0 %" in cells(shown["looks"], "real pictures")
    assert cells(shown["trainings"], "B") == ["1,000 (100 steps of 10)", "64", "60 s", "20", "0.50", "0.25"]
    assert shown["data"] == "500 training pictures of faces" and shown["images"] == "1,000"


def test_repeated_and_continued_trainings_have_a_row_each(tmp_path: Path) -> None:
    records = {
        "train/B/cpu/seed0": training(0, 100),
        "train/B/cpu/continued/seed0": training(0, 50),
        "train/B/cpu/seed1": training(1, 25),
        "evaluate/B/cpu/weights0/seed0": measured(10.0, pictures_seen=1500),
        "evaluate/B/cpu/weights1/seed0": measured(20.0, pictures_seen=250),
    }
    shown = parts(page(tmp_path, records))
    rows = shown["repetitions"].splitlines()[2:]
    assert [row.split(" | ")[1:4] for row in rows] == [["0", "1,500", "10.0"], ["1", "250", "20.0"]]
    legs = [cells(shown["trainings"], name)[0] for name in ("B", "B, continued")]
    assert legs == ["1,000 (100 steps of 10)", "500 (50 steps of 10)"]


def test_ablation_gives_mean_and_range_of_seeds_with_one_budget(tmp_path: Path) -> None:
    def row(fd: float, steps: int = 300) -> dict[str, Any]:
        return measured(fd, steps=steps, batch_size=32)

    records = {
        "ablation/B/cpu/seed0": row(10.0),
        "ablation/B/cpu/seed1": row(12.0),
        "ablation/B/cpu/seed2": row(3.0, steps=100),  # another budget: not comparable with the others
        "ablation/no-averaging/cpu/seed0": row(15.0),
    }
    shown = parts(page(tmp_path, records))
    assert shown["budget"] == 9600
    assert cells(shown["ablation"], "B")[:2] == ["2", "11.0 (10.0 to 12.0)"]
    assert cells(shown["ablation"], ROWS["no-averaging"].title)[:2] == ["1", "15.0"]


@pytest.mark.parametrize("preset", ["sample", "full"])
def test_the_largest_preset_with_a_training_is_shown(tmp_path: Path, preset: str) -> None:
    records = {"train/A/sample/seed0": training(0, 10), f"train/B/{preset}/seed0": training(0, 10)}
    assert parts(page(tmp_path, records))["preset"] == preset
