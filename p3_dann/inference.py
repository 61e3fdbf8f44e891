"""Write the digit of every image in a folder to a CSV file.

    python p3_dann/inference.py hw2_data/digits/svhn/data pred.csv
    python p3_dann/inference.py my_images pred.csv --target usps
    python p3_dann/inference.py my_images pred.csv --checkpoint runs/cpu/p3_usps_ours_seed0/weights.safetensors

The file has the header image_name,label and one line per image, sorted by name. Images may have any size, grayscale or
in color: of those that are not 28x28 the center square is scaled to it. Without --target and --checkpoint the path
names the target, as in digits/svhn/data.
"""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, run_main
from common.data import DIGIT_SIZE, list_images, load_images
from common.device import pick_device, to_device
from common.files import write_text
from common.weights import WEIGHTS, load_into, load_weights
from p3_dann.augment import prepare
from p3_dann.config import TrainConfig
from p3_dann.model import MODEL, DANN_model

import torch

BATCH_SIZE = 1000


def load_model(path: Path, device: torch.device) -> tuple[DANN_model, TrainConfig, dict[str, Any]]:
    """Return the network of a weights file in evaluation mode, its configuration, and all that its header says."""
    state, header = load_weights(path, MODEL)
    model = DANN_model()
    load_into(model, state, path)
    names = {field.name for field in fields(TrainConfig)}
    if missing := names - header.keys():
        raise UserError(f"{path}: its header lacks {', '.join(sorted(missing))}; train again with this version")
    config = TrainConfig(**{name: header[name] for name in names})
    return to_device(model, device).eval(), config, header


def shipped_weights(target: str, method: str = "ours") -> Path:
    """Return the file of weights/ for a target: p3_svhn is of method ours, p3_dann_svhn of DANN."""
    return WEIGHTS / f"p3_{'' if method == 'ours' else f'{method}_'}{target}.safetensors"


def shipped_targets() -> list[str]:
    """Return the targets with weights in weights/, sorted."""
    names = [path.stem.removeprefix("p3_") for path in WEIGHTS.glob("p3_*.safetensors")]
    return sorted(name for name in names if not name.startswith("dann_"))


@torch.inference_mode()
def predict_logits(model: DANN_model, images: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Return the class logits (N, 10) of ``model``, in evaluation mode, for uint8 images (N, 3, 28, 28)."""
    device = next(model.parameters()).device
    return torch.cat([model.classify(prepare(batch.to(device), config)) for batch in images.split(BATCH_SIZE)])


def predict(model: DANN_model, images: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Return the digit, int64 (N,), that ``model`` (in evaluation mode) sees in each uint8 image (N, 3, 28, 28)."""
    return predict_logits(model, images, config).argmax(1).cpu()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("image_dir", type=Path, help="folder of images, one digit each")
    parser.add_argument("pred_csv", type=Path, help="the file to write")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--target", help="domain of the images, whose shipped weights are used")
    weights.add_argument("--checkpoint", type=Path, help="weights of your own")
    add_common_arguments(parser, data=False)
    arguments = parser.parse_args()

    device = pick_device(arguments.device)
    if arguments.pred_csv.is_dir():
        raise UserError(f"{arguments.pred_csv}: is a folder; name the CSV file to write")
    names, checkpoint = list_images(arguments.image_dir), arguments.checkpoint
    if checkpoint is None:
        # The innermost of the last three folders that names a target decides, unless it names two.
        parts, shipped = reversed(arguments.image_dir.absolute().parts[-3:]), shipped_targets()
        named = [[target for target in shipped if target in part.lower()] for part in parts]
        targets = next(filter(None, named), [])
        target = arguments.target or (targets[0] if len(targets) == 1 else None)
        if target not in shipped:
            what = arguments.target or arguments.image_dir
            raise UserError(f"{what}: names no target; pass --target {' or '.join(shipped)}, or a --checkpoint")
        checkpoint = shipped_weights(target)
    model, config, _ = load_model(checkpoint, device)
    digits = predict(model, load_images(arguments.image_dir, names, DIGIT_SIZE, resize=True), config).tolist()

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("image_name", "label"), *zip(names, digits, strict=True)])
    write_text(arguments.pred_csv, text.getvalue())
    print(f"{arguments.pred_csv}: {len(names)} images, weights {checkpoint}")


if __name__ == "__main__":
    run_main(main)
