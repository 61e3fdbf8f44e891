"""The shipped models from torch.hub and from the notebook."""

from __future__ import annotations

import json
from typing import Any

from common import ROOT

import pytest
import torch


def load(name: str, **options: object) -> object:
    return torch.hub.load(str(ROOT), name, source="local", **options)


def test_generator_maps_latents_to_faces() -> None:
    with torch.no_grad():
        faces = load("face_generator")(torch.randn(2, 100, 1, 1))
    assert faces.shape == (2, 3, 64, 64) and faces.abs().max() <= 1


def test_sampler_generates_the_digits_asked_for_alike_for_the_same_seed() -> None:
    sample = load("digit_sampler", network="student4")
    digits = sample([3, 7])
    assert digits.shape == (2, 3, 28, 28) and digits.dtype == torch.uint8
    assert torch.equal(digits, sample([3, 7], seed=0)) and not torch.equal(digits, sample([3, 7], seed=1))


def test_classifier_names_digits() -> None:
    classes = load("digit_classifier", target="usps")(torch.zeros(3, 3, 28, 28, dtype=torch.uint8))
    assert classes.shape == (3,) and classes.dtype == torch.int64 and 0 <= classes.min() <= classes.max() <= 9


def test_the_tour_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cells = json.loads((ROOT / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    namespace: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
    assert namespace["faces"].shape == (32, 3, 64, 64) and namespace["digits"].shape == (100, 3, 28, 28)
    assert namespace["correct"] >= 20
