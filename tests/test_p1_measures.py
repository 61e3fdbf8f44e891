"""P1's distances and what it measures of the looks of pictures, where the answer is known."""

from __future__ import annotations

import math
import urllib.error
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.frechet import frechet_distance
from p1_gan import fid as measure
from p1_gan.appearance import appearance, detections, variety
from p1_gan.distances import RealFaces, kernel_distance
from p1_gan.features import FeatureNetwork, cached_features, feature_network, features
from tests.conftest import Patch

inception = pytest.importorskip("pytorch_fid.inception")
CPU = torch.device("cpu")


@pytest.mark.parametrize("error", [urllib.error.URLError("no network"), EOFError("torn")])
def test_a_failed_download_is_said_in_the_agreed_line(error: Exception, monkeypatch: Patch) -> None:
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


def test_weights_of_a_file_give_a_distance_and_its_floor(tmp_path: Path, monkeypatch: Patch) -> None:
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
    assert variety(images[:1].repeat(3, 1, 1, 1)) == 0.0


def test_faces_are_counted_and_single_ones_measured() -> None:
    found = detections([[40], [44], [60], [], [36, 50]])
    assert found == {"no_face": 0.2, "several_faces": 0.2, "face_width_median": 44.0, "face_width_mean": 48.0}
    assert detections([[]]) == {"no_face": 1.0, "several_faces": 0.0}


def test_frechet_distance_of_gaussians_has_its_closed_form() -> None:
    torch.manual_seed(0)
    first = torch.randn(20_000, 3)
    second = torch.randn(20_000, 3) * torch.tensor([2.0, 1.0, 0.5]) + torch.tensor([1.0, 0.0, 0.0])
    assert frechet_distance(first, second) == pytest.approx(1.0 + 1.0 + 0.0 + 0.25, abs=0.06)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-6)


def test_kernel_distance_equals_its_definition_over_pairs(monkeypatch: Patch) -> None:
    monkeypatch.setattr("p1_gan.distances.BLOCK", 2)
    first, second = torch.randn(5, 4, generator=torch.manual_seed(0)).double(), torch.randn(3, 4).double()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return ((x @ y).item() / 4 + 1) ** 3

    def mean(pairs: list[float]) -> float:
        return sum(pairs) / len(pairs)

    within = [mean([kernel(x, y) for x in rows for y in rows if x is not y]) for rows in (list(first), list(second))]
    between = mean([kernel(x, y) for x in first for y in second])
    assert kernel_distance(first, second) == pytest.approx(sum(within) - 2 * between)


def test_kernel_distance_is_unbiased() -> None:
    torch.manual_seed(0)
    same = torch.tensor([kernel_distance(torch.randn(20, 8), torch.randn(30, 8)) for _ in range(300)])
    assert abs(same.mean()) < 4 * same.std() / 300**0.5 and (same < 0).any()
    # Shifted by s in every coordinate the expectations are polynomials: E k = E (x·y / D + 1)^3.
    assert kernel_distance(torch.randn(500, 8), torch.randn(500, 8) + 1) > 1


@pytest.fixture
def network() -> FeatureNetwork:
    found = feature_network(CPU)
    assert found is not None, "requirements.txt names its packages"
    return found


def test_features_see_what_is_in_a_picture(network: FeatureNetwork, data_root: Path) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    # The panda of its README cannot be had here; but a face upside down is further away than a little darker.
    face = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    face[:, 12:52, 18:46] = torch.tensor([220, 180, 150], dtype=torch.uint8)[:, None, None]
    face[:, 24:28, 24:28] = face[:, 24:28, 36:40] = 20
    face[:, 42:45, 26:38] = 60
    images = torch.stack([face, face - 5, face.flip(1)])
    found = features(network, images)
    assert found.shape == (3, 1280) and found.dtype == torch.float32
    assert (found[0] - found[1]).norm() < 0.5 * (found[0] - found[2]).norm()
    assert torch.equal(found, features(network, images))


def test_cached_features_belong_to_their_pictures(network: FeatureNetwork, tmp_path: Path, monkeypatch: Patch) -> None:
    images = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.manual_seed(0)).to(torch.uint8)
    first = cached_features(network, images, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr("p1_gan.features.features", lambda *_: pytest.fail("computed again"))
        assert torch.equal(cached_features(network, images, tmp_path / "cache"), first)
    images[0, 0, 0, 0] ^= 1
    cached_features(network, images, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    path.write_bytes(path.read_bytes()[:100])
    images[0, 0, 0, 0] ^= 1
    assert torch.equal(cached_features(network, images, tmp_path / "cache"), first)
    (tmp_path / "file").write_text("where a folder is needed")
    assert torch.equal(cached_features(network, images, tmp_path / "file"), first)


def test_memorised_pictures_are_noticed(network: FeatureNetwork, tmp_path: Path) -> None:
    torch.manual_seed(0)
    coarse = torch.randint(0, 256, (24, 3, 8, 8)).to(torch.uint8)
    train, val, fresh = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3).split([10, 7, 7])
    real = RealFaces(train, val, network, tmp_path)
    copied, distances, partners = real.nearest(features(network, train[:4]))
    assert partners.tolist() == [0, 1, 2, 3] and distances.max() < 0.05
    assert copied["nearest_train_median"] < 0.05 * copied["nearest_train_median_of_val"]
    assert copied["nearer_than_closest_percent_of_val"] == 1.0
    new, _, _ = real.nearest(features(network, fresh))
    assert new["nearest_train_median"] > 0.5 * new["nearest_train_median_of_val"]
    values = real.distances(features(network, torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)))
    assert values["fd_lite0"] > values["fd_lite0_floor"] > 0 and values["kid_lite0"] > values["kid_lite0_floor"]
