"""Three ways to turn noise into images, all with classifier-free guidance.

Ancestral sampling is the report's; the other two read the same network at fewer time steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from common.errors import UserError
from p2_diffusion.diffusion import Diffusion, Network
from p2_diffusion.model import NULL_LABEL

SAMPLER_NAMES = {"ddpm": "ancestral (DDPM)", "ddim": "DDIM", "dpmpp": "DPM-Solver++ (2M)"}
SAMPLERS = tuple(SAMPLER_NAMES)
FEW_STEPS = 15  # DPM-Solver++ with fewer ends in first order, as its authors recommend


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample.

    Attributes:
        sampler: ``ddpm`` (ancestral, Ho et al., 2020, algorithm 2), ``ddim`` (Song et al., "Denoising Diffusion
            Implicit Models", 2021, eq. 12) or ``dpmpp`` (DPM-Solver++ 2M, Lu et al., 2022, algorithm 2).
        steps: network evaluations, 1..T; ``ddpm`` needs all T unless it is to skip steps evenly.
        guidance_scale: w in (1 - w) eps(x) + w eps(x, c); 1 is no guidance (Ho and Salimans, 2022, eq. 6 with
            w = 1 + their w).
        guidance_interval: guide only where t / T lies within (Kynkäänniemi et al., "Applying Guidance in a
            Limited Interval", 2024).
        eta: noise of ``ddim``, 0 deterministic, 1 ancestral.
        clip: clamp the estimate of x_0 to [-1, 1] at every step.
    """

    sampler: str = "dpmpp"
    steps: int = 20
    guidance_scale: float = 2.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    eta: float = 0.0
    clip: bool = True


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
        generator: source of the noise that ``ddpm`` (and ``ddim`` with eta > 0) adds, on a CPU.
        on_step: called with (number of finished network evaluations, x) before the first and after each.

    Returns:
        Images float32 (N, C, H, W), about [-1, 1].
    """
    # Even spacing makes the multistep solver extrapolate far in log-SNR just before the end: on the Gaussian data of
    # tests/test_p2_diffusion.py the variance then ends 8 % too large with 20 steps (quadratic: 1 % too small).
    ts = time_steps(diffusion.timesteps, config.steps, quadratic=config.sampler == "dpmpp")
    few = len(ts) < FEW_STEPS
    solver = DPMSolverPP2M(diffusion, ts[-1] if few else None) if config.sampler == "dpmpp" else None
    eta = 1.0 if config.sampler == "ddpm" else config.eta
    x = noise
    if on_step:
        on_step(0, x)
    for index, t in enumerate(ts):
        t_next = ts[index + 1] if index + 1 < len(ts) else None
        guided = config.guidance_interval[0] <= t / diffusion.timesteps <= config.guidance_interval[1]
        x0, epsilon = predict(network, diffusion, x, t, conditions, config.guidance_scale if guided else 1.0)
        if config.clip:
            signal, noise_scale = _amplitudes(diffusion, t)
            x0 = x0.clamp(-1, 1)
            epsilon = (x - signal * x0) / noise_scale
        if solver:
            x = solver.step(x, x0, t, t_next)
        else:
            x = implicit_step(diffusion, x0, epsilon, t, t_next, eta, generator)
        if on_step:
            on_step(index + 1, x)
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


def _amplitudes(diffusion: Diffusion, t: int | None) -> tuple[float, float]:
    """Return the amplitudes of signal and noise at ``t``; None is the clean image."""
    if t is None:
        return 1.0, 0.0
    alphas_cumprod = float(diffusion.alphas_cumprod[t])
    return alphas_cumprod**0.5, (1 - alphas_cumprod) ** 0.5


def ddim_sigma(diffusion: Diffusion, t: int, t_next: int | None, eta: float) -> float:
    """Return the noise that DDIM adds between two time steps (Song et al., 2021, eq. 16).

    With eta = 1 it is the standard deviation of the ancestral posterior (Ho et al., 2020, eq. 7).
    """
    (signal, noise), (signal_next, noise_next) = _amplitudes(diffusion, t), _amplitudes(diffusion, t_next)
    return eta * noise_next / noise * (1 - (signal / signal_next) ** 2) ** 0.5


def implicit_step(
    diffusion: Diffusion,
    x0: torch.Tensor,
    epsilon: torch.Tensor,
    t: int,
    t_next: int | None,
    eta: float,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """Return x at ``t_next`` from the estimates at ``t`` (Song et al., 2021, eq. 12).

    With eta = 1 and neighbouring time steps it is ancestral sampling, Ho et al., 2020, algorithm 2, with the
    posterior variance of eq. 7.
    """
    signal_next, noise_next = _amplitudes(diffusion, t_next)
    sigma = ddim_sigma(diffusion, t, t_next, eta)
    mean = signal_next * x0 + max(0.0, noise_next**2 - sigma**2) ** 0.5 * epsilon
    return mean + sigma * torch.randn(x0.shape, generator=generator).to(x0) if sigma > 0 else mean


class DPMSolverPP2M:
    """The second-order multistep solver of the data prediction: remembers the estimate of the step before.

    Source: Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling", 2022, algorithm 2. The last step, to
    the clean image, is its first-order formula, which returns x_0. So is the step into time
    ``first_order_into``: where steps are few, extrapolating that far into small noise overshoots.
    """

    def __init__(self, diffusion: Diffusion, first_order_into: int | None = None) -> None:
        self._diffusion = diffusion
        self._first_order_into = first_order_into
        self._previous: tuple[float, torch.Tensor] | None = None

    def step(self, x: torch.Tensor, x0: torch.Tensor, t: int, t_next: int | None) -> torch.Tensor:
        """Return x at ``t_next`` from x and the estimate of x_0 at ``t``."""
        if t_next is None:
            return x0
        (signal, noise), (signal_next, noise_next) = (_amplitudes(self._diffusion, time) for time in (t, t_next))
        half_log_snr, half_log_snr_next = math.log(signal / noise), math.log(signal_next / noise_next)
        h = half_log_snr_next - half_log_snr
        estimate = x0
        if self._previous is not None and t_next != self._first_order_into:
            previous_half_log_snr, previous_x0 = self._previous
            ratio = (half_log_snr - previous_half_log_snr) / h
            estimate = (1 + 1 / (2 * ratio)) * x0 - 1 / (2 * ratio) * previous_x0
        self._previous = (half_log_snr, x0)
        return noise_next / noise * x - signal_next * math.expm1(-h) * estimate
