"""Train the class-conditional diffusion model on MNIST-M (Ho et al., 2020, algorithm 1, with guidance labels).

    python p2_diffusion/train.py                       # preset cpu: two cores
    python p2_diffusion/train.py --preset full         # the network of the original report, for a GPU
    torchrun --nproc_per_node 2 p2_diffusion/train.py  # several processes share every batch

Stopped or killed, the same command goes on from the last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.batches import Batches
from common.cli import add_common_arguments, add_preset_arguments, add_run_arguments, make_parser, resolve_config
from common.dataset import DIGIT_SIZE, described
from common.device import autocast
from common.distributed import World, join_world
from common.ema import ExponentialMovingAverage
from common.errors import run_main
from common.pictures import save_grid, to_network, to_uint8
from common.run import Job, Run
from common.seed import generator, seed_everything
from common.weights import find_weights, load_initial, load_into
from p2_diffusion.build import KIND, build_diffusion, build_model, to_device
from p2_diffusion.dataset import DOMAIN, load_mnistm
from p2_diffusion.diffusion import Diffusion, drop_labels
from p2_diffusion.model import UNet
from p2_diffusion.presets import PRESETS, TrainConfig, default_sampling
from p2_diffusion.samplers import sample

NOISE_LEVELS = 4  # the loss is logged for this many equal parts of the time steps
PANELS = {"loss": ["loss"], "loss by noise level": [f"loss_level_{k}" for k in range(NOISE_LEVELS)]}


def train(
    job: Job,
    config: TrainConfig,
    world: World,
    images: torch.Tensor,
    labels: torch.Tensor,
    initial: dict[str, torch.Tensor] | None = None,
) -> Run:
    """Train on ``images``, uint8 (N, 3, 28, 28), and ``labels`` (N,), from ``initial`` or random weights.

    Returns:
        The run, whose weights are the averaged ones.
    """
    device, seed = world.device, job.config["seed"]
    seed_everything(seed, deterministic=not config.compile)
    model = build_model(job.config)
    if initial is not None:
        load_into(model, initial, find_weights(config.initial_weights))
    model = to_device(model, device)
    diffusion = build_diffusion(job.config).to(device)
    ema = ExponentialMovingAverage(model, config.ema_decay)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True
    )
    meter = LossMeter(config.timesteps, device)
    batches = Batches(len(images), config.batch_size, seed, "train", device)
    network = world.wrap(torch.compile(model) if config.compile else model)

    state = {"model": model, "ema": ema, "optimizer": optimizer, "meter": meter}
    with Run(job, world, state, ema.model.state_dict, PANELS) as run:
        for step in run.steps(config.steps, config.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * learning_rate_factor(step, config)

            batch = world.part(batches(step))
            x0 = to_device(to_network(images[batch]), device)
            t = torch.randint(config.timesteps, (len(batch),), device=device)
            noise = torch.randn_like(x0)
            conditions = drop_labels(labels[batch] + 1, torch.rand(len(batch), device=device), config.label_dropout)

            with autocast(device, config.precision):
                losses = diffusion.loss(network, x0, noise, t, conditions)
            loss = losses.mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            ema.update(model)

            run.guard(loss)
            meter.add(losses.detach(), t)
            if (step + 1) % config.log_every == 0:
                run.log(loss=loss, **meter.read())
            if (step + 1) % config.sample_every == 0 and world.is_writer:
                path = run.folder / f"samples_{step + 1:06d}.png"
                save_sample_grid(ema.model, diffusion, job.config, path, device)
    return run


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the peak learning rate: linear warm-up, then linear decay to a hundredth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 1 - 0.99 * progress


class LossMeter:
    """Mean loss of each part of the noise levels since the last row of the log, kept on the device."""

    def __init__(self, timesteps: int, device: torch.device) -> None:
        self.timesteps = timesteps
        self.sums = torch.zeros(2, NOISE_LEVELS, device=device)

    def add(self, losses: torch.Tensor, t: torch.Tensor) -> None:
        """Count one loss a sample, (N,), at time steps ``t`` (N,)."""
        level = t * NOISE_LEVELS // self.timesteps
        self.sums.index_add_(1, level, torch.stack([losses, torch.ones_like(losses)]))

    def read(self) -> dict[str, float]:
        """Return loss_level_0 (least noise) and so on, and start anew."""
        totals, counts = self.sums.tolist()
        self.sums.zero_()
        return {f"loss_level_{k}": totals[k] / counts[k] for k in range(NOISE_LEVELS) if counts[k]}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint must hold."""
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.sums.copy_(state["sums"])


def save_sample_grid(
    model: UNet, diffusion: Diffusion, trained: Mapping[str, Any], path: Path, device: torch.device
) -> None:
    """Draw each digit (rows) from the same eight noises (columns), without touching the training's randomness."""
    noise = torch.randn(8, 3, DIGIT_SIZE, DIGIT_SIZE, generator=generator(0, "sample grid")).repeat(10, 1, 1, 1)
    conditions = torch.arange(1, 11, device=device).repeat_interleave(8)
    with autocast(device, trained["precision"]):
        images = sample(model, diffusion, conditions, to_device(noise, device), default_sampling(trained))
    save_grid(to_uint8(images), path, columns=8)


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = make_parser(__doc__)
    add_common_arguments(parser)
    add_run_arguments(parser)
    add_preset_arguments(parser, PRESETS)
    return parser.parse_args()


def main() -> None:
    """Parse the command line, train, and write weights, curves and the record."""
    arguments = parse_arguments()
    config = resolve_config(arguments, PRESETS)
    with join_world(arguments.device) as world:
        world.check_batch(config.batch_size)
        process = {name: getattr(config, name) for name in ("timesteps", "schedule", "prediction", "num_groups")}
        initial, which = load_initial(config.initial_weights, KIND, process)
        data = described(arguments.data_root, DOMAIN) | which
        job = Job.of(arguments, config, "p2", KIND, "p2", f"train/{arguments.preset}", **data)
        if job.is_finished(world):
            return
        images, labels = load_mnistm(arguments.data_root, "train", world.device)
        run = train(job, config, world, images, labels, initial)
        if run.is_complete and world.is_writer:
            job.finish(
                run,
                train_images=len(images),
                epochs=round(config.steps * config.batch_size / len(images), 1),
                parameters=sum(tensor.numel() for tensor in run.weights().values()),
                late_loss=round(run.late_mean("loss"), 6) if run.rows else None,
            )


if __name__ == "__main__":
    run_main(main)
