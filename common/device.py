"""Device selection, mixed precision, memory format and distributed training.

The same training loop runs under ``python`` and under ``torchrun``: every process takes its shard of each global batch,
with random numbers of its own (TrainingRun.steps seeds it at every step), and gradients are averaged.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.cli import UserError

import torch
import torch.distributed
from torch import nn

Movable = TypeVar("Movable", bound=nn.Module | torch.Tensor)


def pick_device(name: str) -> torch.device:
    """Return the device called ``name``, with deterministic cuDNN; ``auto`` takes cuda, else mps, else cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cuda", "mps", "cpu"):
            raise RuntimeError
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # checkpoints hold the random state of the current device
        torch.backends.cudnn.deterministic = True  # same seed, same bytes; slower by a little
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


def seconds_without_core() -> float:
    """Return how long threads of this process have waited for cores that others keep busy; 0 where nothing tells."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            total += int(path.read_text(encoding="utf-8").split()[1])
    return total / 1e9


def describe(device: torch.device) -> str:
    """Name the hardware for records, e.g. ``NVIDIA H200`` or ``CPU x86_64 AVX512, 2 threads``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple {platform.machine()} (mps)"
    threads = torch.get_num_threads()
    return f"CPU {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' * (threads > 1)}"


@dataclass(frozen=True)
class Distributed:
    """The processes that train together; rank 0, the main process, alone writes files and shows progress."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def shard(self, batch: torch.Tensor) -> torch.Tensor:
        """Return this process's contiguous part of a global batch, whose length must be a multiple of ``size``."""
        return batch.chunk(self.size)[self.rank] if self.size > 1 else batch

    def all_gather(self, shard: torch.Tensor) -> torch.Tensor:
        """Return the global batch of every process's shard, without gradients: the inverse of :meth:`shard`."""
        if self.size == 1:
            return shard
        shards = [torch.empty_like(shard) for _ in range(self.size)]
        torch.distributed.all_gather(shards, shard.detach().contiguous())
        return torch.cat(shards)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every process the main process's buffers of ``model``, such as BatchNorm's running statistics."""
        if self.size > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def ddp(self, model: nn.Module) -> nn.Module:
        """Return ``model`` with averaged gradients where several processes train, else ``model`` itself.

        BatchNorm statistics are each process's own on CPUs and shared on GPUs (SyncBatchNorm has no CPU version).
        """
        if self.size == 1:
            return model
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def check_batch_size(self, batch_size: int, min_per_process: int = 1) -> None:
        """Raise a UserError where a global batch cannot be divided evenly, or leaves a process too few samples."""
        if batch_size % self.size or batch_size < min_per_process * self.size:
            multiple = f"a multiple of the {self.size} processes, " if self.size > 1 else ""
            raise UserError(f"--batch-size {batch_size}: must be {multiple}at least {min_per_process * self.size}")


@contextlib.contextmanager
def init_distributed(device: str) -> Iterator[Distributed]:
    """Yield the processes that train; those of ``torchrun`` are joined (gloo or nccl) as long as the block lasts."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Distributed(0, 1, pick_device(device))
        return
    if device.split(":")[0] in ("auto", "cuda") and torch.cuda.is_available():
        # Each process has a GPU of its own, whatever index was named.
        if "LOCAL_RANK" not in os.environ:
            raise UserError("WORLD_SIZE is set without LOCAL_RANK: start several processes with torchrun")
        local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= gpus:
            raise UserError(f"torchrun: process {local_rank + 1} finds {gpus} GPUs; start one process per GPU")
        device = f"cuda:{local_rank}"
    chosen = pick_device(device)
    torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Distributed(torch.distributed.get_rank(), size, chosen)
        torch.distributed.barrier()  # no process leaves while another still communicates
        atexit.register(_end_process)
    finally:
        torch.distributed.destroy_process_group()


def _end_process() -> None:
    """End a process that succeeded without the interpreter's own end, during which threads of gloo may abort it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
