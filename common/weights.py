"""Inference weights as safetensors, with what is needed to rebuild the model in the file's header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from common.checkpoint import load_checkpoint, wrong_kind
from common.errors import UserError
from common.files import sha256, write_atomic
from common.paths import WEIGHTS

MANIFEST = WEIGHTS / "manifest.json"


def save_weights(
    path: Path, state: dict[str, torch.Tensor], kind: str, config: dict[str, Any], half: bool = False
) -> None:
    """Write model weights for inference.

    Args:
        path: a ``.safetensors`` file.
        state: the model's ``state_dict``.
        kind: which model it is, for example ``p2_diffusion/unet``.
        config: everything inference needs to rebuild the model; plain JSON values.
        half: store floating tensors in half precision.
    """
    tensors = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu()
        tensors[name] = (tensor.half() if half and tensor.is_floating_point() else tensor).clone().contiguous()
    metadata = {"kind": kind, "config": json.dumps(config, sort_keys=True)}
    content = _same_bytes(save(tensors, metadata))
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def load_weights(path: Path, *kinds: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read inference weights from a ``.safetensors`` file or a training checkpoint (``.pt``).

    A file that ``weights/manifest.json`` lists must have the hash written there.

    Args:
        path: the file.
        kinds: what it may hold, for example ``p1_gan/B``.

    Returns:
        The float32 ``state_dict`` and the configuration saved with it; ``step`` in it are the steps done where the
        training was not finished.

    Raises:
        UserError: missing, damaged, of another model, or a shipped file whose hash differs.
    """
    path = Path(path)
    if path.suffix == ".pt":
        payload = load_checkpoint(path, *kinds)
        return payload["weights"], payload["config"] | {"step": payload["step"]}
    if not path.is_file():
        raise UserError(f"{path}: no such weights; train first, or name another file")
    _verify_shipped(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file; copy or train it again") from error
    if metadata.get("kind") not in kinds:
        raise wrong_kind(path, metadata.get("kind"), kinds)
    state = {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in state.items()}
    return state, json.loads(metadata["config"])


def steps_done(config: Mapping[str, Any]) -> int:
    """Return after how many steps weights with this configuration were saved; fewer than ``steps`` if unfinished."""
    return config.get("step", config["steps"])


def images_seen(config: Mapping[str, Any]) -> int:
    """Return how many pictures weights with this configuration have seen, those of their initial weights included."""
    return steps_done(config) * config["batch_size"] + config.get("initial_images", 0)


def which_training(config: Mapping[str, Any]) -> str:
    """Return which of several trainings of a preset weights are of, for keys of results: their seed, or step too."""
    done = steps_done(config)
    return f"{config['seed']}" + (f"-step{done}" if done < config["steps"] else "")


def of_training(config: Mapping[str, Any]) -> str:
    """Return how names tell pictures of a training from those that the report shows, of seed 0 and finished."""
    which = which_training(config)
    return "" if which == "0" else f"_seed{which}"


def load_initial(
    name: str, kind: str, needed: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor] | None, dict[str, Any]]:
    """Return the weights that a training starts from (None: random ones), and which they are, for its record.

    Args:
        name: a file, or the name of one in ``weights/``; empty for random weights.
        kind: what it must hold.
        needed: settings that must be those it was trained with.

    Raises:
        UserError: missing, damaged, or trained otherwise.
    """
    if not name:
        return None, {}
    path = find_weights(name)
    state, trained = load_weights(path, kind)
    for key, value in needed.items():
        if trained[key] != value:
            raise UserError(f"{path}: trained with {key} {trained[key]}, asked for {value}")
    which = {"initial_dataset": trained["dataset"], "initial_images": images_seen(trained)}
    return state, which | {"initial_sha256": sha256(path)}


def find_weights(name: str) -> Path:
    """Return the file called ``name`` in ``weights/``, or where there is none the path that it writes."""
    shipped = WEIGHTS / name
    return shipped if shipped.is_file() else Path(name)


def load_into(model: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load ``state`` into ``model``; raise a UserError naming ``path`` where the architecture differs."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(f"{path}: does not fit {type(model).__name__}: {reason}") from error


def _verify_shipped(path: Path) -> None:
    if path.resolve().parent != WEIGHTS or not MANIFEST.exists():
        return
    entry = json.loads(MANIFEST.read_text()).get(path.name)
    if entry and sha256(path) != entry["sha256"]:
        raise UserError(f"{path}: differs from the hash in {MANIFEST.name}; restore it with git checkout -- {path}")


def _same_bytes(content: bytes) -> bytes:
    """Return a safetensors file with its metadata sorted, which the library writes in a random order.

    Layout: 8 bytes of header length, little-endian; the JSON header padded with spaces to a multiple of 8;
    the tensors, whose offsets count from the end of the header.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
