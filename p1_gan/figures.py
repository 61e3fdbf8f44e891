"""Draw the report's pictures of one generator: the first 32 faces, a sheet of 200, a walk between latents.

    python p1_gan/figures.py --checkpoint runs/cpu/p1_B_seed0/weights.safetensors
    python p1_gan/figures.py grid --checkpoint runs/cpu/p1_A_seed0/weights.safetensors

Grid and sheet show what inference.py draws first with the same seed: nothing is picked. Same seed, same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, make_parser
from common.device import pick_device
from common.errors import run_main
from common.files import write_atomic
from common.paths import workspace
from common.pictures import make_grid, save_grid, to_picture
from common.weights import of_training
from p1_gan.inference import draw_latents, generate
from p1_gan.methods import DEFAULT_METHOD, add_weights_arguments, load_generator

PARTS = ("grid", "sheet", "walk")
GRID_PICTURES, SHEET_PICTURES = 32, 200
# A GIF spends at most 12 bits on a pixel, so that four faces and 32 frames stay below 1 MB whatever they show.
WALKS, STOPS, FRAMES_BETWEEN, FRAME_MILLISECONDS = 4, 4, 8, 120


def interpolate(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """Return the point at ``share`` of the way between two latents, along the great circle that joins them.

    Between two of them a straight line runs closer to 0 than nearly any latent a generator was trained on.

    Args:
        first: (100, 1, 1).
        second: (100, 1, 1), neither on the ray of ``first`` nor opposite to it.
        share: 0 gives ``first``, 1 ``second``.

    Source: Shoemake, "Animating rotation with quaternion curves", 1985; for latents White, "Sampling generative
    networks", 2016, section 2.1.
    """
    angle = torch.acos((first * second).sum() / (first.norm() * second.norm()))
    return (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / torch.sin(angle)


def walk_latents(seed: int) -> torch.Tensor:
    """Return the latents of all frames, (frames, 4, 100, 1, 1): four closed walks over four stops each."""
    stops = draw_latents(WALKS * STOPS, seed).unflatten(0, (STOPS, WALKS))
    frames = [
        torch.stack([interpolate(*ends, step / FRAMES_BETWEEN) for ends in zip(here, there, strict=True)])
        for here, there in zip(stops, stops.roll(-1, 0), strict=True)
        for step in range(FRAMES_BETWEEN)
    ]
    return torch.stack(frames)


def save_walk(model: torch.nn.Module, seed: int, path: Path) -> None:
    """Write the walk as an endless GIF."""
    latents = walk_latents(seed)
    images = generate(model, latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
    frames = [to_picture(make_grid(row, columns=WALKS)) for row in images]
    first, *others = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    options = {"save_all": True, "append_images": others, "duration": FRAME_MILLISECONDS, "loop": 0}
    write_atomic(path, lambda temporary: first.save(temporary, format="GIF", **options))


def parse_arguments() -> argparse.Namespace:
    """Return the command line; no parts named means all of them."""
    parser = make_parser(__doc__)
    # argparse checks the default of a list against the choices, and then not its members.
    parser.add_argument("parts", nargs="*", metavar="part", help=f"some of {', '.join(PARTS)} (unset: all)")
    add_weights_arguments(parser)
    add_common_arguments(parser, data=False)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"part {min(unknown)}: choose from {', '.join(PARTS)}")
    arguments.parts = arguments.parts or PARTS
    return arguments


def main() -> None:
    """Parse the command line and draw."""
    arguments = parse_arguments()
    model, config = load_generator(arguments.checkpoint, arguments.method, pick_device(arguments.device))
    folder, seed = workspace(config["preset"], arguments.output).images / "P1", of_training(config)
    name = f"GAN_{config['method']}"
    images = generate(model, draw_latents(SHEET_PICTURES, arguments.seed))
    if "grid" in arguments.parts:
        save_grid(images[:GRID_PICTURES], folder / f"{name}_grid{seed}.png", columns=8)
    if "sheet" in arguments.parts:
        save_grid(images, folder / f"{name}_sheet{seed}.png", columns=20)
    if "walk" in arguments.parts:
        walk = "walk" if config["method"] == DEFAULT_METHOD else f"{name}_walk"
        save_walk(model, arguments.seed, folder / f"{walk}{seed}.gif")
    print(f"drew {', '.join(arguments.parts)} into {folder}")


if __name__ == "__main__":
    run_main(main)
