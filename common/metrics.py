"""Metrics that the problems share."""

from __future__ import annotations

import math

from common.cli import UserError
from common.seed import generator

import torch


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return ||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the means and covariances of features (N, D) and (M, D).

    It is called FID only with Inception features. Few samples bias it upward: compare it with the baseline, the
    distance of as many real images.

    Source: Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982; Heusel et al.,
    "GANs Trained by a Two Time-Scale Update Rule", 2017, eq. 6.
    """
    if min(len(first), len(second)) < 2:
        raise UserError("a Fréchet distance needs at least two images of each kind, generated and real")
    first, second = first.double().cpu(), second.double().cpu()
    covariance_1, covariance_2 = first.T.cov(), second.T.cov()
    values, vectors = torch.linalg.eigh(covariance_1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # C1 C2 has the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2), whose square roots are real and stable.
    cross = torch.linalg.eigvalsh(root @ covariance_2 @ root).clamp(min=0).sqrt().sum()
    means = (first.mean(0) - second.mean(0)).square().sum()
    return float(means + covariance_1.trace() + covariance_2.trace() - 2 * cross)


def baseline_images(train: torch.Tensor, count: int) -> torch.Tensor:
    """Return ``count`` random training images (all, if fewer), always the same: a generator's real-vs-real baseline."""
    return train[torch.randperm(len(train), generator=generator(0, "floor"))[:count]]


def accuracy(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the fraction of ``predicted`` class labels (N,) that equal ``labels`` (N,)."""
    return (predicted.cpu() == labels.cpu()).double().mean().item()


def per_class_accuracy(predicted: torch.Tensor, labels: torch.Tensor) -> list[float | None]:
    """Return the accuracy on each of the ten digits; None for a digit that does not occur in ``labels``."""
    correct, labels = (predicted.cpu() == labels.cpu()).double(), labels.cpu()
    by_digit = [correct[labels == digit] for digit in range(10)]
    return [round(values.mean().item(), 4) if len(values) else None for values in by_digit]


def wilson_interval(count: float, total: int) -> tuple[float, float]:
    """Return the 95% interval of a rate of ``count`` in ``total`` (Wilson, "Probable inference", 1927)."""
    z = 1.96
    rate, weight = count / total, z**2 / total
    center = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(rate * (1 - rate) / total + weight / (4 * total))
    return max(0.0, min(rate, center - half)), min(1.0, max(rate, center + half))  # rounding
