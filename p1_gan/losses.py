"""Adversarial losses on the discriminator's logits, float (N,) -> scalar, and the gradient penalty.

``bce``: Goodfellow et al., "Generative Adversarial Nets", 2014, eq. 1, the generator's non-saturating as in section 3.
``hinge``: Miyato et al., 2018, eq. 16 and 17.
``relativistic``: Jolicoeur-Martineau, "The relativistic discriminator", 2019; paired as in Huang et al., "The GAN is
dead; long live the GAN!", 2024, eq. 2.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor, loss: str, real_label: float = 1.0) -> torch.Tensor:
    """Return the discriminator's loss of logits of real and generated images; ``real_label`` is bce's target.

    0.9 is one-sided label smoothing (Salimans et al., "Improved Techniques for Training GANs", 2016, section 3.4).
    """
    if loss == "relativistic":
        return F.softplus(fake - real).mean()
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    on_real = F.binary_cross_entropy_with_logits(real, torch.full_like(real, real_label))
    return on_real + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def generator_loss(real: torch.Tensor | None, fake: torch.Tensor, loss: str) -> torch.Tensor:
    """Return the generator's loss of the same logits; only the relativistic one looks at ``real``."""
    if real is not None:
        return F.softplus(real - fake).mean()
    if loss == "hinge":
        return -fake.mean()
    return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


def gradient_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the mean over images x of ||dD(x)/dx||^2, differentiable with respect to D's weights.

    ``logits``, D(x) (N,), were computed from ``images``, x (N, 3, H, W), which require gradients.

    Source: Mescheder et al., "Which Training Methods for GANs do actually Converge?", 2018, eq. 9 (R1) and 10 (R2).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean()
