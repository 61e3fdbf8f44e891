"""The judge: a digit classifier trained on real pictures only, which measures what the diffusion model draws."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from common.device import place
from common.pictures import to_network
from common.weights import load_into, load_weights

KIND = "p2_diffusion/classifier"
NUM_FEATURES = 128


class DigitClassifier(nn.Module):
    """A small convolutional network; its penultimate layer is the feature space of the Fréchet distance."""

    def __init__(self) -> None:
        super().__init__()

        def block(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
            convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
            return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]

        self.features = nn.Sequential(
            *block(3, 32, 1),  # 28x28
            *block(32, 64, 2),  # 14x14
            *block(64, 64, 1),
            *block(64, 96, 2),  # 7x7
            *block(96, 96, 1),
            nn.MaxPool2d(2),  # 3x3
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(96 * 3 * 3, NUM_FEATURES),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(NUM_FEATURES, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map pictures (N, 3, 28, 28) in [-1, 1] to logits (N, 10)."""
        return self.head(self.features(x))


@torch.inference_mode()
def judge_images(
    judge: DigitClassifier, images: torch.Tensor, batch_size: int = 1000
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digit that ``judge`` sees in each picture, and its features.

    Args:
        judge: in evaluation mode.
        images: uint8 (N, 3, 28, 28) on any device.
        batch_size: pictures at a time; the result does not depend on it.

    Returns:
        Digits int64 (N,) and features float32 (N, 128), both on the CPU.
    """
    device = next(judge.parameters()).device
    parts = (place(to_network(part), device) for part in images.split(batch_size))
    features = torch.cat([judge.features(part) for part in parts])
    return judge.head(features).argmax(1).cpu(), features.cpu()


def share_per_digit(right: torch.Tensor, digits: torch.Tensor) -> dict[str, float]:
    """Return, for every digit that occurs, the share of its pictures where ``right`` (bool, (N,)) holds."""
    return {str(digit): right[digits == digit].double().mean().item() for digit in digits.unique().tolist()}


def load_judge(path: Path, device: torch.device) -> DigitClassifier:
    """Return the judge of a weights file in evaluation mode.

    Raises:
        UserError: missing, damaged, or of another model.
    """
    state, _ = load_weights(path, KIND)
    judge = DigitClassifier()
    load_into(judge, state, path)
    return place(judge, device).eval().requires_grad_(False)
