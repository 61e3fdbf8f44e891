"""P1's networks, augmentation, losses and distances, against what is printed and closed forms."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from common.report import architecture, summary_table
from p1_gan import small_maps
from p1_gan.ablation import ROWS
from p1_gan.augment import AUGMENTATIONS, diff_augment, translation
from p1_gan.inference import draw_latents, generate
from p1_gan.losses import discriminator_loss, generator_loss
from p1_gan.model import DCGAN_Discriminator, DCGAN_Generator, My_Discriminator, My_Generator
from p1_gan.presets import PRESETS_A, PRESETS_B, TrainConfig
from p1_gan.train import learning_rate_factor, noise_level
from p1_gan.watch import grid_steps, is_healthy, strip_steps

PRINTED = Path(__file__).parent / "printed"
# Each with the shape of one input, and the parameters that the original report counts.
NETWORKS = [(network, (100, 1, 1), "3,576,704") for network in (DCGAN_Generator, My_Generator)]
NETWORKS += [(network, (3, 64, 64), "2,765,568") for network in (DCGAN_Discriminator, My_Discriminator)]


@pytest.mark.parametrize(("network", "inputs", "total"), NETWORKS)
def test_prints_as_in_the_original_report(network: type[torch.nn.Module], inputs: tuple[int, ...], total: str) -> None:
    printed = (PRINTED / f"{network.__name__}.txt").read_text().rstrip("\n")
    assert architecture(network()) == f"```text\n{printed}\n```\n"
    assert f"Total params: {total}" in summary_table(network(), inputs)


def test_spectral_norm_bounds_every_layer() -> None:
    torch.manual_seed(0)
    discriminator = My_Discriminator(channels=8)
    for _ in range(30):  # one power iteration a forward pass
        discriminator(torch.randn(4, 3, 64, 64))
    for layer in discriminator.feature_extract:
        if isinstance(layer, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("stride", "padding", "side"), [(2, 1, 8), (2, 1, 6), (1, 0, 4)])
def test_small_maps_are_convolved_with_the_values_and_gradients_of_torch(stride: int, padding: int, side: int) -> None:
    torch.manual_seed(0)
    images, weight = torch.randn(3, 5, side, side).double(), torch.randn(7, 5, 4, 4).double()
    maps = F.conv2d(images, weight, None, stride, padding)
    for ours, theirs, inputs in (
        (small_maps.convolve, F.conv2d, images),
        (small_maps.convolve_transposed, F.conv_transpose2d, torch.randn_like(maps)),
    ):
        both = [tensor.clone().requires_grad_() for tensor in (inputs, weight)]
        expected, found = theirs(*both, None, stride, padding), ours(*both, stride, padding)
        weighting = torch.randn_like(expected)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(result, both, weighting) for result in (found, expected)))


@pytest.mark.parametrize(("network", "inputs"), [(My_Generator, (16, 100, 1, 1)), (My_Discriminator, (16, 3, 64, 64))])
def test_gradients_with_small_maps_are_as_near_to_float32_as_those_without(
    network: type[torch.nn.Module], inputs: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = []
    for small, is_bfloat16 in ((small_maps.SMALL, True), (0, True), (0, False)):
        monkeypatch.setattr(small_maps, "SMALL", small)
        torch.manual_seed(0)
        model = network(channels=8)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
            output = model(torch.randn(inputs))
        (output * torch.randn(output.shape)).float().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    with_small_maps, without, exact = gradients
    assert not torch.equal(with_small_maps, without)  # rounded elsewhere: another way was taken
    assert (with_small_maps - exact).norm() < 1.2 * (without - exact).norm()


def test_losses_equal_their_definitions() -> None:
    real, fake = torch.tensor([0.3, -1.2]), torch.tensor([0.8, 2.0])
    p, q = real.sigmoid(), fake.sigmoid()
    smoothed = -(0.9 * p.log() + 0.1 * (1 - p).log()).mean() - (1 - q).log().mean()
    assert discriminator_loss(real, fake, "bce", 0.9) == pytest.approx(smoothed.item(), rel=1e-5)
    assert generator_loss(fake, "bce") == pytest.approx(-q.log().mean().item(), rel=1e-5)
    assert discriminator_loss(real, fake, "hinge", 1.0) == pytest.approx((0.7 + 2.2) / 2 + (1.8 + 3.0) / 2)
    assert generator_loss(fake, "hinge") == pytest.approx(-1.4)


def test_instance_noise_falls_linearly_to_zero() -> None:
    config = PRESETS_B["cpu"]
    last = int(config.steps * config.instance_noise_share)
    assert noise_level(0, config) == config.instance_noise
    assert noise_level(last // 2, config) == pytest.approx(config.instance_noise / 2)
    assert noise_level(last, config) == noise_level(config.steps, config) == 0.0


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_augmentation_changes_pictures_and_passes_gradients(name: str) -> None:
    torch.manual_seed(0)
    images = (torch.rand(8, 3, 64, 64) * 2 - 1).requires_grad_()
    changed = diff_augment(images, (name,))
    assert changed.shape == images.shape
    assert not torch.equal(changed, images)
    changed.square().sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_translation_moves_whole_pictures() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 1, 16, 16) + 1.0
    moved = translation(image.repeat(64, 1, 1, 1))
    padded = F.pad(image[0], (2, 2, 2, 2))
    windows = [padded[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    assert all(any(torch.equal(picture, window) for window in windows) for picture in moved)
    assert len({picture.numpy().tobytes() for picture in moved}) > 10


def test_latents_do_not_depend_on_their_number_and_truncation_bounds_them() -> None:
    assert torch.equal(draw_latents(3, seed=1), draw_latents(8, seed=1)[:3])
    assert not torch.equal(draw_latents(3, seed=1), draw_latents(3, seed=2))
    truncated = draw_latents(200, seed=1, truncation=1.0)
    assert torch.equal(draw_latents(5, seed=1, truncation=1.0), truncated[:5])
    assert truncated.abs().max() <= 1.0 and truncated.std() > 0.4


def test_generation_takes_smaller_batches_where_memory_ends() -> None:
    class Narrow(torch.nn.Module):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.scale, self.most, self.sizes = torch.nn.Parameter(torch.ones(())), most, []

        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            if len(latents) > self.most:
                raise torch.OutOfMemoryError("CUDA")
            self.sizes.append(len(latents))
            return latents[:, :3].tanh() * self.scale

    latents = draw_latents(300, seed=0)
    narrow = Narrow(most=40)
    assert torch.equal(generate(narrow, latents), generate(Narrow(most=300), latents))
    assert max(narrow.sizes) == 31 and sum(narrow.sizes) == 300
    with pytest.raises(torch.OutOfMemoryError):
        generate(Narrow(most=0), latents)
    with pytest.raises(torch.OutOfMemoryError):
        generate(narrow, latents, batch_size=50)  # chosen by the user


class Log:
    """The part of a run that the check for collapse reads, keeping what is said."""

    def __init__(self, rows: list[dict[str, float]]) -> None:
        self.rows, self.remarks = rows, []

    def say(self, message: str) -> None:
        self.remarks.append(message)


PLAIN, SMOOTHED = TrainConfig(), TrainConfig(real_label=0.9)
HINGE = TrainConfig(loss="hinge")
HEALTHY = {"d_real": 0.6, "d_fake": 0.3, "loss_d": 1.2}


@pytest.mark.parametrize(
    ("config", "rows", "remark"),
    [
        (PLAIN, [HEALTHY] * 5, None),
        (PLAIN, [{"d_real": 0.99, "d_fake": 0.01}] * 4, None),
        (PLAIN, [{"d_real": 0.92, "d_fake": 0.08}] * 5, None),
        (PLAIN, [{"d_real": 0.99, "d_fake": 0.01}] * 5, "the discriminator has won"),
        (PLAIN, [{"d_real": 0.99, "d_fake": 0.98}] * 5, "takes everything for real"),
        (PLAIN, [{"d_real": 0.01, "d_fake": 0.01}] * 5, "takes nothing for real"),
        (SMOOTHED, [{"d_real": 0.89, "d_fake": 0.01}] * 5, "the discriminator has won"),
        (HINGE, [{"d_real": 0.8, "d_fake": 0.2, "loss_d": 0.4}] * 5, None),
        (HINGE, [{"d_real": 0.8, "d_fake": 0.2, "loss_d": 0.05}] * 5, "the discriminator has won"),
        (HINGE, [{"d_real": 0.8, "d_fake": 0.8, "loss_d": 2.4}] * 5, "takes everything for real"),
        (HINGE, [{"d_real": 0.2, "d_fake": 0.2, "loss_d": 2.4}] * 5, "takes nothing for real"),
        (PLAIN, [HEALTHY | {"face_rate": rate} for rate in (0.2, 0.8, 0.3)], "face rate has fallen"),
        (PLAIN, [HEALTHY | {"variety": value} for value in (0.2, 0.2, 0.01)], "variety of the pictures"),
    ],
)
def test_collapse_is_noticed(config: TrainConfig, rows: list[dict[str, float]], remark: str | None) -> None:
    log = Log(rows)
    assert is_healthy(log, config) == (remark is None)
    assert len(log.remarks) == (remark is not None)
    assert remark is None or remark in log.remarks[0]


def test_the_last_step_is_always_drawn_and_the_strip_has_even_steps() -> None:
    assert grid_steps(replace(PRESETS_A["cpu"], steps=7, grid_every=3)) == {3, 6, 7}
    for name, config in PRESETS_B.items():
        steps = strip_steps(config)
        assert len(steps) <= 12 and steps[-1] == config.steps, name
        assert len({later - earlier for earlier, later in pairwise(steps)}) == 1, name


def test_learning_rates_fall_linearly_at_the_end() -> None:
    config = TrainConfig(steps=100, decay_share=0.25)
    assert [learning_rate_factor(step, config) for step in (0, 75, 90, 100)] == pytest.approx([1, 1, 0.4, 0])
    assert learning_rate_factor(100, replace(config, decay_share=0.0)) == 1


def test_ablation_changes_one_ingredient_at_a_time() -> None:
    a, b = PRESETS_A["cpu"], PRESETS_B["cpu"]
    configs = {name: row.config("cpu") for name, row in ROWS.items()}
    assert configs["A"] == a and configs["B"] == b and configs["hinge"] == replace(b, loss="hinge")
    assert configs["A-averaged"] == replace(a, ema_decay=b.ema_decay)
    # With B's settings and A's networks, spectral norm is all that is missing.
    assert ROWS["no-spectral-norm"].method == "A" and configs["no-spectral-norm"] == b
    for name, row in ROWS.items():
        if row.method == "B" and row.settings:
            changed = {field for field in vars(b) if getattr(configs[name], field) != getattr(b, field)}
            assert changed and changed <= set(row.settings), name
            assert all(getattr(configs[name], field) == getattr(a, field) for field in row.settings)
