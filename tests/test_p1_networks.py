"""P1's networks, augmentation, losses and schedules against what is printed, and against closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from p1_gan.ablation import VARIANTS, variant_config
from p1_gan.augment import AUGMENTATIONS, diff_augment, translation
from p1_gan.config import METHODS, PRESETS, TrainConfig, make_config
from p1_gan.losses import discriminator_loss, generator_loss
from p1_gan.model import (
    DCGAN_Discriminator,
    DCGAN_Generator,
    My_Discriminator,
    My_Generator,
)
from p1_gan.train import lr_factor, noise_level

import pytest
import torch
from torch.nn import functional as F

PRINTED = Path(__file__).parent / "printed"


@pytest.mark.parametrize("network", [DCGAN_Generator, My_Generator, DCGAN_Discriminator, My_Discriminator])
def test_prints_and_counts_as_in_the_course_report(network: type[torch.nn.Module]) -> None:
    model = network()
    # Newer versions of torch print one argument more for BatchNorm.
    assert str(model).replace("affine=True, bias=True", "affine=True") == (
        PRINTED / f"{network.__name__}.txt"
    ).read_text().rstrip("\n")
    total = 3_576_704 if "Generator" in network.__name__ else 2_765_568
    assert sum(parameter.numel() for parameter in model.parameters()) == total


def test_methods_share_one_generator() -> None:
    shapes = [{k: v.shape for k, v in m.generator().state_dict().items()} for m in METHODS.values()]
    assert all(some == shapes[0] for some in shapes)


def test_spectral_norm_bounds_every_layer() -> None:
    torch.manual_seed(0)
    discriminator = My_Discriminator(channels=8)
    for _ in range(30):  # one power iteration per forward pass
        discriminator(torch.randn(4, 3, 64, 64))
    for layer in discriminator.feature_extract:
        if isinstance(layer, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1.0, abs=0.1)


def test_spectral_norm_before_batchnorm_only_scales_the_logits() -> None:
    networks = []
    for network in (DCGAN_Discriminator, My_Discriminator):
        torch.manual_seed(0)  # the same weights
        networks.append(network(channels=8).double())
        for module in networks[-1].modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 1e-14
    images = torch.rand(16, 3, 64, 64, dtype=torch.float64) * 2 - 1
    for _ in range(100):  # one power iteration per forward pass
        normalized = networks[1](images, logits=True)
    plain = networks[0](images, logits=True)
    *first, last = [layer.weight for layer in networks[0].feature_extract if isinstance(layer, torch.nn.Conv2d)]
    normalized = normalized * torch.linalg.matrix_norm(last.flatten(1), ord=2)
    torch.testing.assert_close(normalized, plain, rtol=1e-5, atol=1e-6)
    weights = [weight for name, weight in networks[1].named_parameters() if name.endswith("weight_orig")]
    gradients = torch.autograd.grad(normalized.square().sum(), weights[:-1])
    torch.testing.assert_close(gradients, torch.autograd.grad(plain.square().sum(), first), rtol=1e-3, atol=1e-6)


def test_losses_equal_their_definitions() -> None:
    real, fake = torch.tensor([0.3, -1.2]), torch.tensor([0.8, 2.0])
    p, q = real.sigmoid(), fake.sigmoid()
    smoothed = -(0.9 * p.log() + 0.1 * (1 - p).log()).mean() - (1 - q).log().mean()
    assert discriminator_loss(real, fake, "bce", 0.9) == pytest.approx(smoothed.item(), rel=1e-5)
    assert generator_loss(fake, "bce") == pytest.approx(-q.log().mean().item(), rel=1e-5)
    assert discriminator_loss(real, fake, "hinge") == pytest.approx((0.7 + 2.2) / 2 + (1.8 + 3.0) / 2)
    assert generator_loss(fake, "hinge") == pytest.approx(-1.4)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_augmentation_changes_images_and_passes_gradients(name: str) -> None:
    torch.manual_seed(0)
    images = (torch.rand(64, 3, 64, 64) * 2 - 1).requires_grad_()
    changed = diff_augment(images, (name,))
    assert changed.shape == images.shape and not torch.equal(changed, images)
    changed.square().sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_translation_moves_whole_images() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 1, 16, 16) + 1.0
    moved = translation(image.repeat(64, 1, 1, 1))
    padded = F.pad(image[0], (2, 2, 2, 2))
    windows = [padded[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    assert all(any(torch.equal(one, window) for window in windows) for one in moved)
    assert len({one.numpy().tobytes() for one in moved}) > 10


def test_schedules_are_linear() -> None:
    config = TrainConfig(steps=100, lr_decay_fraction=0.25, instance_noise=0.1, noise_fraction=0.5)
    assert [lr_factor(step, config) for step in (0, 75, 90, 100)] == pytest.approx([1, 1, 0.4, 0])
    assert lr_factor(100, replace(config, lr_decay_fraction=0.0)) == 1
    assert [noise_level(step, config) for step in (0, 25, 50, 100)] == pytest.approx([0.1, 0.05, 0, 0])
    assert noise_level(0, TrainConfig()) == 0


def test_a_preset_is_a_schedule_and_a_method_the_rest() -> None:
    assert make_config("A", "sample") == replace(TrainConfig(), **PRESETS["sample"])
    for name, method in METHODS.items():
        for preset, schedule in PRESETS.items():
            config = make_config(name, preset)
            wanted = {**schedule, **method.fields}
            assert all(getattr(config, key) == value for key, value in wanted.items())


def test_ablation_changes_one_ingredient_at_a_time() -> None:
    for name, (method, changes) in VARIANTS.items():
        config, base = variant_config(name, "cpu", budget=320), variant_config(method, "cpu", budget=320)
        assert config.steps * config.batch_size == 320
        different = {key for key, value in vars(base).items() if getattr(config, key) != value}
        assert different == {key for key, value in changes.items() if getattr(base, key) != value}, name
        assert len(different) <= 2 or name == "no-spectral-norm"
    # With B's settings and A's networks, spectral norm is all that is missing.
    assert variant_config("no-spectral-norm", "cpu", 320) == variant_config("B", "cpu", 320)
