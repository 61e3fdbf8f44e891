"""Plot a generator: its first 32 faces, a sheet of 200, a walk between latents, and samples over its run.

    python p1_gan/figures.py                                                          # of the shipped weights
    python p1_gan/figures.py --checkpoint runs/cpu/p1_A_seed0/weights.safetensors
    python p1_gan/figures.py distances --checkpoint runs/cpu/p1_{A,B}_seed0/weights.safetensors

Grid and sheet show what inference.py writes first with the same seed: nothing is selected. Same seed, same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, run_main
from common.device import pick_device
from common.viz import new_figure, save_figure, save_gif, save_grid
from common.weights import images_folder
from p1_gan.config import DEFAULT_METHOD
from p1_gan.inference import (
    add_weights_arguments,
    generate,
    load_generator,
    sample_latents,
    shipped_weights,
    snapshots_of,
)

import torch

GRID, SHEET = 32, 200  # images
STOPS, FRAMES_BETWEEN, FRAME_MILLISECONDS = 8, 8, 120
STRIPS, STRIP_SNAPSHOTS = 4, 13  # latents, and snapshots of a run at most


def interpolate(first: torch.Tensor, second: torch.Tensor, fraction: float) -> torch.Tensor:
    """Return the point at ``fraction`` of the way between two latents, along the great circle through them.

    A straight line would run closer to 0 than nearly any latent that a generator was trained on.

    Source: Shoemake, "Animating rotation with quaternion curves", 1985; for latents White, "Sampling generative
    networks", 2016, section 2.1.
    """
    angle = torch.acos((first * second).sum() / (first.norm() * second.norm()))
    return (torch.sin((1 - fraction) * angle) * first + torch.sin(fraction * angle) * second) / torch.sin(angle)


def walk_latents(seed: int) -> torch.Tensor:
    """Return the latents of a closed walk over eight stops, (frames, 100, 1, 1)."""
    stops = sample_latents(STOPS, seed)
    frames = [
        interpolate(here, there, step / FRAMES_BETWEEN)
        for here, there in zip(stops, stops.roll(-1, 0), strict=True)
        for step in range(FRAMES_BETWEEN)
    ]
    return torch.stack(frames)


def save_progress(run: Path, seed: int, path: Path) -> None:
    """Plot the samples of four fixed latents over a run, with the images seen so far under each column."""
    paths = snapshots_of(run)
    paths = paths[:: -(-len(paths) // STRIP_SNAPSHOTS)]
    figure, axes = new_figure(STRIPS, len(paths), (len(paths), STRIPS + 0.3))
    for column, snapshot in enumerate(paths):
        model, config = load_generator(snapshot, torch.device("cpu"))
        for axis, image in zip(axes[:, column], generate(model, sample_latents(STRIPS, seed)), strict=True):
            axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[-1, column].set_xlabel(f"{config['step'] * config['batch_size'] / 1000:,.0f}k")
    save_figure(figure, path)


def save_distances(checkpoints: list[Path], seed: int, path: Path) -> None:
    """Plot KID and Fréchet distance over images seen, one line per run, from what evaluate.py --snapshots measured."""
    figure, ((kid, frechet),) = new_figure(1, 2, (10, 3.6))
    for checkpoint in checkpoints:
        try:
            record = json.loads((checkpoint.parent / f"records/progress_seed{seed}.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{error.filename}: not measured; run evaluate.py --snapshots first") from error
        kid.plot(record["images_seen_at"], record["kid_lite0"], label=record["method"])
        frechet.plot(record["images_seen_at"], record["fd_lite0"], label=record["method"])
    for axis, title in ((kid, "KID"), (frechet, "Fréchet distance")):
        axis.set(title=title, xlabel="images seen", yscale="log")
        axis.legend()
    save_figure(figure, path)


def main() -> None:
    parser = make_parser(__doc__)
    parts = ("grid", "sheet", "walk", "progress", "distances")
    parser.add_argument("part", choices=parts, nargs="?", help="default: all but distances")
    add_weights_arguments(parser, "+")
    parser.add_argument("--images", type=Path, help="folder (default: next to the weights; images/P1 for shipped ones)")
    add_common_arguments(parser, data=False)
    arguments = parser.parse_args()
    checkpoints, part = arguments.checkpoint or [shipped_weights(arguments.method)], arguments.part
    if part == "distances":
        folder = arguments.images or images_folder(checkpoints[0], "P1")
        save_distances(checkpoints, arguments.seed, folder / "GAN_distances.png")
        return
    for checkpoint in checkpoints:
        folder = arguments.images or images_folder(checkpoint, "P1")
        model, config = load_generator(checkpoint, pick_device(arguments.device))
        name = f"GAN_{config['method']}"
        if part in (None, "grid", "sheet"):
            images = generate(model, sample_latents(SHEET, arguments.seed))
        if part in (None, "grid"):
            save_grid(images[:GRID], folder / f"{name}_grid.png", columns=8)
        if part in (None, "sheet"):
            save_grid(images, folder / f"{name}_sheet.png", columns=20)
        if part in (None, "walk"):
            walk = "walk" if config["method"] == DEFAULT_METHOD else f"{name}_walk"
            frames = generate(model, walk_latents(arguments.seed))
            frames = frames.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            save_gif(list(frames), folder / f"{walk}.gif", [FRAME_MILLISECONDS] * len(frames))
        if part == "progress" or (part is None and (checkpoint.parent / "snapshots").is_dir()):
            save_progress(checkpoint.parent, arguments.seed, folder / f"{name}_progress.png")
        print(f"plotted in {folder}")


if __name__ == "__main__":
    run_main(main)
