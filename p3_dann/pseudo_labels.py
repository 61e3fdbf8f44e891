"""Self-ensembling: the student is to see in target pictures what its averaged teacher sees, where that is sure."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from p3_dann.model import CLASSES
from p3_dann.presets import TrainConfig

MOMENTUM = 0.99  # of the running share of each digit: it remembers about the last hundred batches


class PseudoLabels:
    """Digits of unlabelled pictures, and what must be remembered from step to step to choose them."""

    def __init__(self, config: TrainConfig, source_labels: torch.Tensor, count: int) -> None:
        """Follow a teacher on ``count`` target pictures; ``source_labels`` (N,) are those of the source."""
        self.config = config
        self.source_share = source_labels.bincount(minlength=CLASSES) / len(source_labels)
        self.target_share = self.source_share.clone()
        self.latest = torch.full((count,), CLASSES, device=source_labels.device)  # CLASSES: none was confident yet

    def read(self, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the digits, int64 (N,), in ``teacher``'s logits (N, 10), and how sure it is of each, 0..1 (N,).

        Call it once a step: it remembers how often each digit was named.
        """
        probabilities = teacher.softmax(1)
        if self.config.distribution_alignment != "none":
            self.target_share.lerp_(probabilities.mean(0), 1.0 - MOMENTUM)
            lowers = self.config.distribution_alignment == "match"
            probabilities = align(probabilities, self.source_share, self.target_share, lowers)
        confidence, digits = probabilities.max(1)
        return digits, confidence

    def followed(
        self, digits: torch.Tensor, confidence: torch.Tensor, on_source: torch.Tensor | float, samples: torch.Tensor
    ) -> torch.Tensor:
        """Return which of the ``digits`` that :meth:`read` returned are followed, float 0 or 1 (N,).

        The threshold is relative to the mean confidence on the source (Berthelot et al., "AdaMatch", 2022, equation
        for c_tau), so it keeps its meaning under label smoothing. Call it once a step: thresholds by class remember.

        Args:
            digits: int64 (N,), those of unchanged target pictures.
            confidence: how sure the teacher is of them (N,).
            on_source: the network's mean confidence on source pictures of the same step, 0-dimensional; 1 without any.
            samples: numbers (N,) of those target pictures in the data set.
        """
        threshold = self.config.confidence * on_source
        if self.config.class_thresholds:
            confident = confidence >= threshold
            threshold = threshold * threshold_factors(self.latest)[digits]
            self.latest[samples] = torch.where(confident, digits, self.latest[samples])
        return (confidence >= threshold).float()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint must hold."""
        return {"target_share": self.target_share, "latest": self.latest}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.target_share.copy_(state["target_share"])
        self.latest.copy_(state["latest"])


def consistency(student: torch.Tensor, digits: torch.Tensor, followed: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the student against those of its teacher's digits that are followed.

    The teacher is the moving average of the weights and sees the unchanged picture, the student a randomly
    changed one (French et al., "Self-ensembling for visual domain adaptation", 2018, sections 3.1 and 3.2;
    hard labels as in Sohn et al., "FixMatch", 2020, equation 4).

    Args:
        student: logits (N, 10) of changed target pictures.
        digits: what the teacher sees in them unchanged (N,).
        followed: 1 where it is followed, else 0 (N,).
    """
    return (F.cross_entropy(student, digits, reduction="none") * followed).mean()


def align(probabilities: torch.Tensor, wanted: torch.Tensor, running: torch.Tensor, lowers: bool) -> torch.Tensor:
    """Return ``probabilities`` (N, 10) in which a digit that was named too rarely gains in every picture.

    Distribution alignment: it assumes that the target has each digit at least about as often as the source.

    Args:
        probabilities: what a teacher sees.
        wanted: the share of each digit in the source (10,).
        running: how often the teacher has named it of late (10,).
        lowers: whether a digit that was named too often loses, as in the published form.

    Source: Berthelot et al., "AdaMatch: A Unified Approach to Semi-Supervised Learning and Domain Adaptation", 2022
    (there with the source's predictions in place of its labels), after theirs of "ReMixMatch", 2020, section 3.1.
    """
    factors = wanted / running.clamp(min=1e-6)
    aligned = probabilities * (factors if lowers else factors.clamp(min=1.0))
    return aligned / aligned.sum(1, keepdim=True)


def threshold_factors(latest: torch.Tensor) -> torch.Tensor:
    """Return for each digit the factor (10,), 0..1, of the threshold from which the teacher is followed.

    Args:
        latest: the last confident digit (N,) of every target picture; 10 where there was none yet. While these
            outnumber every digit all factors are lower.

    Source: Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling", 2021,
    section 3, with its threshold warm-up and convex mapping x / (2 - x).
    """
    learned = latest.bincount(minlength=CLASSES + 1)
    share = learned[:CLASSES] / learned.max()
    return share / (2.0 - share)
