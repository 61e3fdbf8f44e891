"""The diffusion process: noise schedules, the forward process, and the training loss.

Notation follows Ho et al., "Denoising Diffusion Probabilistic Models", 2020: x_t = sqrt(alphas_cumprod_t) x_0
+ sqrt(1 - alphas_cumprod_t) epsilon, with t = 0..T-1 (the paper counts 1..T).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from p2_diffusion.model import NULL_LABEL

Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def linear_betas(timesteps: int) -> torch.Tensor:
    """Return the linear schedule of Ho et al., section 4, stretched to ``timesteps`` (float64).

    The paper's 1e-4..0.02 belong to T = 1000. Used as they are with T = 200 they leave alphas_cumprod_T =
    0.13, so that x_T is far from noise and sampling starts off-distribution; hence the factor 1000 / T.
    """
    scale = 1000 / timesteps
    return torch.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=torch.float64).clamp(max=0.999)


def cosine_betas(timesteps: int, offset: float = 0.008) -> torch.Tensor:
    """Return the cosine schedule (float64). Source: Nichol and Dhariwal, "Improved DDPM", 2021, eq. 17."""
    steps = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    alphas_cumprod = torch.cos((steps + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=0.999)


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


class Diffusion(nn.Module):
    """A noise schedule and what the network predicts under it.

    Args:
        timesteps: T.
        schedule: ``linear`` or ``cosine``.
        prediction: ``epsilon``, or ``v`` = sqrt(alphas_cumprod) epsilon - sqrt(1 - alphas_cumprod) x_0
            (Salimans and Ho, "Progressive Distillation", 2022, section 4).
        min_snr_gamma: weight min(SNR, gamma) / SNR on the epsilon loss and its equivalent for v (Hang et al.,
            "Efficient Diffusion Training via Min-SNR Weighting", 2023, section 3.4); 0 weighs nothing.
    """

    signal: torch.Tensor
    noise: torch.Tensor
    weight: torch.Tensor

    def __init__(
        self, timesteps: int = 200, schedule: str = "cosine", prediction: str = "v", min_snr_gamma: float = 5.0
    ) -> None:
        super().__init__()
        betas = SCHEDULES[schedule](timesteps)
        self.timesteps = timesteps
        self.prediction = prediction
        self.min_snr_gamma = min_snr_gamma
        # The schedule stays in float64 on the CPU (mps has none); the tables that batches read are float32.
        self.betas, self.alphas_cumprod = betas, (1 - betas).cumprod(0)
        self.register_buffer("signal", self.alphas_cumprod.sqrt().float(), persistent=False)
        self.register_buffer("noise", (1 - self.alphas_cumprod).sqrt().float(), persistent=False)
        self.register_buffer("weight", self._min_snr_weight().float(), persistent=False)

    def _min_snr_weight(self) -> torch.Tensor:
        if self.min_snr_gamma == 0:
            return torch.ones(self.timesteps)
        snr = self.alphas_cumprod / (1 - self.alphas_cumprod)
        clipped = snr.clamp(max=self.min_snr_gamma)
        return clipped / snr if self.prediction == "epsilon" else clipped / (snr + 1)

    def coefficients(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (signal, noise) amplitudes of x_t, each float32 (N, 1, 1, 1)."""
        return self.signal[t][:, None, None, None], self.noise[t][:, None, None, None]

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Draw x_t given x_0 and standard normal ``noise``, all (N, C, H, W) (Ho et al., eq. 4)."""
        signal_scale, noise_scale = self.coefficients(t)
        return signal_scale * x0 + noise_scale * noise

    def target(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return what the network should predict from x_t."""
        if self.prediction == "epsilon":
            return noise
        signal_scale, noise_scale = self.coefficients(t)
        return signal_scale * noise - noise_scale * x0

    def to_x0_and_epsilon(
        self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn the network's output at x_t into its estimates of x_0 and of the noise."""
        signal_scale, noise_scale = self.coefficients(t)
        if self.prediction == "epsilon":
            return (x_t - noise_scale * output) / signal_scale, output
        return signal_scale * x_t - noise_scale * output, noise_scale * x_t + signal_scale * output

    def loss(
        self, network: Network, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor
    ) -> torch.Tensor:
        """Return each sample's loss: mean squared error over its pixels, weighted; float32 (N,)."""
        output = network(self.add_noise(x0, noise, t), t, conditions)
        error = (output.float() - self.target(x0, noise, t)).square().flatten(1).mean(1)
        return self.weight[t] * error


def drop_labels(conditions: torch.Tensor, uniform: torch.Tensor, rate: float) -> torch.Tensor:
    """Replace the condition by the null label where ``uniform`` < ``rate``, sample by sample.

    Args:
        conditions: int64 (N,).
        uniform: one number in [0, 1) a sample, (N,); dropping a whole batch at once would train steps
            without any condition and steps without any null label.
        rate: share of samples to drop.
    """
    return torch.where(uniform < rate, NULL_LABEL, conditions)
