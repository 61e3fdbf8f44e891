"""Where things lie: the repository, and the workspace that a command writes to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_DATA_ROOT = Path("hw2_data")
WEIGHTS = ROOT / "weights"


@dataclass(frozen=True)
class Workspace:
    """The folders that one preset writes to: pictures, measured results, and runs with checkpoints."""

    images: Path
    results: Path
    runs: Path


def workspace(preset: str, output: Path | None = None) -> Workspace:
    """Return where ``preset`` writes.

    The real presets fill the committed ``images/`` and ``results/`` of the repository; ``sample`` keeps
    to itself in ``runs/sample/``, so that a try-out never replaces measured figures. ``output`` moves
    everything below another folder.
    """
    if output is None and preset == "sample":
        base = ROOT / "runs" / "sample"
        return Workspace(images=base / "images", results=base / "results", runs=base)
    base = ROOT if output is None else Path(output)
    return Workspace(images=base / "images", results=base / "results", runs=base / "runs" / preset)
