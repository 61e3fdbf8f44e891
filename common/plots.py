"""One style for every plot: curves of training and figures of the report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A notebook names its own backend to every process it starts, which matplotlib refuses to be imported with elsewhere.
os.environ["MPLBACKEND"] = "agg"

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
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.4, 4.0)) -> tuple[Figure, np.ndarray]:
    """Return a figure in the repository's style and its axes, always as a (rows, columns) array.

    matplotlib is imported here, as training should not wait for it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE | {"axes.prop_cycle": matplotlib.cycler(color=PALETTE)})
    figure = Figure(figsize=size)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically and with the same bytes for the same content."""
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None}))


def save_curves(
    rows: Sequence[Mapping[str, float]], panels: Mapping[str, Sequence[str]], path: Path, title: str = ""
) -> None:
    """Draw logged values over the steps of a training, one panel per entry of ``panels`` (title -> keys of the rows).

    Rows that lack a key are skipped for that line; keys no row has are left out.
    """
    figure, axes = new_figure(1, len(panels), (5.0 * len(panels), 3.6))
    for axis, (name, keys) in zip(axes[0], panels.items(), strict=True):
        for key in keys:
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=key, linewidth=1.3)
        axis.set(title=name, xlabel="step")
        if axis.lines:
            axis.legend()
    if title:
        figure.suptitle(title)
    save_figure(figure, path)
