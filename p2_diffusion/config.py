"""Every setting of P2: how networks are trained, distilled, compared, and sampled from by default.

A preset is a schedule and the size that goes with it: ``full`` the course report's network on a GPU, ``cpu`` a
narrow one on two cores, ``sample`` minutes on the built-in sample set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from common.cli import option
from p2_diffusion.samplers import SamplerConfig


@dataclass(frozen=True)
class TrainConfig:
    """One configuration of the diffusion model; the defaults are the course report's network, for one GPU."""

    # Model (p2_diffusion/model.py)
    channels: Literal[32, 64, 96, 128] = option(128, "width of the first level")
    channel_mults: tuple[int, ...] = option((1, 2, 2), "width of each of 1 to 3 levels, times --channels", "[1, inf)")
    attention_levels: tuple[Literal[0, 1, 2], ...] = option((0, 1, 2), "levels with self-attention on the way down")
    num_res_blocks: int = option(2, "residual blocks per level", "[1, inf)")
    dropout: float = option(0.15, "dropout in the residual blocks", "[0, 1)")
    num_groups: Literal[1, 2, 4, 8, 16, 32] = option(32, "groups of every GroupNorm, fewer than --channels")

    # Diffusion (p2_diffusion/diffusion.py)
    timesteps: int = option(200, "T, the number of diffusion steps", "[2, inf)")
    schedule: Literal["cosine", "linear"] = option("cosine", "noise schedule")
    prediction: Literal["epsilon", "v"] = option("v", "what the network predicts")
    min_snr_gamma: float = option(5.0, "gamma, the cap of the SNR in the loss weight; 0 for no weight", "[0, inf)")
    label_dropout: float = option(0.1, "fraction of samples trained without their label", "(0, 1)")

    # Optimization
    init_from: str = option("", "weights to start from: a file, or the name of one in weights/")
    steps: int = option(5_000, "optimizer steps", "[1, inf)")
    batch_size: int = option(256, "images per step, over all processes", "[1, inf)")
    learning_rate: float = option(4e-4, "peak learning rate of Adam", "(0, inf)")
    warmup_steps: int = option(250, "steps of linear warm-up", "[0, inf)")
    clip_norm: float = option(1.0, "gradient norm is clipped to this", "(0, inf)")
    ema_decay: float = option(0.999, "EMA decay of the weights that sample", "[0, 1)")
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "autocast; auto is bf16 where it is fast")
    compile: bool = option(False, "torch.compile the network")
    log_every: int = option(50, "steps between log entries", "[1, inf)")
    sample_every: int = option(1000, "steps between sample grids", "[1, inf)")


# The same architecture, narrower, with attention only at the lowest resolution: for two CPU cores.
CPU = TrainConfig(
    channels=32,
    attention_levels=(2,),
    num_res_blocks=1,
    dropout=0.0,
    num_groups=8,
    steps=12_500,
    batch_size=32,
    learning_rate=1e-3,
    warmup_steps=200,
)

PRESETS = {
    "full": TrainConfig(compile=True),
    "cpu": CPU,
    # From random weights no digit appears in minutes; it continues from what preset cpu learned from real data.
    "sample": replace(
        CPU,
        init_from="p2_unet_cpu.safetensors",
        steps=200,
        learning_rate=5e-4,
        warmup_steps=20,
        ema_decay=0.97,
        log_every=10,
        sample_every=100,
    ),
}


@dataclass(frozen=True)
class DistillConfig:
    teacher_steps: int = option(16, "steps of the teacher from noise to image, a multiple of the student's", "[4, inf)")
    guidance_scale: float = option(1.9, "guidance of the teacher; 1 is none")
    guidance_interval: tuple[float, float] = option((0.0, 1.0), "guide where t / T lies in this interval", "[0, 1]")
    steps: int = option(2000, "optimizer steps", "[1, inf)")
    batch_size: int = option(32, "images per step, over all processes", "[1, inf)")
    learning_rate: float = option(3e-4, "peak learning rate of Adam", "(0, inf)")
    warmup_steps: int = option(50, "steps of linear warm-up", "[0, inf)")
    clip_norm: float = option(1.0, "gradient norm is clipped to this", "(0, inf)")
    ema_decay: float = option(0.998, "EMA decay of the weights that sample", "[0, 1)")
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "autocast; auto is bf16 where it is fast")
    log_every: int = option(50, "steps between log entries", "[1, inf)")
    sample_every: int = option(500, "steps between sample grids", "[1, inf)")


DISTILL_PRESETS = {
    # Short, since it was run on a CPU, where the large teacher guides one image per second and thread.
    "full": DistillConfig(
        guidance_scale=1.75,
        guidance_interval=(0.2, 1.0),
        steps=300,
        batch_size=16,
        learning_rate=2e-4,
        warmup_steps=10,
        ema_decay=0.98,
    ),
    "cpu": DistillConfig(),
    "sample": DistillConfig(teacher_steps=12, steps=6, warmup_steps=2, log_every=3, sample_every=6),
}


@dataclass(frozen=True)
class ClassifierConfig:
    epochs: int = option(8, "epochs over the training images", "[1, inf)")
    batch_size: int = option(128, "images per step, over all processes", "[2, inf)")
    learning_rate: float = option(2e-3, "peak learning rate of AdamW", "(0, inf)")
    weight_decay: float = option(0.02, "AdamW weight decay", "[0, inf)")
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "autocast; auto is bf16 where it is fast")
    log_every: int = option(50, "steps between log entries", "[1, inf)")


CLASSIFIER_PRESETS = {
    "full": ClassifierConfig(),  # one classifier for all networks, so that their numbers compare
    "cpu": ClassifierConfig(),
    "sample": ClassifierConfig(batch_size=64, log_every=10),
}


class Sweep(NamedTuple):
    """The settings that sweep.py compares: all combinations."""

    steps: tuple[int, ...]
    scales: tuple[float, ...]  # of guidance; 1 is none
    intervals: tuple[tuple[float, float], ...]  # guide where t / T lies in this interval
    num_per_digit: int


INTERVALS = ((0.0, 1.0), (0.2, 1.0), (0.2, 0.8))
SWEEPS = {
    "full": Sweep((5, 10, 20, 50), (1.0, 1.5, 2.0, 3.0), INTERVALS, 100),
    "cpu": Sweep((5, 10, 20), (1.0, 2.0, 3.0), INTERVALS, 100),
    "sample": Sweep((5, 10), (1.0, 2.0), ((0.0, 1.0),), 10),
}

# How a network is sampled from by default: what sweep.py recommends for it.
SAMPLERS_BY_PRESET = {
    "cpu": SamplerConfig("dpmpp", 20, guidance_scale=2.0, guidance_interval=(0.2, 0.8)),
    "full": SamplerConfig("dpmpp", 10, guidance_scale=1.5, guidance_interval=(0.2, 1.0)),
}


def default_sampler(trained: Mapping[str, Any]) -> SamplerConfig:
    """Return how a network is sampled from by default; ``trained`` is the configuration in its weights file."""
    if "student_steps" in trained:
        return SamplerConfig("ddim_trailing", trained["student_steps"])
    sampler = SAMPLERS_BY_PRESET.get(trained["preset"], SAMPLERS_BY_PRESET["cpu"])
    return replace(sampler, sampling_steps=min(sampler.sampling_steps, trained["timesteps"]))
