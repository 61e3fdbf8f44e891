"""Train the judge: a digit classifier on mnistm/train.csv that measures what the diffusion model draws.

    python p2_diffusion/train_judge.py                  # preset cpu
    python p2_diffusion/train_judge.py --preset full    # longer, for a GPU

Stopped or killed, the same command goes on from the last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.batches import Batches
from common.cli import add_common_arguments, add_preset_arguments, add_run_arguments, make_parser, resolve_config
from common.dataset import described
from common.device import autocast, place
from common.distributed import World, join_world
from common.errors import run_main
from common.pictures import to_network
from common.run import Job, Run
from common.seed import seed_everything
from p2_diffusion.dataset import DOMAIN, load_mnistm
from p2_diffusion.judge import KIND, DigitClassifier, judge_images, share_per_digit
from p2_diffusion.presets import JUDGE_PRESETS, JudgeConfig

PANELS = {"loss": ["loss"]}


def train(job: Job, config: JudgeConfig, world: World, images: torch.Tensor, labels: torch.Tensor) -> Run:
    """Train on ``images``, uint8 (N, 3, 28, 28), and ``labels`` (N,) to the last step.

    Returns:
        The run, whose state holds the classifier as ``model``.
    """
    device, seed = world.device, job.config["seed"]
    steps = max(1, config.epochs * len(images) // config.batch_size)
    seed_everything(seed)
    model = place(DigitClassifier(), device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    # One cycle: Smith and Topin, "Super-Convergence", 2018.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
    batches = Batches(len(images), config.batch_size, seed, "judge", device)
    network = world.wrap(model)

    state = {"model": model, "optimizer": optimizer, "schedule": schedule}
    with Run(job, world, state, model.state_dict, PANELS) as run:
        for step in run.steps(steps, config.batch_size):
            batch = world.part(batches(step))
            x = random_affine(to_network(images[batch]), config.shift, config.rotation, config.zoom)

            with autocast(device, config.precision):
                loss = F.cross_entropy(network(place(x, device)).float(), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

            run.guard(loss)
            if (step + 1) % config.log_every == 0:
                run.log(loss=loss)
    return run


def random_affine(images: torch.Tensor, shift: float, rotation: float, zoom: float) -> torch.Tensor:
    """Move, turn and scale each picture a little, each by its own random amount; edges are reflected.

    Args:
        images: float (N, C, H, W).
        shift: largest shift in pixels, each way.
        rotation: largest angle in degrees, each way.
        zoom: largest change of size as a share, each way.

    Returns:
        The same shape.
    """
    unit = torch.rand(4, len(images), device=images.device) * 2 - 1
    angle, scale = unit[0] * math.radians(rotation), 1 + unit[1] * zoom
    translation = unit[2:] * shift * 2 / images.shape[-1]
    matrix = torch.stack(
        [
            torch.stack([angle.cos() * scale, -angle.sin() * scale, translation[0]], dim=1),
            torch.stack([angle.sin() * scale, angle.cos() * scale, translation[1]], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = make_parser(__doc__)
    add_common_arguments(parser)
    add_run_arguments(parser)
    add_preset_arguments(parser, JUDGE_PRESETS)
    return parser.parse_args()


def main() -> None:
    """Parse the command line, train, measure on val.csv, and write weights, curves and the record."""
    arguments = parse_arguments()
    config = resolve_config(arguments, JUDGE_PRESETS)
    with join_world(arguments.device) as world:
        world.check_batch(config.batch_size, least=2)
        data = described(arguments.data_root, DOMAIN)
        job = Job.of(arguments, config, "p2", KIND, "p2_judge", f"judge/{arguments.preset}", **data)
        if job.is_finished(world):
            return
        images, labels = load_mnistm(arguments.data_root, "train", world.device)
        val_images, val_labels = load_mnistm(arguments.data_root, "val")
        run = train(job, config, world, images, labels)
        if run.is_complete and world.is_writer:
            right = judge_images(run.state["model"].eval(), val_images)[0] == val_labels
            job.finish(
                run,
                train_images=len(images),
                val_images=len(val_images),
                accuracy=right.double().mean().item(),
                per_digit=share_per_digit(right, val_labels),
            )


if __name__ == "__main__":
    run_main(main)
