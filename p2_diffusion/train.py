"""Train the class-conditional diffusion model on MNIST-M (Ho et al., 2020, algorithm 1, with guidance labels).

    python p2_diffusion/train.py                       # preset cpu: two cores
    python p2_diffusion/train.py --preset full         # the network of the report, for a GPU
    torchrun --nproc_per_node 2 p2_diffusion/train.py  # several processes share every batch

Stopped or killed, the same command goes on from the last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.batches import Batches
from common.cli import (
    add_common_arguments,
    add_preset_arguments,
    add_run_arguments,
    make_parser,
    positive_int,
    resolve_config,
)
from common.dataset import DIGIT_SIZE, dataset_name
from common.device import autocast
from common.distributed import World, join_world, leave_world
from common.ema import ExponentialMovingAverage
from common.errors import UserError, run_main
from common.files import sha256
from common.paths import WEIGHTS, Workspace, workspace
from common.pictures import save_grid, to_uint8
from common.results import read_results, record
from common.run import Run
from common.seed import generator, seed_everything
from common.weights import is_finished, load_into, load_weights, save_weights
from p2_diffusion.dataset import DOMAIN, load_mnistm, to_network
from p2_diffusion.diffusion import Diffusion, drop_labels
from p2_diffusion.model import UNet, unet_memory_format
from p2_diffusion.presets import PRESETS, TrainConfig
from p2_diffusion.samplers import SamplerConfig, sample

KIND = "p2_diffusion/unet"
NOISE_LEVELS = 4  # the loss is logged for this many equal parts of the time steps
PANELS = {"loss": ["loss"], "loss by noise level": [f"loss_level_{k}" for k in range(NOISE_LEVELS)]}


def build_model(config: dict[str, Any]) -> UNet:
    """Return the U-Net of a configuration (a TrainConfig as a dictionary)."""
    return UNet(
        num_timesteps=config["timesteps"],
        channels=config["channels"],
        channel_mults=config["channel_mults"],
        attention_levels=config["attention_levels"],
        num_res_blocks=config["num_res_blocks"],
        dropout=config["dropout"],
    )


def build_diffusion(config: dict[str, Any]) -> Diffusion:
    """Return the diffusion process of a configuration (a TrainConfig as a dictionary)."""
    return Diffusion(config["timesteps"], config["schedule"], config["prediction"], config["min_snr_gamma"])


def load_initial(config: TrainConfig) -> tuple[dict[str, torch.Tensor] | None, dict[str, str]]:
    """Return the weights that training starts from (None: random ones), and which they are, for the record.

    Raises:
        UserError: missing, damaged, or trained for another process.
    """
    if not config.initial_weights:
        return None, {}
    shipped = WEIGHTS / config.initial_weights
    path = shipped if shipped.is_file() else Path(config.initial_weights)
    state, made_with = load_weights(path, KIND)
    for key in ("timesteps", "schedule", "prediction"):
        if made_with[key] != getattr(config, key):
            raise UserError(f"{path}: trained with {key} {made_with[key]}, asked for {getattr(config, key)}")
    return state, {"initial_dataset": made_with["dataset"], "initial_sha256": sha256(path)}


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


def train(
    config: TrainConfig,
    run_config: dict[str, Any],
    initial: dict[str, torch.Tensor] | None,
    run_dir: Path,
    arguments: argparse.Namespace,
    world: World,
) -> tuple[Run, int]:
    """Train to the last step, from ``initial`` or random weights; return the run and how many pictures it saw."""
    device = world.device
    images, labels = load_mnistm(arguments.data_root, "train", device)
    seed_everything(arguments.seed, deterministic=not config.compile)
    model = build_model(run_config)
    if initial is not None:
        load_into(model, initial, Path(config.initial_weights))
    model = model.to(device, memory_format=unet_memory_format(device))
    diffusion = build_diffusion(run_config).to(device)
    ema = ExponentialMovingAverage(model, config.ema_decay)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True
    )
    meter = LossMeter(config.timesteps, device)
    batches = Batches(len(images), config.batch_size, arguments.seed, "train", device)
    network = world.wrap(torch.compile(model) if config.compile else model)

    run = Run(
        run_dir,
        KIND,
        run_config,
        state={"model": model, "ema": ema, "optimizer": optimizer, "meter": meter},
        weights=ema.model.state_dict,
        device=device,
        fresh=arguments.fresh,
        is_writer=world.is_writer,
        tensorboard=arguments.tensorboard,
        defaults=asdict(TrainConfig()),
        panels=PANELS,
        title=f"P2 {run_config['preset']}, {run_config['dataset']}",
    )
    with run:
        for step in run.steps(config.steps, config.batch_size, "p2", arguments.max_seconds):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * learning_rate_factor(step, config)

            batch = batches(step)
            x0 = to_network(images[batch])
            t = torch.randint(config.timesteps, (len(batch),), device=device)
            noise = torch.randn_like(x0)
            conditions = drop_labels(labels[batch] + 1, torch.rand(len(batch), device=device), config.label_dropout)
            x0, noise, t, conditions = (world.part(tensor) for tensor in (x0, noise, t, conditions))
            x0 = x0.contiguous(memory_format=unet_memory_format(device))

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
                save_sample_grid(ema.model, diffusion, config, run.folder / f"samples_{step + 1:06d}.png", device)
    return run, len(images)


def save_sample_grid(model: UNet, diffusion: Diffusion, config: TrainConfig, path: Path, device: torch.device) -> None:
    """Draw each digit (rows) from the same eight noises (columns), without touching the training's randomness."""
    noise = torch.randn(8, 3, DIGIT_SIZE, DIGIT_SIZE, generator=generator(0, "sample grid")).repeat(10, 1, 1, 1)
    noise = noise.to(device, memory_format=unet_memory_format(device))
    conditions = torch.arange(1, 11, device=device).repeat_interleave(8)
    with autocast(device, config.precision):
        images = sample(model, diffusion, conditions, noise, SamplerConfig("ddim", steps=min(20, config.timesteps)))
    save_grid(to_uint8(images), path, columns=8)


