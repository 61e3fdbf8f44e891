"""Whether a network runs faster on images in channels_last (NHWC) or in torch's default order (NCHW)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch
from torch import nn

from common.device import autocast
from p1_gan.model import LATENT_SIZE, DCGAN_Discriminator, DCGAN_Generator
from p2_diffusion.model import UNet
from p2_diffusion.presets import PRESETS
from p2_diffusion.train import build_model
from p3_dann.model import DANN_model

ORDERS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
WARM_UP = 2


def p1(batch_size: int, device: torch.device, order: torch.memory_format) -> Callable[[], list[torch.Tensor]]:
    """Return a forward pass through both networks of the DCGAN."""
    g, d = (network.to(device, memory_format=order) for network in (DCGAN_Generator(), DCGAN_Discriminator()))
    latents = torch.randn(batch_size, LATENT_SIZE, 1, 1, device=device)
    return lambda: [d(g(latents), logits=True)]


def p2(batch_size: int, device: torch.device, order: torch.memory_format) -> Callable[[], list[torch.Tensor]]:
    """Return a forward pass through the U-Net of the report."""
    return unet(UNet(), batch_size, device, order)


def p2_cpu(batch_size: int, device: torch.device, order: torch.memory_format) -> Callable[[], list[torch.Tensor]]:
    """Return a forward pass through the narrower U-Net of preset cpu."""
    return unet(build_model(asdict(PRESETS["cpu"])), batch_size, device, order)


def unet(
    network: UNet, batch_size: int, device: torch.device, order: torch.memory_format
) -> Callable[[], list[torch.Tensor]]:
    """Return a forward pass through ``network``."""
    network = network.to(device, memory_format=order)
    images = torch.randn(batch_size, 3, 28, 28).to(device, memory_format=order)
    integers = torch.arange(batch_size, device=device)
    return lambda: [network(images, integers % 200, integers % 11)]


def p3(batch_size: int, device: torch.device, order: torch.memory_format) -> Callable[[], list[torch.Tensor]]:
    """Return a forward pass of source and target through the DANN."""
    network: nn.Module = DANN_model().to(device, memory_format=order)
    images = torch.randn(2 * batch_size, 3, 28, 28).to(device, memory_format=order)
    return lambda: list(network(images, 0.5))


PASSES = {"p1": p1, "p2": p2, "p2-cpu": p2_cpu, "p3": p3}


def time_layouts(problem: str, batch_size: int, trials: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of a forward and backward pass in each order; the orders take turns."""
    forward = {name: PASSES[problem](batch_size, device, order) for name, order in ORDERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ORDERS}
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    for trial in range(-WARM_UP, trials):
        for name in ORDERS:
            begun = time.perf_counter()
            with autocast(device):
                outputs = forward[name]()
            sum(output.float().square().mean() for output in outputs).backward()
            wait()
            if trial >= 0:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(measured) for name, measured in seconds.items()}
