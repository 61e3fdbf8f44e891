"""Pixels in and out: the range of the networks, PNG files, grids, animations, and one style for every plot.

matplotlib is imported where it is used: training and sampling must not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import atomic_path

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


# Okabe and Ito, "Color universal design", 2008: distinguishable with every common type of color vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")

STYLE: Any = {
    "savefig.dpi": 150,
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    """Return a figure of ``size`` inches and its axes, always as a (rows, columns) array."""
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE | {"axes.prop_cycle": cycler(color=PALETTE)})
    figure = Figure(figsize=size)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, with the same bytes for the same content."""
    with atomic_path(path, sync=False) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def save_curves(
    log: Sequence[Mapping[str, float]], panels: Mapping[str, Sequence[str]], path: Path, title: str
) -> None:
    """Plot logged values over the steps of a run, one panel per entry of ``panels`` (title -> keys of the log).

    Each entry is one batch: the faint line shows every entry, the strong one a running mean over sqrt(n) of n entries,
    but for a panel called schedules, whose values are exact.
    """
    figure, axes = new_figure(1, len(panels), (5.0 * len(panels), 3.6))
    for axis, (name, keys) in zip(axes[0], panels.items(), strict=True):
        for key in keys:
            if not (points := [(entry["step"], entry[key]) for entry in log if key in entry]):
                continue
            width = 1 if name == "schedules" else math.isqrt(len(points))
            means = [np.convolve(column, np.ones(width) / width, "valid") for column in np.array(points).T]
            color = axis.plot(*means, label=key.replace("_", " "), linewidth=1.5)[0].get_color()
            axis.plot(*zip(*points, strict=True), color=color, alpha=0.25, linewidth=0.8)
        axis.set(title=name, xlabel="step")
        if axis.lines:
            axis.legend()
    figure.suptitle(title)
    save_figure(figure, path)
