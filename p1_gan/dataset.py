"""The faces that the GAN learns from and is compared with."""

from __future__ import annotations

from pathlib import Path

from common.data import FACE_SIZE, check_root, list_images, load_images

import torch


def load_faces(data_root: Path, split: str) -> torch.Tensor:
    """Return the faces of ``train`` or ``val``: uint8 (N, 3, 64, 64)."""
    check_root(data_root)
    folder = data_root / "face" / split
    return load_images(folder, list_images(folder), FACE_SIZE, data_root / f"face/.cache/{split}.safetensors")


def random_flip(images: torch.Tensor) -> torch.Tensor:
    """Mirror each image (N, C, H, W) left to right with probability one half."""
    flip = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flip, images.flip(3), images)
