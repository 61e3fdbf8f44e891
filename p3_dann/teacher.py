"""Self-ensembling: the student learns to predict on augmented images what its EMA teacher predicts on the originals.

French et al., "Self-ensembling for visual domain adaptation", 2018; Berthelot et al., "AdaMatch: A Unified Approach to
Semi-Supervised Learning and Domain Adaptation", 2022.
"""

from __future__ import annotations

import math
from typing import cast

from common.device import Distributed, autocast
from common.training import ExponentialMovingAverage
from p3_dann.augment import prepare
from p3_dann.config import TrainConfig
from p3_dann.model import CLASSES, DANN_model

import torch
import torch.nn.functional as F

MOMENTUM = 0.99  # of the running class distribution: it remembers about the last hundred batches


class EmaTeacher:
    """Pseudo-labels of target images by the student's average, and the class distributions that align them."""

    def __init__(
        self, ema: ExponentialMovingAverage, config: TrainConfig, dist: Distributed, source_labels: torch.Tensor
    ) -> None:
        self.model, self.config, self.dist = cast(DANN_model, ema.model), config, dist
        self.source_distribution = source_labels.bincount(minlength=CLASSES) / len(source_labels)
        self.target_distribution = self.source_distribution.clone()

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pseudo-labels, int64 (N,), of uint8 images (N, 3, 28, 28) and their confidence (N,), 0..1.

        Call it once per step: it remembers how often each digit was predicted.
        """
        with autocast(self.dist.device, self.config.precision):
            logits = self.model.classify(prepare(images, self.config))
        probabilities = logits.float().softmax(1)
        if self.config.distribution_alignment != "none":
            self.target_distribution.lerp_(self.dist.all_gather(probabilities).mean(0), 1.0 - MOMENTUM)
            one_sided = self.config.distribution_alignment == "one-sided"
            probabilities = align(probabilities, self.source_distribution, self.target_distribution, one_sided)
        confidence, pseudo_labels = probabilities.max(1)
        return pseudo_labels, confidence

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"target_distribution": self.target_distribution}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.target_distribution.copy_(state["target_distribution"])


def align(probabilities: torch.Tensor, source: torch.Tensor, target: torch.Tensor, one_sided: bool) -> torch.Tensor:
    """Return ``probabilities`` (N, 10) of target images corrected toward the class distribution of the source (10,).

    ``target`` (10,) is the running mean of predictions on the target. ``one_sided`` only scales up digits
    that are predicted too rarely; AdaMatch also scales the others down.

    Source: AdaMatch 2022 (there with the source's predictions in place of its labels), after ReMixMatch, 2020,
    section 3.1: normalize(p * source / target).
    """
    ratio = source / target.clamp(min=1e-6)
    aligned = probabilities * (ratio.clamp(min=1.0) if one_sided else ratio)
    return aligned / aligned.sum(1, keepdim=True)


def mask(confidence: torch.Tensor, source_confidence: torch.Tensor | float, threshold: float) -> torch.Tensor:
    """Return which pseudo-labels count, float 0 or 1 (N,): those nearly as sure as predictions on the source.

    Source: AdaMatch 2022, relative confidence threshold c_tau = threshold * mean confidence on the source, there on
    weakly augmented images, here on the student's own batch.
    """
    return (confidence >= threshold * source_confidence).float()


def consistency(logits: torch.Tensor, pseudo_labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the student's ``logits`` (N, 10) with its teacher's masked pseudo-labels (N,).

    Source: French et al. 2018, sections 3.1 and 3.2; hard labels as in FixMatch (Sohn et al., 2020, equation 4).
    """
    return (F.cross_entropy(logits, pseudo_labels, reduction="none") * mask).mean()


def ramp_up(progress: float, fraction: float) -> float:
    """Return mu, half a cosine from 0 to 1 over the first ``fraction`` of training (in AdaMatch, half of it)."""
    return 0.5 - 0.5 * math.cos(math.pi * min(1.0, progress / fraction)) if fraction else 1.0
