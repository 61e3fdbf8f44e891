"""P1's measures of faces where the answer is known."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from common.metrics import wilson_interval
from p1_gan import metrics
from p1_gan.evaluate import RealFaces
from p1_gan.metrics import cached, efficientnet, image_statistics, inception, kernel_distance, memorization
from tests.conftest import Capture, Patch

import pytest
import torch

CPU = torch.device("cpu")


def test_brightness_and_borders_have_their_definitions() -> None:
    images = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)
    images[0, :, :, :4] = 0  # black on the left
    images[1, :, -4:] = 255  # white below
    images[2, 0] = 255
    found = image_statistics(images)
    assert found["blank_border"] == 0.5
    assert found["brightness"] == pytest.approx(images.float().mean().item() / 255, abs=1e-5)
    assert found["face_rate"] == 0.0 and "face_width_mean" not in found


def test_single_faces_are_counted_and_measured(monkeypatch: Patch, capsys: Capture) -> None:
    images = torch.zeros(5, 3, 64, 64, dtype=torch.uint8)
    with monkeypatch.context() as patched:
        patched.setattr(metrics, "face_widths", lambda _: [[40], [44], [60], [], [36, 50]])
        found = image_statistics(images)
    assert found["face_rate"] == pytest.approx(0.6) and found["face_width_mean"] == 48.0
    monkeypatch.setitem(sys.modules, "dlib", None)
    assert image_statistics(images).keys() == {"brightness", "blank_border"}
    assert "face rate: not run" in capsys.readouterr().err


def test_kernel_distance_equals_its_definition_over_pairs() -> None:
    first, second = torch.randn(5, 4, generator=torch.manual_seed(0)).double(), torch.randn(3, 4).double()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return ((x @ y).item() / 4 + 1) ** 3

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    within = [mean([kernel(x, y) for x in rows for y in rows if x is not y]) for rows in (list(first), list(second))]
    between = mean([kernel(x, y) for x in first for y in second])
    assert kernel_distance(first, second) == pytest.approx(sum(within) - 2 * between)


def test_kernel_distance_is_unbiased() -> None:
    torch.manual_seed(0)
    same = torch.tensor([kernel_distance(torch.randn(20, 8), torch.randn(30, 8)) for _ in range(300)])
    assert abs(same.mean()) < 4 * same.std() / 300**0.5 and (same < 0).any()
    assert kernel_distance(torch.randn(500, 8), torch.randn(500, 8) + 1) > 1


def test_memorized_images_are_noticed() -> None:
    torch.manual_seed(0)
    train, val, fresh = torch.randn(200, 16).split([100, 50, 50])
    copied, new = memorization(train[:50] + 1e-4, val, train), memorization(fresh, val, train)
    assert copied["nearest_train_median"] < 0.01 * copied["nearest_train_median_baseline"]
    assert copied["fraction_nearer_than_1st_percentile"] == 1.0 and new["fraction_nearer_than_1st_percentile"] < 0.2
    assert new["nearest_train_median"] == pytest.approx(new["nearest_train_median_baseline"], rel=0.2)


def test_features_see_what_is_in_an_image(tmp_path: Path, monkeypatch: Patch) -> None:
    extract = efficientnet(CPU)
    # A face upside down is further away than one a little darker.
    face = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    face[:, 12:52, 18:46] = torch.tensor([220, 180, 150], dtype=torch.uint8)[:, None, None]
    face[:, 24:28, 24:28] = face[:, 24:28, 36:40] = 20
    face[:, 42:45, 26:38] = 60
    images = torch.stack([face, face - 5, face.flip(1)])
    found = cached(extract, images, tmp_path / "cache")
    assert found.shape == (3, 1280) and found.dtype == torch.float32
    assert (found[0] - found[1]).norm() < 0.5 * (found[0] - found[2]).norm()

    assert torch.equal(cached(lambda _: pytest.fail("computed again"), images, tmp_path / "cache"), found)
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:100])  # damaged
    assert torch.equal(cached(extract, images, tmp_path / "cache"), found)
    cached(extract, images[:2], tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    (tmp_path / "file").write_text("where a folder is needed", encoding="utf-8")
    assert torch.equal(cached(extract, images, tmp_path / "file"), found)


def test_fid_compares_a_thousand_images_with_features_of_inception(
    data_root: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    class Inception(torch.nn.Module):
        BLOCK_INDEX_BY_DIM: ClassVar = {2048: 3}

        def __init__(self, blocks: list[int]) -> None:
            super().__init__()
            assert blocks == [3]

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            assert images.dtype == torch.float32 and images.max() <= 1
            return [images[:, :, :1, :1]]

    module = ModuleType("pytorch_fid.inception")
    module.InceptionV3 = Inception  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pytorch_fid.inception", module)
    monkeypatch.setattr("p1_gan.evaluate.image_statistics", lambda *_: {})
    monkeypatch.setattr("p1_gan.evaluate.efficientnet", lambda _: lambda images: images[:, 0, 0, :2].float())
    monkeypatch.setattr(RealFaces, "features", lambda self, images: images[:, 0, 0, :2].float())
    real = RealFaces(data_root, CPU)
    found = real.measure(real.train[:20] // 4)
    assert math.isfinite(found["fid"]) and found["fid"] > found["fid_baseline"] > 0
    monkeypatch.setitem(sys.modules, "pytorch_fid.inception", None)
    assert inception(CPU) is None and "FID: not run" in capsys.readouterr().err


def test_wilson_intervals_are_those_of_the_textbook() -> None:
    # Brown, Cai and DasGupta, "Interval estimation for a binomial proportion", 2001.
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(56, 200) == pytest.approx((0.2224, 0.3458), abs=1e-3)
    assert all(wilson_interval(0, n)[0] == 0.0 and wilson_interval(n, n)[1] == 1.0 for n in range(1, 300))
    low, high = wilson_interval(50, 50)
    assert 0.92 < low < 0.93 and high == 1.0
