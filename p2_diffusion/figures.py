"""Plot digits of a network: a grid, the reverse process of one digit, and an animation of it for all ten.

    python p2_diffusion/figures.py                                 # the network of the course report
    python p2_diffusion/figures.py --model cpu
    python p2_diffusion/figures.py --checkpoint runs/cpu/p2_seed0/weights.safetensors --sampler ddim --steps 20
    python p2_diffusion/figures.py --real                          # a grid of validation images to compare with

diffusion_grid.png: one row per digit, one column per initial noise.
diffusion_grid_time.png: the first 0 of the grid after 0, 40, ... of the T timesteps.
real_grid.png (--real): ten validation images of each digit, in rows.
reverse.gif: the first image of every digit; it begins with the finished ones, then shows the reverse process.

All come from the sampler of the network's numbers, and from the same initial noise. Where that sampler skips the
timesteps that diffusion_grid_time.png shows, this one figure comes from DDIM through all T, which follows the same
probability flow; of a student, which knows no other timesteps, it shows those that it visits. The record says which.
Files of shipped networks but the default one carry its name, for example diffusion_grid_cpu.png.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import add_common_arguments, make_parser, progress_bar, run_main
from common.data import DIGIT_SIZE, load_digits
from common.device import autocast, pick_device
from common.files import atomic_path
from common.seed import generator
from common.viz import make_grid, save_gif, save_grid, to_pil, to_uint8
from common.weights import images_folder, run_folder, write_record
from p2_diffusion.diffusion import Diffusion
from p2_diffusion.evaluate import sampling_identity
from p2_diffusion.inference import add_sampler_arguments, load_model, sampler_config, shipped_weights
from p2_diffusion.model import UNet, to_unet_device
from p2_diffusion.samplers import SamplerConfig, sample

import torch
from PIL import Image, ImageDraw, ImageFont

MODEL = "full"  # whose files carry no name
COLUMNS = 10
STRIP_FRAMES = 6
STRIP_SCALE, GRID_SCALE, GIF_SCALE = 8, 2, 3
GIF_FRAMES, GIF_COLORS = 25, 64
GIF_SECONDS, GIF_HOLD_MILLISECONDS = 2.4, 2500  # of the reverse process, and of the finished digits before it


def sample_frames(
    model: UNet, diffusion: Diffusion, config: SamplerConfig, seed: int, digits: int = 10, columns: int = COLUMNS
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Sample the first of the digits (rows) from the same noises (columns).

    Returns:
        The images row by row, uint8 (digits * columns, 3, 28, 28), and how the first of each digit came about: number
        of the T timesteps done -> uint8 (digits, 3, 28, 28).
    """
    device = next(model.parameters()).device
    noise = torch.randn(COLUMNS, 3, DIGIT_SIZE, DIGIT_SIZE, generator=generator(seed, "grid"))[:columns]
    noise = to_unet_device(noise.repeat(digits, 1, 1, 1), device)
    class_labels = torch.arange(1, 1 + digits, device=device).repeat_interleave(columns)
    frames = {}

    def keep(t: int, x: torch.Tensor) -> None:
        frames[diffusion.num_timesteps - 1 - t] = to_uint8(x[::columns]).cpu()
        bar.update()

    with progress_bar(total=config.sampling_steps + 1, desc=config.sampler, unit="step") as bar, autocast(device):
        images = sample(model, diffusion, class_labels, noise, config, generator(seed, "grid steps"), keep)
    return to_uint8(images).cpu(), frames


def evenly_spaced(frames: Mapping[int, torch.Tensor], count: int) -> dict[int, torch.Tensor]:
    """Return at most ``count`` of the frames, evenly spaced, the first and the last among them."""
    numbers = sorted(frames)
    indices = {round(k * (len(numbers) - 1) / (count - 1)) for k in range(count)}
    return {numbers[index]: frames[numbers[index]] for index in sorted(indices)}


def save_strip(frames: Mapping[int, torch.Tensor], path: Path) -> None:
    """Write the first 0 of each frame side by side, labeled with the number of timesteps done."""
    images = to_pil(make_grid(torch.stack([frame[0] for frame in frames.values()]), len(frames), 8, STRIP_SCALE))
    margin, step = 32, DIGIT_SIZE * STRIP_SCALE + 8
    strip = Image.new("RGB", (images.width, images.height + margin), "white")
    strip.paste(images, (0, margin))
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(24)
    for index, number in enumerate(frames):
        draw.text((4 + (index + 0.5) * step, margin - 6), f"{number} steps", "black", font, anchor="ms")
    with atomic_path(path, sync=False) as temporary:
        strip.save(temporary, format="PNG")


def save_animation(frames: Sequence[torch.Tensor], path: Path) -> None:
    """Write the last of the frames, held, and then all of them as an endless GIF of ten digits."""
    grids = [make_grid(frame, columns=5, padding=2, scale=GIF_SCALE) for frame in frames]
    milliseconds = 10 * round(GIF_SECONDS * 100 / len(grids))
    save_gif([grids[-1], *grids], path, [GIF_HOLD_MILLISECONDS] + [milliseconds] * len(grids), GIF_COLORS)


def real_grid(data_root: Path) -> torch.Tensor:
    """Return the first validation images of every digit, row by row, uint8 (100, 3, 28, 28)."""
    images, digits = load_digits(data_root, "mnistm", "val")
    return torch.cat([images[digits == digit][:COLUMNS] for digit in range(10)])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--real", action="store_true", help="plot validation images instead, and nothing else")
    parser.add_argument("--images", type=Path, help="folder for the figures (default: images/P2, or that of the run)")
    add_sampler_arguments(parser, MODEL)
    add_common_arguments(parser)
    arguments = parser.parse_args()
    if arguments.real:
        path = (arguments.images or ROOT / "images/P2") / "real_grid.png"
        save_grid(real_grid(arguments.data_root), path, COLUMNS, scale=GRID_SCALE)
        print(f"wrote {path}")
        return
    device = pick_device(arguments.device)
    checkpoint = arguments.checkpoint or shipped_weights(arguments.model)
    model, diffusion, trained = load_model(checkpoint, device)
    config = sampler_config(arguments, trained)
    folder = arguments.images or images_folder(checkpoint, "P2")
    name = checkpoint.stem.removeprefix("p2_unet")
    suffix = name if name.startswith("_") and name != f"_{MODEL}" else ""

    images, frames = sample_frames(model, diffusion, config, arguments.seed)
    strip_config, all_frames = config, frames
    if config.sampling_steps < diffusion.num_timesteps and "student_steps" not in trained:
        strip_config = replace(config, sampler="ddim", sampling_steps=diffusion.num_timesteps)
        _, all_frames = sample_frames(model, diffusion, strip_config, arguments.seed, digits=1, columns=1)
    strip = evenly_spaced(all_frames, STRIP_FRAMES)

    save_grid(images, folder / f"diffusion_grid{suffix}.png", COLUMNS, scale=GRID_SCALE)
    save_strip(strip, folder / f"diffusion_grid_time{suffix}.png")
    save_animation(list(evenly_spaced(frames, GIF_FRAMES).values()), folder / f"reverse{suffix}.gif")
    record = sampling_identity("figures", checkpoint, trained, config, arguments.seed)
    record |= {"strip_sampler": strip_config.sampler, "strip_steps": strip_config.sampling_steps}
    write_record(run_folder(checkpoint), "figures", record | {"strip_timesteps_done": list(strip)}, device)
    print(f"wrote diffusion_grid{suffix}.png, diffusion_grid_time{suffix}.png and reverse{suffix}.gif in {folder}")


if __name__ == "__main__":
    run_main(main)
