"""Draw the report's pictures of digits, all from one run of the sampler, ancestral unless another is chosen.

    python p2_diffusion/figures.py
    python p2_diffusion/figures.py --sampler ddim --steps 20
    python p2_diffusion/figures.py --checkpoint runs/full/p2_seed0/weights.safetensors

images/P2/diffusion_grid.png: one row a digit, one column a starting noise.
images/P2/diffusion_grid_time.png: six moments of the grid's first picture.
images/P2/reverse.gif: the first picture of every digit, coming out of noise together.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, make_parser
from common.dataset import DIGIT_SIZE
from common.device import autocast, pick_device
from common.errors import run_main
from common.files import sha256, write_atomic
from common.paths import workspace
from common.pictures import make_grid, save_grid, to_picture, to_uint8
from common.progress import progress_bar
from common.results import record
from common.seed import generator
from common.weights import of_training
from p2_diffusion.build import load_model, to_device
from p2_diffusion.diffusion import Diffusion
from p2_diffusion.inference import add_sampler_arguments, sampler_config, shipped_weights
from p2_diffusion.model import UNet
from p2_diffusion.samplers import SAMPLERS, SamplerConfig, sample, time_steps

COLUMNS = 10
STRIP_FRAMES = 6
STRIP_SCALE, GRID_SCALE, GIF_SCALE = 8, 2, 3
GIF_FRAMES = 24
GIF_COLOURS = 64
GIF_MILLISECONDS, GIF_LAST_MILLISECONDS = 100, 3000


def draw_grid(
    model: UNet, diffusion: Diffusion, config: SamplerConfig, seed: int
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Draw ten digits from the same ten noises.

    Returns:
        The grid's pictures row by row, uint8 (100, 3, 28, 28), and how the first of each digit came about: number of
        the T time steps left behind -> uint8 (10, 3, 28, 28).
    """
    device = next(model.parameters()).device
    noise = torch.randn(COLUMNS, 3, DIGIT_SIZE, DIGIT_SIZE, generator=generator(seed, "grid")).repeat(10, 1, 1, 1)
    conditions = torch.arange(1, 11, device=device).repeat_interleave(COLUMNS)
    times = time_steps(diffusion.timesteps, config.steps, SAMPLERS[config.sampler].quadratic)
    behind = [diffusion.timesteps - 1 - t for t in times] + [diffusion.timesteps]
    moments = {}

    with progress_bar(total=config.steps, desc="sampling", unit="step") as bar:

        def remember(finished: int, x: torch.Tensor) -> None:
            moments[behind[finished]] = to_uint8(x[::COLUMNS]).cpu()
            bar.update(finished > 0)

        with autocast(device):
            images = sample(
                model,
                diffusion,
                conditions,
                to_device(noise, device),
                config,
                generator(seed, "grid steps"),
                remember,
            )
    return to_uint8(images).cpu(), moments


def evenly(moments: Mapping[int, torch.Tensor], count: int) -> dict[int, torch.Tensor]:
    """Return at most ``count`` of the moments, evenly spaced, the first and the last among them."""
    numbers = sorted(moments)
    chosen = {round(k * (len(numbers) - 1) / (count - 1)) for k in range(count)}
    return {numbers[place]: moments[numbers[place]] for place in sorted(chosen)}


def save_strip(moments: Mapping[int, torch.Tensor], path: Path) -> None:
    """Draw the first 0 at six moments side by side, under the number of time steps left behind."""
    frames = evenly(moments, STRIP_FRAMES)
    pictures = make_grid(torch.stack([frame[0] for frame in frames.values()]), len(frames), 8, STRIP_SCALE)
    _, height, width = pictures.shape
    margin, step = 32, DIGIT_SIZE * STRIP_SCALE + 8
    strip = Image.new("RGB", (width, height + margin), "white")
    strip.paste(to_picture(pictures), (0, margin))
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(24)
    for place, number in enumerate(frames):
        draw.text((4 + (place + 0.5) * step, margin - 6), f"T: {number}", "black", font, anchor="ms")
    write_atomic(path, lambda temporary: strip.save(temporary, format="PNG"))


def save_animation(moments: Mapping[int, torch.Tensor], path: Path) -> None:
    """Draw ten digits coming out of noise as an animated GIF that repeats for ever; same moments, same bytes."""
    frames = evenly(moments, GIF_FRAMES)
    grids = [to_picture(make_grid(frame, columns=5, padding=2, scale=GIF_SCALE)) for frame in frames.values()]
    # One palette for all, of noise and of digits, so that no colour jumps between frames.
    palette = to_picture(torch.cat([make_grid(frame, 10) for frame in frames.values()], dim=1)).quantize(GIF_COLOURS)
    first, *others = [grid.quantize(palette=palette, dither=Image.Dither.NONE) for grid in grids]
    times = [GIF_MILLISECONDS] * len(others) + [GIF_LAST_MILLISECONDS]
    options = {"save_all": True, "append_images": others, "duration": times, "loop": 0, "optimize": False}
    write_atomic(path, lambda temporary: first.save(temporary, format="GIF", **options))


def main() -> None:
    """Parse the command line, sample, and write the pictures and their record."""
    parser = make_parser(__doc__)
    add_sampler_arguments(parser)
    add_common_arguments(parser, data=False)
    arguments = parser.parse_args()
    arguments.sampler = arguments.sampler or "ddpm"
    device = pick_device(arguments.device)
    checkpoint = arguments.checkpoint or shipped_weights(arguments.model)
    model, diffusion, trained = load_model(checkpoint, device)
    config = sampler_config(arguments, trained)
    space = workspace(trained["preset"], arguments.output)
    folder, seed = space.images / "P2", of_training(trained)

    images, moments = draw_grid(model, diffusion, config, arguments.seed)
    save_grid(images, folder / f"diffusion_grid{seed}.png", COLUMNS, scale=GRID_SCALE)
    save_strip(moments, folder / f"diffusion_grid_time{seed}.png")
    save_animation(moments, folder / f"reverse{seed}.gif")
    made_with = {"preset": trained["preset"], "weights": sha256(checkpoint)[:16], "seed": arguments.seed}
    record(space.results, "p2", f"figures{seed}", made_with | asdict(config), device)
    print(f"wrote diffusion_grid{seed}.png, diffusion_grid_time{seed}.png and reverse{seed}.gif in {folder}")


if __name__ == "__main__":
    run_main(main)
