"""What a run leaves: weights for inference as safetensors, and records of what was measured on them.

A weights file holds the configuration that rebuilds its model. A record is one flat JSON object in the run's folder; it
says what was measured (``problem``, ``kind``, ``method``, ``preset``, ``seed``, ...), on which weights and data (by
digest), the values, and the environment. ``scripts/collect.py`` gathers records into ``results/*.jsonl``.
"""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import ROOT
from common.cli import UserError
from common.device import describe
from common.files import read_safetensors, write_bytes, write_json

import safetensors
import safetensors.torch
import torch
from torch import nn

WEIGHTS = ROOT / "weights"
State = dict[str, torch.Tensor]


def save_weights(path: Path, state: State, config: dict[str, Any], half: bool = False) -> None:
    """Write a ``state_dict`` atomically, ``half`` in half precision; the same weights give the same bytes.

    ``config`` holds what rebuilds the model, plain JSON values; ``config["model"]`` says which model it is.
    """
    tensors = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu()
        tensors[name] = (tensor.half() if half and tensor.is_floating_point() else tensor).clone().contiguous()
    # One key only: safetensors writes several in random order.
    write_bytes(path, safetensors.torch.save(tensors, {"config": json.dumps(config, sort_keys=True)}))


def load_weights(path: Path, *models: str) -> tuple[State, dict[str, Any]]:
    """Return the float32 ``state_dict`` of one of ``models`` (such as ``p1_gan/B``) and its configuration.

    A checkpoint (.pt) is read as well as a .safetensors file; its configuration has ``step``.
    """
    if path.suffix == ".pt":
        payload = load_checkpoint(path)
        state, config = payload["weights"], payload["config"] | {"step": payload["step"]}
    else:
        try:
            state, metadata = read_safetensors(path)
            # The model's name once had a key of its own.
            config = {"model": metadata.get("kind")} | json.loads(metadata["config"])
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such weights; train first, or name another file") from error
        except (ValueError, KeyError) as error:
            raise UserError(f"{path}: not weights of this repository, or damaged") from error
    if config["model"] not in models:
        raise UserError(f"{path}: holds weights of {config['model']}, not of {' or '.join(models)}")
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in state.items()}, config


def load_into(model: nn.Module, state: State, path: Path) -> None:
    """Load ``state`` into ``model``; raise a UserError naming ``path`` where the architecture differs."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(f"{path}: does not fit {type(model).__name__}: {reason}") from error


def shipped_path(name: str) -> Path:
    """Return the file ``name`` of weights/, or where there is none ``name`` as a path (for --init-from)."""
    return WEIGHTS / name if (WEIGHTS / name).is_file() else Path(name)


def load_checkpoint(path: Path, map_location: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of :class:`common.training.TrainingRun`; nothing in it is executed."""
    try:
        payload = torch.load(path, map_location=map_location, weights_only=True)
        if {"config", "step", "weights"} <= payload.keys():
            return payload
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint; train first, or pass another --checkpoint") from error
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, AttributeError, KeyError):
        pass  # damaged, of an older torch, a pointer of Git LFS, or objects that could run code
    raise UserError(f"{path}: not a checkpoint of this repository, or damaged; use another one or --restart")


Record = dict[str, Any]


def collected(problem: str, *kinds: str) -> list[Record]:
    """Return the records of ``kinds`` that results/ holds of a problem (``p1``), whatever machine measured them."""
    lines = (ROOT / "results" / f"{problem}.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] in kinds]


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
    folder: Path,
    name: str,
    identity: Record,
    measure: Callable[[], Mapping[str, Any]],
    device: torch.device,
    needed: Sequence[str] = (),
) -> Record:
    """Return the record ``name`` of a run's folder, measuring only what was not measured before.

    ``identity`` holds everything that the values of ``measure`` depend on, digests of weights and data among it; a
    record is reused only where all of it is the same, and the metrics ``needed`` are there.
    """
    identity = json.loads(json.dumps(identity))
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((folder / "records" / f"{name}.json").read_text(encoding="utf-8"))
        if identity.items() <= record.items() and all(metric in record for metric in needed):
            return record
    return write_record(folder, name, identity | dict(measure()), device)
