"""P2's diffusion process and its samplers, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest
import torch

from common.errors import UserError
from p2_diffusion.diffusion import SCHEDULES, Diffusion, Network, drop_labels
from p2_diffusion.model import NULL_LABEL
from p2_diffusion.samplers import (
    SAMPLERS,
    Estimate,
    Sampler,
    SamplerConfig,
    amplitudes,
    ddim,
    ddim_sigma,
    predict,
    sample,
    time_steps,
)
from tests.conftest import Patch

MEAN = torch.tensor([0.3, -0.5])
COVARIANCE = torch.tensor([[0.40, 0.15], [0.15, 0.20]])


def gaussian_network(diffusion: Diffusion) -> Callable[..., torch.Tensor]:
    """The perfect network for data ~ N(MEAN, COVARIANCE), pictures of two channels and one pixel."""

    def network(x: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        signal, noise = (float(value[0]) for value in diffusion.coefficients(t))
        gain = signal * COVARIANCE @ torch.linalg.inv(signal**2 * COVARIANCE + noise**2 * torch.eye(2))
        x0 = MEAN + (x[:, :, 0, 0] - signal * MEAN) @ gain.T
        epsilon = (x[:, :, 0, 0] - signal * x0) / noise
        output = epsilon if diffusion.prediction == "epsilon" else signal * epsilon - noise * x0
        return output[:, :, None, None]

    return network


def two_pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 2, 1, 1, generator=torch.Generator().manual_seed(seed))


def walk(
    diffusion: Diffusion, x: torch.Tensor, sampler: str, steps: int, network: Network | None = None, clip: bool = False
) -> list[torch.Tensor]:
    """Return x before the first step and after each, drawn without guidance from the perfect network or another."""
    states: list[torch.Tensor] = []
    conditions, config = torch.zeros(len(x), dtype=torch.int64), SamplerConfig(sampler, steps, clip=clip)
    stream, network = torch.Generator().manual_seed(1), network or gaussian_network(diffusion)
    sample(network, diffusion, conditions, x, config, stream, on_step=lambda finished, x: states.append(x))
    return states


# The noise schedules


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("timesteps", [50, 200, 1000])
def test_schedules_end_in_noise(schedule: str, timesteps: int) -> None:
    """The unscaled linear betas leave alphas_cumprod_T = 0.13 at T = 200."""
    diffusion = Diffusion(timesteps, schedule)
    assert diffusion.alphas_cumprod[0] > 0.97
    assert diffusion.alphas_cumprod[-1] < 1e-4
    assert (diffusion.alphas_cumprod.diff() < 0).all()


def test_linear_schedule_is_the_papers_at_thousand_steps() -> None:
    betas = Diffusion(1000, "linear").betas
    assert betas[0].item() == pytest.approx(1e-4)
    assert betas[-1].item() == pytest.approx(0.02)
    assert betas.mean().item() == pytest.approx((1e-4 + 0.02) / 2)


def test_cosine_schedule_is_equation_17() -> None:
    diffusion = Diffusion(200, "cosine")

    def f(t: int) -> float:
        return math.cos((t / 200 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (1, 50, 100, 190):  # the paper counts from 1
        assert diffusion.alphas_cumprod[t - 1].item() == pytest.approx(f(t) / f(0), rel=1e-9)


# The forward process and the loss


def test_forward_process_has_the_moments_of_equation_4() -> None:
    diffusion = Diffusion(200)
    x0, t = torch.full((50_000, 1, 1, 1), 0.7), torch.full((50_000,), 120)
    x_t = diffusion.add_noise(x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)), t)
    alphas_cumprod = diffusion.alphas_cumprod[120].item()
    assert x_t.mean().item() == pytest.approx(0.7 * alphas_cumprod**0.5, abs=0.02)
    assert x_t.var().item() == pytest.approx(1 - alphas_cumprod, rel=0.03)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_target_gives_back_picture_and_noise(prediction: str) -> None:
    diffusion = Diffusion(200, prediction=prediction)
    x0, noise, t = torch.rand(6, 3, 4, 4) * 2 - 1, torch.randn(6, 3, 4, 4), torch.tensor([0, 10, 50, 100, 150, 180])
    x_t = diffusion.add_noise(x0, noise, t)
    found_x0, found_noise = diffusion.to_x0_and_epsilon(diffusion.target(x0, noise, t), x_t, t)
    torch.testing.assert_close(found_x0, x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found_noise, noise, atol=1e-4, rtol=1e-4)


def test_loss_is_the_mean_over_pixels_of_each_sample() -> None:
    diffusion = Diffusion(200, prediction="epsilon", min_snr_gamma=0.0)
    x0, noise, t = torch.zeros(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([3, 150])
    losses = diffusion.loss(lambda x, t, c: torch.zeros_like(x), x0, noise, t, torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(losses, noise.square().mean((1, 2, 3)))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights(gamma: float) -> None:
    t = torch.arange(200)
    epsilon, v = (Diffusion(200, prediction=kind, min_snr_gamma=gamma) for kind in ("epsilon", "v"))
    snr = epsilon.alphas_cumprod / (1 - epsilon.alphas_cumprod)
    expected = torch.minimum(snr, torch.tensor(gamma, dtype=torch.float64)) / snr
    torch.testing.assert_close(epsilon.weight[t], expected.float())
    assert epsilon.weight[-1].item() == 1.0  # where noise prevails nothing is taken away
    assert torch.equal(Diffusion(200, min_snr_gamma=0.0).weight, torch.ones(200))

    # One and the same error in x_0 must cost the same however the network expresses it.
    x_t, t = torch.randn(5, 3, 4, 4), torch.tensor([5, 40, 90, 140, 190])
    outputs = {}
    for diffusion in (epsilon, v):
        signal, noise = diffusion.coefficients(t)
        x0, wrong = torch.zeros_like(x_t), torch.full_like(x_t, 0.1)
        targets = [
            (x_t - signal * x) / noise
            if diffusion is epsilon
            else signal * (x_t - signal * x) / noise - noise * x  # v from x_t and x_0
            for x in (x0, wrong)
        ]
        outputs[diffusion.prediction] = diffusion.weight[t] * (targets[0] - targets[1]).square().mean((1, 2, 3))
    torch.testing.assert_close(outputs["epsilon"], outputs["v"], rtol=1e-3, atol=1e-7)


def test_labels_are_dropped_sample_by_sample() -> None:
    conditions = torch.randint(1, 11, (20_000,), generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(1))
    dropped = drop_labels(conditions, uniform, 0.1)
    assert torch.equal(dropped == NULL_LABEL, uniform < 0.1)
    assert torch.equal(dropped[uniform >= 0.1], conditions[uniform >= 0.1])
    assert (dropped == NULL_LABEL).double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(drop_labels(conditions, uniform, 0.0), conditions)


# Sampling


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 200), ("ddim", 200), ("dpmpp", 20)])
def test_samplers_reproduce_a_gaussian(sampler: str, steps: int, prediction: str) -> None:
    x = walk(Diffusion(200, "cosine", prediction), two_pixels(20_000), sampler, steps)[-1][:, :, 0, 0]
    torch.testing.assert_close(x.mean(0), MEAN, atol=0.015, rtol=0)
    torch.testing.assert_close(x.T.cov(), COVARIANCE, atol=0.015, rtol=0)


def exact_end(diffusion: Diffusion, noise: torch.Tensor) -> torch.Tensor:
    """Where the probability flow takes ``noise`` exactly, for the Gaussian data.

    In its eigenbasis every coordinate keeps its standard score from x_T to x at t = 0.
    """
    values, vectors = torch.linalg.eigh(COVARIANCE)

    def scales(t: int) -> tuple[float, torch.Tensor]:
        alphas_cumprod = float(diffusion.alphas_cumprod[t])
        return alphas_cumprod**0.5, (alphas_cumprod * values + 1 - alphas_cumprod).sqrt()

    (signal_start, deviation_start), (signal_end, deviation_end) = scales(diffusion.timesteps - 1), scales(0)
    score = (noise - signal_start * MEAN) @ vectors / deviation_start
    return signal_end * MEAN + score * deviation_end @ vectors.T


def heun(
    estimate: Estimate, diffusion: Diffusion, x: torch.Tensor, times: Sequence[int | None], *_: object
) -> Iterator[torch.Tensor]:
    """Karras et al., "Elucidating the Design Space", 2022, algorithm 1: a sampler that the repository has not."""
    for t, t_next in pairwise(times):
        (signal, noise), (signal_next, noise_next) = amplitudes(diffusion, t), amplitudes(diffusion, t_next)
        start, h, (_, slope) = x / signal, noise_next / signal_next - noise / signal, estimate(x, t)
        x = signal_next * (start + h * slope)
        if t_next is not None:
            x = signal_next * (start + h * (slope + estimate(x, t_next)[1]) / 2)
        yield x


def test_fast_samplers_follow_the_probability_flow(monkeypatch: Patch) -> None:
    """DDIM is of first order, DPM-Solver++ (2M) and Heun of second: their error falls faster and is smaller."""
    monkeypatch.setitem(SAMPLERS, "heun", Sampler("Heun", heun, steps=10, quadratic=True))
    diffusion, noise = Diffusion(1000, "linear"), two_pixels(500)
    errors = {}
    for sampler in ("ddim", "dpmpp", "heun"):
        for steps in (20, 40):
            # After one step less than all, x stands at t = 0, where the flow is known.
            end = walk(diffusion, noise, sampler, steps)[steps - 1][:, :, 0, 0]
            errors[sampler, steps] = (end - exact_end(diffusion, noise[:, :, 0, 0])).abs().mean()
    assert errors["ddim", 40] < 0.7 * errors["ddim", 20]
    for sampler in ("dpmpp", "heun"):
        assert errors[sampler, 40] < 0.45 * errors[sampler, 20]
        assert errors[sampler, 20] < errors["ddim", 20]


@pytest.mark.parametrize(("steps", "first_order"), [(5, True), (14, True), (15, False)])
def test_few_steps_end_in_first_order(steps: int, first_order: bool) -> None:
    """The step into the last time is then DDIM's, which DPM-Solver++ of first order is (Lu et al., 2022, section 4)."""
    diffusion, conditions = Diffusion(200, "cosine"), torch.zeros(50, dtype=torch.int64)
    states = walk(diffusion, two_pixels(50), "dpmpp", steps)
    t, t_next = time_steps(200, steps, quadratic=True)[-2:]
    x0, epsilon = predict(gaussian_network(diffusion), diffusion, states[steps - 2], t, conditions, 1.0)
    expected = next(ddim(lambda x, t: (x0, epsilon), diffusion, states[steps - 2], [t, t_next], None))
    assert torch.allclose(states[steps - 1], expected, atol=1e-5) is first_order


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_with_eta_one_has_the_ancestral_variance(schedule: str) -> None:
    diffusion = Diffusion(200, schedule)
    alphas_cumprod = diffusion.alphas_cumprod
    for t in (1, 50, 120, 198):
        posterior = (1 - alphas_cumprod[t - 1]) / (1 - alphas_cumprod[t]) * diffusion.betas[t]  # Ho et al., eq. 7
        assert ddim_sigma(diffusion, t, t - 1, 1.0) ** 2 == pytest.approx(posterior.item(), rel=1e-6)
        assert ddim_sigma(diffusion, t, t - 1, 0.0) == 0.0


