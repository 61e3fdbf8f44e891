"""Ways to turn noise into pictures, all with classifier-free guidance, and the table of them.

Ancestral sampling is the original report's; the others read the same network at fewer time steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from common.errors import UserError
from p2_diffusion.diffusion import Diffusion, Network
from p2_diffusion.model import NULL_LABEL

FEW_STEPS = 15  # DPM-Solver++ with fewer ends in first order, as its authors recommend

# Estimates of x_0 and of the noise, from x and its time step.
Estimate = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample.

    Attributes:
        sampler: a name of SAMPLERS.
        steps: time steps visited, 1..T.
        guidance_scale: w in (1 - w) eps(x) + w eps(x, c); 1 is no guidance (Ho and Salimans, 2022, eq. 6 with
            w = 1 + their w).
        guidance_interval: guide only where t / T lies within, which elsewhere halves the cost (Kynkäänniemi et al.,
            "Applying Guidance in a Limited Interval", 2024).
        clip: clamp the estimate of x_0 to [-1, 1] at every step.
    """

    sampler: str
    steps: int
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    clip: bool = True

    @property
    def name(self) -> str:
        """A short name for keys of results, for example ``dpmpp-20-w2``."""
        low, high = self.guidance_interval
        interval = "" if (low, high) == (0, 1) else f"-{low:g}to{high:g}"
        return f"{self.sampler}-{self.steps}-w{self.guidance_scale:g}{interval}"

    def guidance_at(self, t: int, timesteps: int) -> float:
        """Return the guidance scale at time step ``t`` of T = ``timesteps``."""
        low, high = self.guidance_interval
        return self.guidance_scale if low <= t / timesteps <= high else 1.0


def time_steps(timesteps: int, steps: int, quadratic: bool = False) -> list[int]:
    """Return ``steps`` time steps from T-1 down to 0, evenly spaced or, ``quadratic``, denser near 0.

    Source of the quadratic choice: Song et al., 2021, appendix D.2.

    Raises:
        UserError: more steps than the model was trained for, or none.
    """
    if not 1 <= steps <= timesteps:
        raise UserError(f"--steps {steps}: must lie between 1 and {timesteps}, the T this model was trained for")
    if steps == 1:
        return [timesteps - 1]
    exponent = 2 if quadratic else 1
    # At least k, so that no time step comes twice where the parabola is flat.
    rising = [max(k, round((timesteps - 1) * (k / (steps - 1)) ** exponent)) for k in range(steps)]
    return rising[::-1]


