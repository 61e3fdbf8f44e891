"""What was measured: one flat JSON object per measurement, kept in the folder of the run that it belongs to.

A record says what was measured (``problem``, ``kind``, ``method``, ``preset``, ``seed``, ...), on which weights and
data (digests), the values, and the environment. ``scripts/collect.py`` gathers them into ``results/*.jsonl``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import ROOT
from common.device import describe
from common.files import write_json
from common.weights import WEIGHTS

import torch

Record = dict[str, Any]


def run_folder(checkpoint: Path) -> Path:
    """Return the folder that a checkpoint's records and plots go to: its own, or runs/shipped/NAME for weights/."""
    checkpoint = checkpoint.resolve()
    return ROOT / "runs" / "shipped" / checkpoint.stem if checkpoint.parent == WEIGHTS else checkpoint.parent


def images_folder(checkpoint: Path, problem: str) -> Path:
    """Return where figures of a checkpoint go: images/P1 for shipped weights, next to any other checkpoint."""
    return ROOT / "images" / problem if checkpoint.resolve().parent == WEIGHTS else checkpoint.parent / "images"


def write_record(folder: Path, name: str, record: Mapping[str, Any], device: torch.device) -> Record:
    """Write ``folder/records/NAME.json`` and return it, with hardware and library versions added."""
    # Importing torchvision only to ask for its version would cost every command a second.
    versions = {name: version(name) for name in ("torch", "torchvision", "numpy")}
    whole = dict(record) | {"device": describe(device)} | versions
    write_json(folder / "records" / f"{name}.json", whole)
    return whole


def measured(
    folder: Path, name: str, identity: Record, measure: Callable[[], Mapping[str, Any]], device: torch.device
) -> Record:
    """Return the record ``name`` of a run's folder, measuring only what was not measured before.

    ``identity`` holds everything that the values of ``measure`` depend on, digests of weights and data among it; a
    record is taken only where all of it is the same.
    """
    identity = json.loads(json.dumps(identity))
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / "records" / f"{name}.json").read_text(encoding="utf-8"))
        if identity.items() <= found.items():
            return found
    return write_record(folder, name, identity | dict(measure()), device)
