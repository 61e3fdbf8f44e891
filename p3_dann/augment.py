"""From uint8 images to what the network sees, with and without random changes, in batches on the device.

Why these changes: standardized inputs raised MNIST to SVHN from 27.9 to 40.9% without any adaptation (Shu et al., "A
DIRT-T Approach to Unsupervised Domain Adaptation", 2018); affine changes, intensity flips and scales are what
French et al., "Self-ensembling for visual domain adaptation", 2018, needed for the same pair. Unlabeled target images
give the rest: digits in house numbers are narrow, blurred and have distractors, those of USPS fill their frame.
"""

from __future__ import annotations

import math

from p3_dann.config import TrainConfig

import torch
import torch.nn.functional as F

BLUR_RADIUS = 4


def prepare(images: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Return the inputs of evaluation and of the teacher: float (N, 3, 28, 28) from uint8 (N, 3, 28, 28)."""
    pixels = images.float() / 255.0
    if config.grayscale:
        pixels = pixels.mean(1, keepdim=True)
    return _normalize(pixels, config).expand(-1, 3, -1, -1)


def augment(images: torch.Tensor, config: TrainConfig, domain: str) -> torch.Tensor:
    """Return augmented training inputs: float (N, 3, 28, 28) from a batch, uint8 (N, 3, 28, 28).

    A change of strength 0 is left out. ``domain`` is source or target, which differ in zoom, width and distractors.
    """
    pixels = images.float() / 255.0
    if config.grayscale:
        pixels = mix_channels(pixels)
    if domain == "source" and config.distractor_probability > 0:
        pixels = add_distractors(pixels, config.distractor_probability)
    pixels = affine(pixels, config, getattr(config, f"{domain}_zoom"), getattr(config, f"{domain}_width"))
    if config.blur > 0:
        pixels = blur(pixels, config.blur)
    return change_intensity(_normalize(pixels, config), config).expand(-1, 3, -1, -1)


def rotate(images: torch.Tensor, labels: torch.Tensor, probability: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate some 0, 6, 8 and 9 by 180 degrees; return images (N, C, S, S) and what they then show, int64 (N,).

    Rotated, 0 and 8 keep their class and 6 and 9 swap; of other digits the result is ambiguous or no digit.
    """
    if probability == 0.0:
        return images, labels
    swaps = (labels == 6) | (labels == 9)
    stays = (labels == 0) | (labels == 8)
    rotated = (torch.rand(len(labels), device=labels.device) < probability) & (swaps | stays)
    images = torch.where(rotated[:, None, None, None], images.flip(2, 3), images)
    return images, torch.where(rotated & swaps, 15 - labels, labels)


def mix_channels(pixels: torch.Tensor) -> torch.Tensor:
    """Return grayscale images (N, 1, H, W), each a random convex combination of its channels (N, C, H, W)."""
    weights = torch.rand(pixels.shape[:2], device=pixels.device).add_(1e-3)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.bmm(weights.unsqueeze(1), pixels.flatten(2)).unflatten(2, pixels.shape[2:])


def add_distractors(pixels: torch.Tensor, probability: float) -> torch.Tensor:
    """Return images (N, C, S, 3 S) whose middle is the given one (N, C, S, S), each side another digit or its edge.

    Distractors come from the same batch, stand 16 to 24 pixels (of 28) away, and are brought to the brightness
    of their new place; the border lies halfway. The label stays, since the digit in the middle does.

    Source: the pasted region of Yun et al., "CutMix", 2019, put where a house number has its other digits.
    """
    count, channels, size = pixels.shape[:3]
    column = torch.arange(-size, 2 * size, device=pixels.device)
    own = torch.arange(count, device=pixels.device)[:, None]
    # From which image, and from which of its columns, each of the 3 S columns comes.
    image, source = own.expand(-1, 3 * size), column.clamp(0, size - 1).expand(count, -1)
    for side in (-1, 1):
        distance = torch.randint(size * 4 // 7, size * 6 // 7 + 1, (count, 1), device=pixels.device)
        present = torch.rand((count, 1), device=pixels.device) < probability
        beyond = (side * (2 * column - size + 1) > distance) & present
        image = torch.where(beyond, own - side, image)
        source = torch.where(beyond, (column - side * distance).clamp(0, size - 1), source)
    image = image % count
    columns = pixels.permute(0, 3, 1, 2).reshape(count * size, -1)
    wide = columns.index_select(0, (image * size + source).flatten()).view(count, 3 * size, -1)
    brightness = pixels.mean(dim=(1, 2, 3))
    is_other = image != own
    wide -= (brightness[image] * is_other)[:, :, None]
    wide += (brightness[:, None] * is_other)[:, :, None]
    return wide.view(count, 3 * size, channels, size).permute(0, 2, 3, 1)


def affine(
    pixels: torch.Tensor, config: TrainConfig, zoom: tuple[float, ...], width: tuple[float, ...]
) -> torch.Tensor:
    """Return the middle squares (N, C, S, S) of images (N, C, S, W), rotated, sheared, scaled and shifted."""
    count, size, device = len(pixels), pixels.shape[2], pixels.device
    changes = (config.affine_degrees, config.affine_shear, config.affine_shift)
    if not any(changes) and (*zoom, *width) == (1.0,) * 4 and pixels.shape[3] == size:
        return pixels
    angle, shear, shift_x, shift_y = torch.empty((4, count), device=device).uniform_(-1, 1)
    angle, shear = angle * math.radians(config.affine_degrees), shear * config.affine_shear
    step_y = 1.0 / _log_uniform(zoom, count, device)
    step_x = step_y / _log_uniform(width, count, device)
    cosine, sine = angle.cos(), angle.sin()
    shift = 2.0 * config.affine_shift / size
    aspect = size / pixels.shape[3]
    to_x = (cosine * step_x * aspect, (shear * cosine - sine) * step_y * aspect, shift_x * shift * aspect)
    to_y = (sine * step_x, (shear * sine + cosine) * step_y, shift_y * shift)
    # F.affine_grid by hand: its matrix product, for three terms, took a CPU ten times as long.
    place = torch.linspace(-1, 1, size, device=device) * (size - 1) / size
    across, down, constant = torch.stack([*to_x, *to_y]).view(2, 3, count, 1, 1).transpose(0, 1)
    grid = (across * place + down * place[:, None] + constant).permute(1, 2, 3, 0)
    edges = "border"
    if device.type == "mps":  # has "border" only from torch 2.13 on; within [-1, 1] "reflection" rounds alike
        grid, edges = grid.clamp(-1, 1), "reflection"
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode=edges, align_corners=False)


def blur(pixels: torch.Tensor, max_sigma: float) -> torch.Tensor:
    """Return each image under a Gaussian blur of its own, of 0 to ``max_sigma`` pixels standard deviation.

    A blur is linear, so each image (S, S) is multiplied from both sides with a matrix of its own. Edges repeat.
    """
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=pixels.device)
    deviation = max_sigma * torch.rand((len(pixels), 1), device=pixels.device) + 1e-3
    kernel = torch.softmax(-0.5 * (offsets / deviation) ** 2, dim=1)
    size = pixels.shape[3]
    place = torch.arange(size, device=pixels.device)
    source = (place + offsets[:, None]).clamp(0, size - 1)
    shifts = (source[:, :, None] == place).float()  # shifts[k, i, j]: tap k of output i reads input j
    matrix = (kernel @ shifts.flatten(1)).view(-1, 1, size, size)
    return matrix @ pixels @ matrix.transpose(2, 3)


