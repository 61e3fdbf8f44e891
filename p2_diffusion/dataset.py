"""The digits that the diffusion model and the evaluation classifier learn from: MNIST-M."""

from __future__ import annotations

from pathlib import Path

from common.data import dataset_name, digest, load_digits

import torch


def load_mnistm(
    data_root: Path, split: str, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor, dict[str, str]]:
    """Return images uint8 (N, 3, 28, 28) and labels int64 (N,), 0..9, on ``device``, and how records name them."""
    images, labels = load_digits(data_root, "mnistm", split)
    names = {"dataset": dataset_name(data_root, "mnistm"), f"{split}_digest": digest(images, labels)}
    return images.to(device), labels.to(device), names
