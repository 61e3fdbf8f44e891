"""One process or several: the same training loop under ``python`` and under ``torchrun``.

Every process takes its shard of each global batch, with random numbers from a stream of its own (TrainingRun.steps
seeds it at every step). DistributedDataParallel averages the gradients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from common.cli import UserError
from common.device import pick_device

import torch
import torch.distributed
from torch import nn


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


@contextmanager
def init_distributed(device: str) -> Iterator[Distributed]:
    """Yield the processes that train; those of ``torchrun`` are joined (gloo or nccl) as long as the block lasts."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Distributed(0, 1, pick_device(device))
        return
    if device != "cpu" and torch.cuda.is_available():
        # Before anything touches a GPU, or every process would open one on the first.
        if "LOCAL_RANK" not in os.environ:
            raise UserError("WORLD_SIZE is set without LOCAL_RANK: start several processes with torchrun")
        local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= gpus:
            raise UserError(f"torchrun: process {local_rank + 1} finds {gpus} GPUs; start one process per GPU")
        torch.cuda.set_device(local_rank)
    chosen = pick_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", torch.cuda.current_device())
    torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Distributed(torch.distributed.get_rank(), size, chosen)
        torch.distributed.barrier()  # no process leaves while another still communicates
    finally:
        torch.distributed.destroy_process_group()
