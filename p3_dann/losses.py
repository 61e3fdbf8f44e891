"""What can be asked of predictions on pictures that have no label."""

from __future__ import annotations

import torch
import torch.nn.functional as F


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