@torch.no_grad()
def sample(
    network: Network,
    diffusion: Diffusion,
    conditions: torch.Tensor,
    noise: torch.Tensor,
    config: SamplerConfig,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Draw one image a condition.

    Args:
        network: the U-Net, called as ``network(x, t, conditions)``.
        diffusion: the process it was trained for.
        conditions: int64 (N,), 0 for none, digit + 1 otherwise.
        noise: x_T, standard normal (N, C, H, W).
        config: which sampler, how many steps, how much guidance.
        generator: source of the noise that a sampler adds, on a CPU.
        on_step: called with (number of time steps left behind, x) before the first and after each.

    Returns:
        Images float32 (N, C, H, W), about [-1, 1].
    """

    def estimate(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        x0, epsilon = predict(network, diffusion, x, t, conditions, config.guidance_at(t, diffusion.timesteps))
        if config.clip:
            signal, noise_scale = amplitudes(diffusion, t)
            x0 = x0.clamp(-1, 1)
            epsilon = (x - signal * x0) / noise_scale
        return x0, epsilon

    sampler = SAMPLERS[config.sampler]
    times = [*time_steps(diffusion.timesteps, config.steps, sampler.quadratic), None]
    if on_step:
        on_step(0, noise)
    for finished, x in enumerate(sampler.walk(estimate, diffusion, noise, times, generator), 1):
        if on_step:
            on_step(finished, x)
    return x


def predict(
    network: Network, diffusion: Diffusion, x: torch.Tensor, t: int, conditions: torch.Tensor, guidance_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the guided estimates of x_0 and of the noise, with and without condition in one batched pass."""
    times = torch.full((len(x),), t, device=x.device)
    if guidance_scale == 1.0:
        return diffusion.to_x0_and_epsilon(network(x, times, conditions).float(), x, times)
    null = torch.full_like(conditions, NULL_LABEL)
    output = network(torch.cat([x, x]), torch.cat([times, times]), torch.cat([conditions, null])).float()
    conditional, unconditional = output.chunk(2)
    return diffusion.to_x0_and_epsilon(unconditional + guidance_scale * (conditional - unconditional), x, times)


def amplitudes(diffusion: Diffusion, t: int | None) -> tuple[float, float]:
    """Return the amplitudes of signal and noise at ``t``; None is the clean image."""
    if t is None:
        return 1.0, 0.0
    alphas_cumprod = float(diffusion.alphas_cumprod[t])
    return alphas_cumprod**0.5, (1 - alphas_cumprod) ** 0.5


def ddim_sigma(diffusion: Diffusion, t: int, t_next: int | None, eta: float) -> float:
    """Return the noise that DDIM adds between two time steps (Song et al., 2021, eq. 16).

    With eta = 1 it is the standard deviation of the ancestral posterior (Ho et al., 2020, eq. 7).
    """
    (signal, noise), (signal_next, noise_next) = amplitudes(diffusion, t), amplitudes(diffusion, t_next)
    return eta * noise_next / noise * (1 - (signal / signal_next) ** 2) ** 0.5


def ddim(
    estimate: Estimate,
    diffusion: Diffusion,
    x: torch.Tensor,
    times: Sequence[int | None],
    generator: torch.Generator | None,
    eta: float = 0.0,
) -> Iterator[torch.Tensor]:
    """Song et al., "Denoising Diffusion Implicit Models", 2021, eq. 12: ``eta`` 0 adds no noise, 1 is ancestral.

    Ancestral sampling is Ho et al., 2020, algorithm 2, with the posterior variance of eq. 7.
    """
    for t, t_next in pairwise(times):
        x0, epsilon = estimate(x, t)
        signal_next, noise_next = amplitudes(diffusion, t_next)
        sigma = ddim_sigma(diffusion, t, t_next, eta)
        x = signal_next * x0 + max(0.0, noise_next**2 - sigma**2) ** 0.5 * epsilon
        if sigma > 0:
            x = x + sigma * torch.randn(x.shape, generator=generator).to(x)
        yield x


def dpmpp(
    estimate: Estimate,
    diffusion: Diffusion,
    x: torch.Tensor,
    times: Sequence[int | None],
    generator: torch.Generator | None,
) -> Iterator[torch.Tensor]:
    """Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling", 2022, algorithm 2 (2M, multistep).

    The last step, to the clean image, is its first-order formula, which returns x_0. Where steps are few, so is the
    step before it: extrapolating that far into small noise overshoots.
    """
    first_order_into = times[-2] if len(times) - 1 < FEW_STEPS else None
    previous: tuple[float, torch.Tensor] | None = None
    for t, t_next in pairwise(times):
        x0, _ = estimate(x, t)
        if t_next is None:
            yield x0
            return
        (signal, noise), (signal_next, noise_next) = (amplitudes(diffusion, time) for time in (t, t_next))
        half_log_snr, half_log_snr_next = math.log(signal / noise), math.log(signal_next / noise_next)
        h = half_log_snr_next - half_log_snr
        extrapolated = x0
        if previous is not None and t_next != first_order_into:
            previous_half_log_snr, previous_x0 = previous
            ratio = (half_log_snr - previous_half_log_snr) / h
            extrapolated = (1 + 1 / (2 * ratio)) * x0 - 1 / (2 * ratio) * previous_x0
        previous = (half_log_snr, x0)
        x = noise_next / noise * x - signal_next * math.expm1(-h) * extrapolated
        yield x


@dataclass(frozen=True)
class Sampler:
    """One way to sample.

    Attributes:
        title: what the report calls it.
        walk: called with (estimate, diffusion, x_T, time steps falling to 0 and then None, the clean image,
            generator); yields x after each of the time steps.
        steps: time steps visited unless told otherwise; None visits all T.
        quadratic: its time steps lie denser near 0.
    """

    title: str
    walk: Callable[..., Iterator[torch.Tensor]]
    steps: int | None = None
    quadratic: bool = False


# A new way to sample is a new entry here; with `steps`, the sweep compares it with the others that skip time steps.
SAMPLERS = {
    "ddpm": Sampler("ancestral (DDPM)", partial(ddim, eta=1.0)),
    "ddim": Sampler("DDIM", ddim, steps=20),
    # Even spacing makes the multistep solver extrapolate far in log-SNR just before the end: on the Gaussian data of
    # tests/test_p2_diffusion.py the variance then ends 8 % too large with 20 steps (quadratic: 1 % too small).
    "dpmpp": Sampler("DPM-Solver++ (2M)", dpmpp, steps=20, quadratic=True),
}
