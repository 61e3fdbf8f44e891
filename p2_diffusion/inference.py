"""Generate digits: 100 of each by default, as {digit}_{001..100}.png, 28x28 RGB.

python p2_diffusion/inference.py out_dir
python p2_diffusion/inference.py out_dir --model full
python p2_diffusion/inference.py out_dir --digits 3 7 --num-per-digit 10 --guidance-scale 3
python p2_diffusion/inference.py out_dir --checkpoint runs/cpu/p2_seed0/weights.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, positive_int, progress_bar, run_main
from common.data import DIGIT_SIZE
from common.device import autocast, pick_device
from common.seed import generator
from common.viz import save_image, to_uint8
from common.weights import WEIGHTS, load_into, load_weights
from p2_diffusion.config import default_sampler
from p2_diffusion.diffusion import Diffusion, build_diffusion
from p2_diffusion.model import MODEL, UNet, build_model, to_unet_device
from p2_diffusion.samplers import SAMPLERS, SamplerConfig, sample, sampling_timesteps

import torch
from torch import nn

DEFAULT_MODEL = "student4"  # which sweep.py recommends of all
BATCH_SIZE = 250
DEFAULT_STEPS = 20  # of a sampler that skips timesteps, where the network has no default for it
Loaded = tuple[UNet, Diffusion, dict[str, Any]]  # a network ready to sample, and its configuration


def load_model(checkpoint: Path, device: torch.device) -> Loaded:
    """Return the network of a weights file or checkpoint."""
    state, config = load_weights(checkpoint, MODEL)
    model = build_model(config)
    load_into(model, state, checkpoint)
    return to_unet_device(model, device).eval().requires_grad_(False), build_diffusion(config, device), config


def generate(
    model: nn.Module, diffusion: Diffusion, digits: Sequence[int], config: SamplerConfig, seed: int
) -> torch.Tensor:
    """Sample one image for every entry of ``digits``: uint8 (len(digits), 3, 28, 28) on the CPU.

    The initial noise of all images comes from one stream, the noise that ancestral sampling adds from one stream per
    batch. An image depends on ``seed`` and its position only; with ancestral sampling also on the size of its batch.
    """
    device = next(model.parameters()).device
    noise = torch.randn(len(digits), 3, DIGIT_SIZE, DIGIT_SIZE, generator=generator(seed, "start"))
    class_labels = torch.tensor(digits, device=device) + 1
    batches = []
    starts = range(0, len(digits), BATCH_SIZE)
    for start in progress_bar(starts, desc="sampling", unit="batch", disable=len(starts) < 2):
        batch, stream = slice(start, start + BATCH_SIZE), generator(seed, "steps", start)
        with autocast(device):
            images = sample(model, diffusion, class_labels[batch], to_unet_device(noise[batch], device), config, stream)
        batches.append(to_uint8(images).cpu())
    return torch.cat(batches)


def shipped_weights(model: str) -> Path:
    """Return the weights called ``model`` that come with this repository."""
    return WEIGHTS / f"p2_unet_{model}.safetensors"


def add_sampler_arguments(parser: argparse.ArgumentParser, model: str = DEFAULT_MODEL) -> None:
    """Add the options that choose a network and how it is sampled from."""
    shipped = sorted(path.stem.removeprefix("p2_unet_") for path in WEIGHTS.glob("p2_unet_*.safetensors"))
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--model", choices=shipped, default=model, help="pretrained network; studentN takes N steps")
    weights.add_argument("--checkpoint", type=Path, help="weights to use instead of --model")
    parser.add_argument("--sampler", choices=SAMPLERS, help="sampler (default: the network's)")
    text = "sampling steps (default: the network's; of another sampler 20, or all T)"
    parser.add_argument("--steps", type=positive_int, dest="sampling_steps", help=text)
    parser.add_argument("--guidance-scale", type=float, help="w; 1 is no guidance (default: the network's)")
    text = "guide only where LOW <= t / T <= HIGH; 1 is noise (default: the network's)"
    parser.add_argument("--guidance-interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help=text)


def sampler_config(arguments: argparse.Namespace, trained: Mapping[str, Any]) -> SamplerConfig:
    """Return how to sample from the network ``trained``: by the command line, else by the network's default."""
    config = default_sampler(trained)
    if arguments.sampler not in (None, config.sampler):
        all_steps = trained["timesteps"]
        steps = min(DEFAULT_STEPS, all_steps) if SAMPLERS[arguments.sampler].skips_timesteps else all_steps
        config = replace(config, sampler=arguments.sampler, sampling_steps=steps)
    options = {name: getattr(arguments, name) for name in ("sampling_steps", "guidance_scale", "guidance_interval")}
    config = replace(config, **{name: value for name, value in options.items() if value is not None})
    if "student_steps" in trained and config != default_sampler(trained):
        raise UserError("a student samples in one way: leave out --sampler, --steps and --guidance-*")
    if not 0 <= config.guidance_interval[0] <= config.guidance_interval[1] <= 1:
        raise UserError(f"--guidance-interval: needs 0 <= LOW <= HIGH <= 1, found {config.guidance_interval}")
    sampling_timesteps(trained["timesteps"], config.sampling_steps)  # refuses more steps than timesteps
    return config


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("out_dir", type=Path, help="folder for the images; those of the same name are replaced")
    parser.add_argument("--digits", type=int, nargs="+", choices=range(10), default=range(10), help="which digits")
    parser.add_argument("--num-per-digit", type=positive_int, default=100, help="images of each")
    add_sampler_arguments(parser)
    add_common_arguments(parser, data=False)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    model, diffusion, trained = load_model(arguments.checkpoint or shipped_weights(arguments.model), device)
    config = sampler_config(arguments, trained)
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    digits = [digit for digit in dict.fromkeys(arguments.digits) for _ in range(arguments.num_per_digit)]
    images = generate(model, diffusion, digits, config, arguments.seed)
    for index, (digit, image) in enumerate(zip(digits, images, strict=True)):
        save_image(image, arguments.out_dir / f"{digit}_{index % arguments.num_per_digit + 1:03d}.png")
    print(f"{len(images)} images in {arguments.out_dir} ({config.sampler}, {config.sampling_steps} steps)")


if __name__ == "__main__":
    run_main(main)
