"""Convolutions on maps of 4x4 as matrix products, for training on a CPU in bfloat16.

Most weights of a DCGAN are those of its 4x4 maps, where oneDNN's bfloat16 convolutions take three to four times as long
as one product of all pixels of a batch. train.py swaps the layers of its networks; model.py knows nothing of this.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

SMALL = 4  # pixels a side


def use_matrix_products(model: nn.Module) -> None:
    """Let the square convolutions of ``model`` compute small maps as matrix products; weights and names stay."""
    for layer in model.modules():
        if type(layer) is nn.Conv2d:
            layer.__class__ = _Conv2d
        elif type(layer) is nn.ConvTranspose2d and layer.bias is None:
            layer.__class__ = _ConvTranspose2d


def _is_fast() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


class _Conv2d(nn.Conv2d):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[2] > SMALL * self.stride[0] or not _is_fast():
            return super().forward(images)
        return convolve(images, self.weight, self.bias, self.stride[0], cast(int, self.padding[0]))


class _ConvTranspose2d(nn.ConvTranspose2d):
    def forward(self, images: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        if images.shape[2] > SMALL or not _is_fast():
            return super().forward(images, output_size)
        return convolve_transposed(images, self.weight, self.stride[0], cast(int, self.padding[0]))


def convolve(
    images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, padding: int
) -> torch.Tensor:
    """Return ``F.conv2d`` of images (N, C, H, W) with square kernels, in channels_last order."""
    patches = _Patches.apply(images, weight.shape[2], stride, padding)
    kernels = weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(patches.flatten(3), kernels, bias).permute(0, 3, 1, 2)


def convolve_transposed(images: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """Return ``F.conv_transpose2d`` of images (N, C, H, W) with square kernels and no bias, in channels_last order."""
    size = weight.shape[2]
    kernels = weight.permute(0, 2, 3, 1).flatten(1)
    patches = (images.permute(0, 2, 3, 1) @ kernels).unflatten(3, (size, size, weight.shape[1]))
    height, width = ((side - 1) * stride + size - 2 * padding for side in images.shape[2:])
    return _Overlay.apply(patches, height, width, stride, padding)


class _Patches(torch.autograd.Function):
    """What a kernel sees at every position: (N, C, H, W) -> (N, down, across, size, size, C)."""

    @staticmethod
    def forward(context: Any, images: torch.Tensor, size: int, stride: int, padding: int) -> torch.Tensor:
        context.geometry = (*images.shape[2:], stride, padding)
        rows = F.pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
        count, height, width, channels = rows.shape
        down, across = ((side - size) // stride + 1 for side in (height, width))
        step = rows.stride()
        shape = (count, down, across, size, size, channels)
        return rows.as_strided(shape, (step[0], step[1] * stride, step[2] * stride, *step[1:])).contiguous()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        return _Overlay.apply(gradient, *context.geometry), None, None, None


class _Overlay(torch.autograd.Function):
    """The adjoint of :class:`_Patches`: (N, down, across, size, size, C), added up where they lie -> (N, C, H, W)."""

    @staticmethod
    def forward(
        context: Any, patches: torch.Tensor, height: int, width: int, stride: int, padding: int
    ) -> torch.Tensor:
        context.geometry = (patches.shape[3], stride, padding)
        count, down, across, size, _, channels = patches.shape
        shape = (count, height + 2 * padding, width + 2 * padding, channels)
        rows = patches.new_zeros(shape, dtype=torch.promote_types(patches.dtype, torch.float32))
        for y in range(size):
            for x in range(size):
                rows[:, y : y + down * stride : stride, x : x + across * stride : stride] += patches[:, :, :, y, x]
        inside = rows[:, padding : padding + height, padding : padding + width]
        return inside.to(patches.dtype).permute(0, 3, 1, 2)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        return _Patches.apply(gradient, *context.geometry), None, None, None, None
