"""Switch off one ingredient of method B at a time: every row trains on the same short budget and is then measured.

    python p1_gan/ablation.py                                   # all rows, preset cpu
    python p1_gan/ablation.py --rows B no-ema no-augmentation
    python p1_gan/ablation.py --seed 1                          # once more: the report has mean and range of all seeds
    python p1_gan/ablation.py --preset full --steps 10000 --device cuda --train-only
    python p1_gan/ablation.py --preset full --steps 10000 --evaluate-only

Stopped or killed, the same command goes on; finished rows are not trained again. A row whose ingredient is off has A's
value there; rows hinge, A, and A-with-ema, which is A with B's averaging alone, are for comparison.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import dataset_name, load_faces
from common.device import pick_device
from common.errors import UserError, run_main
from common.paths import workspace
from common.results import read_results, record
from p1_gan.faces import detector_available, face_rate
from p1_gan.frechet import FDHOG
from p1_gan.inference import draw_latents, generate, load_generator
from p1_gan.presets import PRESETS, TrainConfig

# The averaging follows quickly at first (common/ema.py): by step 300 its decay is at most 0.971, so that within that
# budget rows with an ema_decay of 0.995 and of 0.999 are the same training.

# Fields of the preset that make up each ingredient of method B; spectral norm is part of its network instead.
INGREDIENTS = {
    "adamw": ("optimizer", "weight_decay"),
    "learning-rates": ("generator_learning_rate", "discriminator_learning_rate"),
    "label-smoothing": ("real_label",),
    "instance-noise": ("instance_noise",),
    "augmentation": ("diff_augment",),
    "ema": ("ema_decay",),
}
ROWS = ("B", "no-spectral-norm", *(f"no-{name}" for name in INGREDIENTS), "hinge", "A", "A-with-ema")


def recipe(row: str, preset: str) -> tuple[str, dict[str, Any]]:
    """Return the method whose network ``row`` trains, and the settings that differ from that method's preset."""
    a, b = PRESETS["A"][preset], PRESETS["B"][preset]
    if row in ("A", "B"):
        return row, {}
    if row == "A-with-ema":
        return "A", {field: getattr(b, field) for field in INGREDIENTS["ema"]}
    if row == "hinge":
        return "B", {"loss": "hinge"}
    if row == "no-spectral-norm":
        return "A", {field: getattr(b, field) for fields in INGREDIENTS.values() for field in fields}
    return "B", {field: getattr(a, field) for field in INGREDIENTS[row.removeprefix("no-")]}


def options(settings: dict[str, Any]) -> list[str]:
    """Return ``settings`` as train.py's options."""
    words = []
    for field, value in settings.items():
        words.append("--" + field.replace("_", "-"))
        words += map(str, value if isinstance(value, tuple) else (value,))
    return words


def row_folder(arguments: argparse.Namespace, row: str) -> Path:
    """Return the folder that takes everything the training of ``row`` writes, its own record included."""
    return workspace(arguments.preset, arguments.output).runs / "p1_ablation" / row


def train_row(arguments: argparse.Namespace, row: str) -> None:
    """Train one row to its end in a process of its own.

    Raises:
        SystemExit: with train.py's exit status where it failed.
    """
    method, settings = recipe(row, arguments.preset)
    command = [sys.executable, str(Path(__file__).with_name("train.py")), "--method", method]
    command += ["--preset", arguments.preset, "--seed", str(arguments.seed), "--device", arguments.device]
    command += ["--data-root", str(arguments.data_root), "--output", str(row_folder(arguments, row))]
    command += ["--steps", str(arguments.steps), "--grid-every", str(arguments.steps), *options(settings)]
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def evaluate_row(arguments: argparse.Namespace, row: str, fd_hog: FDHOG, device: torch.device) -> dict[str, Any]:
    """Return what one trained row gives: its recipe, FD-HOG, and the face rate where dlib is installed.

    Raises:
        UserError: the row is not trained yet, or on another budget.
    """
    folder = row_folder(arguments, row)
    method, settings = recipe(row, arguments.preset)
    trained = read_results(folder / "results", "p1").get(f"train/{method}/{arguments.preset}/seed{arguments.seed}")
    if trained is None or trained["steps"] != arguments.steps:
        raise UserError(f"{folder}: holds no finished training of {arguments.steps} steps; run without --evaluate-only")
    weights = workspace(arguments.preset, folder).runs / f"p1_{method}_seed{arguments.seed}" / "weights.safetensors"
    images = generate(load_generator(weights, method, device), draw_latents(arguments.num, arguments.seed))
    values = {
        "method": method,
        "settings": settings,
        "config": {field.name: trained[field.name] for field in fields(TrainConfig)},
        "steps": trained["steps"],
        "batch_size": trained["batch_size"],
        "train_images": trained["train_images"],
        "seconds": trained["seconds"],
        "trained_on": trained["device"],
        "images": len(images),
        "fd_hog": fd_hog(images),
        "fd_hog_floor": fd_hog.floor(len(images)),
    }
    if detector_available():
        values["face_rate"] = face_rate(images, progress=sys.stderr.isatty())
    return values


def main() -> None:
    """Parse the command line, train the rows, measure and record them."""
    parser = make_parser(__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS["B"]), default="cpu", help="where the settings come from")
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--steps", type=positive_int, default=300, help="steps of every row")
    parser.add_argument("--num", type=positive_int, default=1000, help="pictures to measure of every row")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--train-only", action="store_true", help="leave the measuring to another machine")
    part.add_argument("--evaluate-only", action="store_true", help="measure what --train-only trained")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    if not arguments.evaluate_only:
        for row in arguments.rows:
            train_row(arguments, row)
    if arguments.train_only:
        return
    fd_hog = FDHOG(*(load_faces(arguments.data_root, split) for split in ("train", "val")))
    space = workspace(arguments.preset, arguments.output)
    common = {
        "preset": arguments.preset,
        "seed": arguments.seed,
        "dataset": dataset_name(arguments.data_root, "face"),
    }
    for row in arguments.rows:
        values = evaluate_row(arguments, row, fd_hog, device) | common
        record(space.results, "p1", f"ablation/{row}/{arguments.preset}/seed{arguments.seed}", values, device)
        rate = f", face rate {100 * values['face_rate']:.1f} %" if "face_rate" in values else ""
        print(f"{row}: FD-HOG {values['fd_hog']:.3f}{rate}")


if __name__ == "__main__":
    run_main(main)
