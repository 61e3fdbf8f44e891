"""Train a face generator against a discriminator.

    python p1_gan/train.py --method A                     # DCGAN; preset cpu
    python p1_gan/train.py --method B --preset full       # the SN-GAN variant on a GPU
    python p1_gan/train.py --method B --loss hinge        # one setting changed
    python p1_gan/train.py --method B --data-root mine --init-from p1_gan_B.safetensors --steps 2000 --run-dir runs/mine
    torchrun --nproc_per_node 2 p1_gan/train.py --method B

Rerun the same command to resume; on a CPU the result is bit-identical to that of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, add_run_arguments, make_parser, parse_config, run_main
from common.data import EpochSampler, dataset_name, digest
from common.device import Distributed, autocast, init_distributed, to_device
from common.files import file_digest
from common.seed import generator
from common.training import ExponentialMovingAverage, TrainingRun
from common.viz import normalize, save_grid, to_uint8
from common.weights import load_into, load_weights, save_weights, shipped_path
from p1_gan.augment import diff_augment
from p1_gan.config import METHODS, PRESETS, TrainConfig, add_method_argument, make_config
from p1_gan.dataset import load_faces, random_flip
from p1_gan.losses import discriminator_loss, generator_loss
from p1_gan.model import LATENT_SIZE

import torch
from torch import nn

PANELS = {"losses": ["loss_d", "loss_g"], "discriminator": ["d_real", "d_fake"]}
SAMPLES = 32  # fixed latents, sampled again and again in the course of a run


def train(run: TrainingRun, config: TrainConfig, faces: torch.Tensor) -> None:
    """Train generator G and discriminator D on ``faces``, uint8 (N, 3, 64, 64) (Goodfellow et al., 2014, algorithm 1).

    The weights of the run are those of the averaged generator and of the discriminator.
    """
    dist, device, method = run.dist, run.dist.device, METHODS[run.config["method"]]
    torch.manual_seed(run.config["seed"])
    g, d = method.generator(config.channels), method.discriminator(config.channels)
    if config.init_from:
        path = shipped_path(config.init_from)
        networks = nn.ModuleDict({"generator": g, "discriminator": d})
        load_into(networks, load_weights(path, run.config["model"])[0], path)
    g, d = to_device(g, device), to_device(d, device)
    ema = ExponentialMovingAverage(g, config.ema_decay)
    adam = partial(torch.optim.AdamW, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay, fused=True)
    optimizer_g = adam(g.parameters(), lr=config.generator_learning_rate)
    optimizer_d = adam(d.parameters(), lr=config.discriminator_learning_rate)
    g_network, d_network = dist.ddp(g), dist.ddp(d)
    faces, sampler = faces.to(device), EpochSampler(len(faces), config.batch_size, run.config["seed"], "train", device)

    weights = nn.ModuleDict({"generator": ema.model, "discriminator": d})
    run.resume(weights, generator=g, discriminator=d, ema=ema, optimizer_g=optimizer_g, optimizer_d=optimizer_d)
    for step in run.steps(config.steps, config.batch_size):
        # Learning rates: constant, then linearly to 0
        optimizer_g.param_groups[0]["lr"] = config.generator_learning_rate * lr_factor(step, config)
        optimizer_d.param_groups[0]["lr"] = config.discriminator_learning_rate * lr_factor(step, config)

        # A batch of real images x and of latents z ~ N(0, I)
        real = to_device(random_flip(normalize(faces[dist.shard(sampler(step))])), device)
        latents = torch.randn(len(real), LATENT_SIZE, 1, 1, device=device)

        # D(T(x)) and D(T(G(z))), T: random augmentation and noise
        with autocast(device, config.precision):
            fake = g_network(latents)
            real_logits = d_network(augment(real, step, config), logits=True).float()
            fake_logits = d_network(augment(fake.detach(), step, config), logits=True).float()

        # Discriminator step: L_D, by default -log D(x) - log(1 - D(G(z))), computed from logits
        loss_d = discriminator_loss(real_logits, fake_logits, config.loss, config.real_label)
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()

        # Generator step: L_G, by default -log D(G(z)), with the new D
        d.requires_grad_(False)
        with autocast(device, config.precision):
            # Not d_network: its wrapper would wait for gradients of D, of which this pass has none.
            new_fake_logits = d(augment(fake, step, config), logits=True).float()
        loss_g = generator_loss(new_fake_logits, config.loss)
        optimizer_g.zero_grad()
        loss_g.backward()
        optimizer_g.step()
        d.requires_grad_(True)

        # Average of G's weights
        ema.update(g)

        run.check_finite(loss_d, loss_g)
        if (step + 1) % config.log_every == 0:
            d_real, d_fake = real_logits.detach().sigmoid().mean(), fake_logits.detach().sigmoid().mean()
            run.log(loss_d=loss_d, loss_g=loss_g, d_real=d_real, d_fake=d_fake)
        if (step + 1) % config.sample_every == 0 or step + 1 == config.steps:
            save_snapshot(run, ema.model, config)


def augment(images: torch.Tensor, step: int, config: TrainConfig) -> torch.Tensor:
    """Return what the discriminator sees of ``images``: augmented, at first with noise."""
    images = diff_augment(images, config.diff_augment)
    level = noise_level(step, config)
    # Not randn_like: in channels_last order a CPU samples its numbers one by one, eight times slower.
    return images + level * torch.randn(images.shape, device=images.device) if level else images


def noise_level(step: int, config: TrainConfig) -> float:
    """Return the standard deviation of the instance noise, linearly falling (Sønderby et al., 2017, section 3.2)."""
    return config.instance_noise * max(0.0, 1 - step / (config.noise_fraction * config.steps))


def lr_factor(step: int, config: TrainConfig) -> float:
    """Return the factor of both learning rates: 1, then linearly down to 0 at the end."""
    last = config.steps * config.lr_decay_fraction
    return min(1.0, (config.steps - step) / last) if last else 1.0


@torch.no_grad()
def save_snapshot(run: TrainingRun, model: nn.Module, config: TrainConfig) -> None:
    """Write a grid of the fixed latents and the averaged generator of now, in half precision, into the run's folder."""
    if not run.dist.is_main_process:
        return
    latents = torch.randn(SAMPLES, LATENT_SIZE, 1, 1, generator=generator(0, "fixed latents"))
    with autocast(run.dist.device, config.precision):
        images = to_uint8(model(latents.to(run.dist.device)))
    done = run.step + 1
    save_grid(images, run.folder / "grids" / f"{done:06d}.png", columns=8)
    state = {f"generator.{name}": value for name, value in model.state_dict().items()}
    save_weights(run.folder / "snapshots" / f"{done:06d}.safetensors", state, run.config | {"step": done}, half=True)


