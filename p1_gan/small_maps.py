"""Convolutions on maps of 4x4 as matrix products, for training on a CPU with bfloat16.

Its matrix unit takes 16 rows at a time, and oneDNN's convolutions seem to give it one row of a map: on maps of 4x4,
where most of a DCGAN's weights are, they took three to four times as long as one product of all pixels of a batch. On
larger maps they were the faster ones.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

SMALL = 4  # pixels a side


def run_layers(layers: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    """Return ``layers(images)``; in training under autocast on a CPU, small maps take the fast way."""
    is_fast = images.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    if not is_fast or torch.compiler.is_compiling():
        return layers(images)
    for layer in layers:
        if getattr(layer, "bias", None) is not None:
            images = layer(images)
        elif isinstance(layer, nn.Conv2d) and images.shape[2] <= SMALL * layer.stride[0]:
            images = convolve(images, layer.weight, layer.stride[0], layer.padding[0])
        elif isinstance(layer, nn.ConvTranspose2d) and images.shape[2] <= SMALL:
            images = convolve_transposed(images, layer.weight, layer.stride[0], layer.padding[0])
        else:
            images = layer(images)
    return images


def convolve(images: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """Return ``F.conv2d`` of images (N, C, H, W) with square kernels and no bias, in channels_last order."""
    patches = _Patches.apply(images, weight.shape[2], stride, padding)
    kernels = weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(patches.flatten(3), kernels).permute(0, 3, 1, 2)


def convolve_transposed(images: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """Return ``F.conv_transpose2d`` of images (N, C, H, W) with square kernels and no bias, in channels_last order."""
    size = weight.shape[2]
    kernels = weight.permute(0, 2, 3, 1).flatten(1)
    patches = (images.permute(0, 2, 3, 1) @ kernels).unflatten(3, (size, size, weight.shape[1]))
    height, width = ((side - 1) * stride + size - 2 * padding for side in images.shape[2:])
    return _Overlay.apply(patches, height, width, stride, padding)


class _Patches(torch.autograd.Function):
    """What a kernel sees at every place: (N, C, H, W) -> (N, places down, places across, size, size, C)."""

    @staticmethod
    def forward(context: Any, images: torch.Tensor, size: int, stride: int, padding: int) -> torch.Tensor:
        context.place = (*images.shape[2:], stride, padding)
        return _patches(images, size, stride, padding)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _overlay(gradient, *context.place), None, None, None


class _Overlay(torch.autograd.Function):
    """The adjoint of :class:`_Patches`: patches added up where they lie."""

    @staticmethod
    def forward(
        context: Any, patches: torch.Tensor, height: int, width: int, stride: int, padding: int
    ) -> torch.Tensor:
        context.kernel = (patches.shape[3], stride, padding)
        return _overlay(patches, height, width, stride, padding)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        return _patches(gradient, *context.kernel), None, None, None, None


def _patches(images: torch.Tensor, size: int, stride: int, padding: int) -> torch.Tensor:
    rows = F.pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    count, height, width, channels = rows.shape
    down, across = ((side - size) // stride + 1 for side in (height, width))
    step = rows.stride()
    shape = (count, down, across, size, size, channels)
    return rows.as_strided(shape, (step[0], step[1] * stride, step[2] * stride, *step[1:])).contiguous()


def _overlay(patches: torch.Tensor, height: int, width: int, stride: int, padding: int) -> torch.Tensor:
    count, down, across, size, _, channels = patches.shape
    shape = (count, height + 2 * padding, width + 2 * padding, channels)
    rows = patches.new_zeros(shape, dtype=torch.promote_types(patches.dtype, torch.float32))
    for y in range(size):
        for x in range(size):
            rows[:, y : y + down * stride : stride, x : x + across * stride : stride] += patches[:, :, :, y, x]
    inside = rows[:, padding : padding + height, padding : padding + width]
    return inside.to(patches.dtype).permute(0, 3, 1, 2)
