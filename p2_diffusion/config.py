"""Every setting of P2 in one place: how networks are trained, distilled, compared, and sampled from by default.

A preset is a schedule and the size that goes with it: ``full`` the original report's network on a GPU, ``cpu`` a
narrow one on two cores, ``sample`` minutes on the built-in sample set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from common.cli import UserError, option
from p2_diffusion.samplers import SamplerConfig


@dataclass(frozen=True)
class TrainConfig:
    """One configuration of the diffusion model; the defaults are the original report's network, for one GPU."""

    # Model (p2_diffusion/model.py)
    channels: int = option(128, "width of the first level, a multiple of 32", "[32, inf)")
    channel_mults: tuple[int, ...] = option((1, 2, 2), "width of each level, times --channels")
    attention_levels: tuple[int, ...] = option((0, 1, 2), "levels whose down blocks attend")
    num_res_blocks: int = option(2, "residual blocks per level", "[1, inf)")
    dropout: float = option(0.15, "dropout in the residual blocks", "[0, 1)")
    num_groups: Literal[1, 2, 4, 8, 16, 32] = option(
        32, "groups of every GroupNorm; with as many as --channels, time and label are lost in the first level"
    )

    # Diffusion (p2_diffusion/diffusion.py)
    timesteps: int = option(200, "T, the number of diffusion steps", "[2, inf)")
    schedule: Literal["cosine", "linear"] = option("cosine", "noise schedule")
    prediction: Literal["epsilon", "v"] = option("v", "what the network predicts")
    min_snr_gamma: float = option(5.0, "min-SNR loss weight, 0 for none (Hang et al., 2023)", "[0, inf)")
    label_dropout: float = option(0.1, "fraction of samples trained without their label", "[0, 1]")

    # Optimization
    init_from: str = option("", "weights to start from: a file, or the name of one in weights/")
    steps: int = option(5_000, "optimizer steps", "[1, inf)")
    batch_size: int = option(256, "images per step, over all processes", "[1, inf)")
    learning_rate: float = option(4e-4, "peak learning rate of AdamW", "(0, inf)")
    warmup_steps: int = option(250, "steps of linear warm-up", "[0, inf)")
    weight_decay: float = option(0.0, "AdamW weight decay", "[0, inf)")
    clip_norm: float = option(1.0, "gradient norm is clipped to this", "(0, inf)")
    ema_decay: float = option(0.999, "decay of the averaged weights that sample", "[0, 1)")
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "bf16 where it is fast, or force one")
    compile: bool = option(False, "torch.compile the network; cuDNN then picks kernels by timing them")
    log_every: int = option(50, "steps between log entries", "[1, inf)")
    sample_every: int = option(1000, "steps between sample grids", "[1, inf)")

    def __post_init__(self) -> None:
        """Raise a UserError for a network that 28x28 images do not allow."""
        if self.channels % 32:
            raise UserError(f"--channels {self.channels}: must be a multiple of 32")
        if not 1 <= len(self.channel_mults) <= 3 or min(self.channel_mults) < 1:
            mults = " ".join(map(str, self.channel_mults))
            raise UserError(f"--channel-mults {mults}: give 1 to 3 factors of at least 1; 28 halves only twice")
        for level in self.attention_levels:
            if not 0 <= level < len(self.channel_mults):
                raise UserError(f"--attention-levels {level}: the levels are 0 to {len(self.channel_mults) - 1}")


# The same class, narrower, with attention only at the lowest resolution: for two CPU cores.
CPU = TrainConfig(
    channels=32,
    channel_mults=(1, 2, 2),
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
    """One configuration of the distillation of a student that samples in a few steps."""

    sub_steps: int = option(4, "DDIM steps of the teacher per step of the student", "[1, inf)")
    guidance_scale: float = option(2.0, "guidance of the teacher; 1 is none")
    guidance_start: float = option(0.2, "guide where t / T is at least this", "[0, 1]")
    steps: int = option(1000, "optimizer steps", "[1, inf)")
    batch_size: int = option(32, "images per step, over all processes", "[1, inf)")
    learning_rate: float = option(3e-4, "peak learning rate of AdamW", "(0, inf)")
    warmup_steps: int = option(50, "steps of linear warm-up", "[0, inf)")
    clip_norm: float = option(1.0, "gradient norm is clipped to this", "(0, inf)")
    ema_decay: float = option(0.998, "decay of the averaged weights that sample", "[0, 1)")
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "bf16 where it is fast, or force one")
    log_every: int = option(50, "steps between log entries", "[1, inf)")
    sample_every: int = option(500, "steps between sample grids", "[1, inf)")


