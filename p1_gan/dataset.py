"""Batches of real faces."""

from __future__ import annotations

from common.data import EpochSampler
from common.images import normalize

import torch


class FaceBatches:
    """Endless shuffled batches of faces, mirrored at random: a pure function of step and global random state."""

    def __init__(self, faces: torch.Tensor, batch_size: int, seed: int, device: torch.device) -> None:
        """Keep ``faces``, uint8 (N, 3, 64, 64), on ``device``."""
        self.faces = faces.to(device)
        self.sampler = EpochSampler(len(faces), batch_size, seed, "train", device)

    def __call__(self, step: int) -> torch.Tensor:
        """Return the batch of ``step``: float32 (batch_size, 3, 64, 64) in [-1, 1]."""
        return random_flip(normalize(self.faces[self.sampler(step)]))


def random_flip(images: torch.Tensor) -> torch.Tensor:
    """Mirror each image (N, C, H, W) left to right with probability one half."""
    flip = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flip, images.flip(3), images)
