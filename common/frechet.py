"""The Fréchet distance between two sets of features, each taken as a Gaussian."""

from __future__ import annotations

from collections.abc import Sized

import torch

from common.errors import UserError
from common.seed import generator


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return ||m1 - m2||² + tr(C1 + C2 - 2 (C1 C2)^½) of the two sets' means and covariances.

    Which features they are decides what it is called: "FID" only with those of Inception. Few samples bias it
    upwards, so it is to be read beside the distance of as many real pictures.

    Args:
        first: (N, D), N at least 2.
        second: (M, D), M at least 2.

    Source: Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982; Heusel
    et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, eq. 6.
    """
    first, second = first.double().cpu(), second.double().cpu()
    covariance_1, covariance_2 = first.T.cov(), second.T.cov()
    values, vectors = torch.linalg.eigh(covariance_1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # C1 C2 has the eigenvalues of the symmetric C1^½ C2 C1^½, whose square roots are real and stable.
    cross = torch.linalg.eigvalsh(root @ covariance_2 @ root).clamp(min=0).sqrt().sum()
    means = (first.mean(0) - second.mean(0)).square().sum()
    return float(means + covariance_1.trace() + covariance_2.trace() - 2 * cross)


def check_enough(images: Sized, origin: object) -> None:
    """Raise a UserError naming ``origin`` for fewer pictures than a covariance needs."""
    if len(images) < 2:
        raise UserError(f"{origin}: needs at least two pictures, found {len(images)}")


def floor_pictures(train: torch.Tensor, count: int) -> torch.Tensor:
    """Return ``count`` random training pictures (all, if fewer), always the same: their distance is the floor."""
    return train[torch.randperm(len(train), generator=generator(0, "floor"))[:count]]
