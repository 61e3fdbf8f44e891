"""P2's diffusion process and its samplers, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from common.cli import UserError
from p2_diffusion.config import DistillConfig
from p2_diffusion.diffusion import CLEAN, SCHEDULES, Diffusion, Network
from p2_diffusion.distill import teachers_x0
from p2_diffusion.model import NULL_LABEL
from p2_diffusion.samplers import SAMPLERS, Sampler, SamplerConfig, ddim, guided_prediction, sample, sampling_timesteps
from tests.conftest import Patch

import pytest
import torch

MEAN = torch.tensor([0.3, -0.5])
COVARIANCE = torch.tensor([[0.40, 0.15], [0.15, 0.20]])


def gaussian_network(diffusion: Diffusion) -> Callable[..., torch.Tensor]:
    """The perfect network for data ~ N(MEAN, COVARIANCE), images of two channels and one pixel."""

    def network(x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        alpha, sigma = diffusion.alpha_sigma(t)
        gain = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(2))  # (N, 1, 2, 2)
        x0 = (MEAN[:, None] + gain[:, 0] @ (x[:, :, 0] - alpha[:, 0] * MEAN[:, None]))[..., None]
        eps = (x - alpha * x0) / sigma
        return eps if diffusion.prediction == "epsilon" else alpha * eps - sigma * x0

    return network


def two_pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 2, 1, 1, generator=torch.Generator().manual_seed(seed))


def predict(
    network: Network, diffusion: Diffusion, x: torch.Tensor, t: int, class_labels: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The predictions of x_0 and eps at one timestep, guided or not at all."""
    guided = torch.full((len(x),), scale != 1)
    x0 = guided_prediction(network, diffusion, x, torch.full((len(x),), t), class_labels, scale, guided)
    alpha, sigma = diffusion.alpha_sigma_at(t)
    return x0, (x - alpha * x0) / sigma


