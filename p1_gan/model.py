"""The networks: DCGAN (method A), with a spectrally normalized discriminator (B), with one without BatchNorm (C).

Sources: Radford et al., "Unsupervised Representation Learning with Deep Convolutional GANs", 2016, figure 1 and
section 3; Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018, section 2.1. Class names
and layers of A and B are those that the course report prints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

LATENT_SIZE = 100
CHANNELS = 64  # at 32x32, doubled with every halving of the size: 512 at 4x4


def _generator_layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels, stride, padding = LATENT_SIZE, 1, 0
    for width in widths:
        layers += [
            nn.ConvTranspose2d(channels, width, 4, stride, padding, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        channels, stride, padding = width, 2, 1
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1, bias=False), nn.Tanh())


def _discriminator_layers(widths: Sequence[int], batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in widths:
        layers.append(nn.Conv2d(channels, width, 4, 2, 1, bias=not batch_norm))
        if batch_norm and channels != 3:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.LeakyReLU(0.2, inplace=True))
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 0, bias=not batch_norm), nn.Sigmoid())


def _initialize(module: nn.Module) -> None:
    """Draw convolutions from N(0, 0.02) (Radford et al., section 4), BatchNorm scales from N(1, 0.02) (their code)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class DCGAN_Generator(nn.Module):
    """Five transposed convolutions from a latent to an image.

    Args:
        channels: width at 32x32, twice as many at 16x16 and so on.
    """

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.main = _generator_layers([channels * factor for factor in (8, 4, 2, 1)])
        self.apply(_initialize)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Map standard normal latents (N, 100, 1, 1) to images (N, 3, 64, 64) in [-1, 1]."""
        return self.main(latents)


class DCGAN_Discriminator(nn.Module):
    """Five strided convolutions from an image to the probability that it is real.

    Args:
        channels: width at 32x32, twice as many at 16x16 and so on.
        batch_norm: as DCGAN has it between the convolutions, which then have no bias.
    """

    def __init__(self, channels: int = CHANNELS, batch_norm: bool = True) -> None:
        super().__init__()
        self.feature_extract = _discriminator_layers([channels * factor for factor in (1, 2, 4, 8)], batch_norm)
        self.apply(_initialize)

    def forward(self, images: torch.Tensor, logits: bool = False) -> torch.Tensor:
        """Judge images (N, 3, 64, 64) in [-1, 1].

        Returns:
            The probability that each is real, (N, 1, 1, 1); with ``logits`` the input of the sigmoid, (N,), from which
            losses are computed without overflow.
        """
        if logits:
            return self.feature_extract[:-1](images).flatten()
        return self.feature_extract(images)


class My_Generator(DCGAN_Generator):
    """Method B's generator: the layers of method A's."""


class My_Discriminator(DCGAN_Discriminator):
    """Method B's discriminator: every convolution is divided by its largest singular value.

    The hook form of ``torch.nn.utils.spectral_norm`` prints as the plain layers of the course report. They include
    BatchNorm, which can scale up again what spectral norm holds down: the Lipschitz bound of Miyato et al. is that of
    the convolutions, not of the whole network.
    """

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__(channels)
        self._norms = []
        for layer in self.feature_extract:
            if isinstance(layer, nn.Conv2d):
                nn.utils.spectral_norm(layer)
                _, norm = layer._forward_pre_hooks.popitem()
                self._norms.append((norm, layer))

    def forward(self, images: torch.Tensor, logits: bool = False) -> torch.Tensor:
        """Judge images as :meth:`DCGAN_Discriminator.forward` does."""
        self._normalize()
        return super().forward(images, logits)

    @torch.compiler.disable
    def _normalize(self) -> None:
        """Run every layer's hook before the first layer, outside of what torch.compile sees.

        The power iteration writes into buffers in every forward pass, also in a second one before the backward pass of
        the first, and would overwrite what torch.compile keeps of them.
        """
        for norm, layer in self._norms:
            norm(layer, ())


class Unnormalized_Discriminator(DCGAN_Discriminator):
    """Method C's discriminator: the convolutions alone, with biases, initialized after He et al. (2015).

    A gradient penalty takes the place of normalization: it asks for the gradient of each image's own logit, which
    BatchNorm would mix with those of the batch.
    """

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__(channels, batch_norm=False)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, 0.2)
            else:
                nn.init.zeros_(parameter)
