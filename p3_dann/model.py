"""The domain-adversarial network of the course report (355,164 parameters)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

MODEL = "p3_dann"
CLASSES = 10
FEATURES = 48 * 4 * 4


class GradientReversal(torch.autograd.Function):
    """Identity forward, -grl_lambda times the gradient backward (Ganin et al., JMLR 2016, section 4.2)."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, grl_lambda: float) -> torch.Tensor:
        ctx.grl_lambda = grl_lambda
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.grl_lambda * gradient, None  # grl_lambda has no gradient


def grl_lambda_at(progress: float, maximum: float = 1.0) -> float:
    """Return 2 / (1 + exp(-10 p)) - 1 at ``progress`` p (0..1) times ``maximum`` (Ganin et al. 2016, section 5.2.2)."""
    return maximum * (2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0)


class DANN_model(nn.Module):
    """Class classifier and, behind gradient reversal, domain classifier of features; prints as in the report."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_extract = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=5),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 48, kernel_size=5),
            nn.BatchNorm2d(48),
            nn.Dropout2d(0.3, inplace=True),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.class_classifier = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(FEATURES, 192),
            nn.BatchNorm1d(192),
            nn.Mish(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(192, 128),
            nn.BatchNorm1d(128),
            nn.Mish(inplace=True),
            nn.Linear(128, CLASSES),
        )
        self.domain_classifier = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(FEATURES, 128),
            nn.BatchNorm1d(128),
            nn.Mish(inplace=True),
            nn.Linear(128, 2),
        )

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return what both classifiers see: (N, 768) from images (N, 3, 28, 28)."""
        return self.feature_extract(images).flatten(1)

    def classify(self, images: torch.Tensor) -> torch.Tensor:
        """Return class logits (N, 10) alone."""
        return self.class_classifier(self.features(images))

    def forward(self, images: torch.Tensor, grl_lambda: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class logits (N, 10) and domain logits (N, 2; 0 is source, 1 is target).

        In training BatchNorm takes its statistics over all of ``images`` (N, 3, 28, 28), of one domain or of both.
        """
        features = self.features(images)
        return self.class_classifier(features), self.domain_classifier(GradientReversal.apply(features, grl_lambda))