def main() -> None:
    """Parse the command line, train, and write weights, curves and the record."""
    parser = make_parser(__doc__)
    add_common_arguments(parser)
    add_run_arguments(parser)
    add_preset_arguments(parser, PRESETS)
    parser.add_argument("--max-seconds", type=positive_int, default=None, help="save and leave after so long")
    arguments = parser.parse_args()
    config = resolve_config(arguments, PRESETS)
    world = join_world(arguments.device)
    world.check_batch(config.batch_size)
    space = workspace(arguments.preset, arguments.output)
    run_dir = arguments.run_dir or space.runs / f"p2_seed{arguments.seed}"
    dataset = dataset_name(arguments.data_root, DOMAIN)
    run_config = asdict(config) | {"preset": arguments.preset, "seed": arguments.seed, "dataset": dataset}
    initial, which = load_initial(config)
    run_config |= which

    key = f"train/{arguments.preset}/seed{arguments.seed}"
    weights = run_dir / "weights.safetensors"
    before = is_finished(weights, KIND, run_config, asdict(TrainConfig()))
    # Not recorded again: the record would name the machine of now with the time of then.
    if before and not arguments.fresh and key in read_results(space.results, "p2"):
        if world.is_writer:
            print(f"finished before: {weights}")
    else:
        run, count = train(config, run_config, initial, run_dir, arguments, world)
        if run.step == config.steps and world.is_writer:
            finish(run, config, run_config, count, space, key, world.device)
    leave_world(world)


def finish(
    run: Run,
    config: TrainConfig,
    run_config: dict[str, Any],
    count: int,
    space: Workspace,
    key: str,
    device: torch.device,
) -> None:
    """Write what a finished run leaves: weights, and its record in results/p2.json."""
    save_weights(run.folder / "weights.safetensors", run.weights(), KIND, run_config)
    seconds = run.total_seconds
    values = run_config | {
        "train_images": count,
        "epochs": round(config.steps * config.batch_size / count, 1),
        "parameters": sum(tensor.numel() for tensor in run.weights().values()),
        "final_loss": run.rows[-1]["loss"] if run.rows else None,
        "seconds": round(seconds, 1),
        "images_per_second": round(config.steps * config.batch_size / seconds, 1),
    }
    record(space.results, "p2", key, values, device)
    print(f"wrote {run.folder / 'weights.safetensors'}")


if __name__ == "__main__":
    run_main(main)
