"""Pretrained models for ``torch.hub.load``; each comes in evaluation mode on the CPU.

faces = torch.hub.load("OWNER/REPO", "face_generator")(torch.randn(16, 100, 1, 1))  # (16, 3, 64, 64) in [-1, 1]
digits = torch.hub.load("OWNER/REPO", "digit_sampler")([0, 1, 2], seed=0)           # uint8 (3, 3, 28, 28)
classes = torch.hub.load("OWNER/REPO", "digit_classifier", target="svhn")(images)   # uint8 (N, 3, 28, 28) -> int64 (N,)
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import torch

dependencies = ["torch", "numpy", "PIL", "safetensors", "tqdm"]
sys.path.insert(0, str(Path(__file__).resolve().parent))


def face_generator(method: str = "B") -> torch.nn.Module:
    """Return P1's generator: latents (N, 100, 1, 1) -> images (N, 3, 64, 64) in [-1, 1]."""
    from p1_gan.inference import load_generator, shipped_weights

    return load_generator(shipped_weights(method), torch.device("cpu"))[0]


def digit_sampler(network: str = "student4") -> Callable[..., torch.Tensor]:
    """Return P2's sampler, called with (digits, seed=0): a list of class labels 0-9 -> uint8 (N, 3, 28, 28)."""
    from p2_diffusion.inference import default_sampler, generate, load_model, shipped_weights

    model, diffusion, config = load_model(shipped_weights(network), torch.device("cpu"))
    return functools.partial(generate, model, diffusion, config=default_sampler(config), seed=0)


def digit_classifier(target: str = "svhn") -> Callable[[torch.Tensor], torch.Tensor]:
    """Return P3's adapted classifier: uint8 images (N, 3, 28, 28) -> digits int64 (N,)."""
    from p3_dann.inference import load_model, predict, shipped_weights

    network, config, _ = load_model(shipped_weights(target), torch.device("cpu"))
    return functools.partial(predict, network, config=config)
