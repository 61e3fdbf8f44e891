"""Everything random follows from one seed and can be restored after a kill."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *labels: object) -> int:
    """Return a 63-bit seed that depends on ``seed`` and ``labels`` only, for independent named streams."""
    text = repr((seed, *labels)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def generator(seed: int, *labels: object) -> torch.Generator:
    """Return a generator for the stream named by ``labels``, independent of the global state."""
    return torch.Generator().manual_seed(derive_seed(seed, *labels))


def random_state() -> dict[str, torch.Tensor]:
    """Return the states of torch's global generators (CPU and, where in use, CUDA or MPS)."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # asking would open a context on a GPU that the run does not use
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """Restore what :func:`random_state` returned."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())
