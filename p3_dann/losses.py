"""What can be asked of predictions on pictures that have no label."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def conditional_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean entropy of the predictions, in nats (0..log 10): low when no boundary crosses the data.

    Source: Grandvalet and Bengio, "Semi-supervised Learning by Entropy Minimization", 2004; for adaptation
    Shu et al., "A DIRT-T Approach to Unsupervised Domain Adaptation", 2018, equation 6.
    """
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def consistency(
    student: torch.Tensor, teacher: torch.Tensor, source: torch.Tensor, confidence: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of the student against the teacher's confident digits, and their share.

    The teacher is the moving average of the weights and sees the unchanged picture, the student a randomly
    changed one (French et al., "Self-ensembling for visual domain adaptation", 2018, sections 3.1 and 3.2;
    hard labels as in Sohn et al., "FixMatch", 2020, equation 4). The threshold is relative to the mean
    confidence on the source (Berthelot et al., "AdaMatch", 2022, equation for c_tau), so it keeps its
    meaning under label smoothing.

    Args:
        student: logits (N, 10) of changed target pictures.
        teacher: logits (N, 10) of the same pictures unchanged.
        source: logits (M, 10) of source pictures in the same step.
        confidence: the share of the source's mean confidence from which a prediction is followed.
    """
    threshold = confidence * source.detach().softmax(1).amax(1).mean()
    highest, digits = teacher.softmax(1).max(1)
    confident = (highest >= threshold).float()
    return (F.cross_entropy(student, digits, reduction="none") * confident).mean(), confident.mean()
