"""Every setting of P1: the options of train.py, the methods, and the presets.

A method is what is trained and how; a preset is a schedule and a size. A new method is one entry of METHODS.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from common.cli import option
from p1_gan.model import CHANNELS, DCGAN_Discriminator, DCGAN_Generator, My_Discriminator, My_Generator


@dataclass(frozen=True)
class TrainConfig:
    """One configuration; the defaults are DCGAN with the optimizer of Radford et al. (2016, section 4)."""

    # Networks
    channels: int = option(CHANNELS, "width of both networks at 32x32, doubled as the size halves", "[1, inf)")
    init_from: str = option("", "initial weights of both networks: a file, or the name of one in weights/")

    # Losses
    loss: Literal["bce", "hinge"] = option("bce", "adversarial loss")
    real_label: float = option(1.0, "target of bce for real images (below 1: one-sided label smoothing)", "(0, 1]")

    # Optimizers: AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019), without decay Adam
    generator_learning_rate: float = option(2e-4, "learning rate of the generator", "(0, inf)")
    discriminator_learning_rate: float = option(2e-4, "learning rate of the discriminator", "(0, inf)")
    beta1: float = option(0.5, "beta_1 of both optimizers: decay of the first moment", "[0, 1)")
    beta2: float = option(0.999, "beta_2: decay of the second moment", "[0, 1)")
    weight_decay: float = option(0.0, "decoupled weight decay", "[0, inf)")
    ema_decay: float = option(0.0, "EMA decay of the generator that samples; 0 for none", "[0, 1)")

    # Inputs of the discriminator
    instance_noise: float = option(0.0, "initial standard deviation of noise on D's inputs", "[0, inf)")
    noise_fraction: float = option(0.1, "first fraction of the steps, over which that noise falls to 0", "(0, 1]")
    diff_augment: tuple[Literal["color", "translation", "cutout"], ...] = option((), "differentiable augmentations")

    # Schedule
    steps: int = option(62_500, "optimizer steps of each network", "[1, inf)")
    batch_size: int = option(32, "images per step, over all processes", "[2, inf)")
    lr_decay_fraction: float = option(0.0, "last fraction of the steps, over which learning rates fall to 0", "[0, 1]")

    # Machine and logs
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "autocast; auto is bf16 where it is fast")
    log_every: int = option(50, "steps between log entries", "[1, inf)")
    sample_every: int = option(5000, "steps between sample grids and snapshots of the generator", "[1, inf)")


@dataclass(frozen=True)
class Method:
    """Two networks, and the fields of TrainConfig that differ from DCGAN's."""

    title: str
    generator: type[DCGAN_Generator]
    discriminator: type[DCGAN_Discriminator]
    fields: Mapping[str, Any]


METHODS = {
    "A": Method("DCGAN", DCGAN_Generator, DCGAN_Discriminator, {}),
    "B": Method(
        "SN-GAN variant",
        My_Generator,
        My_Discriminator,
        {
            "discriminator_learning_rate": 3e-4,  # two time scales (Heusel et al., 2017)
            "weight_decay": 1e-4,
            "real_label": 0.9,
            "instance_noise": 0.1,
            "diff_augment": ("translation",),
            "lr_decay_fraction": 1.0,
            "ema_decay": 0.999,
        },
    ),
}
DEFAULT_METHOD = "B"

PRESETS: dict[str, dict[str, Any]] = {
    "sample": {"channels": 16, "steps": 1500, "batch_size": 16, "sample_every": 150, "log_every": 25},
    # In a long run DCGAN's learning rates decay too, over the second half.
    "cpu": {"lr_decay_fraction": 0.5},
    "full": {"steps": 40_000, "batch_size": 128, "sample_every": 4000, "lr_decay_fraction": 0.5},
}


def make_config(method: str, preset: str) -> TrainConfig:
    """Return the configuration of a method on a schedule."""
    return TrainConfig(**{**PRESETS[preset], **METHODS[method].fields})


def add_method_argument(parser: argparse._ActionsContainer) -> None:
    """Add --method, whose help is the table of methods."""
    titles = "; ".join(f"{name}: {method.title}" for name, method in METHODS.items())
    parser.add_argument("--method", choices=METHODS, default=DEFAULT_METHOD, help=titles)