DISTILL_PRESETS = {
    "full": DistillConfig(guidance_scale=1.5, steps=250, batch_size=16, warmup_steps=10),
    "cpu": DistillConfig(),
    "sample": DistillConfig(steps=10, warmup_steps=2, log_every=5, sample_every=10),
}
STUDENT_STEPS = (4, 2, 1)  # each student is distilled from the one before it, the first from a guided network


def make_distill_config(preset: str, student_steps: int) -> DistillConfig:
    """Return the configuration of a student with so many steps; students of students need no guidance."""
    config = DISTILL_PRESETS[preset]
    return config if student_steps == STUDENT_STEPS[0] else replace(config, sub_steps=2, guidance_scale=1.0)


@dataclass(frozen=True)
class ClassifierConfig:
    """One configuration of the evaluation classifier."""

    epochs: int = option(8, "epochs over the training images", "[1, inf)")
    batch_size: int = option(128, "images per step, over all processes", "[2, inf)")
    learning_rate: float = option(2e-3, "peak learning rate of AdamW", "(0, inf)")
    weight_decay: float = option(0.02, "AdamW weight decay", "[0, inf)")
    shift: float = option(2.0, "largest random shift, pixels", "[0, inf)")
    rotation: float = option(10.0, "largest random rotation, degrees", "[0, inf)")
    zoom: float = option(0.1, "largest random relative change of size", "[0, inf)")
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "bf16 where it is fast, or force one")
    log_every: int = option(50, "steps between log entries", "[1, inf)")


CLASSIFIER_PRESETS = {
    "full": ClassifierConfig(epochs=20),
    "cpu": ClassifierConfig(),
    "sample": ClassifierConfig(epochs=8, batch_size=64, log_every=10),
}


@dataclass(frozen=True)
class SweepConfig:
    """Which settings are compared: every sampler that skips timesteps with every value of these fields."""

    steps: tuple[int, ...] = option((5, 10, 20, 50), "numbers of timesteps visited")
    guidance_scales: tuple[float, ...] = option((1.0, 1.5, 2.0, 3.0), "guidance scales; 1 is none")
    guidance_starts: tuple[float, ...] = option((0.0, 0.2), "guide where t / T is at least this")
    all_steps: bool = option(True, "also the samplers that visit all T, at the network's default guidance")
    num_per_digit: int = option(100, "images of each digit per setting", "[1, inf)")


SWEEP_PRESETS = {
    "full": SweepConfig(),
    "cpu": SweepConfig(steps=(5, 10), guidance_scales=(1.0, 2.0, 3.0)),
    "sample": SweepConfig((5, 20), (1.0, 2.0), (0.0,), all_steps=False, num_per_digit=10),
}

# How a network is sampled from by default: what the rule of sweep.py takes.
SAMPLERS_BY_PRESET = {
    "cpu": SamplerConfig("dpmpp", steps=10, guidance_scale=2.0),
    "full": SamplerConfig("dpmpp", steps=10, guidance_scale=1.5, guidance_interval=(0.2, 1.0)),
}


def default_sampler(trained: Mapping[str, Any]) -> SamplerConfig:
    """Return how a network is sampled from by default.

    Args:
        trained: the configuration in its weights file. A student takes the steps it was distilled for; a network that
            never saw the null label has no guidance.
    """
    if "student_steps" in trained:
        return SamplerConfig("ddim_trailing", trained["student_steps"])
    chosen = SAMPLERS_BY_PRESET.get(trained["preset"], SAMPLERS_BY_PRESET["cpu"])
    scale = chosen.guidance_scale if trained["label_dropout"] else 1.0
    return replace(chosen, steps=min(chosen.steps, trained["timesteps"]), guidance_scale=scale)
