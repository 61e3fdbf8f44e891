"""Measure a folder of generated digits: accuracy of the judge, and how far they are from real ones.

    python p2_diffusion/evaluate.py out_dir
    python p2_diffusion/evaluate.py out_dir --judge runs/cpu/p2_judge_seed0/weights.safetensors --name mine

The file names say which digit each picture should be ({digit}_{001..100}.png). The Fréchet distance is taken
between features of the judge; beside it stands that of as many real training pictures, which no generator can
be expected to beat. Guidance that buys accuracy with variety shows there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cache import list_images, load_images
from common.cli import add_common_arguments, make_parser
from common.dataset import DIGIT_SIZE, dataset_name
from common.device import pick_device
from common.errors import UserError, run_main
from common.frechet import frechet_distance
from common.paths import WEIGHTS, workspace
from common.report import percent
from common.results import record
from common.seed import generator
from p2_diffusion.dataset import DOMAIN, load_mnistm
from p2_diffusion.judge import DigitClassifier, judge_images, load_judge, share_per_digit
from p2_diffusion.presets import PRESETS

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
            check_count(len(images), f"{data_root}: {DOMAIN}'s {split}.csv")
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
        chosen = torch.randperm(len(self.train_images), generator=generator(0, "floor"))[:count]
        return frechet_distance(judge_images(self.judge, self.train_images[chosen])[1], self.val_features)


def check_count(count: int, place: str) -> None:
    """Raise a UserError where ``place`` has too few pictures for a covariance."""
    if count < 2:
        raise UserError(f"{place}: holds one picture; a Fréchet distance needs at least two")


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
    check_count(len(names), str(folder))
    images = load_images(folder, names, DIGIT_SIZE, "RGB", cache=False)
    return images, torch.tensor([int(match[1]) for match in matches])


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="pictures named {digit}_{number}.png")
    parser.add_argument("--judge", type=Path, default=JUDGE, help="weights of the judge")
    parser.add_argument("--name", default=None, help="recorded as evaluate/NAME (unset: the folder's name)")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu", help="whose results the record joins")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    images, digits = load_generated(arguments.folder)
    evaluator = Evaluator(load_judge(arguments.judge, device), arguments.data_root)
    values = evaluator.measure(images, digits) | {
        "frechet_floor": evaluator.floor(len(images)),
        "dataset": dataset_name(arguments.data_root, DOMAIN),
        "val_images": len(evaluator.val_images),
        "preset": arguments.preset,
    }
    space = workspace(arguments.preset, arguments.output)
    name = arguments.name or arguments.folder.resolve().name
    record(space.results, "p2", f"evaluate/{name}", values, device)
    print(f"accuracy {percent(values['accuracy'])} on {len(images)} pictures")
    print("per digit " + ", ".join(f"{digit}: {percent(share)}" for digit, share in values["per_digit"].items()))
    print(f"Fréchet distance {values['frechet']:.2f}; {len(images)} real pictures: {values['frechet_floor']:.2f}")


if __name__ == "__main__":
    run_main(main)
