"""Samplers, all with classifier-free guidance, and the table of them.

Ancestral sampling is the original report's; the others evaluate the same network at fewer timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

from common.cli import UserError
from p2_diffusion.diffusion import CLEAN, Diffusion, Network
from p2_diffusion.model import NULL_LABEL

import torch

FEW_STEPS = 15  # DPM-Solver++ with fewer steps ends in first order, as its authors recommend

Spacing = Literal["linspace", "quadratic", "trailing"]
# (x_t, t) -> predictions of x_0 and eps.
Denoiser = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample.

    Attributes:
        sampler: a key of SAMPLERS.
        steps: number of timesteps visited, 1..T.
        guidance_scale: w in (1 - w) eps(x) + w eps(x, c); 1 is no guidance (Ho and Salimans, 2022, eq. 6 with
            w = 1 + their w).
        guidance_interval: guide only where t / T lies within, which halves the cost elsewhere (Kynkäänniemi et al.,
            "Applying Guidance in a Limited Interval", 2024).
        clip: clamp the prediction of x_0 to [-1, 1] at every step.
    """

    sampler: str
    steps: int
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    clip: bool = True


def sampling_timesteps(num_timesteps: int, steps: int, spacing: Spacing = "linspace") -> list[int]:
    """Return ``steps`` decreasing timesteps, the first of them T-1.

    ``linspace`` is evenly spaced down to 0; ``quadratic`` too, but denser near 0 (Song et al., 2021, appendix D.2).
    ``trailing`` is evenly spaced down to the clean image, CLEAN, which is not listed (Lin et al.,
    "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024, table 2).

    Raises:
        UserError: more steps than the model was trained for, or none.
    """
    if not 1 <= steps <= num_timesteps:
        raise UserError(f"--steps {steps}: must lie between 1 and {num_timesteps}, the T this model was trained for")
    if spacing == "trailing":
        return [round(num_timesteps * (steps - k) / steps) - 1 for k in range(steps)]
    if steps == 1:
        return [num_timesteps - 1]
    exponent = 2 if spacing == "quadratic" else 1
    # At least k, so that no timestep occurs twice where the parabola is flat.
    increasing = [max(k, round((num_timesteps - 1) * (k / (steps - 1)) ** exponent)) for k in range(steps)]
    return increasing[::-1]


