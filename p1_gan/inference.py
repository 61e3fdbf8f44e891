"""Generate faces: 1000 images by default, 0000.png and so on, 64x64 RGB.

python p1_gan/inference.py out_dir
python p1_gan/inference.py out_dir --method A --num 32
python p1_gan/inference.py out_dir --checkpoint runs/cpu/p1_B_seed0/weights.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, positive_int, run_main
from common.device import autocast, pick_device, to_device
from common.seed import generator
from common.viz import save_image, to_uint8
from common.weights import WEIGHTS, load_into, load_weights
from p1_gan.config import METHODS, add_method_argument
from p1_gan.model import LATENT_SIZE, DCGAN_Generator

import torch

BATCH_SIZE = 250


def load_generator(path: Path, device: torch.device) -> tuple[DCGAN_Generator, dict[str, Any]]:
    """Return the generator of a weights file or checkpoint, ready to sample, and its configuration."""
    state, config = load_weights(path, *(f"p1_gan/{name}" for name in METHODS))
    state = {name.removeprefix("generator."): value for name, value in state.items() if name.startswith("generator.")}
    model = METHODS[config["method"]].generator(config["channels"])
    load_into(model, state, path)
    return to_device(model, device).eval().requires_grad_(False), config


def shipped_weights(method: str) -> Path:
    """Return the weights of ``method`` that come with this repository."""
    return WEIGHTS / f"p1_gan_{method}.safetensors"


def snapshots_of(run: Path) -> list[Path]:
    """Return the snapshots of a run's generator, the oldest first."""
    snapshots = sorted((run / "snapshots").glob("*.safetensors"))
    if not snapshots:
        raise UserError(f"{run / 'snapshots'}: no snapshots; train.py writes them")
    return snapshots


def sample_latents(count: int, seed: int) -> torch.Tensor:
    """Return standard normal latents (count, 100, 1, 1); the first n are the same for every count."""
    stream = generator(seed, "latents")
    # One by one: the last values of a longer draw would depend on its length.
    return torch.stack([torch.randn(LATENT_SIZE, 1, 1, generator=stream) for _ in range(count)])


@torch.no_grad()
def generate(model: torch.nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """Return the images of ``latents``, uint8 (N, 3, 64, 64) on the CPU."""
    device = next(model.parameters()).device
    images = []
    for batch in latents.split(BATCH_SIZE):
        with autocast(device):
            images.append(to_uint8(model(batch.to(device))).cpu())
    return torch.cat(images).contiguous()


def add_weights_arguments(parser: argparse.ArgumentParser, count: str | None = None) -> None:
    """Add --method and --checkpoint, one of which names the weights; ``count`` "+" allows several checkpoints."""
    weights = parser.add_mutually_exclusive_group()
    add_method_argument(weights)
    weights.add_argument("--checkpoint", type=Path, nargs=count, help="weights to use instead of the shipped ones")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("out_dir", type=Path, help="folder for the images")
    add_weights_arguments(parser)
    parser.add_argument("--num", type=positive_int, default=1000, help="number of images")
    add_common_arguments(parser, data=False)
    arguments = parser.parse_args()
    weights = arguments.checkpoint or shipped_weights(arguments.method)
    model, _ = load_generator(weights, pick_device(arguments.device))
    images = generate(model, sample_latents(arguments.num, arguments.seed))
    for index, image in enumerate(images):
        save_image(image, arguments.out_dir / f"{index:04d}.png")
    print(f"{arguments.num} images in {arguments.out_dir}")


if __name__ == "__main__":
    run_main(main)
