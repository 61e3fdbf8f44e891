"""Generate faces: 1000 pictures by default, ``0000.png`` and so on, 64x64 RGB.

python p1_gan/inference.py out_dir
python p1_gan/inference.py out_dir --method A --num 32
python p1_gan/inference.py out_dir --checkpoint runs/cpu/p1_B_seed0/weights.safetensors --truncation 1.5
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, make_parser, positive_int
from common.device import autocast, pick_device
from common.errors import UserError, is_out_of_memory, run_main
from common.files import prepare_empty_folder
from common.pictures import save_image, to_uint8
from common.seed import generator
from p1_gan.methods import add_weights_arguments, load_generator
from p1_gan.model import LATENT_SIZE

FIRST_BATCH = 250


def draw_latents(count: int, seed: int, truncation: float | None = None) -> torch.Tensor:
    """Return standard normal latents (count, 100, 1, 1).

    Args:
        count: how many.
        seed: they follow from it; the first n are the same for every count.
        truncation: redraw every value further from 0 than this, which trades variety for typical faces (Brock
            et al., "Large Scale GAN Training", 2019, section 3.1); None truncates nothing.
    """
    stream = generator(seed, "latents")
    latents = []
    for _ in range(count):  # one by one: the last values of a longer draw would depend on its length
        latent = torch.randn(LATENT_SIZE, 1, 1, generator=stream)
        while truncation is not None and (outside := latent.abs() > truncation).any():
            latent[outside] = torch.randn(int(outside.sum()), generator=stream)
        latents.append(latent)
    return torch.stack(latents)


@torch.no_grad()
def generate(model: torch.nn.Module, latents: torch.Tensor, batch_size: int | None = None) -> torch.Tensor:
    """Return the pictures of ``latents``, uint8 (N, 3, 64, 64) on the CPU.

    Without ``batch_size`` it begins with 250 at a time and halves that whenever memory runs out.
    """
    device = next(model.parameters()).device
    size, done, batches = batch_size or FIRST_BATCH, 0, []
    while done < len(latents):
        try:
            with autocast(device):
                batches.append(to_uint8(model(latents[done : done + size].to(device))).cpu())
            done += size
        except (MemoryError, RuntimeError) as error:
            if batch_size is not None or size == 1 or not is_out_of_memory(error):
                raise
            size //= 2
    return torch.cat(batches).contiguous()  # sums over it then have the order of those over pictures from files


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("out_dir", type=Path, help="new or empty folder for the pictures")
    add_weights_arguments(parser)
    parser.add_argument("--num", type=positive_int, default=1000, help="how many pictures")
    parser.add_argument("--truncation", type=float, default=None, help="redraw latents beyond this, e.g. 1.5")
    parser.add_argument(
        "--batch-size", type=positive_int, default=None, help="pictures at a time (unset: what memory allows)"
    )
    add_common_arguments(parser, data=False, output=False)
    return parser.parse_args()


def main() -> None:
    """Parse the command line, sample, and write the pictures."""
    arguments = parse_arguments()
    if arguments.truncation is not None and not arguments.truncation >= 0.1:
        raise UserError(f"--truncation {arguments.truncation}: must be at least 0.1")
    device = pick_device(arguments.device)
    model, _ = load_generator(arguments.checkpoint, arguments.method, device)
    prepare_empty_folder(arguments.out_dir)
    images = generate(model, draw_latents(arguments.num, arguments.seed, arguments.truncation), arguments.batch_size)
    for index, image in enumerate(images):
        save_image(image, arguments.out_dir / f"{index:04d}.png")
    print(f"{len(images)} pictures in {arguments.out_dir}")


if __name__ == "__main__":
    run_main(main)
