"""From uint8 pictures to what the network sees, with and without random changes, in batches on the device.

Why these changes: instance-normalised inputs raised MNIST to SVHN from 27.9 to 40.9 % without any adaptation
(Shu et al., "A DIRT-T Approach to Unsupervised Domain Adaptation", 2018, table 4); affine changes, intensity
flips and scales are what French et al., "Self-ensembling for visual domain adaptation", 2018, needed for the
same pair. House numbers have neighbours, fill the height of their picture and are blurred; digits of MNIST
do none of this, hence zoom, blur, and strips of other digits on the source side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from p3_dann.presets import TrainConfig

BINOMIAL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0


def prepare(images: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Return the inputs of evaluation: float (N, 3, 28, 28) from uint8 (N, 3, 28, 28)."""
    pixels = images.float() / 255.0
    if config.grey:
        pixels = pixels.mean(1, keepdim=True)
    return _normalise(pixels, config).expand(-1, 3, -1, -1)


def augment(images: torch.Tensor, config: TrainConfig, zoom: tuple[float, ...], neighbours: bool) -> torch.Tensor:
    """Return randomly changed training inputs: float (N, 3, 28, 28) from uint8 (N, 3, 28, 28).

    Args:
        images: the whole batch.
        config: how strong each change is; a change of strength 0 costs nothing.
        zoom: smallest and largest magnification.
        neighbours: whether strips of other digits may be put beside a digit.
    """
    pixels = images.float() / 255.0
    if config.grey:
        pixels = mix_channels(pixels)
    pixels = affine(pixels, config, zoom)
    if neighbours and config.neighbour_probability > 0:
        pixels = add_neighbours(pixels, config.neighbour_probability)
    if config.blur > 0:
        pixels = blur(pixels, config.blur)
    return change_intensity(_normalise(pixels, config), config).expand(-1, 3, -1, -1)


def mix_channels(pixels: torch.Tensor) -> torch.Tensor:
    """Return grey pictures (N, 1, H, W), each a random convex combination of its channels (N, C, H, W)."""
    weights = torch.rand(pixels.shape[:2], device=pixels.device).add_(1e-3)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.einsum("nchw,nc->nhw", pixels, weights).unsqueeze(1)


def affine(pixels: torch.Tensor, config: TrainConfig, zoom: tuple[float, ...]) -> torch.Tensor:
    """Return each picture rotated, sheared, stretched, magnified and shifted at random; edges are repeated."""
    low, high = zoom[0], zoom[-1]
    if not (config.affine_degrees or config.affine_shear or config.affine_shift or config.stretch or low != high):
        return pixels if low == 1.0 else _resample(pixels, _identity(pixels) / low)
    count = len(pixels)
    angle, shear, stretch, shift_x, shift_y = torch.empty((5, count), device=pixels.device).uniform_(-1, 1)
    angle = angle * math.radians(config.affine_degrees)
    shear = shear * config.affine_shear
    stretch = (stretch * math.log1p(config.stretch)).exp()
    size = torch.empty(count, device=pixels.device).uniform_(math.log(low), math.log(high)).exp()
    scale_x, scale_y = 1.0 / (size * stretch.sqrt()), stretch.sqrt() / size
    cosine, sine = angle.cos(), angle.sin()
    shift = 2.0 * config.affine_shift / pixels.shape[-1]
    matrix = torch.stack(
        [
            torch.stack([cosine * scale_x, (shear * cosine - sine) * scale_y, shift_x * shift], dim=1),
            torch.stack([sine * scale_x, (shear * sine + cosine) * scale_y, shift_y * shift], dim=1),
        ],
        dim=1,
    )
    return _resample(pixels, matrix)


def add_neighbours(pixels: torch.Tensor, probability: float) -> torch.Tensor:
    """Return pictures (N, C, H, W) some of which show, at one or both edges, a strip of another digit.

    A strip is up to a quarter of the picture wide and brought to the brightness of its new place. Labels
    stay, since the digit in the middle does.

    Source: the pasted region of Yun et al., "CutMix", 2019, in the shape that neighbours in a house number have.
    """
    width = pixels.shape[-1]
    count, device = len(pixels), pixels.device
    column = torch.arange(width, device=device)
    for side in (-1, 1):
        other = pixels.roll(1 + int(side > 0), dims=0)
        other = other + (pixels - other).mean(dim=(1, 2, 3), keepdim=True)
        strip = torch.randint(2, width // 4 + 1, (count, 1), device=device)
        strip = strip * (torch.rand((count, 1), device=device) < probability)
        gap = torch.randint(0, width // 5, (count, 1), device=device)
        from_edge = column if side < 0 else width - 1 - column
        origin = (width - strip - gap + from_edge).clamp(0, width - 1)
        origin = origin if side < 0 else width - 1 - origin
        moved = other.gather(3, origin[:, None, None, :].expand_as(pixels))
        pixels = torch.where((from_edge < strip)[:, None, None, :], moved, pixels)
    return pixels


def blur(pixels: torch.Tensor, strength: float) -> torch.Tensor:
    """Return each picture blended with its 5x5 binomial blur, by a random share up to ``strength``."""
    channels = pixels.shape[1]
    kernel = BINOMIAL.to(pixels.device)
    padded = F.pad(pixels, (2, 2, 2, 2), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, 5).expand(channels, -1, -1, -1), groups=channels)
    smooth = F.conv2d(rows, kernel.view(1, 1, 5, 1).expand(channels, -1, -1, -1), groups=channels)
    return pixels.lerp(smooth, strength * torch.rand((len(pixels), 1, 1, 1), device=pixels.device))


def change_intensity(pixels: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Return normalised pictures with random polarity, contrast, brightness and noise."""
    shape = (len(pixels), 1, 1, 1)
    if config.invert_probability > 0:
        flipped = torch.rand(shape, device=pixels.device) < config.invert_probability
        pixels = torch.where(flipped, -pixels, pixels)
    if config.intensity_scale > 0 or config.intensity_shift > 0:
        scale, shift = torch.empty((2, *shape), device=pixels.device).uniform_(-1, 1)
        pixels = pixels * (1.0 + config.intensity_scale * scale) + config.intensity_shift * shift
    if config.noise > 0:
        strength = config.noise * torch.rand(shape, device=pixels.device)
        pixels = pixels + strength * torch.randn_like(pixels)
    return pixels


def _normalise(pixels: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Map [0, 1] to [-1, 1], or to mean 0 and standard deviation 1 per picture and channel."""
    if not config.instance_norm:
        return pixels * 2.0 - 1.0
    deviation, mean = torch.std_mean(pixels, dim=(2, 3), keepdim=True, correction=0)
    return (pixels - mean) / (deviation + 1e-2)


def _identity(pixels: torch.Tensor) -> torch.Tensor:
    return torch.eye(2, 3, device=pixels.device).expand(len(pixels), 2, 3)


def _resample(pixels: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    grid = F.affine_grid(matrix, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
