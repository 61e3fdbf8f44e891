"""Draw the report's pictures: a grid of all digits, and how its first 0 comes out of noise.

    python p2_diffusion/figures.py
    python p2_diffusion/figures.py --sampler ddim --steps 20
    python p2_diffusion/figures.py --model full --checkpoint runs/full/p2_seed0/weights.safetensors

Both come from one run of the sampler, ancestral over all T steps unless another is chosen:
images/P2/diffusion_grid.png has one row a digit and one column a starting noise,
images/P2/diffusion_grid_time.png six moments of the grid's first picture.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import DIGIT_SIZE
from common.device import autocast, pick_device
from common.errors import run_main
from common.paths import WEIGHTS, workspace
from common.pictures import save_grid, to_uint8
from common.plots import new_figure, save_figure
from common.results import record
from common.seed import generator
from p2_diffusion.diffusion import Diffusion
from p2_diffusion.inference import DEFAULT, load_model
from p2_diffusion.model import UNet, unet_memory_format
from p2_diffusion.presets import PRESETS
from p2_diffusion.samplers import SAMPLERS, SamplerConfig, sample, time_steps

COLUMNS = 10
FRAMES = 6


def draw_grid(
    model: UNet, diffusion: Diffusion, config: SamplerConfig, seed: int
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Draw ten digits from the same ten noises.

    Returns:
        The grid's pictures row by row, uint8 (100, 3, 28, 28), and six moments of the first one: how many of the T
        time steps are behind it -> uint8 (3, 28, 28).
    """
    device = next(model.parameters()).device
    noise = torch.randn(COLUMNS, 3, DIGIT_SIZE, DIGIT_SIZE, generator=generator(seed, "grid")).to(device)
    conditions = torch.arange(1, 11, device=device).repeat_interleave(COLUMNS)
    ts = time_steps(diffusion.timesteps, config.steps, quadratic=config.sampler == "dpmpp")
    behind = [diffusion.timesteps - 1 - t for t in ts] + [diffusion.timesteps]
    moments = {round(k * config.steps / (FRAMES - 1)) for k in range(FRAMES)}
    frames = {}

    def remember(finished: int, x: torch.Tensor) -> None:
        if finished in moments:
            frames[behind[finished]] = to_uint8(x[0]).cpu()

    with autocast(device):
        images = sample(
            model,
            diffusion,
            conditions,
            noise.repeat(10, 1, 1, 1).contiguous(memory_format=unet_memory_format(device)),
            config,
            generator(seed, "grid steps"),
            remember,
        )
    return to_uint8(images).cpu(), frames


def save_strip(frames: dict[int, torch.Tensor], path: Path) -> None:
    """Draw the moments side by side, labelled with the time steps behind each."""
    figure, axes = new_figure(1, len(frames), (1.5 * len(frames), 1.75))
    for axis, (finished, frame) in zip(axes[0], sorted(frames.items()), strict=True):
        axis.imshow(frame.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(f"T: {finished}")
        axis.axis("off")
    save_figure(figure, path)


def main() -> None:
    """Parse the command line, sample, and write both pictures and their record."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=sorted(PRESETS), default="cpu", help="which preset's weights")
    parser.add_argument("--checkpoint", type=Path, default=None, help="weights (unset: those shipped for --model)")
    parser.add_argument("--sampler", choices=SAMPLERS, default="ddpm", help="ancestral, or a faster one")
    parser.add_argument("--steps", type=positive_int, default=None, help="network passes (unset: T)")
    parser.add_argument("--guidance-scale", type=float, default=DEFAULT.guidance_scale, help="1 is no guidance")
    add_common_arguments(parser, data=False)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    checkpoint = arguments.checkpoint or WEIGHTS / f"p2_unet_{arguments.model}.safetensors"
    model, diffusion = load_model(checkpoint, device)
    space = workspace(arguments.model, arguments.output)

    config = SamplerConfig(arguments.sampler, arguments.steps or diffusion.timesteps, arguments.guidance_scale)
    images, frames = draw_grid(model, diffusion, config, arguments.seed)
    save_grid(images, space.images / "P2" / "diffusion_grid.png", COLUMNS, scale=2)
    save_strip(frames, space.images / "P2" / "diffusion_grid_time.png")
    values = {
        "preset": arguments.model,
        "sampler": config.sampler,
        "steps": config.steps,
        "guidance_scale": config.guidance_scale,
        "seed": arguments.seed,
    }
    record(space.results, "p2", "figures", values, device)
    print(f"wrote {space.images / 'P2'}/diffusion_grid.png and diffusion_grid_time.png")


if __name__ == "__main__":
    run_main(main)
