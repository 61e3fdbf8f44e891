"""One process or several: the same training loop under ``python`` and under ``torchrun``.

Every process draws data, noise and latents of the *global* batch from the same seed and keeps its own slice of
the samples. For a network whose samples do not meet (the diffusion U-Net without dropout) the gradients that
DistributedDataParallel averages are then those of one process with the whole batch, up to the order of summation.
What a process draws for its slice alone, dropout and P1's augmentation, is the same in all of them: the generators
must stay in step, since the next global batch comes from them.
"""

from __future__ import annotations

import os
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

    def check_batch(self, batch_size: int) -> None:
        """Raise a UserError where a global batch cannot be shared out evenly."""
        if batch_size % self.size:
            raise UserError(f"--batch-size {batch_size}: must be a multiple of the {self.size} processes")


def join_world(device: str = "auto") -> World:
    """Return the world this process belongs to; under ``torchrun`` this starts the process group.

    gloo connects CPU processes and nccl GPUs, one process a GPU.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(0, 1, pick_device(device))
    if (
        device != "cpu" and torch.cuda.is_available()
    ):  # before anything touches a GPU, or every process would open one on the first
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    chosen = pick_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", torch.cuda.current_device())
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return World(dist.get_rank(), size, chosen)


def leave_world(world: World) -> None:
    """End the process group, if there is one."""
    if world.size > 1:
        dist.destroy_process_group()
