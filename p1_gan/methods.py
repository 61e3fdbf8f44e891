"""The table of methods: a new one is a new entry, and trains, samples and is reported with no other change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from common.device import place
from common.weights import load_into, load_weights
from p1_gan.model import DCGAN_Discriminator, DCGAN_Generator, My_Discriminator, My_Generator
from p1_gan.presets import PRESETS_A, PRESETS_B, TrainConfig


@dataclass(frozen=True)
class Method:
    """Two networks and how they are trained.

    Attributes:
        title: what the report calls it.
        generator: built with the width of the preset.
        discriminator: the same.
        presets: by name; ``cpu`` must be one of them.
    """

    title: str
    generator: type[DCGAN_Generator]
    discriminator: type[DCGAN_Discriminator]
    presets: Mapping[str, TrainConfig]


METHODS = {
    "A": Method("DCGAN", DCGAN_Generator, DCGAN_Discriminator, PRESETS_A),
    "B": Method("SN-GAN variant", My_Generator, My_Discriminator, PRESETS_B),
}


def kind_of(method: str) -> str:
    """Return the kind under which weights of ``method`` are saved."""
    return f"p1_gan/{method}"


def load_generator(checkpoint: Path, method: str, device: torch.device) -> DCGAN_Generator:
    """Return the generator of a weights file or checkpoint, ready to sample.

    Raises:
        UserError: missing, damaged, or of another model.
    """
    state, config = load_weights(checkpoint, kind_of(method))
    model = METHODS[method].generator(config["channels"])
    load_into(model, state, checkpoint)
    return place(model, device).eval().requires_grad_(False)
