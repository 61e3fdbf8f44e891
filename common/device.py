"""Which device computes, in which precision and memory order."""

from __future__ import annotations

import platform
from typing import TypeVar

from common.cli import UserError

import torch
from torch import nn

Movable = TypeVar("Movable", bound=nn.Module | torch.Tensor)


def pick_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` takes cuda, else mps, else cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cuda", "mps", "cpu"):
            raise RuntimeError
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # checkpoints hold the random state of the current device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not available here; use cuda, mps, cpu or auto") from error
    return device


def bfloat16_is_fast(device: torch.device) -> bool:
    """Return whether ``device`` computes bfloat16 in hardware; emulated, it is 3 to 30 times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """Return the autocast context of a step: ``bf16``, ``fp32``, or ``auto`` for bf16 wherever it is fast."""
    enabled = precision == "bf16" or (precision == "auto" and bfloat16_is_fast(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def to_device(thing: Movable, device: torch.device, channels_last: bool | None = None) -> Movable:
    """Move a network (in place) or images (N, C, H, W); None is channels_last where convolutions then run faster."""
    if channels_last is None:
        channels_last = device.type in ("cuda", "cpu")
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return thing.to(device, memory_format=memory_format)  # type: ignore[call-overload,return-value]


def describe(device: torch.device) -> str:
    """Name the hardware for records, e.g. ``NVIDIA H200`` or ``CPU x86_64 AVX512, 2 threads``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple {platform.machine()} (mps)"
    threads = torch.get_num_threads()
    return f"CPU {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' * (threads > 1)}"
