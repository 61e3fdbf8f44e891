"""Train a face generator: method A is DCGAN (Radford et al., 2016), method B the SN-GAN variant of the report.

    python p1_gan/train.py --method A                     # preset cpu
    python p1_gan/train.py --method B --preset full       # a GPU
    python p1_gan/train.py --method B --diff-augment --ema-decay 0   # two ingredients switched off
    python p1_gan/train.py --method B --data-root mine --initial-weights p1_gan_B.safetensors --steps 2000
    torchrun --nproc_per_node 2 p1_gan/train.py --method B

Stopped or killed, the same command goes on from the last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.batches import Batches
from common.cli import add_common_arguments, add_preset_arguments, add_run_arguments, make_parser, resolve_config
from common.dataset import described
from common.device import autocast, place
from common.distributed import World, join_world
from common.ema import ExponentialMovingAverage
from common.errors import run_main
from common.pictures import to_network
from common.run import Job, Run
from common.seed import seed_everything
from common.weights import find_weights, load_initial, load_into
from p1_gan.augment import diff_augment
from p1_gan.dataset import load_train_faces, random_flip
from p1_gan.losses import discriminator_loss, generator_loss
from p1_gan.methods import METHODS, add_method_argument, kind_of, pair
from p1_gan.model import LATENT_SIZE
from p1_gan.presets import TrainConfig
from p1_gan.watch import grid_steps, is_healthy, save_last_good, save_strip, watch

PANELS = {
    "losses": ["loss_d", "loss_g"],
    "discriminator": ["d_real", "d_fake"],
    "fixed latents": ["face_rate", "variety"],
}


def train(
    job: Job,
    config: TrainConfig,
    world: World,
    faces: torch.Tensor,
    initial: dict[str, torch.Tensor] | None = None,
) -> Run:
    """Train both networks on ``faces``, uint8 (N, 3, 64, 64), to the last step (Goodfellow et al., 2014, algorithm 1).

    ``initial`` are the weights to start from; None for random ones.

    Returns:
        The run, whose weights are those of the averaged generator and the discriminator.
    """
    device, batch_size, seed = world.device, config.batch_size, job.config["seed"]
    seed_everything(seed, deterministic=not config.compile)
    method = METHODS[job.config["method"]]
    g, d = method.generator(config.channels), method.discriminator(config.channels)
    if initial is not None:
        load_into(pair(g, d), initial, find_weights(config.initial_weights))
    g, d = place(g, device), place(d, device)
    ema = ExponentialMovingAverage(g, config.ema_decay)
    optimizer_g = make_optimizer(g.parameters(), config.generator_learning_rate, config)
    optimizer_d = make_optimizer(d.parameters(), config.discriminator_learning_rate, config)
    batches = Batches(len(faces), batch_size, seed, "train", device)
    g_network = world.wrap(torch.compile(g) if config.compile else g)
    fast_d = torch.compile(d) if config.compile else d
    d_network = world.wrap(fast_d)

    def shown(images: torch.Tensor, step: int) -> torch.Tensor:
        """Return what the discriminator sees of real or generated pictures."""
        images = diff_augment(images, config.diff_augment)
        level = noise_level(step, config)
        # Not randn_like: in channels_last order its numbers are drawn one by one on a CPU, eight times slower.
        return images + level * torch.randn(images.shape, device=device) if level else images

    state = {"generator": g, "discriminator": d, "ema": ema, "optimizer_g": optimizer_g, "optimizer_d": optimizer_d}
    with Run(job, world, state, pair(ema.model, d).state_dict, PANELS) as run:
        for step in run.steps(config.steps, batch_size):
            factor = learning_rate_factor(step, config)
            set_learning_rate(optimizer_g, config.generator_learning_rate * factor)
            set_learning_rate(optimizer_d, config.discriminator_learning_rate * factor)

            real = place(world.part(random_flip(to_network(faces[batches(step)]))), device)
            latents = world.part(torch.randn(batch_size, LATENT_SIZE, 1, 1, device=device))

            with autocast(device, config.precision):
                fake = g_network(latents)
                real_logits = d_network(shown(real, step), logits=True).float()
                fake_logits = d_network(shown(fake.detach(), step), logits=True).float()
            loss_d = discriminator_loss(real_logits, fake_logits, config.loss, config.real_label)
            optimizer_d.zero_grad()
            loss_d.backward()
            optimizer_d.step()

            d.requires_grad_(False)
            with autocast(device, config.precision):
                # Not d_network: its wrapper would wait for gradients of D, which this pass has none of.
                loss_g = generator_loss(fast_d(shown(fake, step), logits=True).float(), config.loss)
            optimizer_g.zero_grad()
            loss_g.backward()
            optimizer_g.step()
            d.requires_grad_(True)
            ema.update(g)

            run.guard(loss_d, loss_g)
            is_grid_due = step + 1 in grid_steps(config)
            if (step + 1) % config.log_every == 0 or is_grid_due:
                measured = watch(run, ema.model, config) if is_grid_due else {}
                d_real, d_fake = real_logits.detach().sigmoid().mean(), fake_logits.detach().sigmoid().mean()
                run.log(loss_d=loss_d, loss_g=loss_g, d_real=d_real, d_fake=d_fake, **measured)
                if is_healthy(run, config) and is_grid_due:
                    save_last_good(run)
    return run


def make_optimizer(
    parameters: Iterable[nn.Parameter], learning_rate: float, config: TrainConfig
) -> torch.optim.Optimizer:
    """Return Adam or AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019)."""
    betas = (config.beta1, 0.999)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, learning_rate, betas, weight_decay=config.weight_decay, fused=True)
    return torch.optim.Adam(parameters, learning_rate, betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Let every parameter of ``optimizer`` move at ``learning_rate`` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the learning rates at ``step``: 1, then linearly down to 0 at the end."""
    last = config.steps * config.decay_share
    return min(1.0, (config.steps - step) / last) if last else 1.0


