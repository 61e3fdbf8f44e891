"""Augmentation: mirrored real images; random changes of real and generated images, with gradients through them.

Source of the latter: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", 2020, section 3.2;
with a probability as in Karras et al., "Training Generative Adversarial Networks with Limited Data" (ADA), 2020.
Images are float (N, 3, H, W), here in [-1, 1]; every change is drawn anew for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def random_flip(images: torch.Tensor) -> torch.Tensor:
    """Mirror each image (N, C, H, W) left to right with probability one half."""
    flip = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flip, images.flip(3), images)


def diff_augment(images: torch.Tensor, policy: Sequence[str], probability: float = 1.0) -> torch.Tensor:
    """Apply the augmentations of ``policy`` in order, each to an image with ``probability``."""
    for name in policy:
        changed = AUGMENTATIONS[name](images)
        if probability < 1:
            chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < probability
            changed = torch.where(chosen, changed, images)
        images = changed
    return images


def color(images: torch.Tensor) -> torch.Tensor:
    """Change brightness (± 0.5), saturation (0 to 2 times) and contrast (0.5 to 1.5 times)."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, device=images.device)
    images = images + (brightness - 0.5)
    gray = images.mean(dim=1, keepdim=True)
    images = gray + (images - gray) * (2 * saturation)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def translation(images: torch.Tensor, ratio: float = 0.125) -> torch.Tensor:
    """Shift by up to ``ratio`` of each side, filling with zeros."""
    count, _, height, width = images.shape
    reach = int(height * ratio + 0.5), int(width * ratio + 0.5)
    shift_y = torch.randint(-reach[0], reach[0] + 1, (count, 1, 1), device=images.device)
    shift_x = torch.randint(-reach[1], reach[1] + 1, (count, 1, 1), device=images.device)
    rows = (torch.arange(height, device=images.device)[None, :, None] + shift_y + 1).clamp(0, height + 1)
    columns = (torch.arange(width, device=images.device)[None, None, :] + shift_x + 1).clamp(0, width + 1)
    padded = F.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    return padded[torch.arange(count, device=images.device)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def cutout(images: torch.Tensor, ratio: float = 0.5) -> torch.Tensor:
    """Set a square of ``ratio`` of each side, centered anywhere, to zero."""
    count, _, height, width = images.shape
    mask = torch.ones(count, 1, 1, 1, dtype=torch.bool, device=images.device)
    for dimension, size in ((2, height), (3, width)):
        cut = int(size * ratio + 0.5)
        start = torch.randint(0, size, (count, 1), device=images.device) - cut // 2
        offset = torch.arange(size, device=images.device)[None] - start
        inside = (offset >= 0) & (offset < cut)
        mask = mask & inside.view(count, 1, *([-1, 1] if dimension == 2 else [1, -1]))
    return images.masked_fill(mask, 0.0)


AUGMENTATIONS = {"color": color, "translation": translation, "cutout": cutout}
