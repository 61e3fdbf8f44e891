"""Train the evaluation classifier: it learns from real MNIST-M digits only, and measures generated ones.

python p2_diffusion/classifier.py
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, add_run_arguments, make_parser, parse_config, run_main
from common.data import EpochSampler
from common.device import autocast, init_distributed, to_device
from common.metrics import accuracy, per_class_accuracy
from common.training import TrainingRun
from common.viz import normalize
from common.weights import load_into, load_weights
from p2_diffusion.config import CLASSIFIER_PRESETS, ClassifierConfig
from p2_diffusion.dataset import load_mnistm

import torch
from torch import nn
from torch.nn import functional as F

MODEL = "p2_diffusion/classifier"
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
        """Map images (N, 3, 28, 28) in [-1, 1] to logits (N, 10)."""
        return self.head(self.features(x))


def load_classifier(path: Path, device: torch.device) -> DigitClassifier:
    """Return the classifier of a weights file in evaluation mode."""
    state, _ = load_weights(path, MODEL)
    classifier = DigitClassifier()
    load_into(classifier, state, path)
    return to_device(classifier, device).eval().requires_grad_(False)


@torch.inference_mode()
def classify(classifier: DigitClassifier, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return predicted digits int64 (N,) and features float32 (N, 128) of uint8 images (N, 3, 28, 28), on the CPU."""
    device = next(classifier.parameters()).device
    batches = (to_device(normalize(batch), device) for batch in images.split(1000))
    features = torch.cat([classifier.features(batch) for batch in batches])
    return classifier.head(features).argmax(1).cpu(), features.cpu()


def train(run: TrainingRun, config: ClassifierConfig, images: torch.Tensor, labels: torch.Tensor) -> DigitClassifier:
    """Train on ``images``, uint8 (N, 3, 28, 28), and ``labels``, int64 (N,)."""
    dist, device, seed = run.dist, run.dist.device, run.config["seed"]
    steps = max(1, config.epochs * len(images) // config.batch_size)
    torch.manual_seed(seed)
    model = to_device(DigitClassifier(), device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    # One cycle: Smith and Topin, "Super-Convergence", 2018.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
    batches = EpochSampler(len(images), config.batch_size, seed, "judge", device)  # the name decides the order
    network = dist.ddp(model)

    run.resume(model, model=model, optimizer=optimizer, schedule=schedule)
    for step in run.steps(steps, config.batch_size):
        batch = dist.shard(batches(step))
        x = random_affine(normalize(images[batch]), shift=2.0, rotation=10.0, zoom=0.1)

        # cross-entropy of the logits
        with autocast(device, config.precision):
            loss = F.cross_entropy(network(to_device(x, device)).float(), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

        run.check_finite(loss)
        if (step + 1) % config.log_every == 0:
            run.log(loss=loss)
    return model


def random_affine(images: torch.Tensor, shift: float, rotation: float, zoom: float) -> torch.Tensor:
    """Shift, rotate and scale each image (N, C, H, W) by its own random amounts; edges are reflected.

    ``shift`` in pixels, ``rotation`` in degrees and the relative change of size ``zoom`` are largest values, each way.
    """
    unit = torch.rand(4, len(images), device=images.device) * 2 - 1
    angle, scale = unit[0] * math.radians(rotation), 1 + unit[1] * zoom
    translation = unit[2:] * shift * 2 / images.shape[-1]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    matrix = torch.stack([cos, -sin, translation[0], sin, cos, translation[1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def main() -> None:
    parser = make_parser(__doc__)
    add_common_arguments(parser)
    add_run_arguments(parser, CLASSIFIER_PRESETS)
    arguments, config = parse_config(parser, lambda arguments: CLASSIFIER_PRESETS[arguments.preset])
    with init_distributed(arguments.device) as dist:
        dist.check_batch_size(config.batch_size, min_per_process=2)
        images, labels, data_names = load_mnistm(arguments.data_root, "train", dist.device)
        val_images, val_labels, val_names = load_mnistm(arguments.data_root, "val")
        settings = asdict(config) | {"model": MODEL, "method": "classifier"} | data_names
        run = TrainingRun(arguments, dist, "p2", "p2_classifier", settings)
        if run.is_finished():
            return
        model = train(run, config, images, labels)
        predicted, _ = classify(model.eval(), val_images)
        run.finish(
            {"loss": ["loss"]},
            kind="classifier",
            train_images=len(images),
            val_images=len(val_images),
            accuracy=accuracy(predicted, val_labels),
            per_class_accuracy=per_class_accuracy(predicted, val_labels),
            **val_names,
        )


if __name__ == "__main__":
    run_main(main)
