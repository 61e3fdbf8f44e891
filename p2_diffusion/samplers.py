"""Samplers, all with classifier-free guidance, and the table of them; ancestral sampling is the course report's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from common.cli import UserError
from p2_diffusion.diffusion import CLEAN, Diffusion, Network
from p2_diffusion.model import NULL_LABEL

import torch

# (x_t, t) -> predictions of x_0 and eps.
Denoiser = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample."""

    sampler: str  # a key of SAMPLERS
    sampling_steps: int  # number of timesteps visited, 1..T
    # w in (1 - w) eps(x) + w eps(x, c); 1 is no guidance (Ho and Salimans, 2022, eq. 6 with w = 1 + their w)
    guidance_scale: float = 1.0
    # Guide only where t / T lies within: Kynkäänniemi et al., "Applying Guidance in a Limited Interval", 2024.
    guidance_interval: tuple[float, float] = (0.0, 1.0)


def sampling_timesteps(num_timesteps: int, steps: int, spacing: str = "linspace") -> list[int]:
    """Return ``steps`` decreasing timesteps, the first of them T-1; a UserError for more than T.

    ``linspace`` is evenly spaced down to 0; ``quadratic`` too, but denser near 0 (Song et al., 2021, appendix D.2).
    ``trailing`` is evenly spaced down to the clean image, CLEAN, which is not listed (Lin et al.,
    "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024, table 2).
    """
    if steps > num_timesteps:
        raise UserError(f"--steps {steps}: must lie between 1 and {num_timesteps}, the T this model was trained for")
    if spacing == "trailing" or steps == 1:
        return [round(num_timesteps * (steps - k) / steps) - 1 for k in range(steps)]
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
    generator: torch.Generator,
    on_step: Callable[[int, torch.Tensor], object] = lambda t, x: None,
) -> torch.Tensor:
    """Return one image per class label (int64 (N,), digit + 1) from ``noise`` x_T: float32 (N, C, H, W) in [-1, 1].

    The noise that a stochastic sampler adds comes from ``generator``, on the CPU. ``on_step`` is called with (t, x_t)
    before the first step and after each; the last t is CLEAN.
    """

    low, high = config.guidance_interval

    def denoise(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        guided = low <= t / diffusion.num_timesteps <= high and config.guidance_scale != 1
        t_batch, mask = torch.full_like(class_labels, t), torch.full_like(class_labels, guided, dtype=torch.bool)
        x0 = guided_prediction(network, diffusion, x, t_batch, class_labels, config.guidance_scale, mask)
        # Clamp x_0, and change eps so that x = alpha x_0 + sigma eps still holds.
        x0 = x0.clamp(-1, 1)
        alpha, sigma = diffusion.alpha_sigma_at(t)
        return x0, (x - alpha * x0) / sigma

    sampler = SAMPLERS[config.sampler]
    timesteps = [*sampling_timesteps(diffusion.num_timesteps, config.sampling_steps, sampler.spacing), CLEAN]
    on_step(timesteps[0], noise)
    for t, x in zip(timesteps[1:], sampler.solve(denoise, diffusion, noise, timesteps, generator), strict=True):
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
) -> torch.Tensor:
    """Return the prediction of x_0, guided where ``guided`` (bool, (N,)); both passes share one batch."""
    null = torch.full_like(class_labels[guided], NULL_LABEL)
    inputs = torch.cat([x, x[guided]]), torch.cat([t, t[guided]]), torch.cat([class_labels, null])
    output = network(*inputs).float()
    output, unconditional = output[: len(x)], output[len(x) :]
    output[guided] = unconditional + guidance_scale * (output[guided] - unconditional)
    return diffusion.to_x0_and_eps(output, x, t)[0]


def ddim(
    denoise: Denoiser, diffusion: Diffusion, x: torch.Tensor, times: list[int], stream: torch.Generator, eta: float = 0
) -> Iterator[torch.Tensor]:
    """Song et al., "Denoising Diffusion Implicit Models", 2021, eq. 12: ``eta`` 0 is deterministic, 1 is ancestral.

    Ancestral sampling is Ho et al., 2020, algorithm 2, with the posterior variance of eq. 7.
    """
    for t, t_next in pairwise(times):
        x0, eps = denoise(x, t)
        (alpha, sigma), (alpha_next, sigma_next) = diffusion.alpha_sigma_at(t), diffusion.alpha_sigma_at(t_next)
        added = eta * sigma_next / sigma * (1 - (alpha / alpha_next) ** 2) ** 0.5  # Song et al., eq. 16
        x = alpha_next * x0 + max(0.0, sigma_next**2 - added**2) ** 0.5 * eps
        if added > 0:
            x = x + added * torch.randn(x.shape, generator=stream).to(x)
        yield x


def dpmpp(
    denoise: Denoiser, diffusion: Diffusion, x: torch.Tensor, times: list[int], stream: torch.Generator
) -> Iterator[torch.Tensor]:
    """Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling", 2022, algorithm 2 (2M, multistep).

    The last step, to the clean image, is its first-order formula, which returns x_0. With fewer than 15 steps the step
    before it is first-order too, as the authors recommend: extrapolating that far into small noise overshoots.
    """
    first_order_into = times[-2] if len(times) - 1 < 15 else None
    previous: tuple[float, torch.Tensor] | None = None
    for t, t_next in pairwise(times):
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
    skips_timesteps: bool = True  # or visits all T
    spacing: str = "linspace"


# A new sampler is a new entry here; sweep.py compares it, unless its timesteps are trailing.
SAMPLERS = {
    "ddpm": Sampler("ancestral (DDPM)", partial(ddim, eta=1.0), skips_timesteps=False),
    "ddim": Sampler("DDIM", ddim),
    # The timesteps of distilled students.
    "ddim_trailing": Sampler("DDIM, trailing", ddim, spacing="trailing"),
    # Even spacing makes the multistep solver extrapolate far in log-SNR just before the end: on the Gaussian data of
    # tests/test_p2_diffusion.py the variance then ends 8% too large with 20 steps (quadratic: 1% too small).
    "dpmpp": Sampler("DPM-Solver++ (2M)", dpmpp, spacing="quadratic"),
}
