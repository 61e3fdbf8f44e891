"""Every setting of P2, in one place: how each network is trained, judged, compared and sampled from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from common.cli import option
from common.errors import UserError
from p2_diffusion.samplers import SAMPLERS, SamplerConfig

GROUPS = (1, 2, 4, 8, 16, 32)  # all divide the allowed widths


@dataclass(frozen=True)
class TrainConfig:
    """One configuration of the diffusion model; the defaults are the network of the original report, for one GPU."""

    # Model (see p2_diffusion/model.py)
    channels: int = option(128, "width of the first level, a multiple of 32", minimum=32, multiple_of=32)
    channel_mults: tuple[int, ...] = option((1, 2, 2), "width of each level, times --channels")
    attention_levels: tuple[int, ...] = option((0, 1, 2), "levels whose down blocks attend")
    num_res_blocks: int = option(2, "residual blocks a level", minimum=1)
    dropout: float = option(0.15, "dropout in the residual blocks", minimum=0, below=1)
    num_groups: int = option(
        32, "groups of every GroupNorm; fewer than --channels, or its level loses time and digit", choices=GROUPS
    )

    # Diffusion (see p2_diffusion/diffusion.py)
    timesteps: int = option(200, "T, the number of diffusion steps", minimum=2)
    schedule: str = option("cosine", "noise schedule", choices=("cosine", "linear"))
    prediction: str = option("v", "what the network predicts", choices=("epsilon", "v"))
    min_snr_gamma: float = option(5.0, "min-SNR loss weight, 0 for none (Hang et al., 2023)", minimum=0)
    label_dropout: float = option(0.1, "share of samples trained without their label", minimum=0, maximum=1)

    # Optimisation
    initial_weights: str = option("", "weights to start from: a file, or the name of one in weights/ (empty: random)")
    steps: int = option(5_000, "optimiser steps", minimum=1)
    batch_size: int = option(256, "images a step, over all processes", minimum=1)
    learning_rate: float = option(4e-4, "peak learning rate of AdamW", above=0)
    warmup_steps: int = option(250, "steps of linear warm-up", minimum=0)
    weight_decay: float = option(0.0, "AdamW weight decay", minimum=0)
    clip_norm: float = option(1.0, "gradient norm is clipped to this", above=0)
    ema_decay: float = option(0.999, "decay of the averaged weights that sample", minimum=0, below=1)
    precision: str = option("auto", "bf16 where it is fast, or force one", choices=("auto", "bf16", "fp32"))
    compile: bool = option(False, "torch.compile the network; cuDNN then picks kernels by timing them")
    log_every: int = option(50, "steps between rows of stats.jsonl", minimum=1)
    sample_every: int = option(1000, "steps between sample grids", minimum=1)

    def __post_init__(self) -> None:
        """Refuse levels that 28x28 pictures cannot have.

        Raises:
            UserError: too many levels, one without width, or attention in one that there is not.
        """
        if not 1 <= len(self.channel_mults) <= 3 or min(self.channel_mults) < 1:
            mults = " ".join(map(str, self.channel_mults))
            raise UserError(f"--channel-mults {mults}: give 1 to 3 factors of at least 1; 28 halves only twice")
        for level in self.attention_levels:
            if not 0 <= level < len(self.channel_mults):
                raise UserError(f"--attention-levels {level}: the levels are 0 to {len(self.channel_mults) - 1}")


# The same class, narrower, attention where the picture is small: for two CPU cores.
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
    # Minutes on the built-in sample set. From random weights no digit appears in that time, so it goes on from those
    # that preset cpu learned from real data.
    "sample": replace(
        CPU,
        initial_weights="p2_unet_cpu.safetensors",
        steps=200,
        learning_rate=5e-4,
        warmup_steps=20,
        ema_decay=0.97,
        log_every=10,
        sample_every=100,
    ),
}


@dataclass(frozen=True)
class JudgeConfig:
    """One configuration of the classifier that judges generated digits."""

    epochs: int = option(8, "passes over the training pictures", minimum=1)
    batch_size: int = option(128, "images a step", minimum=2)
    learning_rate: float = option(2e-3, "peak learning rate of AdamW", above=0)
    weight_decay: float = option(0.02, "AdamW weight decay", minimum=0)
    shift: float = option(2.0, "largest random shift, pixels", minimum=0)
    rotation: float = option(10.0, "largest random rotation, degrees", minimum=0)
    zoom: float = option(0.1, "largest random change of size, share", minimum=0)
    precision: str = option("auto", "bf16 where it is fast, or force one", choices=("auto", "bf16", "fp32"))
    log_every: int = option(50, "steps between rows of stats.jsonl", minimum=1)


JUDGE_PRESETS = {
    "full": JudgeConfig(epochs=20),
    "cpu": JudgeConfig(),
    "sample": JudgeConfig(epochs=8, batch_size=64, log_every=10),
}


@dataclass(frozen=True)
class SweepConfig:
    """Which ways of sampling are compared: every one of these with every other."""

    samplers: tuple[str, ...] = option((), "samplers compared (none: all that skip time steps)", tuple(SAMPLERS))
    steps: tuple[int, ...] = option((5, 10, 20, 50), "time steps visited")
    guidance_scales: tuple[float, ...] = option((1.0, 1.5, 2.0, 3.0), "guidance scales; 1 is none")
    guidance_intervals: tuple[str, ...] = option(
        ("0-1", "0.2-1", "0.2-0.8"), "shares of T within which guidance is on, LOW-HIGH"
    )
    all_steps: bool = option(True, "also the samplers that visit all T, at the network's default guidance")
    num_per_digit: int = option(100, "pictures of each digit in every setting", minimum=1)
    batch_size: int = option(500, "pictures at a time", minimum=1)


_SWEEP_CPU = SweepConfig(
    steps=(5, 10), guidance_scales=(1.0, 2.0, 3.0), guidance_intervals=("0-1", "0.2-1"), batch_size=250
)
SWEEP_PRESETS = {
    "full": SweepConfig(),
    "cpu": _SWEEP_CPU,
    "sample": replace(
        _SWEEP_CPU,
        steps=(5, 20),
        guidance_scales=(1.0, 2.0),
        guidance_intervals=("0-1",),
        all_steps=False,
        num_per_digit=10,
        batch_size=100,
    ),
}

# How each network is sampled from unless told otherwise: what the rule of sweep.py takes. Others take DEFAULT_MODEL's.
SAMPLING = {
    "cpu": SamplerConfig("dpmpp", steps=10, guidance_scale=2.0),
    "full": SamplerConfig("dpmpp", steps=10, guidance_scale=1.5, guidance_interval=(0.2, 1.0)),
}
DEFAULT_MODEL = "cpu"  # whose shipped weights inference.py takes


def default_sampling(trained: Mapping[str, Any]) -> SamplerConfig:
    """Return how a network is sampled from unless told otherwise.

    Args:
        trained: how it was trained, as its weights file says. One that never saw the null label has no guidance.
    """
    chosen = SAMPLING.get(trained["preset"], SAMPLING[DEFAULT_MODEL])
    scale = chosen.guidance_scale if trained["label_dropout"] else 1.0
    return replace(chosen, steps=min(chosen.steps, trained["timesteps"]), guidance_scale=scale)