def change_intensity(pixels: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Return normalized images with random polarity, contrast, brightness and noise."""
    shape = (len(pixels), 1, 1, 1)
    if config.invert_probability > 0:
        inverted = torch.rand(shape, device=pixels.device) < config.invert_probability
        pixels = torch.where(inverted, -pixels, pixels)
    if config.intensity_scale > 0 or config.intensity_shift > 0:
        scale, shift = torch.empty((2, *shape), device=pixels.device).uniform_(-1, 1)
        pixels = pixels * (1.0 + config.intensity_scale * scale) + config.intensity_shift * shift
    if config.noise > 0:
        strength = config.noise * torch.rand(shape, device=pixels.device)
        pixels = pixels + strength * torch.randn_like(pixels)
    return pixels


def _normalize(pixels: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Map [0, 1] to [-1, 1], or to mean 0 and standard deviation 1 per image and channel."""
    if not config.standardize:
        return pixels * 2.0 - 1.0
    # Not torch.std_mean, which took eight times as long on a CPU.
    centered = pixels - pixels.mean((2, 3), keepdim=True)
    return centered / (centered.square().mean((2, 3), keepdim=True).sqrt() + 1e-2)


def _log_uniform(limits: tuple[float, ...], count: int, device: torch.device) -> torch.Tensor:
    return torch.empty(count, device=device).uniform_(math.log(limits[0]), math.log(limits[1])).exp()
