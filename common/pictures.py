"""Pictures as they are: from a network's output to PNG files, one by one or as a grid."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from common.files import write_atomic


def to_network(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 0..255 to float32 [-1, 1], the range of a tanh, any shape."""
    return images.float().div(127.5).sub(1)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Map a network's output from [-1, 1] to uint8 0..255, rounding to nearest, any shape."""
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def to_picture(image: torch.Tensor) -> Image.Image:
    """Return one uint8 picture (3 or 1, H, W) as Pillow's."""
    pixels = image.cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def save_image(image: torch.Tensor, path: Path) -> None:
    """Write one uint8 picture (3 or 1, H, W) as PNG, atomically."""
    write_atomic(path, lambda temporary: to_picture(image).save(temporary, format="PNG"))


def make_grid(images: torch.Tensor, columns: int, padding: int = 2, scale: int = 1) -> torch.Tensor:
    """Tile uint8 pictures (N, C, H, W) row by row on white; ``scale`` repeats each pixel.

    Returns:
        uint8 (C, rows * (scale * H + padding) + padding, columns * (scale * W + padding) + padding).
    """
    images = images.cpu().repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    grid = torch.full(
        (channels, rows * (height + padding) + padding, columns * (width + padding) + padding),
        255,
        dtype=torch.uint8,
    )
    for index, image in enumerate(images):
        top = padding + (index // columns) * (height + padding)
        left = padding + (index % columns) * (width + padding)
        grid[:, top : top + height, left : left + width] = image
    return grid


def save_grid(images: torch.Tensor, path: Path, columns: int, scale: int = 1) -> None:
    """Write :func:`make_grid` of ``images`` as PNG."""
    save_image(make_grid(images, columns, scale=scale), path)
