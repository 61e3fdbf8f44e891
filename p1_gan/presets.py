"""Every setting of P1, in one place: the presets of each method. Each field is an option of train.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.cli import option
from p1_gan.augment import AUGMENTATIONS
from p1_gan.model import CHANNELS


@dataclass(frozen=True)
class TrainConfig:
    """One configuration; the defaults are method A, DCGAN as Radford et al. (2016, section 4) train it."""

    # Networks (see p1_gan/model.py)
    channels: int = option(CHANNELS, "width of both networks at 32x32, doubled as the size halves", minimum=1)

    initial_weights: str = option("", "weights to start from: a file, or the name of one in weights/ (empty: random)")

    # Losses and optimisers
    loss: str = option("bce", "adversarial loss", choices=("bce", "hinge"))
    optimizer: str = option("adam", "optimiser of both networks", choices=("adam", "adamw"))
    generator_learning_rate: float = option(2e-4, "learning rate of the generator", above=0)
    discriminator_learning_rate: float = option(
        2e-4, "learning rate of the discriminator; twice the generator's in B (Heusel et al., TTUR, 2017)", above=0
    )
    beta1: float = option(0.5, "first momentum of both optimisers", minimum=0, below=1)
    weight_decay: float = option(0.0, "decoupled weight decay (adamw)", minimum=0)
    real_label: float = option(
        1.0, "what the discriminator should say of real pictures (below 1: smoothing)", above=0, maximum=1
    )

    # What the discriminator sees
    instance_noise: float = option(0.0, "standard deviation of noise on its inputs at the start", minimum=0)
    instance_noise_share: float = option(0.5, "share of the steps after which that noise is gone", minimum=0, maximum=1)
    diff_augment: tuple[str, ...] = option(
        (), "differentiable augmentations of real and fake pictures", choices=tuple(AUGMENTATIONS)
    )

    # Schedule
    steps: int = option(40_000, "optimiser steps of each network", minimum=1)
    batch_size: int = option(128, "pictures a step, over all processes", minimum=2)
    decay_share: float = option(
        0.0, "share of the steps, at the end, over which both learning rates fall linearly to 0", minimum=0, maximum=1
    )
    ema_decay: float = option(
        0.0, "decay of the averaged generator that samples, 0 for the generator itself", minimum=0, below=1
    )

    # Machine and logs
    precision: str = option("auto", "bf16 where it is fast, or force one", choices=("auto", "bf16", "fp32"))
    compile: bool = option(False, "torch.compile both networks; cuDNN then picks kernels by timing them")
    log_every: int = option(50, "steps between rows of stats.jsonl", minimum=1)
    grid_every: int = option(1000, "steps between grids of the fixed latents", minimum=1)


# Method B: the ingredients of the original report, then averaging and differentiable augmentation.
_B = TrainConfig(
    optimizer="adamw",
    generator_learning_rate=2e-4,
    discriminator_learning_rate=4e-4,
    weight_decay=1e-4,
    real_label=0.9,
    instance_noise=0.1,
    diff_augment=("translation",),
    decay_share=0.25,
    ema_decay=0.999,
)
_SCHEDULES = {
    "full": {},
    "cpu": {"steps": 15_000, "batch_size": 32},
    "sample": {"channels": 16, "steps": 1500, "batch_size": 16, "grid_every": 150, "log_every": 25},
}

PRESETS_A = {name: replace(TrainConfig(), **schedule) for name, schedule in _SCHEDULES.items()}
PRESETS_B = {name: replace(_B, **schedule) for name, schedule in _SCHEDULES.items()} | {
    "sample": replace(_B, **_SCHEDULES["sample"], ema_decay=0.99)  # so few steps need a shorter memory
}
