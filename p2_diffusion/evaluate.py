"""Measure digits: how many the evaluation classifier recognizes, and their Fréchet distance to real ones.

    python p2_diffusion/evaluate.py                             # 1000 digits of the shipped network
    python p2_diffusion/evaluate.py --checkpoint runs/cpu/p2_seed0/weights.safetensors
    python p2_diffusion/evaluate.py digits                      # a folder that inference.py wrote

The Fréchet distance is between features of the classifier, to the images of val.csv; with it comes the baseline, the
distance of as many real training images. Guidance that buys accuracy with diversity shows there. What was measured on
weights is kept in the records/ of their run.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, positive_int, run_main
from common.data import DIGIT_SIZE, dataset_name, digest, list_images, load_images
from common.device import pick_device
from common.files import file_digest
from common.metrics import accuracy, baseline_images, check_enough, frechet_distance, per_class_accuracy
from common.records import Record, measured, run_folder
from common.weights import WEIGHTS
from p2_diffusion.classifier import classify, load_classifier
from p2_diffusion.dataset import DOMAIN, load_mnistm
from p2_diffusion.inference import add_sampler_arguments, generate, load_model, sampler_config, shipped_weights
from p2_diffusion.model import UNet
from p2_diffusion.samplers import SamplerConfig

import torch

CLASSIFIER = WEIGHTS / "p2_classifier.safetensors"
FILE_NAME = re.compile(r"([0-9])_\d+\.png")


class Evaluator:
    """The evaluation classifier together with the real images that generated ones are compared with."""

    def __init__(self, classifier: Path, data_root: Path, device: torch.device) -> None:
        """Load the classifier and mnistm's train and val images; a UserError where a split has only one image."""
        self.device, self.classifier = device, load_classifier(classifier, device)
        (self.train_images, train_labels), (self.val_images, val_labels) = (
            load_mnistm(data_root, split) for split in ("train", "val")
        )
        for split, images in (("train", self.train_images), ("val", self.val_images)):
            check_enough(images, f"{data_root}: {DOMAIN}'s {split}.csv")
        self.val_features = classify(self.classifier, self.val_images)[1]
        self.identity: Record = {
            "classifier": file_digest(classifier),
            "dataset": dataset_name(data_root, DOMAIN),
            "train_digest": digest(self.train_images, train_labels),
            "val_digest": digest(self.val_images, val_labels),
        }

    def measure(self, images: torch.Tensor, digits: torch.Tensor) -> Record:
        """Return accuracy and Fréchet distance of images, uint8 (N, 3, 28, 28), that should show ``digits`` (N,)."""
        predicted, features = classify(self.classifier, images)
        real_features = classify(self.classifier, baseline_images(self.train_images, len(images)))[1]
        per_class = per_class_accuracy(predicted, digits)
        return {
            "accuracy": accuracy(predicted, digits),
            "per_class_accuracy": per_class,
            "worst_class_accuracy": min(value for value in per_class if value is not None),
            "frechet": frechet_distance(features, self.val_features),
            "frechet_baseline": frechet_distance(real_features, self.val_features),
        }

    def measure_sampler(
        self, kind: str, checkpoint: Path, config: SamplerConfig, num_per_digit: int, seed: int
    ) -> Record:
        """Return the record of one way to sample from a network; ``kind`` is ``evaluate`` or ``sweep``."""
        model, diffusion, trained = load_model(checkpoint, self.device)
        digits = torch.arange(10).repeat_interleave(num_per_digit)
        interval = "-".join(f"{bound:g}" for bound in config.guidance_interval)
        name = f"{kind}_{config.sampler}_{config.steps}_w{config.guidance_scale:g}_{interval}_n{len(digits)}_seed{seed}"
        copied = ("preset", "seed", "overrides", "steps", "batch_size", "student_steps")
        identity = {"problem": "p2", "kind": kind, "method": trained.get("method", "ddpm")}
        identity |= {key: trained[key] for key in copied if key in trained}
        identity |= {"weights": file_digest(checkpoint), "sampling_seed": seed, "num_images": len(digits)}
        identity |= record_of(config) | self.identity

        def measure() -> Record:
            started = time.perf_counter()
            with count_evaluations(model) as batch_sizes:
                images = generate(model, diffusion, digits.tolist(), config, seed)
            seconds = round(time.perf_counter() - started, 2)
            return self.measure(images, digits) | {"nfe": sum(batch_sizes) / len(images), "seconds": seconds}

        return measured(run_folder(checkpoint), name, identity, measure, self.device)


def record_of(config: SamplerConfig) -> Record:
    """Return the columns by which records name a way to sample."""
    values: dict[str, Any] = asdict(config)
    del values["clip"]
    return values | {"sampling_steps": values.pop("steps")}


@contextmanager
def count_evaluations(model: UNet) -> Iterator[list[int]]:
    """Yield a list that receives the batch size of each call of ``model``; guidance evaluates each image twice."""
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    try:
        yield sizes
    finally:
        hook.remove()


def load_generated(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images of ``folder``, uint8 (N, 3, 28, 28), and the digits in their names, int64 (N,).

    Raises:
        UserError: a file of another name, size or mode; fewer than two images.
    """
    names = list_images(folder)
    digits = []
    for name in names:
        match = FILE_NAME.fullmatch(name)
        if match is None:
            raise UserError(f"{folder / name}: the name must tell the digit, like 7_001.png")
        digits.append(int(match[1]))
    check_enough(names, folder)
    return load_images(folder, names, DIGIT_SIZE), torch.tensor(digits)


def print_measures(record: Record) -> None:
    """Print accuracy, accuracy per digit and Fréchet distance."""
    per_class = enumerate(record["per_class_accuracy"])
    print(f"accuracy {record['accuracy']:.1%}")
    print("per digit " + ", ".join(f"{digit}: {value:.1%}" for digit, value in per_class if value is not None))
    print(f"Fréchet distance {record['frechet']:.2f}; as many real images: {record['frechet_baseline']:.2f}")


def main() -> None:
    """Parse the command line, generate or read images, measure, print and record."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="images named {digit}_{number}.png (default: generated)")
    parser.add_argument("--num-per-digit", type=positive_int, default=100, help="images of each digit to generate")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="weights of the evaluation classifier")
    add_sampler_arguments(parser)
    add_common_arguments(parser)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    if arguments.folder is not None:
        images, digits = load_generated(arguments.folder)
        print_measures(Evaluator(arguments.classifier, arguments.data_root, device).measure(images, digits))
        return
    checkpoint = arguments.checkpoint or shipped_weights(arguments.model)
    config = sampler_config(arguments, load_model(checkpoint, device)[2])
    evaluator = Evaluator(arguments.classifier, arguments.data_root, device)
    record = evaluator.measure_sampler("evaluate", checkpoint, config, arguments.num_per_digit, arguments.seed)
    print_measures(record)
    print(f"{record['nfe']:g} network evaluations per image; {record['num_images']} images")


if __name__ == "__main__":
    run_main(main)
