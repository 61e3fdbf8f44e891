"""Adversarial losses on the discriminator's logits, each float (N,) -> scalar."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor, loss: str, real_label: float) -> torch.Tensor:
    """Return the loss of the discriminator.

    Args:
        real: logits of real pictures.
        fake: logits of generated ones.
        loss: ``bce``: Goodfellow et al., "Generative Adversarial Nets", 2014, eq. 1; ``hinge``: Miyato et al.,
            2018, eq. 16.
        real_label: target of ``bce`` for real pictures; 0.9 is one-sided smoothing (Salimans et al., "Improved
            Techniques for Training GANs", 2016, section 3.4).
    """
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    on_real = F.binary_cross_entropy_with_logits(real, torch.full_like(real, real_label))
    return on_real + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def generator_loss(fake: torch.Tensor, loss: str) -> torch.Tensor:
    """Return the loss of the generator: non-saturating (Goodfellow et al., 2014, section 3), or -D for hinge."""
    if loss == "hinge":
        return -fake.mean()
    return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
