"""What was measured, in small JSON files that the report is made from."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from common.device import describe
from common.errors import UserError
from common.files import write_json


def record(results: Path, problem: str, key: str, values: dict[str, Any], device: torch.device) -> None:
    """Put one measurement into ``<results>/<problem>.json`` under ``key``, replacing an older one.

    Args:
        results: the results folder of the workspace.
        problem: ``p1``, ``p2``, ``p3`` or ``benchmarks``.
        key: what was measured, e.g. ``train/B/seed0``; the same command always uses the same key.
        values: the measurement and its circumstances (dataset, counts, preset, seed, steps, seconds).
        device: where it was measured; hardware and library versions are added.
    """
    # Importing torchvision only to ask for its version would cost every command a second.
    versions = {"torch": torch.__version__, "torchvision": version("torchvision"), "numpy": version("numpy")}
    with _locked(Path(results)):
        entries = read_results(results, problem)
        entries[key] = values | {"device": describe(device), "versions": versions}
        write_json(Path(results) / f"{problem}.json", entries)


def read_results(results: Path, problem: str) -> dict[str, dict[str, Any]]:
    """Return all measurements of ``problem`` by key; empty where nothing was measured."""
    path = Path(results) / f"{problem}.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error}); restore it with git, or delete it") from error


def of_first_seed(results: Mapping[str, Mapping[str, Any]], prefix: str) -> Mapping[str, Any] | None:
    """Return the measurement under ``<prefix>/seedN`` with the smallest N; None where there is none."""
    return next(iter(of_all_seeds(results, prefix)), None)


def of_all_seeds(results: Mapping[str, Mapping[str, Any]], prefix: str) -> list[Mapping[str, Any]]:
    """Return the measurements under ``<prefix>/seedN``, by rising N."""
    seeds = [int(match[1]) for key in results if (match := re.fullmatch(rf"{re.escape(prefix)}/seed(\d+)", key))]
    return [results[f"{prefix}/seed{seed}"] for seed in sorted(seeds)]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process: trainings side by side must not lose each other's records."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
