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
