"""The table of methods: a new one is a new entry, and trains, samples and is reported with no other change."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.device import place
from common.paths import WEIGHTS
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
        presets: by name; ``cpu`` must be one of them. scripts/train_p1.sh names the methods of the report.
    """

    title: str
    generator: type[DCGAN_Generator]
    discriminator: type[DCGAN_Discriminator]
    presets: Mapping[str, TrainConfig]


METHODS = {
    "A": Method("DCGAN", DCGAN_Generator, DCGAN_Discriminator, PRESETS_A),
    "B": Method("SN-GAN variant", My_Generator, My_Discriminator, PRESETS_B),
}


DEFAULT_METHOD = "B"  # whose pictures are drawn unless a checkpoint or --method says otherwise


def kind_of(method: str) -> str:
    """Return the kind under which weights of ``method`` are saved: both networks, the generator averaged."""
    return f"p1_gan/{method}"


def pair(generator: nn.Module, discriminator: nn.Module) -> nn.ModuleDict:
    """Return both networks as one, whose weights a file holds."""
    return nn.ModuleDict({"generator": generator, "discriminator": discriminator})


def add_method_argument(parser: argparse.ArgumentParser, unset: str = "", **options: Any) -> None:
    """Add --method, whose help is the table of methods."""
    titles = "; ".join(f"{name}: {method.title}" for name, method in METHODS.items())
    parser.add_argument("--method", choices=METHODS, help=titles + unset, **options)


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --method and --checkpoint, which name the generator that draws."""
    add_method_argument(parser, unset=f" (unset: that of --checkpoint, else {DEFAULT_METHOD})")
    parser.add_argument("--checkpoint", type=Path, default=None, help="weights of your own (unset: weights/)")


def load_generator(
    checkpoint: Path | None, method: str | None, device: torch.device
) -> tuple[DCGAN_Generator, dict[str, Any]]:
    """Return the generator of a weights file or checkpoint, ready to sample, and how it was trained.

    Args:
        checkpoint: None takes the weights that come with the repository.
        method: whose they must be; None takes any checkpoint's, and DEFAULT_METHOD's of the repository.
        device: where it will run.

    Raises:
        UserError: missing, damaged, or of another model.
    """
    path = weights_path(checkpoint, method)
    state, config = load_weights(path, *map(kind_of, [method] if method else METHODS))
    state = {name.removeprefix("generator."): value for name, value in state.items() if name.startswith("generator.")}
    model = METHODS[config["method"]].generator(config["channels"])
    load_into(model, state, path)
    return place(model, device).eval().requires_grad_(False), config


def weights_path(checkpoint: Path | None, method: str | None) -> Path:
    """Return ``checkpoint``, or where it is None the file that comes with the repository."""
    return checkpoint or WEIGHTS / f"p1_gan_{method or DEFAULT_METHOD}.safetensors"
