"""Adversarial losses on the discriminator's logits, float (N,) -> scalar.

``bce``: Goodfellow et al., "Generative Adversarial Nets", 2014, eq. 1, the generator's non-saturating as in section 3.
``hinge``: Miyato et al., 2018, eq. 16 and 17.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor, loss: str, real_label: float = 1.0) -> torch.Tensor:
    """Return the discriminator's loss of logits of real and generated images; ``real_label`` is bce's target.

    0.9 is one-sided label smoothing (Salimans et al., "Improved Techniques for Training GANs", 2016, section 3.4).
    """
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    on_real = F.binary_cross_entropy_with_logits(real, torch.full_like(real, real_label))
    return on_real + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def generator_loss(fake: torch.Tensor, loss: str) -> torch.Tensor:
    """Return the generator's loss of logits of generated images."""
    if loss == "hinge":
        return -fake.mean()
    return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
