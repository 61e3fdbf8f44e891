"""Generate digits: 100 of each by default, as ``{digit}_{001..100}.png``, 28x28 RGB.

python p2_diffusion/inference.py out_dir
python p2_diffusion/inference.py out_dir --sampler ddpm
python p2_diffusion/inference.py out_dir --digits 3 7 --num-per-digit 10 --guidance-scale 3
python p2_diffusion/inference.py out_dir --checkpoint runs/cpu/p2_seed0/weights.safetensors
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import DIGIT_SIZE
from common.device import autocast, pick_device
from common.errors import UserError, run_main
from common.files import prepare_empty_folder
from common.paths import WEIGHTS
from common.pictures import save_image, to_uint8
from common.progress import progress_bar
from common.seed import generator, seed_everything
from p2_diffusion.build import load_model, to_device
from p2_diffusion.diffusion import Diffusion
from p2_diffusion.model import UNet
from p2_diffusion.presets import DEFAULT_MODEL, default_sampling
from p2_diffusion.samplers import SAMPLERS, SamplerConfig, sample, time_steps


def generate(
    model: UNet,
    diffusion: Diffusion,
    digits: Sequence[int],
    config: SamplerConfig,
    seed: int,
    batch_size: int = 250,
) -> torch.Tensor:
    """Draw one picture for every entry of ``digits``.

    The starting noise of all pictures is drawn up front, and every batch has its own stream for the noise
    that ancestral sampling adds. A picture thus depends on ``seed``, its place and ``batch_size``; with added noise
    also on how many pictures share its batch.

    Returns:
        uint8 (len(digits), 3, 28, 28) on the CPU.
    """
    device = next(model.parameters()).device
    noise = torch.randn(len(digits), 3, DIGIT_SIZE, DIGIT_SIZE, generator=generator(seed, "start"))
    conditions = torch.tensor(digits) + 1
    batches = []
    starts = range(0, len(digits), batch_size)
    for start in progress_bar(starts, desc="sampling", unit="batch", disable=len(starts) < 2):
        part = slice(start, start + batch_size)
        with autocast(device):
            images = sample(
                model,
                diffusion,
                conditions[part].to(device),
                to_device(noise[part], device),
                config,
                generator(seed, "steps", start),
            )
        batches.append(to_uint8(images).cpu())
    return torch.cat(batches)


def shipped_weights(model: str) -> Path:
    """Return the weights of preset ``model`` that come with this repository.

    Raises:
        UserError: none do.
    """
    path = WEIGHTS / f"p2_unet_{model}.safetensors"
    if not path.is_file():
        others = sorted(path.stem.removeprefix("p2_unet_") for path in WEIGHTS.glob("p2_unet_*.safetensors"))
        raise UserError(
            f"--model {model}: no weights are shipped for it, only for {', '.join(others)}; "
            f"train it with p2_diffusion/train.py --preset {model} and pass --checkpoint"
        )
    return path


def add_sampler_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a network and how it samples."""
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="PRESET", help="whose shipped weights")
    parser.add_argument("--checkpoint", type=Path, default=None, help="weights of your own instead")
    parser.add_argument(
        "--sampler",
        choices=SAMPLERS,
        default=None,
        help="how noise becomes a picture (unset: as the network's preset says)",
    )
    parser.add_argument("--steps", type=int, default=None, help="time steps visited (unset: the sampler's)")
    parser.add_argument(
        "--guidance-scale", type=float, default=None, help="1 is no guidance (unset: as the network's preset says)"
    )
    parser.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        default=None,
        metavar=("LOW", "HIGH"),
        help="guide only at these shares of T (unset: as the network's preset says)",
    )


def sampler_config(arguments: argparse.Namespace, trained: Mapping[str, Any]) -> SamplerConfig:
    """Return how a command line wants to sample from a network; what it leaves open is the network's default.

    Args:
        arguments: with the options of :func:`add_sampler_arguments`.
        trained: how the network was trained, as its weights file says.

    Raises:
        UserError: a value that the network or the sampler cannot have.
    """
    default = default_sampling(trained)
    name = arguments.sampler or default.sampler
    usual = default.steps if name == default.sampler else SAMPLERS[name].steps or trained["timesteps"]
    steps = min(usual, trained["timesteps"]) if arguments.steps is None else arguments.steps
    time_steps(trained["timesteps"], steps)
    low, high = arguments.guidance_interval or default.guidance_interval
    if not 0 <= low <= high <= 1:
        raise UserError(f"--guidance-interval {low:g} {high:g}: two shares of T, the lower one first")
    scale = default.guidance_scale if arguments.guidance_scale is None else arguments.guidance_scale
    if not math.isfinite(scale):
        raise UserError(f"--guidance-scale {scale}: must be a number")
    if trained["label_dropout"] == 0 and arguments.guidance_scale is None:
        print("note: no guidance, since training dropped no labels; --guidance-scale forces it", file=sys.stderr)
    return SamplerConfig(name, steps, scale, (low, high))


def main() -> None:
    """Parse the command line, sample, and write the pictures."""
    parser = make_parser(__doc__)
    parser.add_argument("out_dir", type=Path, help="new or empty folder for the pictures")
    parser.add_argument("--digits", type=int, nargs="+", default=list(range(10)), help="which digits")
    parser.add_argument("--num-per-digit", type=positive_int, default=100, help="pictures of each")
    parser.add_argument("--batch-size", type=positive_int, default=250, help="pictures at a time; part of the seed")
    add_sampler_arguments(parser)
    add_common_arguments(parser, data=False, output=False)
    arguments = parser.parse_args()
    for digit in arguments.digits:
        if not 0 <= digit <= 9:
            raise UserError(f"--digits {digit}: must be digits 0-9")
    if len(set(arguments.digits)) != len(arguments.digits):
        raise UserError(f"--digits {' '.join(map(str, arguments.digits))}: name every digit once")
    device = pick_device(arguments.device)
    seed_everything(arguments.seed)
    model, diffusion, trained = load_model(arguments.checkpoint or shipped_weights(arguments.model), device)
    config = sampler_config(arguments, trained)
    prepare_empty_folder(arguments.out_dir)

    started = time.perf_counter()
    digits = [digit for digit in arguments.digits for _ in range(arguments.num_per_digit)]
    images = generate(model, diffusion, digits, config, arguments.seed, arguments.batch_size)
    seconds = time.perf_counter() - started
    for index, (digit, image) in enumerate(zip(digits, images, strict=True)):
        save_image(image, arguments.out_dir / f"{digit}_{index % arguments.num_per_digit + 1:03d}.png")
    print(
        f"{len(images)} pictures in {arguments.out_dir}, sampled in {seconds:.1f} s ({config.sampler}, {config.steps})"
    )


if __name__ == "__main__":
    run_main(main)
