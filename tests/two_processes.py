"""What tests/test_distributed.py runs under torchrun, and alone for comparison.

torchrun --nproc_per_node 2 tests/two_processes.py gradients FILE
torchrun --nproc_per_node 2 tests/two_processes.py train FOLDER [STEP_OF_DEATH [SIGNAL]]
torchrun --nproc_per_node 2 tests/two_processes.py script STEP_OF_DEATH p1_gan/train.py ...
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.run
from common.distributed import World, join_world
from common.paths import ROOT, workspace
from common.run import Job, Run
from common.seed import generator, seed_everything
from p2_diffusion.build import build_model
from p2_diffusion.diffusion import Diffusion
from p2_diffusion.presets import PRESETS

KIND = "tests/two_processes"
STEPS = 15
BATCH = 8


def gradients(world: World) -> dict[str, torch.Tensor]:
    """Return the gradients of P2's loss on one global batch, drawn alike in every process."""
    seed_everything(0)
    config = vars(PRESETS["sample"]) | {"timesteps": 20}
    model = build_model(config)
    # The last layer starts at zero, where most gradients vanish.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    network, diffusion = world.wrap(model), Diffusion(20, "cosine", "v", 5.0)
    images, noise = torch.randn(2, BATCH, 3, 28, 28)
    t, conditions = torch.randint(20, (BATCH,)), torch.randint(11, (BATCH,))
    diffusion.loss(network, *map(world.part, (images, noise, t, conditions))).mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def train(
    world: World, folder: Path, death: int | None = None, number: int = signal.SIGKILL
) -> dict[str, torch.Tensor]:
    """Train a small network with a checkpoint after every step; process 1 sends itself a signal in step ``death``.

    Its batches are drawn alike in every process.
    """
    seed_everything(0)
    common.run.CHECKPOINT_SECONDS = -1.0
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    network, optimizer = world.wrap(model), torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    job = Job("p0", "train/seed0", KIND, {"seed": 0}, workspace("sample", folder), folder)
    with Run(job, world, {"model": model, "optimizer": optimizer}, model.state_dict) as run:
        for step in run.steps(STEPS, BATCH):
            if step == death and not world.is_writer:
                os.kill(os.getpid(), number)
            inputs = torch.randn(BATCH, 4, generator=generator(0, step))
            targets = inputs.sum(1, keepdim=True)
            loss = (network(world.part(inputs)) - world.part(targets)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.guard(loss)
            run.log(loss=loss)
    return model.state_dict()


def run_script(death: int, script: str, *arguments: str) -> None:
    """Run a train.py as its users do, with a checkpoint after every step, and compare the processes at the end.

    Process 1 is killed in step ``death`` (-1: never).
    """
    drawn: list[torch.Tensor] = []

    class Watched(Run):
        def guard(self, *losses: torch.Tensor) -> None:
            super().guard(*losses)
            drawn.append(torch.rand(8))  # what the next dropout would see
            if self.step == death and not self.world.is_writer:
                os.kill(os.getpid(), signal.SIGKILL)

        def __exit__(self, *exception: object) -> None:
            if exception[0] is None:
                print(f"{compare_with_process_0(self)} parameters alike", flush=True)
                print(f"{count_differences(drawn)} draws differ", flush=True)
            super().__exit__(*exception)

    loss = Diffusion.loss

    def watched_loss(
        self: Diffusion, network: object, x0: torch.Tensor, noise: torch.Tensor, *others: object
    ) -> torch.Tensor:
        drawn.append(noise.clone())
        return loss(self, network, x0, noise, *others)

    Diffusion.loss = watched_loss
    common.run.Run = Watched
    common.run.CHECKPOINT_SECONDS = -1.0
    sys.argv = [script, *arguments]
    runpy.run_path(str(ROOT / script), run_name="__main__")


def compare_with_process_0(run: Run) -> int:
    """Return how many parameters, those of averaged models included, are the same bits here and in process 0."""
    # Buffers are left out: on a CPU the statistics of BatchNorm are each process's own.
    parameters = [
        parameter.detach()
        for thing in run.state.values()
        if isinstance(module := getattr(thing, "model", thing), torch.nn.Module)
        for parameter in module.parameters()
    ]
    for parameter in parameters:
        first = parameter.clone()
        torch.distributed.broadcast(first, 0)
        assert torch.equal(parameter, first)
    return len(parameters)


def count_differences(drawn: list[torch.Tensor]) -> int:
    """Return how many of the tensors that both processes drew differ between them."""
    differences = 0
    for tensor in drawn:
        parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, tensor)
        differences += not torch.equal(*parts)
    return differences


def main() -> None:
    """Do what the command line says, in as many processes as there are."""
    task, path, *death = sys.argv[1:]
    if task == "script":
        run_script(int(path), *death)
        return
    with join_world("cpu") as world:
        if task == "gradients":
            found = gradients(world)
            if world.is_writer:
                torch.save(found, path)
        else:
            train(world, Path(path), *map(int, death))


if __name__ == "__main__":
    main()
