"""P1's FID and what it measures of the looks of pictures, on pictures and networks whose answer is known."""

from __future__ import annotations

import math
import urllib.error
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from p1_gan import fid as measure
from p1_gan.appearance import appearance, detections

inception = pytest.importorskip("pytorch_fid.inception")
CPU = torch.device("cpu")


@pytest.mark.parametrize("error", [urllib.error.URLError("no network"), RuntimeError("hash"), EOFError("torn")])
def test_a_failed_download_is_said_in_the_agreed_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(inception, "load_state_dict_from_url", fail)
    with pytest.raises(measure.NotRunError, match=r"^FID: not run \(weights unavailable\)$"):
        measure.load_inception(None, CPU)


@pytest.mark.parametrize(("name", "message"), [("missing", "no such"), ("other", "holds other weights")])
def test_wrong_weights_are_a_mistake_of_the_user(name: str, message: str, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"{name}.pth: {message}"):
        measure.load_inception(tmp_path / f"{name}.pth", CPU)


def test_weights_of_a_file_give_a_distance_and_its_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {}

    def keep(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        saved.update(network.state_dict())

    with monkeypatch.context() as patched:  # pytorch-fid builds its network only together with loading weights
        patched.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patched.setattr(torch.nn.Module, "load_state_dict", keep)
        inception.fid_inception_v3()
    torch.save(saved, tmp_path / "random.pth")
    # The first features instead of pool3, which take a hundredth of the time.
    monkeypatch.setattr(measure, "FEATURES", 64)
    network = measure.load_inception(tmp_path / "random.pth", CPU)
    torch.manual_seed(0)
    train, val = torch.randint(0, 256, (24, 3, 64, 64)).to(torch.uint8).chunk(2)
    distance, floor = measure.fid(network, (train[:8] // 4), val, train)
    assert math.isfinite(distance) and math.isfinite(floor) and distance > floor > 0


def test_light_colour_and_borders_have_their_definitions() -> None:
    images = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)
    images[0, :, :, :4] = 0  # black on the left
    images[1, :, -4:] = 255  # white below
    images[2, 0] = 255
    found = appearance(images)
    assert found["blank_border"] == 0.5
    assert found["colourfulness"] == pytest.approx(127 / 255 / 4, abs=1e-5)
    assert found["brightness"] == pytest.approx(images.float().mean().item() / 255, abs=1e-5)
    assert appearance(images[:1].repeat(3, 1, 1, 1))["variety"] == 0.0


def test_faces_are_counted_and_single_ones_measured() -> None:
    found = detections([[40], [44], [60], [], [36, 50]])
    assert found == {"no_face": 0.2, "several_faces": 0.2, "face_width_median": 44.0, "face_width_mean": 48.0}
    assert detections([[]]) == {"no_face": 1.0, "several_faces": 0.0}
