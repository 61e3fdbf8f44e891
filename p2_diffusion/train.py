"""Train the class-conditional diffusion model on MNIST-M (Ho et al., 2020, algorithm 1, with label dropout).

    python p2_diffusion/train.py                       # preset cpu: two cores
    python p2_diffusion/train.py --preset full         # the network of the original report, for a GPU
    torchrun --nproc_per_node 2 p2_diffusion/train.py  # several processes share every batch

Stopped or killed, the same command resumes from the last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import (
    DEFAULT_PRESET,
    UserError,
    add_common_arguments,
    add_run_arguments,
    make_parser,
    parse_config,
    run_main,
)
from common.data import DIGIT_SIZE, EpochSampler, dataset_name, digest
from common.device import autocast
from common.distributed import Distributed, init_distributed
from common.ema import ExponentialMovingAverage
from common.files import file_digest
from common.images import normalize, save_grid, to_uint8
from common.seed import generator, seed_everything
from common.training import TrainingRun
from common.weights import State, load_into, load_weights, shipped_path
from p2_diffusion.config import PRESETS, DistillConfig, TrainConfig, default_sampler
from p2_diffusion.dataset import DOMAIN, load_mnistm
from p2_diffusion.diffusion import Diffusion, Network, build_diffusion, drop_labels
from p2_diffusion.model import MODEL, build_model, to_device
from p2_diffusion.samplers import sample

import torch

LOSS_LEVELS = 4  # the loss is logged for this many equal ranges of timesteps, 0 with the least noise
PANELS = {"loss": ["loss"], "loss by noise level": [f"loss_level_{k}" for k in range(LOSS_LEVELS)]}


def train(
    run: TrainingRun,
    config: TrainConfig,
    dist: Distributed,
    images: torch.Tensor,
    labels: torch.Tensor,
    initial: State | None = None,
) -> None:
    """Train on ``images``, uint8 (N, 3, 28, 28), and ``labels``, int64 (N,), from random or ``initial`` weights.

    The run's weights are the averaged ones.
    """
    device, seed = dist.device, run.config["seed"]
    seed_everything(seed, deterministic=not config.compile)
    model = build_model(run.config)
    if initial is not None:
        load_into(model, initial, Path(config.init_from))
    model = to_device(model, device)
    diffusion = build_diffusion(run.config).to(device)
    ema = ExponentialMovingAverage(model, config.ema_decay)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True
    )
    batches = EpochSampler(len(images), config.batch_size, seed, "train", device)
    network = dist.ddp(torch.compile(model) if config.compile else model)  # type: ignore[arg-type]

    run.resume(ema.model, model=model, ema=ema, optimizer=optimizer)
    for step in run.steps(config.steps, config.batch_size):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * lr_factor(step, config)

        # x_0 ~ q(x_0), t ~ Uniform(0..T-1), eps ~ N(0, I)
        batch = dist.shard(batches(step))
        x0 = to_device(normalize(images[batch]), device)
        t = torch.randint(config.timesteps, (len(batch),), device=device)
        eps = torch.randn_like(x0)
        # y: the class label, or the null label for a fraction of the samples
        uniform = torch.rand(len(batch), device=device)
        class_labels = drop_labels(labels[batch] + 1, uniform, config.label_dropout)

        # weight_t || target - network(alpha_t x_0 + sigma_t eps, t, y) ||^2
        with autocast(device, config.precision):
            losses = diffusion.losses(network, x0, eps, t, class_labels)
        loss = losses.mean()

        # gradient step, then the moving average of the weights
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        ema.update(model)

        run.check_finite(loss)
        if (step + 1) % config.log_every == 0:
            levels = t * LOSS_LEVELS // config.timesteps
            by_level = {f"loss_level_{k}": losses[levels == k] for k in range(LOSS_LEVELS)}
            run.log(loss=loss, **{key: values.mean() for key, values in by_level.items() if len(values)})
        if (step + 1) % config.sample_every == 0 and dist.is_main_process:
            path = run.folder / f"samples_{step + 1:06d}.png"
            save_sample_grid(ema.model, diffusion, run.config, path, device)


def load_initial(config: TrainConfig) -> tuple[State | None, str]:
    """Return the weights ``config.init_from`` and their digest; None and "" where it names none.

    Raises:
        UserError: missing, damaged, or of another diffusion process.
    """
    if not config.init_from:
        return None, ""
    path = shipped_path(config.init_from)
    state, trained = load_weights(path, MODEL)
    for key in ("timesteps", "schedule", "prediction", "num_groups"):
        if trained[key] != getattr(config, key):
            raise UserError(f"{path}: trained with {key} {trained[key]}, asked for {getattr(config, key)}")
    return state, file_digest(path)


def lr_factor(step: int, config: TrainConfig | DistillConfig) -> float:
    """Return the fraction of the peak learning rate: linear warm-up, then linear decay to a hundredth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 1 - 0.99 * progress


def save_sample_grid(
    model: Network, diffusion: Diffusion, trained: Mapping[str, Any], path: Path, device: torch.device
) -> None:
    """Sample each digit (rows) from the same eight noises (columns), without touching the run's random state."""
    noise = torch.randn(8, 3, DIGIT_SIZE, DIGIT_SIZE, generator=generator(0, "sample grid")).repeat(10, 1, 1, 1)
    class_labels = torch.arange(1, 11, device=device).repeat_interleave(8)
    with autocast(device, trained["precision"]):
        images = sample(model, diffusion, class_labels, to_device(noise, device), default_sampler(trained))
    save_grid(to_uint8(images), path, columns=8)


def main() -> None:
    """Parse the command line, train, and write weights, record and curves."""
    parser = make_parser(__doc__)
    parser.add_argument("--preset", choices=PRESETS, default=DEFAULT_PRESET, help="schedule and size")
    add_common_arguments(parser)
    add_run_arguments(parser)
    arguments, config = parse_config(parser, lambda arguments: PRESETS[arguments.preset])
    with init_distributed(arguments.device) as dist:
        dist.check_batch_size(config.batch_size)
        images, labels = load_mnistm(arguments.data_root, "train", dist.device)
        settings = asdict(config) | {"model": MODEL, "method": "ddpm"}
        settings |= {"dataset": dataset_name(arguments.data_root, DOMAIN), "train_digest": digest(images, labels)}
        initial, settings["init_digest"] = load_initial(config)
        run = TrainingRun(arguments, dist, "p2", "p2", settings)
        if run.is_finished():
            return
        train(run, config, dist, images, labels, initial)
        run.finish(
            PANELS,
            train_images=len(images),
            epochs=round(config.steps * config.batch_size / len(images), 1),
            final_loss=round(run.mean_of_last_quarter("loss"), 6) if run.entries else None,
        )


if __name__ == "__main__":
    run_main(main)
