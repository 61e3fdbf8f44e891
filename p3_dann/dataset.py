"""What each mode of P3 may see, and in which order."""

from __future__ import annotations

from pathlib import Path

import torch

from common.dataset import load_digit_images, load_digits

SOURCE = "mnistm"


def load_labelled(data_root: Path, mode: str, target: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pictures a mode learns digits from, uint8 (N, 3, 28, 28), and their labels (N,).

    Only mode ``target`` opens the target's labels.
    """
    return load_digits(data_root, target if mode == "target" else SOURCE, "train")


def load_unlabelled(data_root: Path, target: str) -> torch.Tensor:
    """Return the target's training pictures, uint8 (N, 3, 28, 28); its labels are never read."""
    return load_digit_images(data_root, target, "train")
