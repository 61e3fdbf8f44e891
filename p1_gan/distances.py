"""How far generated pictures are from real ones, by features: Fréchet distance, kernel distance, nearest pictures."""

from __future__ import annotations

from pathlib import Path

import torch

from common.frechet import floor_pictures, frechet_distance
from p1_gan.features import FeatureNetwork, cached_features, features

BLOCK = 1000  # rows of a matrix of all pairs at a time


class RealFaces:
    """The real pictures that generated ones are compared with, and their features as far as they are asked for."""

    def __init__(self, train: torch.Tensor, val: torch.Tensor, network: FeatureNetwork, cache: Path) -> None:
        """Compare with ``val``; ``train`` gives the floor and the nearest pictures. Both are uint8 (N, 3, H, W)."""
        self.train, self.network, self.cache = train, network, cache
        self.val_features = cached_features(network, val, cache)

    def distances(self, generated: torch.Tensor) -> dict[str, float]:
        """Compare features (N, 1280) of generated pictures with those of the validation set.

        Returns:
            ``fd_lite0`` and ``kid_lite0``; each with ``_floor``, the same figure of N random training pictures, which
            is what a perfect generator would get.
        """
        real = cached_features(self.network, floor_pictures(self.train, len(generated)), self.cache)
        values = {}
        for suffix, found in (("", generated), ("_floor", real)):
            values[f"fd_lite0{suffix}"] = frechet_distance(found, self.val_features)
            values[f"kid_lite0{suffix}"] = kernel_distance(found, self.val_features)
        return values

    def nearest(self, generated: torch.Tensor) -> tuple[dict[str, float], torch.Tensor, torch.Tensor]:
        """Compare distances to the nearest training picture, of generated pictures and of held-out real ones.

        Returns:
            The medians of both, and the share of generated pictures nearer than the nearest percent of the real; a
            generator that copies has a much smaller median. Then, of each generated picture, that distance (N,) and
            the number of that training picture (N,).
        """
        train_features = cached_features(self.network, self.train, self.cache)
        distances, partners = _nearest(generated, train_features)
        of_val, _ = _nearest(self.val_features, train_features)
        values = {
            "nearest_train_median": distances.median().item(),
            "nearest_train_median_of_val": of_val.median().item(),
            "nearer_than_closest_percent_of_val": (distances < of_val.quantile(0.01)).double().mean().item(),
        }
        return values, distances, partners

    def compare(self, images: torch.Tensor) -> tuple[dict[str, float], torch.Tensor]:
        """Return :meth:`distances` of pictures uint8 (N, 3, H, W), and their features."""
        generated = features(self.network, images)
        return self.distances(generated), generated


def kernel_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return KID, the unbiased squared maximum mean discrepancy with the kernel (x·y / D + 1)³.

    Unbiased, it needs no correction for the number of pictures, and may be slightly negative.

    Args:
        first: features (N, D), N at least 2.
        second: features (M, D), M at least 2.

    Source: Bińkowski et al., "Demystifying MMD GANs", 2018, sections 2.1 and 4; on all pairs instead of subsets.
    """
    first, second = first.double(), second.double()
    return _mean_within(first) + _mean_within(second) - 2 * _kernel_sum(first, second) / (len(first) * len(second))


def _nearest(queries: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [torch.cdist(block, references).min(dim=1) for block in queries.split(BLOCK)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _mean_within(values: torch.Tensor) -> float:
    """Return the mean of the kernel over pairs of two different rows."""
    own = (values.square().sum(dim=1) / values.shape[1] + 1).pow(3).sum().item()
    return (_kernel_sum(values, values) - own) / (len(values) * (len(values) - 1))


def _kernel_sum(first: torch.Tensor, second: torch.Tensor) -> float:
    width = first.shape[1]
    return sum((block @ second.T / width + 1).pow(3).sum().item() for block in first.split(BLOCK))
