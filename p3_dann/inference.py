"""Write the digit of every picture in a folder to a CSV file.

    python p3_dann/inference.py hw2_data/digits/svhn/data pred.csv
    python p3_dann/inference.py my_pictures pred.csv --target usps
    python p3_dann/inference.py my_pictures pred.csv --checkpoint runs/cpu/p3_usps_dann_seed0/weights.safetensors

The file has the header image_name,label and one line a picture, sorted by name. Pictures may have any size, grey or in
colour: of those that are not 28x28 the middle square is scaled to it.
"""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cache import list_images
from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import DIGIT_SIZE
from common.decode import read_picture, square
from common.device import pick_device
from common.errors import UserError, run_main
from common.files import write_text
from common.paths import WEIGHTS
from common.seed import seed_everything
from common.threads import for_each
from p3_dann.measures import predict
from p3_dann.model import load_model, shipped_targets


def read_pictures(folder: Path, names: Sequence[str]) -> torch.Tensor:
    """Return pictures as uint8 (N, 3, 28, 28), brought to that size as ``data/prepare.py own-digits`` does.

    Raises:
        UserError: names the first file that cannot be read.
    """
    images = torch.empty((len(names), 3, DIGIT_SIZE, DIGIT_SIZE), dtype=torch.uint8)

    def read(index: int) -> bool:
        path = folder / names[index]
        if not path.is_file():  # reading a pipe would wait for ever
            raise UserError(f"{path}: {'not a plain file' if os.path.lexists(path) else 'no such picture'}")
        picture = read_picture(path.read_bytes(), str(path), DIGIT_SIZE)
        scaled = picture.size != (DIGIT_SIZE, DIGIT_SIZE)
        if scaled:
            picture = square(picture, DIGIT_SIZE)
        images[index] = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())
        return scaled

    total = len(names)
    scaled = sum(for_each(read, range(total), total, "reading", leave=False, disable=total < 2000))
    if scaled:
        size = f"{DIGIT_SIZE}x{DIGIT_SIZE}"
        print(
            f"note: {scaled} of {len(names)} pictures are not {size}; scaled the middle square of each", file=sys.stderr
        )
    return images


def target_named_by(folder: Path) -> str:
    """Return the shipped target whose name is a word of the path, the innermost folder that names just one deciding.

    Raises:
        UserError: the path names none.
    """
    targets = shipped_targets()
    for part in reversed(folder.absolute().parts):
        named = sorted(set(targets).intersection(re.split("[^a-z0-9]+", part.lower())))
        if len(named) == 1:
            return named[0]
    raise UserError(f"{folder}: names no target; say which with --target ({', '.join(targets)}), or pass --checkpoint")


def main() -> None:
    """Parse the command line, predict, and write the file."""
    parser = make_parser(__doc__)
    parser.add_argument("image_dir", type=Path, help="folder of pictures, one digit each")
    parser.add_argument("pred_csv", type=Path, help="the file to write")
    parser.add_argument("--target", help="domain of the pictures (unset: named by the path)")
    parser.add_argument("--checkpoint", type=Path, help="weights to use (unset: weights/p3_<target>.safetensors)")
    parser.add_argument("--batch-size", type=positive_int, default=1000, help="pictures at once")
    add_common_arguments(parser, data=False, output=False)
    arguments = parser.parse_args()

    seed_everything(arguments.seed)
    device = pick_device(arguments.device)
    if arguments.pred_csv.is_dir():
        raise UserError(f"{arguments.pred_csv}: is a folder; name the CSV file to write")
    checkpoint = arguments.checkpoint
    if checkpoint is None:
        target = arguments.target or target_named_by(arguments.image_dir)
        if target not in shipped_targets():
            shipped = ", ".join(shipped_targets())
            raise UserError(f"--target {target}: weights/ has {shipped}; train for it, and pass its --checkpoint")
        checkpoint = WEIGHTS / f"p3_{target}.safetensors"
    model, config, _ = load_model(checkpoint, device)
    names = list_images(arguments.image_dir)
    digits = predict(model, read_pictures(arguments.image_dir, names), config, arguments.batch_size).tolist()

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("image_name", "label"), *zip(names, digits, strict=True)])
    write_text(arguments.pred_csv, text.getvalue())
    print(f"{arguments.pred_csv}: {len(names)} pictures, weights {checkpoint}")


if __name__ == "__main__":
    run_main(main)
