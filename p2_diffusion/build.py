"""From a configuration or a weights file to the network and the diffusion process it was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.device import Placeable, place
from common.weights import load_into, load_weights
from p2_diffusion.diffusion import Diffusion
from p2_diffusion.model import UNet

KIND = "p2_diffusion/unet"


def build_model(config: Mapping[str, Any]) -> UNet:
    """Return the U-Net of a configuration (the fields of a TrainConfig)."""
    return UNet(
        num_timesteps=config["timesteps"],
        channels=config["channels"],
        channel_mults=config["channel_mults"],
        attention_levels=config["attention_levels"],
        num_res_blocks=config["num_res_blocks"],
        dropout=config["dropout"],
        num_groups=config["num_groups"],
    )


def build_diffusion(config: Mapping[str, Any]) -> Diffusion:
    """Return the diffusion process of a configuration (the fields of a TrainConfig)."""
    return Diffusion(config["timesteps"], config["schedule"], config["prediction"], config["min_snr_gamma"])


def to_device(thing: Placeable, device: torch.device) -> Placeable:
    """Move the U-Net, or pictures for it, to ``device`` in the memory order in which it runs fastest.

    Not that of the other networks: on a CPU torch's GroupNorm and attention are slower in channels_last, which the
    narrow network of preset cpu cannot make up for.
    """
    return place(thing, device, channels_last=device.type == "cuda")


def load_model(checkpoint: Path, device: torch.device) -> tuple[UNet, Diffusion, dict[str, Any]]:
    """Return the U-Net of a weights file or checkpoint, ready to sample, its process, and how it was trained.

    Raises:
        UserError: missing, damaged, or of another model.
    """
    state, config = load_weights(checkpoint, KIND)
    model = build_model(config)
    load_into(model, state, checkpoint)
    return to_device(model, device).eval().requires_grad_(False), build_diffusion(config).to(device), config
