"""Generate digits: 100 of each by default, as ``{digit}_{001..100}.png``, 28x28 RGB.

python p2_diffusion/inference.py out_dir
python p2_diffusion/inference.py out_dir --model full --sampler ddpm
python p2_diffusion/inference.py out_dir --digits 3 7 --num-per-digit 10 --guidance-scale 3
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

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
from common.weights import load_into, load_weights
from p2_diffusion.diffusion import Diffusion
from p2_diffusion.model import UNet, unet_memory_format
from p2_diffusion.samplers import SAMPLERS, SamplerConfig, sample, time_steps
from p2_diffusion.train import KIND, build_diffusion, build_model

DEFAULT = SamplerConfig()


def load_model(checkpoint: Path, device: torch.device) -> tuple[UNet, Diffusion]:
    """Return the U-Net of a weights file or checkpoint, ready to sample, and its diffusion process.

    Raises:
        UserError: missing, damaged, or of another model.
    """
    state, config = load_weights(checkpoint, KIND)
    model = build_model(config)
    load_into(model, state, checkpoint)
    model = model.to(device, memory_format=unet_memory_format(device)).eval().requires_grad_(False)
    return model, build_diffusion(config).to(device)


def generate(
    model: UNet,
    diffusion: Diffusion,
    digits: Sequence[int],
    config: SamplerConfig,
    seed: int,
    batch_size: int = 250,
    precision: str = "auto",
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
        with autocast(device, precision):
            images = sample(
                model,
                diffusion,
                conditions[part].to(device),
                noise[part].to(device, memory_format=unet_memory_format(device)),
                config,
                generator(seed, "steps", start),
            )
        batches.append(to_uint8(images).cpu())
    return torch.cat(batches)


def add_sampler_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a sampler."""
    parser.add_argument("--sampler", choices=SAMPLERS, default=DEFAULT.sampler, help="how noise becomes a picture")
    parser.add_argument("--steps", type=int, default=None, help=f"network passes (unset: {DEFAULT.steps}, ddpm: T)")
    parser.add_argument("--guidance-scale", type=float, default=DEFAULT.guidance_scale, help="1 is no guidance")
    parser.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        default=DEFAULT.guidance_interval,
        metavar=("LOW", "HIGH"),
        help="guide only at these shares of T",
    )
    parser.add_argument("--eta", type=float, default=DEFAULT.eta, help="noise of ddim: 0 none, 1 ancestral")
    parser.add_argument("--model", choices=("cpu", "full"), default="cpu", help="which shipped weights")
    parser.add_argument("--checkpoint", type=Path, default=None, help="weights of your own instead")
    parser.add_argument("--batch-size", type=positive_int, default=250, help="pictures at a time; part of the seed")


def sampler_config(arguments: argparse.Namespace, diffusion: Diffusion) -> SamplerConfig:
    """Return the sampler the command line asks for, checked against the model's T."""
    steps = arguments.steps
    if steps is None:
        steps = diffusion.timesteps if arguments.sampler == "ddpm" else min(DEFAULT.steps, diffusion.timesteps)
    time_steps(diffusion.timesteps, steps)
    if arguments.eta != DEFAULT.eta and arguments.sampler != "ddim":
        raise UserError(f"--eta {arguments.eta:g}: belongs to --sampler ddim")
    return SamplerConfig(
        arguments.sampler, steps, arguments.guidance_scale, tuple(arguments.guidance_interval), arguments.eta
    )


def main() -> None:
    """Parse the command line, sample, and write the pictures."""
    parser = make_parser(__doc__)
    parser.add_argument("out_dir", type=Path, help="new or empty folder for the pictures")
    parser.add_argument("--digits", type=int, nargs="+", default=list(range(10)), help="which digits")
    parser.add_argument("--num-per-digit", type=positive_int, default=100, help="pictures of each")
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
    checkpoint = arguments.checkpoint or WEIGHTS / f"p2_unet_{arguments.model}.safetensors"
    model, diffusion = load_model(checkpoint, device)
    config = sampler_config(arguments, diffusion)
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
