"""Train the class-conditional diffusion model on MNIST-M (Ho et al., 2020, algorithm 1, with label dropout).

    python p2_diffusion/train.py                       # preset cpu: two cores
    python p2_diffusion/train.py --preset full         # the network of the course report, for a GPU
    torchrun --nproc_per_node 2 p2_diffusion/train.py  # several processes share every batch

By default the network predicts v (Salimans and Ho, 2022) and the loss has min-SNR weights (Hang et al., 2023). Rerun
the same command to resume; on a CPU the result is bit-identical to that of an uninterrupted run.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, add_run_arguments, make_parser, parse_config, run_main
from common.data import EpochSampler
from common.device import autocast, init_distributed
from common.files import file_digest
from common.training import ExponentialMovingAverage, TrainingRun
from common.viz import normalize, save_grid
from common.weights import load_into, load_weights, shipped_path
from p2_diffusion.config import PRESETS, DistillConfig, TrainConfig, default_sampler
from p2_diffusion.dataset import load_mnistm
from p2_diffusion.diffusion import Diffusion, build_diffusion
from p2_diffusion.inference import generate
from p2_diffusion.model import MODEL, NULL_LABEL, build_model, to_unet_device

import torch
from torch import nn

LOSS_LEVELS = 4  # the loss is logged for this many equal ranges of timesteps, 0 with the least noise
PANELS = {"loss": ["loss"], "loss by noise level": [f"loss_level_{k}" for k in range(LOSS_LEVELS)]}


def train(run: TrainingRun, config: TrainConfig, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Train on images uint8 (N, 3, 28, 28) and labels int64 (N,)."""
    dist, device, seed = run.dist, run.dist.device, run.config["seed"]
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = not config.compile, config.compile
    model = build_model(run.config)
    if config.init_from:
        path = shipped_path(config.init_from)
        load_into(model, load_weights(path, MODEL)[0], path)
    model = to_unet_device(model, device)
    diffusion = build_diffusion(run.config, device)
    ema = ExponentialMovingAverage(model, config.ema_decay)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), fused=True)
    batches = EpochSampler(len(images), config.batch_size, seed, "train", device)
    network = dist.ddp(torch.compile(model) if config.compile else model)  # type: ignore[arg-type]

    run.resume(ema.model, model=model, ema=ema, optimizer=optimizer)
    for step in run.steps(config.steps, config.batch_size):
        # x_0 ~ q(x_0), t ~ Uniform(0..T-1), eps ~ N(0, I)
        batch = dist.shard(batches(step))
        x0 = to_unet_device(normalize(images[batch]), device)
        t = torch.randint(config.timesteps, (len(batch),), device=device)
        eps = torch.randn_like(x0)
        # y: the class label, or the null label for a fraction of the samples (Ho and Salimans, 2022, algorithm 1)
        dropped = torch.rand(len(batch), device=device) < config.label_dropout
        class_labels = torch.where(dropped, NULL_LABEL, labels[batch] + 1)

        # weight_t || target - network(alpha_t x_0 + sigma_t eps, t, y) ||^2, the mean over pixels
        # target: v = alpha_t eps - sigma_t x_0, or eps; weight: min-SNR
        with autocast(device, config.precision):
            losses = diffusion.losses(network, x0, eps, t, class_labels)
        loss = losses.mean()

        # gradient step, then the moving average of the weights
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * lr_factor(step, config)
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
            save_samples(run, ema.model, diffusion)


def lr_factor(step: int, config: TrainConfig | DistillConfig) -> float:
    """Return the fraction of the peak learning rate: linear warm-up, then linear decay to a hundredth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 1 - 0.99 * progress


def save_samples(run: TrainingRun, model: nn.Module, diffusion: Diffusion) -> None:
    """Write a row of samples of each digit, without touching the run's random state."""
    digits = [digit for digit in range(10) for _ in range(8)]
    images = generate(model, diffusion, digits, default_sampler(run.config), seed=0)
    save_grid(images, run.folder / f"samples_{run.step + 1:06d}.png", columns=8)


def main() -> None:
    parser = make_parser(__doc__)
    add_common_arguments(parser)
    add_run_arguments(parser, PRESETS)
    arguments, config = parse_config(parser, lambda arguments: PRESETS[arguments.preset])
    with init_distributed(arguments.device) as dist:
        dist.check_batch_size(config.batch_size)
        images, labels, data_names = load_mnistm(arguments.data_root, "train", dist.device)
        settings = asdict(config) | {"model": MODEL, "method": "ddpm", "init_digest": ""} | data_names
        if config.init_from:
            path = shipped_path(config.init_from)
            _, trained = load_weights(path, MODEL)
            for name in ("prediction", "schedule"):
                if trained[name] != getattr(config, name):
                    raise UserError(f"{path}: pass --{name} {trained[name]}, which it was trained with")
            settings["init_digest"] = file_digest(path)
        run = TrainingRun(arguments, dist, "p2", "p2", settings)
        if run.is_finished():
            return
        train(run, config, images, labels)
        run.finish(PANELS, train_images=len(images))


if __name__ == "__main__":
    run_main(main)
