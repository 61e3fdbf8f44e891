"""Differentiable augmentation: random changes of real and generated images, with gradients through them.

Source: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", 2020, section 3.2.
Images are float (N, 3, H, W), here in [-1, 1]; every change is drawn anew for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def diff_augment(images: torch.Tensor, policy: Sequence[str]) -> torch.Tensor:
    """Apply the augmentations of ``policy`` in order."""
    for name in policy:
        images = AUGMENTATIONS[name](images)
    return images


def color(images: torch.Tensor) -> torch.Tensor:
    """Change brightness (± 0.5), saturation (0 to 2 times) and contrast (0.5 to 1.5 times)."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, device=images.device)
    images = images + (brightness - 0.5)
    gray = images.mean(dim=1, keepdim=True)
    images = gray + (images - gray) * (2 * saturation)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def translation(images: torch.Tensor) -> torch.Tensor:
    """Shift by up to an eighth of each side, filling with zeros."""
    count, _, height, width = images.shape
    shift_y = torch.randint(-(height // 8), height // 8 + 1, (count, 1, 1), device=images.device)
    shift_x = torch.randint(-(width // 8), width // 8 + 1, (count, 1, 1), device=images.device)
    rows = (torch.arange(height, device=images.device)[None, :, None] + shift_y + 1).clamp(0, height + 1)
    columns = (torch.arange(width, device=images.device)[None, None, :] + shift_x + 1).clamp(0, width + 1)
    padded = F.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    return padded[torch.arange(count, device=images.device)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def cutout(images: torch.Tensor) -> torch.Tensor:
    """Set a rectangle of half of each side, centered anywhere, to zero."""
    count, _, height, width = images.shape
    top = torch.randint(0, height, (count, 1, 1, 1), device=images.device) - height // 4
    left = torch.randint(0, width, (count, 1, 1, 1), device=images.device) - width // 4
    rows = torch.arange(height, device=images.device)[:, None] - top
    columns = torch.arange(width, device=images.device) - left
    inside = (rows >= 0) & (rows < height // 2) & (columns >= 0) & (columns < width // 2)
    return images.masked_fill(inside, 0.0)


AUGMENTATIONS = {"color": color, "translation": translation, "cutout": cutout}
