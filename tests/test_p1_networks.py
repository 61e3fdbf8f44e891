"""P1's networks, augmentation, losses and distances, against what is printed and closed forms."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from common.ema import ExponentialMovingAverage
from common.files import sha256
from common.frechet import frechet_distance
from common.paths import workspace
from common.pictures import save_grid
from common.report import architecture, summary_table
from p1_gan.ablation import INGREDIENTS, ROWS, options, recipe
from p1_gan.augment import AUGMENTATIONS, diff_augment, translation
from p1_gan.evaluate import memorisation
from p1_gan.frechet import FDHOG, hog
from p1_gan.inference import draw_latents, generate
from p1_gan.losses import discriminator_loss, generator_loss
from p1_gan.model import DCGAN_Discriminator, DCGAN_Generator, My_Discriminator, My_Generator
from p1_gan.presets import PRESETS, TrainConfig
from p1_gan.report import seen, width_note
from p1_gan.train import grid_steps, late_means, noise_level, strip_steps, warn_of_collapse

PRINTED = Path(__file__).parent / "printed"
GENERATORS = (DCGAN_Generator, My_Generator)
DISCRIMINATORS = (DCGAN_Discriminator, My_Discriminator)


@pytest.mark.parametrize("network", [*GENERATORS, *DISCRIMINATORS])
def test_prints_as_in_the_original_report(network: type[torch.nn.Module]) -> None:
    assert architecture(network()) == (PRINTED / f"{network.__name__}.txt").read_text().rstrip("\n")


@pytest.mark.parametrize("network", GENERATORS)
def test_generators_have_the_reported_size(network: type[torch.nn.Module]) -> None:
    assert "Total params: 3,576,704" in summary_table(network(), (100, 1, 1))


@pytest.mark.parametrize("network", DISCRIMINATORS)
def test_discriminators_have_the_reported_size(network: type[torch.nn.Module]) -> None:
    assert "Total params: 2,765,568" in summary_table(network(), (3, 64, 64))


def test_spectral_norm_bounds_every_layer() -> None:
    torch.manual_seed(0)
    discriminator = My_Discriminator()
    for _ in range(30):  # one power iteration a forward pass
        discriminator(torch.randn(4, 3, 64, 64))
    for layer in discriminator.feature_extract:
        if isinstance(layer, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1.0, abs=0.1)


def test_losses_equal_their_definitions() -> None:
    real, fake = torch.tensor([0.3, -1.2]), torch.tensor([0.8, 2.0])
    p, q = real.sigmoid(), fake.sigmoid()
    smoothed = -(0.9 * p.log() + 0.1 * (1 - p).log()).mean() - (1 - q).log().mean()
    assert discriminator_loss(real, fake, "bce", 0.9) == pytest.approx(smoothed.item(), rel=1e-5)
    assert generator_loss(fake, "bce") == pytest.approx(-q.log().mean().item(), rel=1e-5)
    assert discriminator_loss(real, fake, "hinge", 1.0) == pytest.approx((0.7 + 2.2) / 2 + (1.8 + 3.0) / 2)
    assert generator_loss(fake, "hinge") == pytest.approx(-1.4)


def test_instance_noise_falls_linearly_to_zero() -> None:
    config = PRESETS["B"]["cpu"]
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


def test_frechet_distance_of_gaussians_has_its_closed_form() -> None:
    torch.manual_seed(0)
    first = torch.randn(20_000, 3)
    second = torch.randn(20_000, 3) * torch.tensor([2.0, 1.0, 0.5]) + torch.tensor([1.0, 0.0, 0.0])
    assert frechet_distance(first, second) == pytest.approx(1.0 + 1.0 + 0.0 + 0.25, abs=0.06)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-6)


def test_hog_sees_orientation() -> None:
    stripes = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    stripes[:, :, :, ::8] = 255
    vertical, horizontal = hog(stripes), hog(stripes.transpose(2, 3).contiguous())
    per_bin = vertical.reshape(-1, 9, 4).sum((0, 2)), horizontal.reshape(-1, 9, 4).sum((0, 2))
    assert per_bin[0].argmax() == 0 and per_bin[1].argmax() in (4, 5)


def test_memorised_pictures_are_noticed() -> None:
    torch.manual_seed(0)
    train, val = torch.randint(0, 256, (80, 3, 64, 64)).to(torch.uint8).chunk(2)
    fd_hog = FDHOG(train, val)
    copied = memorisation(train[:20], train, fd_hog)
    fresh = memorisation(torch.randint(0, 256, (20, 3, 64, 64)).to(torch.uint8), train, fd_hog)
    assert copied["nearest_train_median"] == pytest.approx(0.0, abs=1e-2)
    assert copied["nearer_than_closest_percent_of_val"] == 1.0
    assert fresh["nearest_train_median"] > 0.5 * fresh["nearest_train_median_of_val"]


def test_latents_do_not_depend_on_their_number_and_truncation_bounds_them() -> None:
    assert torch.equal(draw_latents(3, seed=1), draw_latents(8, seed=1)[:3])
    assert not torch.equal(draw_latents(3, seed=1), draw_latents(3, seed=2))
    truncated = draw_latents(200, seed=1, truncation=1.0)
    assert truncated.abs().max() <= 1.0 and truncated.std() > 0.4


def test_pictures_do_not_depend_on_the_batch_size() -> None:
    torch.manual_seed(0)
    model = My_Generator().eval()
    latents = draw_latents(7, seed=0)
    assert torch.equal(generate(model, latents, batch_size=7), generate(model, latents, batch_size=3))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: not enough memory"), MemoryError()]
)
def test_generation_takes_smaller_batches_where_memory_ends(error: Exception) -> None:
    class Narrow(torch.nn.Module):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.scale, self.most, self.sizes = torch.nn.Parameter(torch.ones(())), most, []

        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            if len(latents) > self.most:
                raise error
            self.sizes.append(len(latents))
            return latents[:, :3].tanh() * self.scale

    latents = draw_latents(300, seed=0)
    narrow = Narrow(most=40)
    assert torch.equal(generate(narrow, latents), generate(Narrow(most=300), latents))
    assert max(narrow.sizes) == 31 and sum(narrow.sizes) == 300
    with pytest.raises(type(error)):
        generate(Narrow(most=0), latents)
    with pytest.raises(type(error)):
        generate(narrow, latents, batch_size=50)  # chosen by the user


def test_average_follows_weights_and_copies_batchnorm_statistics() -> None:
    torch.manual_seed(0)
    model = My_Generator()
    average = ExponentialMovingAverage(model, decay=0.999)
    before = average.model.main[0].weight.clone()
    model(torch.randn(8, 100, 1, 1))
    with torch.no_grad():
        model.main[0].weight.add_(1.0)
    average.update(model)
    # The first update has decay 1/10, so nine tenths of the change arrive.
    assert torch.allclose(average.model.main[0].weight - before, torch.full_like(before, 0.9), atol=1e-5)
    assert torch.equal(average.model.main[1].running_mean, model.main[1].running_mean)
    assert average.model.main[1].num_batches_tracked == 1


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
        (SMOOTHED, [{"d_real": 0.8, "d_fake": 0.1}] * 5, None),
        (SMOOTHED, [{"d_real": 0.89, "d_fake": 0.01}] * 5, "the discriminator has won"),
        (SMOOTHED, [{"d_real": 0.89, "d_fake": 0.88}] * 5, "takes everything for real"),
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
    assert warn_of_collapse(log, config) == (remark is not None)
    assert len(log.remarks) == (remark is not None)
    assert remark is None or remark in log.remarks[0]


def test_last_step_is_always_drawn() -> None:
    assert grid_steps(replace(PRESETS["A"]["cpu"], steps=7, grid_every=3)) == {3, 6, 7}


def test_strip_has_even_steps_and_the_last() -> None:
    for name, config in PRESETS["B"].items():
        steps = strip_steps(config)
        assert len(steps) <= 12 and steps[-1] == config.steps, name
        assert len({later - earlier for earlier, later in pairwise(steps)}) == 1, name


def test_late_means_are_those_of_the_last_quarter() -> None:
    rows = [{"step": step, "loss_d": step, "loss_g": 1.0, "d_real": 0.5, "d_fake": 0.5} for step in range(8)]
    assert late_means(rows, TrainConfig(steps=8))["loss_d"] == 6.5


def test_ablation_changes_one_ingredient_at_a_time() -> None:
    a, b = PRESETS["A"]["cpu"], PRESETS["B"]["cpu"]
    assert recipe("A", "cpu") == ("A", {}) and recipe("B", "cpu") == ("B", {})
    assert recipe("A-with-ema", "cpu") == ("A", {"ema_decay": b.ema_decay})
    for name, fields in INGREDIENTS.items():
        method, settings = recipe(f"no-{name}", "cpu")
        assert method == "B" and set(settings) == set(fields)
        changed = replace(b, **settings)
        assert changed != b and all(getattr(changed, field) == getattr(a, field) for field in fields)
    # Together with spectral norm the ingredients are all that tells B from A.
    method, settings = recipe("no-spectral-norm", "cpu")
    assert method == "A" and replace(a, **settings) == b
    assert len(ROWS) == len(set(ROWS))


def test_ablation_settings_become_options() -> None:
    words = options({"diff_augment": (), "real_label": 1.0})
    assert words == ["--diff-augment", "--real-label", "1.0"]
    assert options({"diff_augment": ("color", "cutout")}) == ["--diff-augment", "color", "cutout"]


def test_report_tells_the_width_of_narrow_networks() -> None:
    wide, narrow = ({"train/B/cpu/seed3": {"channels": channels, "seed": 3}} for channels in (64, 16))
    assert width_note(wide, "cpu") == width_note({}, "cpu") == ""
    size = sum(parameter.numel() for parameter in My_Generator(16).parameters())
    assert "16 instead of 64 channels" in width_note(narrow, "cpu") and f"{size:,}" in width_note(narrow, "cpu")


def test_remarks_on_a_grid_vanish_with_the_grid_they_were_written_about(tmp_path: Path) -> None:
    space = workspace("cpu", tmp_path)
    path = space.images / "P1" / "GAN_A_grid.png"
    save_grid(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), path, columns=2)
    path.with_suffix(".md").write_text(f"{sha256(path)}\nAll black.\n")
    assert seen(space, "A") == "All black.\n"
    save_grid(torch.ones(4, 3, 8, 8, dtype=torch.uint8), path, columns=2)
    assert seen(space, "A") == "" and seen(space, "B") == ""
