"""The diffusion process: noise schedules, the forward process, and the training loss.

Notation: x_t = alpha_t x_0 + sigma_t eps with t = 0..T-1, where alpha_t^2 is the alphas_cumprod_t of Ho et al.,
"Denoising Diffusion Probabilistic Models", 2020 (who count t from 1 to T), and sigma_t^2 = 1 - alpha_t^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

CLEAN = -1  # the timestep of the clean image: alpha 1, sigma 0
Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # (x_t, t, class_labels) -> output


def linear_betas(num_timesteps: int) -> torch.Tensor:
    """Return the linear schedule of Ho et al., section 4, rescaled to ``num_timesteps`` (float64).

    The paper's 1e-4..0.02 belong to T = 1000. Unscaled with T = 200, x_T would be far from noise.
    """
    scale = 1000 / num_timesteps
    return torch.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=torch.float64).clamp(max=0.999)


def cosine_betas(num_timesteps: int) -> torch.Tensor:
    """Return the cosine schedule (float64). Source: Nichol and Dhariwal, "Improved DDPM", 2021, eq. 17."""
    steps = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    alphas_cumprod = torch.cos((steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=0.999)


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


class Diffusion:
    """A noise schedule and what the network predicts under it.

    The ``prediction`` is ``epsilon``, or ``v`` = alpha eps - sigma x_0 (Salimans and Ho, "Progressive Distillation",
    2022, section 4). The loss of epsilon is weighted by min(SNR, ``min_snr_gamma``) / SNR, that of v by its equivalent
    (Hang et al., "Efficient Diffusion Training via Min-SNR Weighting", 2023, section 3.4); 0 for no weighting.
    """

    def __init__(
        self,
        num_timesteps: int = 200,
        schedule: str = "cosine",
        prediction: str = "v",
        min_snr_gamma: float = 5.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_timesteps, self.prediction = num_timesteps, prediction
        # The schedule stays in float64 on the CPU (mps has none); the tables that batches index are float32.
        alphas_cumprod = (1 - SCHEDULES[schedule](num_timesteps)).cumprod(0)
        snr = alphas_cumprod / (1 - alphas_cumprod)
        weight = snr.clamp(max=min_snr_gamma) / (snr if prediction == "epsilon" else snr + 1)
        self.loss_weight = (weight if min_snr_gamma else torch.ones(num_timesteps)).float().to(device)
        self.alphas_cumprod = torch.cat([alphas_cumprod, torch.ones(1)])  # the last entry, index CLEAN
        self.alpha = self.alphas_cumprod.sqrt().float().to(device)
        self.sigma = (1 - self.alphas_cumprod).sqrt().float().to(device)

    def alpha_sigma(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return alpha_t and sigma_t of int64 ``t`` (N,), 0..T-1 or CLEAN, each float32 (N, 1, 1, 1)."""
        return self.alpha[t][:, None, None, None], self.sigma[t][:, None, None, None]

    def alpha_sigma_at(self, t: int) -> tuple[float, float]:
        """Return alpha_t and sigma_t in float64; ``t`` is 0..T-1 or CLEAN."""
        alphas_cumprod = float(self.alphas_cumprod[t])
        return alphas_cumprod**0.5, (1 - alphas_cumprod) ** 0.5

    def q_sample(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Sample x_t given x_0 and standard normal ``eps``, all (N, C, H, W) (Ho et al., eq. 4)."""
        alpha, sigma = self.alpha_sigma(t)
        return alpha * x0 + sigma * eps

    def target(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return what the network should predict from x_t."""
        if self.prediction == "epsilon":
            return eps
        alpha, sigma = self.alpha_sigma(t)
        return alpha * eps - sigma * x0

    def to_x0_and_eps(
        self, output: torch.Tensor, x: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn the network's output at x_t into its predictions of x_0 and eps."""
        alpha, sigma = self.alpha_sigma(t)
        if self.prediction == "epsilon":
            return (x - sigma * output) / alpha, output
        return alpha * x - sigma * output, sigma * x + alpha * output

    def losses(
        self, network: Network, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor
    ) -> torch.Tensor:
        """Return each sample's weighted mean squared error over its pixels, float32 (N,) (Ho et al., eq. 14)."""
        output = network(self.q_sample(x0, eps, t), t, class_labels)
        error = (output.float() - self.target(x0, eps, t)).square().flatten(1).mean(1)
        return self.loss_weight[t] * error


def build_diffusion(config: Mapping[str, Any], device: torch.device) -> Diffusion:
    """Return the diffusion process of a TrainConfig's fields."""
    return Diffusion(config["timesteps"], config["schedule"], config["prediction"], config["min_snr_gamma"], device)
