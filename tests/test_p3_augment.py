"""Inputs of P3: what evaluation sees, and that every random change does what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from common.batches import Batches
from p3_dann.augment import add_neighbours, affine, augment, blur, change_intensity, half_turn, mix_channels, prepare
from p3_dann.presets import PRESETS

PLAIN, BEST = PRESETS["original"], PRESETS["cpu"]
ONE = (1.0, 1.0)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (6, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_plain_inputs_lie_between_minus_one_and_one(images: torch.Tensor) -> None:
    inputs = prepare(images, PLAIN)
    torch.testing.assert_close(inputs, images / 127.5 - 1.0)
    assert torch.equal(augment(images, PLAIN, ONE, ONE, neighbours=True), inputs)


def test_normalised_inputs_do_not_depend_on_brightness_and_contrast(images: torch.Tensor) -> None:
    inputs = prepare(images, BEST)
    assert inputs.shape == (6, 3, 28, 28)
    torch.testing.assert_close(inputs.mean(dim=(2, 3)), torch.zeros(6, 3), atol=1e-5, rtol=0)
    dimmer = prepare((images // 2 + 50).to(torch.uint8), BEST)
    assert (dimmer - inputs).abs().mean() < 0.1
    # A constant picture stays finite.
    assert prepare(torch.full((1, 3, 28, 28), 7, dtype=torch.uint8), BEST).abs().max() < 1e-3


def test_same_seed_same_inputs(images: torch.Tensor) -> None:
    torch.manual_seed(3)
    first = augment(images, BEST, BEST.source_zoom, BEST.source_width, neighbours=True)
    second = augment(images, BEST, BEST.source_zoom, BEST.source_width, neighbours=True)
    torch.manual_seed(3)
    assert torch.equal(augment(images, BEST, BEST.source_zoom, BEST.source_width, neighbours=True), first)
    assert not torch.equal(first, second)
    assert first.isfinite().all()


def test_a_half_turn_makes_sixes_of_nines_and_leaves_what_is_no_digit_upside_down(images: torch.Tensor) -> None:
    digits = torch.tensor([0, 1, 6, 7, 8, 9])
    turned_images, turned_digits = half_turn(images, digits, 1.0)
    assert turned_digits.tolist() == [0, 1, 9, 7, 8, 6]
    for number, turned in enumerate((True, False, True, False, True, True)):
        expected = images[number].rot90(2, (1, 2)) if turned else images[number]
        assert torch.equal(turned_images[number], expected)
    again_images, again_digits = half_turn(turned_images, turned_digits, 1.0)
    assert torch.equal(again_images, images) and torch.equal(again_digits, digits)


def test_about_as_many_are_turned_as_asked() -> None:
    sixes, blank = torch.full((1000,), 6), torch.zeros(1000, 1, 2, 2)
    turned = half_turn(blank, sixes, 0.25)[1] == 9
    assert turned.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert torch.equal(half_turn(blank, sixes, 0.0)[1], sixes)


def test_mixed_channels_of_a_grey_picture_are_the_picture() -> None:
    grey = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(mix_channels(grey.expand(-1, 3, -1, -1)), grey)


def test_zoom_by_two_shows_the_middle() -> None:
    picture = torch.zeros(1, 1, 28, 28)
    picture[..., 7:21, 7:21] = 1.0
    still = replace(BEST, affine_degrees=0.0, affine_shear=0.0, affine_shift=0.0)
    enlarged = affine(picture, still, (2.0, 2.0), ONE)
    assert enlarged[..., 1:-1, 1:-1].min() == 1.0
    narrowed = affine(picture, still, (2.0, 2.0), (0.5, 0.5))
    assert narrowed[0, 0, 14, :6].max() < 0.1 and narrowed[0, 0, 14, 8:20].min() == 1.0


def test_rotation_keeps_the_centre_and_moves_the_edge() -> None:
    torch.manual_seed(0)
    picture = torch.zeros(8, 1, 28, 28)
    picture[..., 13:15, :] = 1.0
    turned = affine(picture, replace(BEST, affine_shear=0.0, affine_shift=0.0, affine_degrees=40.0), ONE, ONE)
    assert turned[:, 0, 13:15, 13:15].min() > 0.7
    assert turned[:, 0, 13:15, 0].min() < 0.5


def test_neighbours_are_the_next_pictures_moved_and_as_bright_as_their_place_and_leave_the_middle() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(5, 1, 28, 28)
    wide = add_neighbours(pixels, probability=1.0)
    assert wide.shape == (5, 1, 28, 84)
    assert torch.equal(wide[..., 28 + 6 : 28 + 22], pixels[..., 6:22])
    assert not torch.equal(wide[..., 28:56], pixels)
    for number in range(5):
        for side in (-1, 1):
            expected = pixels[(number - side) % 5]
            expected = expected - expected.mean() + pixels[number].mean()
            # It stands 16 to 24 columns away and covers what is beyond halfway: its outer 10 columns are always seen.
            outer = slice(0, 10) if side < 0 else slice(18, 28)
            seen = [wide[number, ..., 28 + side * distance :][..., outer] for distance in range(16, 25)]
            assert sum(torch.allclose(part, expected[..., outer], atol=1e-6) for part in seen) == 1, (number, side)


def test_without_neighbours_the_edges_are_repeated() -> None:
    pixels = torch.rand(3, 1, 28, 28)
    wide = add_neighbours(pixels, probability=0.0)
    assert torch.equal(wide[..., 28:56], pixels)
    assert torch.equal(wide[..., :28], pixels[..., :1].expand(-1, -1, -1, 28))


def test_a_blurred_point_is_a_gaussian_that_keeps_its_light() -> None:
    flat = torch.full((2, 1, 28, 28), 0.3)
    torch.testing.assert_close(blur(flat, 2.0), flat)
    torch.manual_seed(1)
    point = torch.zeros(1, 1, 28, 28)
    point[..., 13, 13] = 1.0
    blurred = blur(point, 1.0)
    torch.testing.assert_close(blurred.sum(), torch.tensor(1.0))
    assert torch.equal(blurred, blurred.transpose(2, 3))
    # On a Gaussian's logarithm the step from the middle to 2 pixels is four times that to 1 pixel.
    middle, one, two = blurred[0, 0, 13, 13:16].log()
    torch.testing.assert_close(middle - two, 4 * (middle - one), rtol=1e-4, atol=1e-6)


def test_inversion_changes_the_sign_only() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(64, 1, 28, 28)
    changed = change_intensity(pixels, replace(PLAIN, invert_probability=0.5))
    flipped = (changed == -pixels).flatten(1).all(1)
    assert torch.equal(changed[~flipped], pixels[~flipped])
    assert 10 < flipped.sum() < 54


def test_batches_visit_every_picture_once_an_epoch_across_borders() -> None:
    batches = Batches(10, 4, seed=0, name="labelled", device=torch.device("cpu"))
    visited = torch.cat([batches(step) for step in range(5)])
    assert sorted(visited[:10].tolist()) == sorted(visited[10:].tolist()) == list(range(10))
    assert torch.equal(batches(1), visited[4:8])
    assert len(Batches(3, 8, 0, "labelled", torch.device("cpu"))(0)) == 8
