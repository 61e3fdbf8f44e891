"""What was measured, in small JSON files that the report is made from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from common.device import describe
from common.errors import UserError
from common.files import write_json
from common.locks import hold


def record(results: Path, problem: str, key: str, values: dict[str, Any], device: torch.device) -> None:
    """Put one measurement into ``<results>/<problem>.json`` under ``key``, replacing an older one.

    Args:
        results: the results folder of the workspace.
        problem: ``p1``, ``p2``, ``p3`` or ``benchmarks``.
        key: what was measured, e.g. ``train/B/cpu/seed0``; the same command always uses the same key.
        values: the measurement and its circumstances (dataset, counts, preset, seed, steps, seconds).
        device: where it was measured; hardware and library versions are added.
    """
    # Importing torchvision only to ask for its version would cost every command a second.
    versions = {"torch": torch.__version__, "torchvision": version("torchvision"), "numpy": version("numpy")}
    results.mkdir(parents=True, exist_ok=True)
    with hold(results / ".lock"):  # trainings side by side must not lose each other's records
        entries = read_results(results, problem)
        entries[key] = values | {"device": describe(device), "versions": versions}
        write_json(results / f"{problem}.json", entries)


def record_largest(
    results: Path, problem: str, key: str, origin: Mapping[str, Any], values: dict[str, Any], device: torch.device
) -> None:
    """Like :func:`record`, of pictures: neither lose a measurement of more ``images``, nor what was measured before.

    Args:
        results: see :func:`record`.
        problem: see :func:`record`.
        key: see :func:`record`.
        origin: what tells which pictures they are, ``images`` among it; what an earlier command measured of the same
            stays in the record.
        values: what was measured.
        device: see :func:`record`.
    """
    there = read_results(results, problem).get(key, {})
    if there.get("images", 0) > origin["images"]:
        print(f"not recorded: {key} in {results / f'{problem}.json'} is of {there['images']:,} pictures")
        return
    before = there if there.items() >= origin.items() else {}
    record(results, problem, key, {**before, **origin, **values}, device)


def read_results(results: Path, problem: str) -> dict[str, dict[str, Any]]:
    """Return all measurements of ``problem`` by key; empty where nothing was measured."""
    path = results / f"{problem}.json"
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


def of_one_schedule(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those of ``runs`` that were trained as long as the first: others may not be averaged with it."""
    return [run for run in runs if all(run[name] == runs[0][name] for name in ("preset", "steps", "batch_size"))]
