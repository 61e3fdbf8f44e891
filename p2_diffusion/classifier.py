"""Train the judge: a digit classifier on mnistm/train.csv that measures what the diffusion model draws.

    python p2_diffusion/classifier.py                  # preset cpu: a few minutes on two cores
    python p2_diffusion/classifier.py --preset full    # longer, for a GPU

Stopped or killed, the same command goes on from the last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.batches import Batches
from common.cli import add_common_arguments, add_preset_arguments, add_run_arguments, make_parser, resolve_config
from common.dataset import dataset_name
from common.device import autocast, memory_format, pick_device
from common.errors import run_main
from common.paths import workspace
from common.results import read_results, record
from common.run import Run
from common.seed import seed_everything
from common.weights import is_finished, load_into, load_weights, save_weights
from p2_diffusion.dataset import DOMAIN, load_mnistm, to_network
from p2_diffusion.presets import JUDGE_PRESETS, JudgeConfig

KIND = "p2_diffusion/classifier"
NUM_FEATURES = 128


class DigitClassifier(nn.Module):
    """A small convolutional network; its penultimate layer is the feature space of the Fréchet distance."""

    def __init__(self) -> None:
        super().__init__()

        def block(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
            convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
            return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]

        self.features = nn.Sequential(
            *block(3, 32, 1),  # 28x28
            *block(32, 64, 2),  # 14x14
            *block(64, 64, 1),
            *block(64, 96, 2),  # 7x7
            *block(96, 96, 1),
            nn.MaxPool2d(2),  # 3x3
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(96 * 3 * 3, NUM_FEATURES),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(NUM_FEATURES, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map pictures (N, 3, 28, 28) in [-1, 1] to logits (N, 10)."""
        return self.head(self.features(x))


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


@torch.inference_mode()
def judge_images(
    judge: DigitClassifier, images: torch.Tensor, batch_size: int = 1000
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digit that ``judge`` sees in each picture, and its features.

    Args:
        judge: in evaluation mode.
        images: uint8 (N, 3, 28, 28) on any device.
        batch_size: pictures at a time; the result does not depend on it.

    Returns:
        Digits int64 (N,) and features float32 (N, 128), both on the CPU.
    """
    device = next(judge.parameters()).device
    features = torch.cat(
        [
            judge.features(to_network(part.to(device)).contiguous(memory_format=memory_format(device)))
            for part in images.split(batch_size)
        ]
    )
    return judge.head(features).argmax(1).cpu(), features.cpu()


def share_per_digit(right: torch.Tensor, digits: torch.Tensor) -> dict[str, float]:
    """Return, for every digit that occurs, the share of its pictures where ``right`` (bool, (N,)) holds."""
    return {str(digit): right[digits == digit].double().mean().item() for digit in digits.unique().tolist()}


def load_judge(path: Path, device: torch.device) -> DigitClassifier:
    """Return the judge of a weights file in evaluation mode.

    Raises:
        UserError: missing, damaged, or of another model.
    """
    state, _ = load_weights(path, KIND)
    judge = DigitClassifier()
    load_into(judge, state, path)
    return judge.to(device, memory_format=memory_format(device)).eval().requires_grad_(False)


def train(
    config: JudgeConfig, run_config: dict[str, Any], run_dir: Path, arguments: argparse.Namespace, device: torch.device
) -> tuple[Run, DigitClassifier, int]:
    """Train to the last step and return the run, the network and the number of training pictures."""
    images, labels = load_mnistm(arguments.data_root, "train", device)
    steps = max(1, config.epochs * len(images) // config.batch_size)
    seed_everything(arguments.seed)
    model = DigitClassifier().to(device, memory_format=memory_format(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    # One cycle: Smith and Topin, "Super-Convergence", 2018.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
    batches = Batches(len(images), config.batch_size, arguments.seed, "judge", device)

    run = Run(
        run_dir,
        KIND,
        run_config,
        state={"model": model, "optimizer": optimizer, "schedule": schedule},
        weights=model.state_dict,
        device=device,
        fresh=arguments.fresh,
        tensorboard=arguments.tensorboard,
        panels={"loss": ["loss"]},
        title=f"P2 judge, {run_config['dataset']}",
    )
    with run:
        for step in run.steps(steps, config.batch_size, "p2 judge"):
            batch = batches(step)
            x = random_affine(to_network(images[batch]), config.shift, config.rotation, config.zoom)
            x = x.contiguous(memory_format=memory_format(device))
            with autocast(device, config.precision):
                loss = F.cross_entropy(model(x).float(), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

            run.guard(loss)
            if (step + 1) % config.log_every == 0:
                run.log(loss=loss)
    return run, model.eval(), len(images)


def main() -> None:
    """Parse the command line, train, measure on val.csv, and write weights, curves and the record."""
    parser = make_parser(__doc__)
    add_common_arguments(parser)
    add_run_arguments(parser)
    add_preset_arguments(parser, JUDGE_PRESETS)
    arguments = parser.parse_args()
    config = resolve_config(arguments, JUDGE_PRESETS)
    device = pick_device(arguments.device)
    space = workspace(arguments.preset, arguments.output)
    run_dir = arguments.run_dir or space.runs / f"p2_judge_seed{arguments.seed}"
    dataset = dataset_name(arguments.data_root, DOMAIN)
    run_config = asdict(config) | {"preset": arguments.preset, "seed": arguments.seed, "dataset": dataset}

    weights = run_dir / "weights.safetensors"
    key = f"judge/{arguments.preset}/seed{arguments.seed}"
    # Not recorded again: the record would name the machine of now with the time of then.
    if not arguments.fresh and is_finished(weights, KIND, run_config) and key in read_results(space.results, "p2"):
        print(f"finished before: {weights}")
        return
    val_images, val_labels = load_mnistm(arguments.data_root, "val")
    run, judge, count = train(config, run_config, run_dir, arguments, device)
    right = judge_images(judge, val_images)[0] == val_labels
    values = {
        "dataset": dataset,
        "train_images": count,
        "val_images": len(val_images),
        "preset": arguments.preset,
        "seed": arguments.seed,
        "epochs": config.epochs,
        "accuracy": right.double().mean().item(),
        "per_digit": share_per_digit(right, val_labels),
        "seconds": round(run.total_seconds, 1),
    }
    save_weights(weights, judge.state_dict(), KIND, run_config)
    record(space.results, "p2", key, values, device)
    print(f"judge: {100 * values['accuracy']:.2f} % on {len(val_images)} pictures; weights in {run_dir}")


if __name__ == "__main__":
    run_main(main)
