"""The digits that the diffusion model and the evaluation classifier learn from: MNIST-M."""

from __future__ import annotations

from pathlib import Path

from common.data import load_digits

import torch

DOMAIN = "mnistm"


def load_mnistm(data_root: Path, split: str, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Return images uint8 (N, 3, 28, 28) and labels int64 (N,), 0..9, on ``device``."""
    images, labels = load_digits(data_root, DOMAIN, split)
    return images.to(device), labels.to(device)
