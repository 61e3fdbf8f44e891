"""Exponential moving average of a model's weights, for sampling and evaluation."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class ExponentialMovingAverage:
    """A shadow copy of ``model`` that follows it with ``decay`` in [0, 1) after every optimizer step.

    Parameters are averaged; buffers (BatchNorm's running statistics) are copied, since they are averages
    already. The ramp-up min(decay, (1 + step) / (10 + step)) lets the copy follow quickly at first, as in
    TensorFlow's ``ExponentialMovingAverage(num_updates)``; without it the random start is remembered.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; for GANs
    Yazici et al., "The unusual effectiveness of averaging in GAN training", 2019.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.step = decay, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the shadow towards ``model``."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        self.step += 1
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1.0 - decay)
        for shadow, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            shadow.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.step = state["step"]
