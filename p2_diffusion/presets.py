"""Every setting of P2, in one place. ``--preset`` picks a row, each field is an option of train.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.cli import option
from common.errors import UserError


@dataclass(frozen=True)
class TrainConfig:
    """One configuration of the diffusion model; the defaults are the report's network."""

    # Model (see p2_diffusion/model.py)
    channels: int = option(128, "width of the first level, a multiple of 32", minimum=32, multiple_of=32)
    channel_mults: tuple[int, ...] = option((1, 2, 2), "width of each level, times --channels")
    attention_levels: tuple[int, ...] = option((0, 1, 2), "levels whose down blocks attend")
    num_res_blocks: int = option(2, "residual blocks a level", minimum=1)
    dropout: float = option(0.15, "dropout in the residual blocks", minimum=0, below=1)

    # Diffusion (see p2_diffusion/diffusion.py)
    timesteps: int = option(200, "T, the number of diffusion steps", minimum=2)
    schedule: str = option("cosine", "noise schedule", choices=("cosine", "linear"))
    prediction: str = option("v", "what the network predicts", choices=("epsilon", "v"))
    min_snr_gamma: float = option(5.0, "min-SNR loss weight, 0 for none (Hang et al., 2023)", minimum=0)
    label_dropout: float = option(0.1, "share of samples trained without their label", minimum=0, maximum=1)

    # Optimisation
    initial_weights: str = option("", "weights to start from: a file, or the name of one in weights/ (empty: random)")
    steps: int = option(30_000, "optimiser steps", minimum=1)
    batch_size: int = option(512, "images a step, over all processes", minimum=1)
    learning_rate: float = option(4e-4, "peak learning rate of AdamW", above=0)
    warmup_steps: int = option(500, "steps of linear warm-up", minimum=0)
    weight_decay: float = option(0.0, "AdamW weight decay", minimum=0)
    clip_norm: float = option(1.0, "gradient norm is clipped to this", above=0)
    ema_decay: float = option(0.9995, "decay of the averaged weights that sample", minimum=0, below=1)
    precision: str = option("auto", "bf16 where it is fast, or force one", choices=("auto", "bf16", "fp32"))
    compile: bool = option(False, "torch.compile the network; cuDNN then picks kernels by timing them")
    log_every: int = option(50, "steps between rows of stats.jsonl", minimum=1)
    sample_every: int = option(2000, "steps between sample grids", minimum=1)

    def __post_init__(self) -> None:
        """Refuse levels that 28x28 pictures cannot have.

        Raises:
            UserError: too many levels, or one without width.
        """
        if not 1 <= len(self.channel_mults) <= 3 or min(self.channel_mults) < 1:
            mults = " ".join(map(str, self.channel_mults))
            raise UserError(f"--channel-mults {mults}: give 1 to 3 factors of at least 1; 28 halves only twice")


# The same class as the report's, narrower, attention where the picture is small: for two CPU cores.
CPU = TrainConfig(
    channels=32,
    channel_mults=(1, 2, 2),
    attention_levels=(2,),
    num_res_blocks=1,
    dropout=0.0,
    steps=6_400,
    batch_size=32,
    learning_rate=1e-3,
    warmup_steps=200,
    ema_decay=0.999,
    sample_every=1000,
)

PRESETS = {
    # The network as printed in the report, for one GPU.
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
    """Which ways of sampling are compared: every sampler at all ``steps``, the default one at all scales."""

    num_per_digit: int = option(100, "pictures of each digit in every setting", minimum=1)
    steps: tuple[int, ...] = option((5, 10, 20, 50), "network passes of the fast samplers")
    guidance_scales: tuple[float, ...] = option((1.0, 1.5, 2.0, 3.0, 4.0), "guidance scales; 1 is none")
    ancestral: bool = option(True, "also ancestral sampling with all T steps")
    batch_size: int = option(500, "pictures at a time", minimum=1)


SWEEP_PRESETS = {
    "full": SweepConfig(),
    "cpu": SweepConfig(steps=(5, 10, 20), guidance_scales=(1.0, 2.0, 3.0), batch_size=250),
    "sample": SweepConfig(num_per_digit=10, steps=(5, 20), guidance_scales=(1.0, 2.0), ancestral=False, batch_size=100),
}
