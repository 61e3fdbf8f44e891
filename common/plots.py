"""One style for every picture: grids of samples, curves, and figures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from common.files import write_atomic

# Okabe and Ito, "Color universal design", 2008: told apart by every common type of colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")

STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.4, 4.0)) -> tuple[Figure, np.ndarray]:
    """Return a figure in the repository's style and its axes, always as a (rows, columns) array."""
    with plt.rc_context(STYLE):
        return plt.subplots(rows, columns, figsize=size, squeeze=False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically and with the same bytes for the same content, and close it."""
    with plt.rc_context(STYLE):
        write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None}))
    plt.close(figure)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Map a network's output from [-1, 1] to uint8 0..255, rounding to nearest, any shape."""
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def save_image(image: torch.Tensor, path: Path) -> None:
    """Write one uint8 picture (3 or 1, H, W) as PNG, atomically."""
    pixels = image.cpu().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    write_atomic(path, lambda temporary: picture.save(temporary, format="PNG"))


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


def save_grid(images: torch.Tensor, path: Path, columns: int, padding: int = 2, scale: int = 1) -> None:
    """Write :func:`make_grid` of ``images`` as PNG."""
    save_image(make_grid(images, columns, padding, scale), path)


def save_curves(
    rows: Sequence[Mapping[str, float]],
    panels: Mapping[str, Sequence[str]],
    path: Path,
    x: str = "step",
    title: str = "",
) -> None:
    """Draw logged values over training, one panel per entry of ``panels`` (title -> keys of the rows).

    Rows that lack a key are skipped for that line; keys no row has are left out.
    """
    figure, axes = new_figure(1, len(panels), (5.0 * len(panels), 3.6))
    for axis, (name, keys) in zip(axes[0], panels.items(), strict=True):
        for key in keys:
            points = [(row[x], row[key]) for row in rows if row.get(key) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=key, linewidth=1.3)
        axis.set(title=name, xlabel=x)
        if axis.lines:
            axis.legend()
    if title:
        figure.suptitle(title)
    save_figure(figure, path)
