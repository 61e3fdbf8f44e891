"""Measure digits: how many a judge recognises, and how far they are from real ones.

    python p2_diffusion/evaluate.py digits                      # a folder of pictures
    python p2_diffusion/evaluate.py --checkpoint runs/cpu/p2_seed0/weights.safetensors
    python p2_diffusion/evaluate.py digits --judge runs/cpu/p2_judge_seed0/weights.safetensors

Without a folder it draws the pictures of inference.py itself; the report is made from these measurements. The Fréchet
distance is taken between features of the judge; beside it stands that of as many real training pictures, which no
generator can be expected to beat. Guidance that buys accuracy with variety shows there.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cache import list_images, load_images
from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import DIGIT_SIZE, dataset_name
from common.device import pick_device
from common.errors import UserError, run_main
from common.files import sha256
from common.frechet import check_enough, floor_pictures, frechet_distance
from common.paths import WEIGHTS, workspace
from common.report import percent
from common.results import read_results, record, record_largest
from common.weights import which_training
from p2_diffusion.build import load_model
from p2_diffusion.dataset import DOMAIN, load_mnistm
from p2_diffusion.inference import add_sampler_arguments, generate, sampler_config, shipped_weights
from p2_diffusion.judge import DigitClassifier, judge_images, load_judge, share_per_digit
from p2_diffusion.presets import default_sampling

JUDGE = WEIGHTS / "p2_classifier.safetensors"
NAME = re.compile(r"([0-9])_\d+\.png")


class Evaluator:
    """The judge together with the real pictures that generated ones are compared to."""

    def __init__(self, judge: DigitClassifier, data_root: Path) -> None:
        """Read mnistm's val and train pictures and keep the features of val.

        Raises:
            UserError: the data root lacks them, or has only one.
        """
        self.judge = judge
        self.train_images, self.val_images = (load_mnistm(data_root, split)[0] for split in ("train", "val"))
        for split, images in (("train", self.train_images), ("val", self.val_images)):
            check_enough(images, f"{data_root}: {DOMAIN}'s {split}.csv")
        self.val_features = judge_images(judge, self.val_images)[1]

    def measure(self, images: torch.Tensor, digits: torch.Tensor) -> dict[str, Any]:
        """Return accuracy, accuracy per digit, and Fréchet distance to val.

        Args:
            images: uint8 (N, 3, 28, 28).
            digits: int64 (N,), what each should be.
        """
        predicted, features = judge_images(self.judge, images)
        right = predicted == digits
        return {
            "images": len(images),
            "accuracy": right.double().mean().item(),
            "per_digit": share_per_digit(right, digits),
            "frechet": frechet_distance(features, self.val_features),
        }

    def floor(self, count: int) -> float:
        """Return the Fréchet distance of ``count`` real training pictures (all, if there are fewer) to val."""
        real = floor_pictures(self.train_images, count)
        return frechet_distance(judge_images(self.judge, real)[1], self.val_features)


def load_generated(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pictures of ``folder``, uint8 (N, 3, 28, 28), and the digits their names say, int64 (N,).

    Raises:
        UserError: a file of another name, size or mode; fewer than two pictures.
    """
    names = list_images(folder)
    matches = [NAME.fullmatch(name) for name in names]
    for name, match in zip(names, matches, strict=True):
        if match is None:
            raise UserError(f"{folder / name}: the name must tell the digit, like 7_001.png")
    check_enough(names, folder)
    images = load_images(folder, names, DIGIT_SIZE, "RGB", cache=False)
    return images, torch.tensor([int(match[1]) for match in matches])


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="pictures named {digit}_{number}.png (unset: drawn)")
    parser.add_argument("--num-per-digit", type=positive_int, default=100, help="pictures of each digit to draw")
    parser.add_argument("--judge", type=Path, default=JUDGE, help="weights of the judge")
    add_sampler_arguments(parser)
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Parse the command line, draw or read pictures, measure, print and record."""
    arguments = parse_arguments()
    device = pick_device(arguments.device)
    judge = load_judge(arguments.judge, device)
    values: dict[str, Any] = {
        "dataset": dataset_name(arguments.data_root, DOMAIN),
        "judge": sha256(arguments.judge)[:16],
    }
    if arguments.folder is not None:
        space, name = workspace("cpu", arguments.output), f"folder/{arguments.folder.resolve().name}"
        images, digits = load_generated(arguments.folder)
    else:
        checkpoint = arguments.checkpoint or shipped_weights(arguments.model)
        model, diffusion, trained = load_model(checkpoint, device)
        config = sampler_config(arguments, trained)
        space = workspace(trained["preset"], arguments.output)
        name = f"{trained['preset']}/seed{which_training(trained)}"
        if config != default_sampling(trained):
            name += f"/{config.name}"
        if arguments.seed:
            name += f"/sampling-seed{arguments.seed}"
        digits = torch.arange(10).repeat_interleave(arguments.num_per_digit)
        values |= {"preset": trained["preset"], "weights": sha256(checkpoint)[:16], "seed": arguments.seed}
        values |= json.loads(json.dumps(asdict(config))) | {"images": len(digits)}
        measured = read_results(space.results, "p2").get(f"evaluate/{name}", {})
        if values.items() <= measured.items():
            print(f"measured before: evaluate/{name} in {space.results / 'p2.json'}")
            return
        started = time.perf_counter()
        images = generate(model, diffusion, digits.tolist(), config, arguments.seed)
        sampled_in = {"sampling_seconds": round(time.perf_counter() - started, 2)}
    evaluator = Evaluator(judge, arguments.data_root)
    origin = values | {"images": len(images)}
    values = evaluator.measure(images, digits) | {
        "frechet_floor": evaluator.floor(len(images)),
        "val_images": len(evaluator.val_images),
    }
    if arguments.folder is not None:
        record(space.results, "p2", f"evaluate/{name}", origin | values, device)
    else:
        record_largest(space.results, "p2", f"evaluate/{name}", origin, values | sampled_in, device)
    print(f"accuracy {percent(values['accuracy'])} on {len(images)} pictures")
    print("per digit " + ", ".join(f"{digit}: {percent(share)}" for digit, share in values["per_digit"].items()))
    print(f"Fréchet distance {values['frechet']:.2f}; {len(images)} real pictures: {values['frechet_floor']:.2f}")


if __name__ == "__main__":
    run_main(main)
