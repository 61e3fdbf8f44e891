"""One style for every plot. matplotlib is imported where it is used: training and sampling must not wait for it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A notebook names its own backend to the processes it starts, which matplotlib refuses to load elsewhere.
os.environ["MPLBACKEND"] = "agg"

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
    """Plot logged values over the steps of a run, one panel per entry of ``panels`` (title -> keys of the log)."""
    figure, axes = new_figure(1, len(panels), (5.0 * len(panels), 3.6))
    for axis, (name, keys) in zip(axes[0], panels.items(), strict=True):
        for key in keys:
            points = [(entry["step"], entry[key]) for entry in log if key in entry]
            axis.plot(*zip(*points, strict=True), label=key, linewidth=1.3)
        axis.set(title=name, xlabel="step")
        if axis.lines:
            axis.legend()
    figure.suptitle(title)
    save_figure(figure, path)