@torch.no_grad()
def sample(
    network: Network,
    diffusion: Diffusion,
    class_labels: torch.Tensor,
    noise: torch.Tensor,
    config: SamplerConfig,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Return one image per class label, float32 (N, C, H, W), about [-1, 1].

    Args:
        network: the U-Net.
        diffusion: the process it was trained for.
        class_labels: int64 (N,), 0 for none, digit + 1 otherwise.
        noise: x_T, standard normal (N, C, H, W).
        config: sampler, steps and guidance.
        generator: CPU source of the noise that a stochastic sampler adds.
        on_step: called with (t, x_t) before the first step and after each; the last t is CLEAN.
    """

    def denoise(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        guided = low <= t / diffusion.num_timesteps <= high and config.guidance_scale != 1
        t_batch, mask = torch.full_like(class_labels, t), torch.full_like(class_labels, guided, dtype=torch.bool)
        x0, eps = guided_prediction(network, diffusion, x, t_batch, class_labels, config.guidance_scale, mask)
        if config.clip:
            alpha, sigma = diffusion.alpha_sigma_at(t)
            x0 = x0.clamp(-1, 1)
            eps = (x - alpha * x0) / sigma
        return x0, eps

    low, high = config.guidance_interval
    sampler = SAMPLERS[config.sampler]
    timesteps = [*sampling_timesteps(diffusion.num_timesteps, config.steps, sampler.spacing), CLEAN]
    x = noise
    if on_step:
        on_step(timesteps[0], x)
    for t, x in zip(timesteps[1:], sampler.solve(denoise, diffusion, noise, timesteps, generator), strict=True):
        if on_step:
            on_step(t, x)
    return x


def guided_prediction(
    network: Network,
    diffusion: Diffusion,
    x: torch.Tensor,
    t: torch.Tensor,
    class_labels: torch.Tensor,
    guidance_scale: float,
    guided: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the predictions of x_0 and eps, guided where ``guided`` (bool, (N,)); both passes share one batch."""
    null = torch.full_like(class_labels[guided], NULL_LABEL)
    inputs = torch.cat([x, x[guided]]), torch.cat([t, t[guided]]), torch.cat([class_labels, null])
    output = network(*inputs).float()
    output, unconditional = output[: len(x)], output[len(x) :]
    output[guided] = unconditional + guidance_scale * (output[guided] - unconditional)
    return diffusion.to_x0_and_eps(output, x, t)


def ddim_noise(diffusion: Diffusion, t: int, t_next: int, eta: float) -> float:
    """Return the standard deviation of the noise that DDIM adds from ``t`` to ``t_next`` (Song et al., 2021, eq. 16).

    With eta = 1 it is that of the ancestral posterior (Ho et al., 2020, eq. 7).
    """
    (alpha, sigma), (alpha_next, sigma_next) = diffusion.alpha_sigma_at(t), diffusion.alpha_sigma_at(t_next)
    return eta * sigma_next / sigma * (1 - (alpha / alpha_next) ** 2) ** 0.5


def ddim(
    denoise: Denoiser,
    diffusion: Diffusion,
    x: torch.Tensor,
    timesteps: Sequence[int],
    generator: torch.Generator | None,
    eta: float = 0.0,
) -> Iterator[torch.Tensor]:
    """Song et al., "Denoising Diffusion Implicit Models", 2021, eq. 12: ``eta`` 0 is deterministic, 1 is ancestral.

    Ancestral sampling is Ho et al., 2020, algorithm 2, with the posterior variance of eq. 7.
    """
    for t, t_next in pairwise(timesteps):
        x0, eps = denoise(x, t)
        alpha_next, sigma_next = diffusion.alpha_sigma_at(t_next)
        added = ddim_noise(diffusion, t, t_next, eta)
        x = alpha_next * x0 + max(0.0, sigma_next**2 - added**2) ** 0.5 * eps
        if added > 0:
            x = x + added * torch.randn(x.shape, generator=generator).to(x)
        yield x


def dpmpp(
    denoise: Denoiser,
    diffusion: Diffusion,
    x: torch.Tensor,
    timesteps: Sequence[int],
    generator: torch.Generator | None,
) -> Iterator[torch.Tensor]:
    """Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling", 2022, algorithm 2 (2M, multistep).

    The last step, to the clean image, is its first-order formula, which returns x_0. With few steps so is the step
    before it: extrapolating that far into small noise overshoots.
    """
    first_order_into = timesteps[-2] if len(timesteps) - 1 < FEW_STEPS else None
    previous: tuple[float, torch.Tensor] | None = None
    for t, t_next in pairwise(timesteps):
        x0, _ = denoise(x, t)
        if t_next == CLEAN:
            yield x0
            return
        (alpha, sigma), (alpha_next, sigma_next) = diffusion.alpha_sigma_at(t), diffusion.alpha_sigma_at(t_next)
        half_log_snr, half_log_snr_next = math.log(alpha / sigma), math.log(alpha_next / sigma_next)
        h = half_log_snr_next - half_log_snr
        extrapolated = x0
        if previous is not None and t_next != first_order_into:
            previous_half_log_snr, previous_x0 = previous
            ratio = (half_log_snr - previous_half_log_snr) / h
            extrapolated = (1 + 1 / (2 * ratio)) * x0 - 1 / (2 * ratio) * previous_x0
        previous = (half_log_snr, x0)
        x = sigma_next / sigma * x - alpha_next * math.expm1(-h) * extrapolated
        yield x


@dataclass(frozen=True)
class Sampler:
    """One way to sample."""

    title: str  # in the report
    # (denoise, diffusion, x_T, decreasing timesteps and then CLEAN, generator) -> x after each of the timesteps
    solve: Callable[..., Iterator[torch.Tensor]]
    steps: int | None = None  # timesteps visited by default; None visits all T
    spacing: Spacing = "linspace"


# A new sampler is a new entry here; with `steps`, the sweep compares it with the others that skip timesteps.
SAMPLERS = {
    "ddpm": Sampler("ancestral (DDPM)", partial(ddim, eta=1.0)),
    "ddim": Sampler("DDIM", ddim, steps=20),
    # The timesteps of distilled students.
    "ddim_trailing": Sampler("DDIM, trailing", ddim, steps=20, spacing="trailing"),
    # Even spacing makes the multistep solver extrapolate far in log-SNR just before the end: on the Gaussian data of
    # tests/test_p2_diffusion.py the variance then ends 8 % too large with 20 steps (quadratic: 1 % too small).
    "dpmpp": Sampler("DPM-Solver++ (2M)", dpmpp, steps=20, spacing="quadratic"),
}
