"""Measure digits: how many the evaluation classifier recognizes, and their Fréchet distance to real ones.

    python p2_diffusion/evaluate.py                             # 1000 digits of the default network
    python p2_diffusion/evaluate.py --checkpoint runs/cpu/p2_seed0/weights.safetensors
    python p2_diffusion/evaluate.py digits                      # a folder that inference.py wrote

The Fréchet distance is between features of the classifier, to the images of val.csv; with it comes the baseline, the
distance of as many real training images. Unlike accuracy it gets worse where guidance costs diversity. What was
measured on weights is kept in the records/ of their run.
"""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, positive_int, run_main
from common.data import DIGIT_SIZE, list_images, load_images
from common.device import pick_device
from common.files import file_digest
from common.metrics import accuracy, baseline_images, frechet_distance, per_class_accuracy
from common.weights import WEIGHTS, Record, measured, run_folder
from p2_diffusion.classifier import classify, load_classifier
from p2_diffusion.config import default_sampler
from p2_diffusion.dataset import load_mnistm
from p2_diffusion.inference import Loaded, add_sampler_arguments, generate, load_model, sampler_config, shipped_weights
from p2_diffusion.samplers import SamplerConfig

import torch

CLASSIFIER = WEIGHTS / "p2_classifier.safetensors"


class Evaluator:
    """The evaluation classifier together with the real images that generated ones are compared with."""

    def __init__(self, classifier: Path, data_root: Path, device: torch.device) -> None:
        self.device, self.classifier = device, load_classifier(classifier, device)
        self.train_images, _, train_names = load_mnistm(data_root, "train")
        val_images, _, val_names = load_mnistm(data_root, "val")
        self.val_features = classify(self.classifier, val_images)[1]
        self.baselines: dict[int, float] = {}  # by number of images
        self.identity = {"classifier": file_digest(classifier)} | train_names | val_names

    def measure(self, images: torch.Tensor, digits: torch.Tensor) -> Record:
        """Return accuracy and Fréchet distance of images, uint8 (N, 3, 28, 28), that should show ``digits`` (N,)."""
        predicted, features = classify(self.classifier, images)
        if len(images) not in self.baselines:
            real_features = classify(self.classifier, baseline_images(self.train_images, len(images)))[1]
            self.baselines[len(images)] = frechet_distance(real_features, self.val_features)
        per_class = per_class_accuracy(predicted, digits)
        return {
            "accuracy": accuracy(predicted, digits),
            "per_class_accuracy": per_class,
            "worst_class_accuracy": min(value for value in per_class if value is not None),
            "frechet": frechet_distance(features, self.val_features),
            "frechet_baseline": self.baselines[len(images)],
        }

    def evaluate(
        self, kind: str, checkpoint: Path, network: Loaded, config: SamplerConfig, num_per_digit: int, seed: int
    ) -> Record:
        """Return the record of one way to sample from a network; ``kind`` is ``evaluate`` or ``sweep``."""
        model, diffusion, trained = network
        digits = torch.arange(10).repeat_interleave(num_per_digit)
        identity = sampling_identity(kind, checkpoint, trained, config, seed)
        identity |= {"num_images": len(digits)} | self.identity
        interval = "-".join(f"{bound:g}" for bound in config.guidance_interval)
        how = f"{config.sampler}_{config.sampling_steps}_w{config.guidance_scale:g}_{interval}"
        name = f"{kind}_{how}_n{len(digits)}_seed{seed}"

        def measure() -> Record:
            batch_sizes: list[int] = []
            # Guidance evaluates each image twice.
            counting = model.register_forward_pre_hook(lambda _, inputs: batch_sizes.append(len(inputs[0])))
            images = generate(model, diffusion, digits.tolist(), config, seed)
            counting.remove()
            return self.measure(images, digits) | {"nfe": sum(batch_sizes) / len(images)}

        return measured(run_folder(checkpoint), name, identity, measure, self.device)


def sampling_identity(kind: str, checkpoint: Path, trained: Record, config: SamplerConfig, seed: int) -> Record:
    """Return the columns by which records name a network, how it was trained, and how it is sampled from."""
    copied = ("preset", "seed", "variant", "overrides", "steps", "batch_size", "student_steps")
    identity = {"problem": "p2", "kind": kind, "method": trained.get("method", "ddpm")}
    identity |= {key: trained[key] for key in copied if key in trained}
    return identity | {"weights": file_digest(checkpoint), "sampling_seed": seed} | asdict(config)


def load_generated(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images of ``folder``, uint8 (N, 3, 28, 28), and the digits in their names, int64 (N,)."""
    names = list_images(folder)
    if others := [name for name in names if not re.fullmatch(r"[0-9]_\d+\.png", name)]:
        raise UserError(f"{folder / others[0]}: the name must tell the digit, like 7_001.png")
    return load_images(folder, names, DIGIT_SIZE), torch.tensor([int(name[0]) for name in names])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="images named {digit}_{number}.png (default: generated)")
    parser.add_argument("--num-per-digit", type=positive_int, help="images of each digit to generate (default: 100)")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="weights of the evaluation classifier")
    add_sampler_arguments(parser)
    add_common_arguments(parser)
    arguments = parser.parse_args()
    names = ("checkpoint", "num_per_digit", "sampler", "sampling_steps", "guidance_scale", "guidance_interval")
    if arguments.folder and any(getattr(arguments, name) is not None for name in names):
        raise UserError(f"{arguments.folder}: is measured as it is; leave out --checkpoint and how to sample")
    device = pick_device(arguments.device)
    evaluator = Evaluator(arguments.classifier, arguments.data_root, device)
    if arguments.folder is not None:
        record = evaluator.measure(*load_generated(arguments.folder))
    else:
        checkpoint = arguments.checkpoint or shipped_weights(arguments.model)
        *_, trained = network = load_model(checkpoint, device)
        config = sampler_config(arguments, trained)
        num_per_digit = arguments.num_per_digit or 100
        kind = "evaluate" if config == default_sampler(trained) else "sweep"  # the report's tables are of the default
        record = evaluator.evaluate(kind, checkpoint, network, config, num_per_digit, arguments.seed)
        print(f"{record['num_images']} images, {record['nfe']:g} network evaluations per image")
    per_class = enumerate(record["per_class_accuracy"])
    print(f"accuracy {record['accuracy']:.1%}")
    print("per digit " + ", ".join(f"{digit}: {value:.1%}" for digit, value in per_class if value is not None))
    print(f"Fréchet distance {record['frechet']:.2f}; as many real images: {record['frechet_baseline']:.2f}")


if __name__ == "__main__":
    run_main(main)
