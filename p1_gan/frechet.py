"""A Fréchet distance on features that need no download: HOG and colour, reduced by PCA.

FID compares Gaussians fitted to Inception features (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule",
2017, section 2). Its weights cannot be had everywhere, so this distance stands beside it under its own name, FD-HOG:
the same formula on histograms of oriented gradients (Dalal and Triggs, 2005), which see shapes and strokes, and an 8x8
thumbnail, which sees colour and light. Its values are not comparable with FID's, only with each other and its floor.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch.nn import functional as F

from common.frechet import frechet_distance

CELL = 8
ORIENTATIONS = 9
COMPONENTS = 128


def hog(images: torch.Tensor) -> torch.Tensor:
    """Return histograms of unsigned gradient orientation over 8x8 cells, normalised over 2x2 cells.

    Args:
        images: uint8 (N, 3, H, W).

    Returns:
        float32 (N, (H/8 - 1) * (W/8 - 1) * 36), non-negative.
    """
    grey = images.float().mean(1, keepdim=True) / 255.0
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    gradient_x = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    gradient_y = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    strength = (gradient_x.square() + gradient_y.square()).sqrt()
    position = torch.atan2(gradient_y, gradient_x).remainder(math.pi) / math.pi * ORIENTATIONS
    low = position.floor()
    share = position - low
    bins = torch.zeros(len(grey), ORIENTATIONS, *grey.shape[2:])
    bins.scatter_add_(1, low.long() % ORIENTATIONS, strength * (1 - share))
    bins.scatter_add_(1, (low.long() + 1) % ORIENTATIONS, strength * share)
    cells = F.avg_pool2d(bins, CELL)
    blocks = F.unfold(cells, kernel_size=2).transpose(1, 2)
    return F.normalize(blocks, dim=2, eps=1e-3).flatten(1)


def describe_pictures(images: torch.Tensor, batch_size: int = 500) -> np.ndarray:
    """Return the features before PCA of uint8 (N, 3, 64, 64): float32 (N, D)."""
    parts = []
    for batch in images.split(batch_size):
        thumbnail = F.adaptive_avg_pool2d(batch.float() / 255.0, 8).flatten(1)
        parts.append(torch.cat([hog(batch), thumbnail], dim=1))
    return torch.cat(parts).numpy()


class FDHOG:
    """FD-HOG against one set of real pictures.

    The PCA is fitted to the training pictures, so that real and generated ones meet the same axes.
    """

    def __init__(self, train: torch.Tensor, reference: torch.Tensor) -> None:
        """Fit to ``train`` and compare with ``reference``, both uint8 (N, 3, 64, 64)."""
        features = describe_pictures(train)
        self._pca = PCA(min(COMPONENTS, len(features) - 1, features.shape[1]), whiten=False, random_state=0)
        self.train_features = self._pca.fit_transform(features)
        self.reference_features = self._pca.transform(describe_pictures(reference))

    def __call__(self, images: torch.Tensor) -> float:
        """Return the distance of ``images``, uint8 (N, 3, 64, 64), to the reference."""
        return self._distance(self.features(images))

    def floor(self, count: int, seed: int = 0) -> float:
        """Return the distance of ``count`` random training pictures to the reference: what perfect samples get."""
        chosen = np.random.default_rng(seed).permutation(len(self.train_features))[:count]
        return self._distance(self.train_features[chosen])

    def features(self, images: torch.Tensor) -> np.ndarray:
        """Return the features (N, 128) of uint8 (N, 3, 64, 64)."""
        return self._pca.transform(describe_pictures(images))

    def _distance(self, features: np.ndarray) -> float:
        return frechet_distance(torch.from_numpy(features), torch.from_numpy(self.reference_features))