def test_one_ancestral_step_has_the_posterior_mean() -> None:
    """Ho et al., eq. 7, over many draws from one and the same x_t."""
    diffusion, count = Diffusion(4, "linear"), 100_000
    x0 = torch.tensor([0.4, -0.2])

    def network(x: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        signal, noise = diffusion.coefficients(t)
        return signal * (x - signal * x0[None, :, None, None]) / noise - noise * x0[None, :, None, None]

    start = torch.tensor([1.0, 0.5])[None, :, None, None].expand(count, -1, 1, 1)
    after = walk(diffusion, start, "ddpm", 4, network)[1][:, :, 0, 0]
    now, before, beta = diffusion.alphas_cumprod[3], diffusion.alphas_cumprod[2], diffusion.betas[3]
    mean = before.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * start[0, :, 0, 0]
    variance = (1 - before) / (1 - now) * beta
    torch.testing.assert_close(after.mean(0), mean.float(), atol=0.01, rtol=0)
    torch.testing.assert_close(after.var(0), variance.float().expand(2), atol=0.01, rtol=0.02)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp"])
def test_one_step_returns_the_estimate_of_the_picture(sampler: str) -> None:
    diffusion, noise, conditions = Diffusion(50), two_pixels(8), torch.zeros(8, dtype=torch.int64)
    expected, _ = predict(gaussian_network(diffusion), diffusion, noise, 49, conditions, 1.0)
    assert torch.equal(walk(diffusion, noise, sampler, 1)[-1], expected)


def test_first_step_of_the_solver_is_ddim() -> None:
    """With three steps of T = 3 both take the same time steps."""
    noise = two_pixels(8)
    after = {sampler: walk(Diffusion(3), noise, sampler, 3)[1] for sampler in ("ddim", "dpmpp")}
    assert not torch.allclose(after["ddim"], noise)
    torch.testing.assert_close(after["ddim"], after["dpmpp"], atol=1e-5, rtol=1e-4)


def test_clipping_keeps_the_picture_in_range() -> None:
    wild, tame = (walk(Diffusion(20), 5 * two_pixels(64), "ddim", 5, clip=clip)[-1] for clip in (False, True))
    assert wild.abs().max() > 1 >= tame.abs().max()


# Guidance


class Recorder:
    """A network whose output depends on the condition, and that remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        return x.tanh() * (1 + conditions[:, None, None, None]) + t[:, None, None, None] / 100


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_guidance_in_one_batch_equals_two_passes(prediction: str) -> None:
    diffusion, network = Diffusion(50, prediction=prediction), Recorder()
    x, conditions, t = torch.randn(4, 3, 8, 8), torch.tensor([1, 4, 7, 10]), torch.full((4,), 30)
    x0, epsilon = predict(network, diffusion, x, 30, conditions, 2.5)
    assert network.sizes == [8]
    with_label, without = network(x, t, conditions), network(x, t, torch.full_like(conditions, NULL_LABEL))
    both = [diffusion.to_x0_and_epsilon(output, x, t) for output in (with_label, without)]
    expected = [2.5 * conditional - 1.5 * unconditional for conditional, unconditional in zip(*both, strict=True)]
    torch.testing.assert_close((x0, epsilon), tuple(expected), atol=1e-4, rtol=1e-4)


def test_no_guidance_needs_no_second_pass() -> None:
    network = Recorder()
    predict(network, Diffusion(50), torch.randn(4, 3, 8, 8), 10, torch.tensor([1, 2, 3, 4]), 1.0)
    assert network.sizes == [4]


def test_guidance_only_within_its_interval() -> None:
    network = Recorder()
    config = SamplerConfig("ddim", 5, 2.0, guidance_interval=(0.2, 0.6))
    sample(network, Diffusion(101), torch.ones(3, dtype=torch.int64), torch.randn(3, 3, 4, 4), config)
    assert network.sizes == [3, 3, 6, 6, 3]  # t = 100, 75, 50, 25, 0 of 101


def test_time_steps() -> None:
    assert time_steps(200, 200) == list(range(199, -1, -1))
    assert time_steps(200, 1) == [199]
    assert time_steps(200, 200, quadratic=True) == time_steps(200, 200)
    assert time_steps(101, 11, quadratic=True) == [100, 81, 64, 49, 36, 25, 16, 9, 4, 1, 0]
    for quadratic in (False, True):
        for count in (2, 3, 20, 77, 150, 199):
            steps = time_steps(200, count, quadratic)
            assert (len(set(steps)), steps[0], steps[-1]) == (count, 199, 0)
            assert steps == sorted(steps, reverse=True)
    for wrong in (0, 201):
        with pytest.raises(UserError, match=f"--steps {wrong}: must lie between 1 and 200"):
            time_steps(200, wrong)
