"""The digits that the diffusion model and its judge learn from."""

from __future__ import annotations

from pathlib import Path

import torch

from common.dataset import load_digits

DOMAIN = "mnistm"


def load_mnistm(data_root: Path, split: str, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures uint8 (N, 3, 28, 28) and labels int64 (N,), 0..9, on ``device``."""
    images, labels = load_digits(data_root, DOMAIN, split)
    return images.to(device), labels.to(device)
