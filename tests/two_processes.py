"""What tests/test_distributed.py runs under torchrun, and alone for comparison.

torchrun --nproc_per_node 2 tests/two_processes.py gradients FILE
torchrun --nproc_per_node 2 tests/two_processes.py script STEP SIGNAL p1_gan/train.py ...
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import common.training
from common import ROOT
from common.device import Distributed, init_distributed

import torch
from torch import nn

BATCH = 8


def gradients(dist: Distributed) -> dict[str, torch.Tensor]:
    """Return the gradients of a loss on one global batch, which every process generates alike."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    inputs = torch.randn(BATCH, 4)
    network = dist.ddp(model)  # averages only as long as somebody holds it
    network(dist.shard(inputs)).square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def run_script(step: int, number: int, script: str, *arguments: str) -> None:
    """Run a train.py with a checkpoint after every step, and compare the processes at the end.

    Process 1 sends itself signal ``number`` in ``step`` (-1: never).
    """
    random: list[torch.Tensor] = []

    class Watched(common.training.TrainingRun):
        def check_finite(self, *losses: torch.Tensor) -> None:
            super().check_finite(*losses)
            random.append(torch.rand(8))  # what the next dropout would see
            if self.step == step and not self.dist.is_main_process:
                os.kill(os.getpid(), number)

        def finish(self, *panels: object, **facts: object) -> None:
            print(f"rank {self.dist.rank}: {same_parameters(self)} equal, {different(random)} differ", flush=True)
            super().finish(*panels, **facts)  # type: ignore[arg-type]

    common.training.TrainingRun = Watched  # type: ignore[misc]
    common.training.CHECKPOINT_SECONDS = -1.0
    sys.argv = [script, *arguments]
    runpy.run_path(str(ROOT / script), run_name="__main__")


def same_parameters(run: common.training.TrainingRun) -> int:
    """Return how many parameters, those of averaged models included, are bit-identical here and in process 0."""
    # Buffers are left out: on a CPU the statistics of BatchNorm are each process's own.
    modules = [getattr(thing, "model", thing) for thing in run._state.values()]
    parameters = [
        value.detach() for module in modules if isinstance(module, nn.Module) for value in module.parameters()
    ]
    for parameter in parameters:
        first = parameter.clone()
        torch.distributed.broadcast(first, 0)
        assert torch.equal(parameter, first)
    return len(parameters)


def different(tensors: list[torch.Tensor]) -> int:
    """Return how many of the random tensors that both processes generated differ between them."""
    count = 0
    for tensor in tensors:
        both = [torch.empty_like(tensor) for _ in range(2)]
        torch.distributed.all_gather(both, tensor)
        count += not torch.equal(*both)
    return count


if __name__ == "__main__":
    task, *rest = sys.argv[1:]
    if task == "script":
        run_script(int(rest[0]), int(rest[1]), *rest[2:])
    else:
        with init_distributed("cpu") as dist:
            found = gradients(dist)
            if dist.is_main_process:
                torch.save(found, rest[0])
