"""Generate digits: 100 of each by default, as ``{digit}_{001..100}.png``, 28x28 RGB.

python p2_diffusion/inference.py out_dir
python p2_diffusion/inference.py out_dir --model full
python p2_diffusion/inference.py out_dir --sampler ddpm
python p2_diffusion/inference.py out_dir --digits 3 7 --num-per-digit 10 --guidance-scale 3
python p2_diffusion/inference.py out_dir --checkpoint runs/cpu/p2_seed0/weights.safetensors
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import (
    UserError,
    add_common_arguments,
    check_interval,
    make_parser,
    positive_int,
    progress_bar,
    run_main,
)
from common.data import DIGIT_SIZE
from common.device import autocast, pick_device
from common.images import save_image, to_uint8
from common.seed import generator, seed_everything
from common.weights import WEIGHTS, load_into, load_weights
from p2_diffusion.config import default_sampler
from p2_diffusion.diffusion import Diffusion, build_diffusion
from p2_diffusion.model import MODEL, UNet, build_model, to_device
from p2_diffusion.samplers import SAMPLERS, SamplerConfig, sample, sampling_timesteps

import torch

DEFAULT_MODEL = "cpu"
BATCH_SIZE = 250


def load_model(checkpoint: Path, device: torch.device) -> tuple[UNet, Diffusion, dict[str, Any]]:
    """Return the U-Net of a weights file or checkpoint, ready to sample, its process, and its configuration."""
    state, config = load_weights(checkpoint, MODEL)
    model = build_model(config)
    load_into(model, state, checkpoint)
    return to_device(model, device).eval().requires_grad_(False), build_diffusion(config).to(device), config


def generate(
    model: UNet,
    diffusion: Diffusion,
    digits: Sequence[int],
    config: SamplerConfig,
    seed: int,
    batch_size: int = BATCH_SIZE,
) -> torch.Tensor:
    """Sample one image for every entry of ``digits``.

    The initial noise of all images comes from one stream, the noise that ancestral sampling adds from one stream per
    batch. An image thus depends on ``seed`` and its position, and with added noise on ``batch_size`` too.

    Returns:
        uint8 (len(digits), 3, 28, 28) on the CPU.
    """
    device = next(model.parameters()).device
    noise = torch.randn(len(digits), 3, DIGIT_SIZE, DIGIT_SIZE, generator=generator(seed, "start"))
    class_labels = torch.tensor(digits) + 1
    batches = []
    starts = range(0, len(digits), batch_size)
    for start in progress_bar(starts, desc="sampling", unit="batch", disable=len(starts) < 2):
        batch = slice(start, start + batch_size)
        with autocast(device):
            images = sample(
                model,
                diffusion,
                class_labels[batch].to(device),
                to_device(noise[batch], device),
                config,
                generator(seed, "steps", start),
            )
        batches.append(to_uint8(images).cpu())
    return torch.cat(batches)


def shipped_weights(model: str) -> Path:
    """Return the weights called ``model`` that come with this repository, or raise a UserError that lists them."""
    path = WEIGHTS / f"p2_unet_{model}.safetensors"
    if not path.is_file():
        others = sorted(path.stem.removeprefix("p2_unet_") for path in WEIGHTS.glob("p2_unet_*.safetensors"))
        raise UserError(f"--model {model}: not shipped, only {', '.join(others)}; train it and pass --checkpoint")
    return path


def add_sampler_arguments(parser: argparse.ArgumentParser, model: str = DEFAULT_MODEL) -> None:
    """Add the options that choose a network and how it is sampled from."""
    parser.add_argument("--model", default=model, help="which shipped network")
    parser.add_argument("--checkpoint", type=Path, help="weights of your own instead")
    parser.add_argument("--sampler", choices=SAMPLERS, help="(default: the network's)")
    parser.add_argument("--steps", type=int, help="timesteps visited (default: the sampler's)")
    parser.add_argument("--guidance-scale", type=float, help="1 is no guidance (default: the network's)")
    parser.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide only at these fractions of T (default: the network's)",
    )


def sampler_config(arguments: argparse.Namespace, trained: Mapping[str, Any]) -> SamplerConfig:
    """Return how to sample from the network ``trained``: by the command line, else by the network's default.

    Raises:
        UserError: a value that the network or the sampler cannot have.
    """
    default = default_sampler(trained)
    name = arguments.sampler or default.sampler
    usual = default.steps if name == default.sampler else SAMPLERS[name].steps or trained["timesteps"]
    steps = min(usual, trained["timesteps"]) if arguments.steps is None else arguments.steps
    sampling_timesteps(trained["timesteps"], steps)  # refuses what the network cannot have
    low, high = arguments.guidance_interval or default.guidance_interval
    if not 0 <= low <= high <= 1:
        raise UserError(f"--guidance-interval {low:g} {high:g}: two fractions of T, the lower one first")
    scale = default.guidance_scale if arguments.guidance_scale is None else arguments.guidance_scale
    check_interval("--guidance-scale", scale, "(-inf, inf)")
    return SamplerConfig(name, steps, scale, (low, high))


def main() -> None:
    """Parse the command line, sample, and write the images."""
    parser = make_parser(__doc__)
    parser.add_argument("out_dir", type=Path, help="folder for the images; those of the same name are replaced")
    parser.add_argument("--digits", type=int, nargs="+", choices=range(10), default=range(10), help="which digits")
    parser.add_argument("--num-per-digit", type=positive_int, default=100, help="images of each")
    parser.add_argument("--batch-size", type=positive_int, default=BATCH_SIZE, help="images per batch")
    add_sampler_arguments(parser)
    add_common_arguments(parser, data=False)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    seed_everything(arguments.seed)
    model, diffusion, trained = load_model(arguments.checkpoint or shipped_weights(arguments.model), device)
    config = sampler_config(arguments, trained)
    arguments.out_dir.mkdir(parents=True, exist_ok=True)

    started = time.perf_counter()
    digits = [digit for digit in dict.fromkeys(arguments.digits) for _ in range(arguments.num_per_digit)]
    images = generate(model, diffusion, digits, config, arguments.seed, arguments.batch_size)
    seconds = time.perf_counter() - started
    for index, (digit, image) in enumerate(zip(digits, images, strict=True)):
        save_image(image, arguments.out_dir / f"{digit}_{index % arguments.num_per_digit + 1:03d}.png")
    print(f"{len(images)} images in {arguments.out_dir}, sampled in {seconds:.1f} s ({config.sampler}, {config.steps})")


if __name__ == "__main__":
    run_main(main)
