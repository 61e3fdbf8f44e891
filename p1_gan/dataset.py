"""The faces, all in memory on one device."""

from __future__ import annotations

from pathlib import Path

import torch

from common.dataset import load_faces


def load_train_faces(data_root: Path, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return the training faces, uint8 (N, 3, 64, 64), on ``device``."""
    return load_faces(data_root, "train").to(device)


def random_flip(images: torch.Tensor) -> torch.Tensor:
    """Mirror each picture (N, C, H, W) left to right with probability one half."""
    flip = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flip, images.flip(3), images)
