"""The domain-adversarial network of the original report (355,164 parameters)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.device import place
from common.paths import WEIGHTS
from common.seed import generator
from common.weights import load_into, load_weights
from p3_dann.presets import TrainConfig

KIND = "p3_dann"
CLASSES = 10
FEATURES = 48 * 4 * 4
Condition = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class GradientReversal(torch.autograd.Function):
    """Identity forward, -grl_lambda times the gradient backward.

    Source: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, section 4.2.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, features: torch.Tensor, grl_lambda: float) -> torch.Tensor:
        """Return ``features`` unchanged."""
        ctx.grl_lambda = grl_lambda
        return features.view_as(features)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the reversed gradient; ``grl_lambda`` itself has none."""
        return -ctx.grl_lambda * gradient, None


def grl_lambda_at(progress: float, maximum: float = 1.0) -> float:
    """Return grl_lambda after the share ``progress`` (0..1) of training: from 0 smoothly up to ``maximum``.

    The noisy features of the first steps are thus not pushed together before they mean anything.

    Source: Ganin et al. 2016, section 5.2.2, lambda_p = 2 / (1 + exp(-gamma p)) - 1 with gamma = 10.
    """
    return maximum * (2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0)


class MultilinearMap:
    """The product of features and predictions, projected at random to as many numbers as there are features.

    It lets the domain classifier compare the domains digit by digit, and stay the network it is.

    Source: Long et al., "Conditional Adversarial Domain Adaptation", 2018, the randomised multilinear map.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        """Draw both projections; they follow from ``seed`` and are never trained."""
        stream = generator(seed, "multilinear map")
        self.of_features = torch.randn(FEATURES, FEATURES, generator=stream).to(device)
        self.of_classes = torch.randn(CLASSES, FEATURES, generator=stream).to(device)

    def __call__(self, features: torch.Tensor, class_logits: torch.Tensor) -> torch.Tensor:
        """Return (N, 768) from features (N, 768) and digit logits (N, 10), which get no gradient from it."""
        probabilities = class_logits.detach().softmax(1)
        return (features @ self.of_features) * (probabilities @ self.of_classes) / math.sqrt(FEATURES)


class DANN_model(nn.Module):
    """Feature extractor, digit classifier, and a domain classifier behind gradient reversal."""

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
        """Return digit logits (N, 10) alone."""
        return self.class_classifier(self.features(images))

    def forward(
        self,
        images: torch.Tensor,
        grl_lambda: float = 0.0,
        condition: Condition | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return digit logits (N, 10) and domain logits (N, 2; 0 is source, 1 is target).

        In training BatchNorm takes its statistics over all of ``images``: where both domains are in them, of both.

        Args:
            images: float (N, 3, 28, 28), prepared by :mod:`p3_dann.augment`.
            grl_lambda: how strongly the domain classifier's gradient is reversed for the features.
            condition: what the domain classifier sees in place of the features, made from them and the digit logits.
        """
        features = self.features(images)
        classes = self.class_classifier(features)
        if condition is not None:
            features = condition(features, classes)
        return classes, self.domain_classifier(GradientReversal.apply(features, grl_lambda))


def load_model(path: Path, device: torch.device) -> tuple[DANN_model, TrainConfig, dict[str, Any]]:
    """Return the network of a weights file in evaluation mode, its recipe, and how it was trained.

    Raises:
        UserError: the file is missing, damaged, or of another model.
    """
    state, trained = load_weights(path, KIND)
    model = DANN_model()
    load_into(model, state, path)
    known = [field.name for field in dataclasses.fields(TrainConfig) if field.name in trained]
    values = {name: tuple(trained[name]) if isinstance(trained[name], list) else trained[name] for name in known}
    return place(model, device).eval(), TrainConfig(**values), trained


def shipped_targets() -> list[str]:
    """Return the targets that have weights in ``weights/``, sorted."""
    return sorted(path.stem.removeprefix("p3_") for path in WEIGHTS.glob("p3_*.safetensors"))