def noise_level(step: int, config: TrainConfig) -> float:
    """Return the standard deviation of the instance noise, falling linearly to zero.

    Source: Sønderby et al., "Amortised MAP Inference for Image Super-resolution", 2017, section 3.2.
    """
    last = config.steps * config.instance_noise_share
    return config.instance_noise * max(0.0, 1 - step / last) if last else 0.0


def parse_arguments() -> argparse.Namespace:
    """Return the command line; the help shows the presets of the method on it, of A until one is chosen."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_method_argument(first, default="A")
    parser = make_parser(__doc__)
    add_method_argument(parser, required=True)
    add_common_arguments(parser)
    add_run_arguments(parser)
    add_preset_arguments(parser, METHODS[first.parse_known_args()[0].method].presets)
    return parser.parse_args()


def main() -> None:
    """Parse the command line, train, and write weights, curves and the record."""
    arguments = parse_arguments()
    method = arguments.method
    config = resolve_config(arguments, METHODS[method].presets)
    with join_world(arguments.device) as world:
        world.check_batch(config.batch_size, least=2)
        initial, which = load_initial(config.initial_weights, kind_of(method), {"channels": config.channels})
        data = {"method": method, **described(arguments.data_root, "face"), **which}
        name, key = f"p1_{method}", f"train/{method}/{arguments.preset}"
        if config.initial_weights:  # beside the training that made them
            name, key = f"{name}_continued", f"{key}/continued"
        job = Job.of(arguments, config, "p1", kind_of(method), name, key, **data)
        if job.is_finished(world):
            return
        faces = load_train_faces(arguments.data_root, world.device)
        run = train(job, config, world, faces, initial)
        if run.is_complete and world.is_writer:
            late = {name: round(run.late_mean(name), 6) for name in ("loss_d", "loss_g", "d_real", "d_fake")}
            final = {name: value for name, value in run.rows[-1].items() if name != "step"}
            epochs = round(config.steps * config.batch_size / len(faces), 1)
            save_strip(job, config)
            job.finish(run, train_images=len(faces), epochs=epochs, late=late, final=final)


if __name__ == "__main__":
    run_main(main)
