"""Which device computes, and in which precision."""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import TypeVar

import torch
from torch import nn

from common.errors import UserError

Placeable = TypeVar("Placeable", nn.Module, torch.Tensor)


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` takes cuda, else mps, else cpu.

    Raises:
        UserError: the named device does not exist on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # whose random state checkpoints then hold
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not available here; use cuda, mps, cpu or auto") from error
    if device.type == "cpu":
        keep_freed_memory()
    return device


def keep_freed_memory() -> None:
    """Let the C library keep what it frees, so that the next step's activations find their pages in place.

    By default glibc hands every large buffer back to the kernel, which clears it anew at the next allocation:
    thousands of page faults a training step. On other systems this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**26)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            mallopt(parameter, value)


def bfloat16_is_fast(device: torch.device) -> bool:
    """Tell whether bfloat16 arithmetic has hardware support on ``device``.

    On a CPU that is AVX512_BF16, AMX, or Arm's BF16: without them bfloat16 is emulated, and a DCGAN step measured
    3.5 times slower than in float32 with plain AVX-512, a convolution 9 to 30 times slower with AVX2. So autocast
    must never be switched on blindly.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """Return the autocast context of a training or sampling step.

    Args:
        device: where the step runs.
        precision: ``bf16``, ``fp32``, or ``auto`` for bf16 wherever it is fast.
    """
    enabled = precision == "bf16" or (precision == "auto" and bfloat16_is_fast(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def place(thing: Placeable, device: torch.device, channels_last: bool | None = None) -> Placeable:
    """Move a network, or a batch of pictures (N, C, H, W), to ``device`` in its memory order.

    Args:
        thing: a module, changed in place, or a tensor.
        device: where it goes.
        channels_last: the order (N, H, W, C), in which convolutions run faster on cuda and cpu (measured by
            benchmarks/run.py); None takes it there and torch's usual order elsewhere.
    """
    if channels_last is None:
        channels_last = device.type in ("cuda", "cpu")
    return thing.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def describe(device: torch.device) -> str:
    """Name the hardware for results files, e.g. ``NVIDIA H100 80GB HBM3`` or ``CPU x86_64, 2 threads``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple {platform.machine()} (mps)"
    threads = torch.get_num_threads()
    plural = "" if threads == 1 else "s"
    return f"CPU {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {threads} thread{plural}"
