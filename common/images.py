"""Pixels in and out: the range of the networks, PNG files, grids and animations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.files import atomic_path

import torch
from PIL import Image


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 0..255 to float32 [-1, 1], the range of a tanh, any shape."""
    return images.float().div(127.5).sub(1)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Map a network's output from [-1, 1] to uint8 0..255, rounding to nearest, any shape."""
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def to_pil(image: torch.Tensor) -> Image.Image:
    """Return one uint8 image (3, H, W) as Pillow's."""
    return Image.fromarray(image.cpu().permute(1, 2, 0).numpy())


def save_image(image: torch.Tensor, path: Path) -> None:
    """Write one uint8 image (3, H, W) as PNG."""
    with atomic_path(path, sync=False) as temporary:
        to_pil(image).save(temporary, format="PNG")


def make_grid(images: torch.Tensor, columns: int, padding: int = 2, scale: int = 1) -> torch.Tensor:
    """Tile uint8 images (N, 3, H, W) row by row on white, to uint8 (3, H', W'); ``scale`` repeats each pixel."""
    images = images.cpu().repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    count, channels, height, width = images.shape
    shape = (channels, -(-count // columns) * (height + padding) + padding, columns * (width + padding) + padding)
    grid = torch.full(shape, 255, dtype=torch.uint8)
    for index, image in enumerate(images):
        top = padding + (index // columns) * (height + padding)
        left = padding + (index % columns) * (width + padding)
        grid[:, top : top + height, left : left + width] = image
    return grid


def save_grid(images: torch.Tensor, path: Path, columns: int, scale: int = 1) -> None:
    """Write :func:`make_grid` of ``images`` as PNG."""
    save_image(make_grid(images, columns, scale=scale), path)


def save_gif(frames: Sequence[torch.Tensor], path: Path, milliseconds: Sequence[int], colors: int = 256) -> None:
    """Write uint8 frames (3, H, W) as an endless GIF with one palette, so that no color flickers."""
    palette = to_pil(torch.cat(list(frames), dim=1)).quantize(colors)
    first, *others = [to_pil(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    options = {"save_all": True, "append_images": others, "duration": list(milliseconds), "loop": 0, "optimize": False}
    with atomic_path(path, sync=False) as temporary:
        first.save(temporary, format="GIF", **options)
