"""One process or several: the same training loop under ``python`` and under ``torchrun``.

Every process takes its own share of each global batch, and draws noise, dropout and augmentation from a stream of its
own (``Run.steps`` seeds it anew for every step). DistributedDataParallel averages the gradients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from common.device import pick_device
from common.errors import UserError


@dataclass(frozen=True)
class World:
    """The processes that train together; ``rank`` 0 alone writes files and shows progress."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_writer(self) -> bool:
        """Tell whether this process writes files."""
        return self.rank == 0

    def part(self, batch: torch.Tensor) -> torch.Tensor:
        """Return this process's contiguous share of a global batch (its length must divide by ``size``)."""
        return batch.chunk(self.size)[self.rank] if self.size > 1 else batch

    def whole(self, part: torch.Tensor) -> torch.Tensor:
        """Return a global batch from every process's share of it, without gradients: the inverse of :meth:`part`."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part.detach().contiguous())
        return torch.cat(parts)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the writer's buffers of ``model``, such as BatchNorm's running averages."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return ``model`` with averaged gradients where several processes train, else ``model`` itself.

        BatchNorm statistics stay each process's own on a CPU and are shared on GPUs (SyncBatchNorm), which
        has no CPU implementation; its running averages are those of rank 0 in the checkpoint.
        """
        if self.size == 1:
            return model
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            return nn.parallel.DistributedDataParallel(model, device_ids=[self.device.index], broadcast_buffers=False)
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def check_batch(self, batch_size: int, least: int = 1) -> None:
        """Raise a UserError where a global batch cannot be shared out evenly, or leaves fewer than ``least`` each."""
        if batch_size % self.size or batch_size < least * self.size:
            multiple = f"a multiple of the {self.size} processes, " if self.size > 1 else ""
            raise UserError(f"--batch-size {batch_size}: must be {multiple}at least {least * self.size}")


@contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Yield the world this process belongs to; under ``torchrun`` the process group lives as long as the block.

    gloo connects CPU processes and nccl GPUs, one process a GPU.

    Raises:
        UserError: more processes on this machine than it has GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, pick_device(device))
        return
    if device != "cpu" and torch.cuda.is_available():
        # Before anything touches a GPU, or every process would open one on the first.
        local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= gpus:
            raise UserError(f"torchrun: process {local_rank + 1} finds {gpus} GPU here; start one process a GPU")
        torch.cuda.set_device(local_rank)
    chosen = pick_device(device)
    if chosen.type == "mps":
        raise UserError("torchrun: processes on mps cannot be joined; pass --device cpu, or train in one process")
    if chosen.type == "cuda":
        chosen = torch.device("cuda", torch.cuda.current_device())
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, chosen)
    finally:
        dist.destroy_process_group()