def trajectory(
    diffusion: Diffusion, x: torch.Tensor, sampler: str, steps: int, network: Network | None = None
) -> list[torch.Tensor]:
    """Return x before the first step and after each, without guidance and clamping, from the perfect network."""
    network, class_labels = network or gaussian_network(diffusion), torch.zeros(len(x), dtype=torch.int64)

    def denoise(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        return predict(network, diffusion, x, t, class_labels, 1.0)

    chosen = SAMPLERS[sampler]
    times = [*sampling_timesteps(diffusion.num_timesteps, steps, chosen.spacing), CLEAN]
    return [x, *chosen.solve(denoise, diffusion, x, times, torch.Generator().manual_seed(1))]


# The noise schedules


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("timesteps", [50, 200, 1000])
def test_schedules_end_in_noise(schedule: str, timesteps: int) -> None:
    """The unscaled linear betas leave alphas_cumprod_T = 0.13 at T = 200."""
    diffusion = Diffusion(timesteps, schedule)
    assert diffusion.alphas_cumprod[0] > 0.97
    assert diffusion.alphas_cumprod[-2] < 1e-4
    assert (diffusion.alphas_cumprod[:-1].diff() < 0).all()


def test_linear_schedule_is_the_papers_at_thousand_steps() -> None:
    betas = SCHEDULES["linear"](1000)
    assert (betas[0].item(), betas[-1].item()) == pytest.approx((1e-4, 0.02))
    assert betas.mean().item() == pytest.approx((1e-4 + 0.02) / 2)


def test_cosine_schedule_is_equation_17() -> None:
    diffusion = Diffusion(200, "cosine")

    def f(t: int) -> float:
        return math.cos((t / 200 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (1, 50, 100, 190):  # the paper counts from 1
        assert diffusion.alphas_cumprod[t - 1].item() == pytest.approx(f(t) / f(0), rel=1e-9)


# The forward process and the loss


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_target_gives_back_image_and_noise(prediction: str) -> None:
    diffusion = Diffusion(200, prediction=prediction)
    x0, noise, t = torch.rand(6, 3, 4, 4) * 2 - 1, torch.randn(6, 3, 4, 4), torch.tensor([0, 10, 50, 100, 150, 180])
    x_t = diffusion.q_sample(x0, noise, t)
    found_x0, found_noise = diffusion.to_x0_and_eps(diffusion.target(x0, noise, t), x_t, t)
    torch.testing.assert_close(found_x0, x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found_noise, noise, atol=1e-4, rtol=1e-4)


def test_loss_is_the_mean_over_pixels_of_each_sample() -> None:
    diffusion = Diffusion(200, prediction="epsilon", min_snr_gamma=0.0)
    x0, noise, t = torch.zeros(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([3, 150])
    losses = diffusion.losses(lambda x, t, c: torch.zeros_like(x), x0, noise, t, torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(losses, noise.square().mean((1, 2, 3)))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights(gamma: float) -> None:
    t = torch.arange(200)
    epsilon, v = (Diffusion(200, prediction=kind, min_snr_gamma=gamma) for kind in ("epsilon", "v"))
    snr = epsilon.alphas_cumprod[:-1] / (1 - epsilon.alphas_cumprod[:-1])
    expected = torch.minimum(snr, torch.tensor(gamma, dtype=torch.float64)) / snr
    torch.testing.assert_close(epsilon.loss_weight[t], expected.float())
    assert epsilon.loss_weight[-1].item() == 1.0  # where noise prevails nothing is taken away
    assert torch.equal(Diffusion(200, min_snr_gamma=0.0).loss_weight, torch.ones(200))

    # One and the same error in x_0 must cost the same however the network expresses it.
    x_t, t = torch.randn(5, 3, 4, 4), torch.tensor([5, 40, 90, 140, 190])
    alpha, sigma = epsilon.alpha_sigma(t)
    losses = []
    for diffusion in (epsilon, v):
        right, wrong = (diffusion.target(x, (x_t - alpha * x) / sigma, t) for x in (0 * x_t, 0 * x_t + 0.1))
        losses.append(diffusion.loss_weight[t] * (right - wrong).square().mean((1, 2, 3)))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-7)


# Sampling


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 200), ("ddim", 200), ("dpmpp", 20)])
def test_samplers_reproduce_a_gaussian(sampler: str, steps: int, prediction: str) -> None:
    x = trajectory(Diffusion(200, "cosine", prediction), two_pixels(20_000), sampler, steps)[-1][:, :, 0, 0]
    torch.testing.assert_close(x.mean(0), MEAN, atol=0.015, rtol=0)
    torch.testing.assert_close(x.T.cov(), COVARIANCE, atol=0.015, rtol=0)


def exact_flow(diffusion: Diffusion, z: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor) -> torch.Tensor:
    """Where the probability flow takes ``z`` from ``t`` to ``t_next`` exactly, for the Gaussian data.

    In its eigenbasis every coordinate keeps its standard score.
    """
    values, vectors = torch.linalg.eigh(COVARIANCE)
    (alpha, sigma), (alpha_next, sigma_next) = (
        [value[:, :, 0, 0] for value in diffusion.alpha_sigma(times)] for times in (t, t_next)
    )
    score = (z[:, :, 0, 0] - alpha * MEAN) @ vectors / (alpha**2 * values + sigma**2).sqrt()
    return alpha_next * MEAN + score * (alpha_next**2 * values + sigma_next**2).sqrt() @ vectors.T


def heun(
    denoise: Callable, diffusion: Diffusion, x: torch.Tensor, timesteps: Sequence[int], *_: object
) -> Iterator[torch.Tensor]:
    """Karras et al., "Elucidating the Design Space", 2022, algorithm 1: a sampler that the repository has not."""
    for t, t_next in pairwise(timesteps):
        (signal, noise), (signal_next, noise_next) = diffusion.alpha_sigma_at(t), diffusion.alpha_sigma_at(t_next)
        start, h, (_, slope) = x / signal, noise_next / signal_next - noise / signal, denoise(x, t)
        x = signal_next * (start + h * slope)
        if t_next != CLEAN:
            x = signal_next * (start + h * (slope + denoise(x, t_next)[1]) / 2)
        yield x


def test_fast_samplers_follow_the_probability_flow(monkeypatch: Patch) -> None:
    """DDIM is of first order, DPM-Solver++ (2M) and Heun of second: their error falls faster and is smaller."""
    monkeypatch.setitem(SAMPLERS, "heun", Sampler("Heun", heun, spacing="quadratic"))
    diffusion, noise = Diffusion(1000, "linear"), two_pixels(500)
    exact = exact_flow(diffusion, noise, torch.full((500,), 999), torch.zeros(500, dtype=torch.int64))
    errors = {}
    for sampler in ("ddim", "dpmpp", "heun"):
        for steps in (20, 40):
            # After one step less than all, x stands at t = 0, where the flow is known.
            end = trajectory(diffusion, noise, sampler, steps)[steps - 1][:, :, 0, 0]
            errors[sampler, steps] = (end - exact).abs().mean()
    assert errors["ddim", 40] < 0.7 * errors["ddim", 20]
    for sampler in ("dpmpp", "heun"):
        assert errors[sampler, 40] < 0.45 * errors[sampler, 20]
        assert errors[sampler, 20] < errors["ddim", 20]


@pytest.mark.parametrize(("steps", "first_order"), [(5, True), (14, True), (15, False)])
def test_few_steps_end_in_first_order(steps: int, first_order: bool) -> None:
    """The step into the last time is then DDIM's, which DPM-Solver++ of first order is (Lu et al., 2022, section 4)."""
    diffusion, class_labels = Diffusion(200, "cosine"), torch.zeros(50, dtype=torch.int64)
    states = trajectory(diffusion, two_pixels(50), "dpmpp", steps)
    t, t_next = sampling_timesteps(200, steps, "quadratic")[-2:]
    x0, eps = predict(gaussian_network(diffusion), diffusion, states[steps - 2], t, class_labels, 1.0)
    expected = next(ddim(lambda x, t: (x0, eps), diffusion, states[steps - 2], [t, t_next], torch.Generator()))
    assert torch.allclose(states[steps - 1], expected, atol=1e-5) is first_order


def test_one_ancestral_step_has_the_posterior_mean() -> None:
    """Ho et al., eq. 7, over many draws from one and the same x_t."""
    diffusion, count = Diffusion(4, "linear"), 100_000
    x0 = torch.tensor([0.4, -0.2])

    def network(x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        signal, noise = diffusion.alpha_sigma(t)
        return signal * (x - signal * x0[None, :, None, None]) / noise - noise * x0[None, :, None, None]

    start = torch.tensor([1.0, 0.5])[None, :, None, None].expand(count, -1, 1, 1)
    after = trajectory(diffusion, start, "ddpm", 4, network)[1][:, :, 0, 0]
    now, before, beta = diffusion.alphas_cumprod[3], diffusion.alphas_cumprod[2], SCHEDULES["linear"](4)[3]
    mean = before.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * start[0, :, 0, 0]
    variance = (1 - before) / (1 - now) * beta
    torch.testing.assert_close(after.mean(0), mean.float(), atol=0.01, rtol=0)
    torch.testing.assert_close(after.var(0), variance.float().expand(2), atol=0.01, rtol=0.02)


def test_clamping_keeps_the_image_in_range() -> None:
    diffusion, noise, labels = Diffusion(20), 5 * two_pixels(64), torch.zeros(64, dtype=torch.int64)
    tame = sample(gaussian_network(diffusion), diffusion, labels, noise, SamplerConfig("ddim", 5), torch.Generator())
    assert trajectory(diffusion, noise, "ddim", 5)[-1].abs().max() > 1 >= tame.abs().max()


# Guidance


class Recorder:
    """A network whose output depends on the condition, and that remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        return x.tanh() * (1 + class_labels[:, None, None, None]) + t[:, None, None, None] / 100


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_guidance_in_one_batch_equals_two_passes(prediction: str) -> None:
    diffusion, network = Diffusion(50, prediction=prediction), Recorder()
    x, class_labels, t = torch.randn(4, 3, 8, 8), torch.tensor([1, 4, 7, 10]), torch.full((4,), 30)
    x0, eps = predict(network, diffusion, x, 30, class_labels, 2.5)
    assert network.sizes == [8]
    conditional, null = network(x, t, class_labels), network(x, t, torch.full_like(class_labels, NULL_LABEL))
    both = [diffusion.to_x0_and_eps(output, x, t) for output in (conditional, null)]
    expected = [2.5 * conditional - 1.5 * unconditional for conditional, unconditional in zip(*both, strict=True)]
    torch.testing.assert_close((x0, eps), tuple(expected), atol=1e-4, rtol=1e-4)


def test_guidance_only_within_its_interval() -> None:
    network = Recorder()
    config = SamplerConfig("ddim", 5, 2.0, guidance_interval=(0.2, 0.6))
    labels, noise = torch.ones(3, dtype=torch.int64), torch.randn(3, 3, 4, 4)
    sample(network, Diffusion(101), labels, noise, config, torch.Generator())
    assert network.sizes == [3, 3, 6, 6, 3]  # t = 100, 75, 50, 25, 0 of 101


def test_timesteps() -> None:
    assert sampling_timesteps(200, 200) == list(range(199, -1, -1))
    assert sampling_timesteps(200, 1) == sampling_timesteps(200, 1, "quadratic") == [199]
    assert sampling_timesteps(200, 4, "trailing") == [199, 149, 99, 49]
    assert sampling_timesteps(101, 11, "quadratic") == [100, 81, 64, 49, 36, 25, 16, 9, 4, 1, 0]
    for count in (2, 3, 20, 77, 150, 199):
        for spacing in ("linspace", "quadratic", "trailing"):
            steps = sampling_timesteps(200, count, spacing)
            assert len(set(steps)) == count and steps[0] == 199
            assert steps == sorted(steps, reverse=True)
            assert steps[-1] == 0 or spacing == "trailing"
    with pytest.raises(UserError, match="--steps 201: must lie between 1 and 200"):
        sampling_timesteps(200, 201)


# Distillation


@pytest.mark.parametrize("student_steps", [1, 2, 4])
def test_the_students_target_leads_where_the_flow_leads(student_steps: int) -> None:
    """One DDIM step with the target ends at the exact solution of the teacher's ODE as its sub-steps grow."""
    diffusion, count = Diffusion(1000, "cosine"), 400
    timesteps = torch.tensor([*sampling_timesteps(1000, student_steps, "trailing"), CLEAN])
    i = torch.arange(count) % student_steps
    t, t_next = timesteps[i], timesteps[i + 1]
    labels, x0 = torch.ones(count, dtype=torch.int64), 0.1 * two_pixels(count, seed=1)  # inside [-1, 1]
    z = diffusion.q_sample(x0, 0.3 * two_pixels(count), t)
    (alpha, sigma), (alpha_next, sigma_next) = diffusion.alpha_sigma(t), diffusion.alpha_sigma(t_next)

    errors = []
    for sub_steps in (4, 16, 64):
        config = DistillConfig(guidance_scale=1.0)
        target = teachers_x0(gaussian_network(diffusion), diffusion, config, sub_steps, z, t, t_next, labels)
        landed = alpha_next * target + sigma_next * (z - alpha * target) / sigma
        errors.append((landed[:, :, 0, 0] - exact_flow(diffusion, z, t, t_next)).abs().mean().item())
    assert errors[1] < 0.4 * errors[0] and errors[2] < 0.4 * errors[1]  # of first order
    assert errors[2] < 0.01


def test_teacher_with_one_sub_step_gives_its_own_prediction() -> None:
    """Then the target is what the teacher, guided as the sampler guides, predicts itself."""
    diffusion, network = Diffusion(100), Recorder()
    config = DistillConfig(guidance_scale=2.5, guidance_interval=(0.2, 0.6))
    z, labels = 0.1 * torch.randn(4, 3, 8, 8), torch.tensor([1, 4, 7, 10])
    t, t_next = torch.tensor([99, 49, 10, 49]), torch.tensor([49, CLEAN, CLEAN, CLEAN])
    target = teachers_x0(network, diffusion, config, 1, z, t, t_next, labels)
    assert network.sizes == [6]  # two of the four are guided
    for k in range(4):
        scale = 2.5 if 20 <= t[k] <= 60 else 1.0
        expected, _ = predict(network, diffusion, z[k : k + 1], int(t[k]), labels[k : k + 1], scale)
        torch.testing.assert_close(target[k : k + 1], expected.clamp(-1, 1), atol=1e-4, rtol=1e-4)