def run_training(
    arguments: argparse.Namespace, dist: Distributed, config: TrainConfig, faces: torch.Tensor
) -> TrainingRun:
    """Train ``arguments.method`` unless the run is finished, and return it."""
    dist.check_batch_size(config.batch_size, min_per_process=2)
    facts = {"model": f"p1_gan/{arguments.method}", "method": arguments.method}
    facts |= {"dataset": dataset_name(arguments.data_root, "face"), "train_digest": digest(faces)}
    if config.init_from:
        facts["init_digest"] = file_digest(shipped_path(config.init_from))
    run = TrainingRun(arguments, dist, "p1", f"p1_{arguments.method}", asdict(config) | facts)
    if not run.is_finished():
        train(run, config, faces)
        means = {key: round(run.mean_of_last_quarter(key), 6) for key in PANELS["discriminator"] if run.entries}
        run.finish(PANELS, **means)
    return run


def main() -> None:
    parser = make_parser(__doc__)
    add_method_argument(parser)
    add_common_arguments(parser)
    add_run_arguments(parser, PRESETS)
    arguments, config = parse_config(parser, lambda chosen: make_config(chosen.method, chosen.preset))
    with init_distributed(arguments.device) as dist:
        run_training(arguments, dist, config, load_faces(arguments.data_root, "train"))


if __name__ == "__main__":
    run_main(main)
