"""The domain-adversarial network of the course report (355,164 parameters)."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.device import to_device
from common.weights import WEIGHTS, load_into, load_weights
from p3_dann.config import TrainConfig

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


def load_model(path: Path, device: torch.device) -> tuple[DANN_model, TrainConfig, dict[str, Any]]:
    """Return the network of a weights file in evaluation mode, its configuration, and all that its header says."""
    state, header = load_weights(path, MODEL)
    model = DANN_model()
    load_into(model, state, path)
    config = TrainConfig(**{field.name: header[field.name] for field in fields(TrainConfig) if field.name in header})
    return to_device(model, device).eval(), config, header


def shipped_weights(target: str, method: str = "ours") -> Path:
    """Return the file of weights/ for a target: p3_svhn is of method ours, p3_dann_svhn of DANN."""
    return WEIGHTS / f"p3_{'' if method == 'ours' else f'{method}_'}{target}.safetensors"


def shipped_targets() -> list[str]:
    """Return the targets with weights in weights/, sorted."""
    names = [path.stem.removeprefix("p3_") for path in WEIGHTS.glob("p3_*.safetensors")]
    return sorted(name for name in names if not name.startswith("dann_"))
