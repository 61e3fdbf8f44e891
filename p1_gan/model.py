"""The networks: DCGAN (method A), and the same with a spectrally normalized discriminator (B).

Sources: Radford et al., "Unsupervised Representation Learning with Deep Convolutional GANs", 2016, figure 1 and
section 3; Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018, section 2.1. Class names
and layers are those that the course report prints. ``channels`` is the width of a network at 32x32, doubled with every
halving of the size.
"""

from __future__ import annotations

import torch
from torch import nn

LATENT_SIZE = 100
CHANNELS = 64


def _initialize(module: nn.Module) -> None:
    """Draw convolutions from N(0, 0.02) (Radford et al., section 4), BatchNorm scales from N(1, 0.02) (their code)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class DCGAN_Generator(nn.Module):
    """Five transposed convolutions from a latent to an image."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs, stride, padding = LATENT_SIZE, 1, 0
        for outputs in (8 * channels, 4 * channels, 2 * channels, channels):
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            inputs, stride, padding = outputs, 2, 1
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(inputs, 3, 4, 2, 1, bias=False), nn.Tanh())
        self.apply(_initialize)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Map standard normal latents (N, 100, 1, 1) to images (N, 3, 64, 64) in [-1, 1]."""
        return self.main(latents)


class DCGAN_Discriminator(nn.Module):
    """Five strided convolutions from an image to the probability that it is real."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs in (channels, 2 * channels, 4 * channels, 8 * channels):
            layers.append(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False))
            if inputs != 3:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            inputs = outputs
        last = nn.Conv2d(inputs, 1, 4, 1, 0, bias=False)
        self.feature_extract = nn.Sequential(*layers, last, nn.Sigmoid())
        self.apply(_initialize)

    def forward(self, images: torch.Tensor, logits: bool = False) -> torch.Tensor:
        """Return the probability that each of the images (N, 3, 64, 64) in [-1, 1] is real, (N, 1, 1, 1).

        With ``logits`` it is the input of the sigmoid, (N,), from which losses are computed without overflow.
        """
        if logits:
            return self.feature_extract[:-1](images).flatten()
        return self.feature_extract(images)


class My_Generator(DCGAN_Generator):
    """Method B's generator: the layers of method A's."""


class My_Discriminator(DCGAN_Discriminator):
    """Method B's discriminator: every weight is divided by its largest singular value.

    That is the singular value of the weight as a matrix (out, in * 4 * 4), estimated by one step of power iteration.
    BatchNorm cancels it in all layers but the last: what remains is one factor of the logits. (Miyato et al. normalize
    a network without BatchNorm.) The hook form of ``torch.nn.utils.spectral_norm`` prints as the plain layers of the
    course report.
    """

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__(channels)
        for layer in self.feature_extract:
            if isinstance(layer, nn.Conv2d):
                nn.utils.spectral_norm(layer)
