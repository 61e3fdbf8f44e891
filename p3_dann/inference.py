"""Write the digit of every picture in a folder to a CSV file.

    python p3_dann/inference.py hw2_data/digits/svhn/data pred.csv
    python p3_dann/inference.py my_pictures pred.csv --target usps
    python p3_dann/inference.py my_pictures pred.csv --checkpoint runs/cpu/p3_usps_dann_seed0/weights.safetensors

The file has the header image_name,label and one line a picture, sorted by name.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cache import list_images, load_images
from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import DIGIT_SIZE
from common.device import pick_device
from common.errors import UserError, run_main
from common.files import write_text
from common.paths import WEIGHTS
from common.seed import seed_everything
from p3_dann.evaluate import load_model, predict
from p3_dann.presets import TARGETS


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("image_dir", type=Path, help="folder of 28x28 pictures, all RGB or all grey")
    parser.add_argument("pred_csv", type=Path, help="the file to write")
    parser.add_argument("--target", choices=TARGETS, help="domain of the pictures (unset: named by the path)")
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
        checkpoint = WEIGHTS / f"p3_{arguments.target or target_named_by(arguments.image_dir)}.safetensors"
    model, config, _ = load_model(checkpoint, device)
    names = list_images(arguments.image_dir)
    images = load_images(arguments.image_dir, names, DIGIT_SIZE, cache=False, follow_links=True).expand(-1, 3, -1, -1)
    digits = predict(model, images, config, arguments.batch_size).tolist()

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("image_name", "label"), *zip(names, digits, strict=True)])
    write_text(arguments.pred_csv, text.getvalue())
    print(f"{arguments.pred_csv}: {len(names)} pictures, weights {checkpoint}")


def target_named_by(folder: Path) -> str:
    """Return the target whose name the path contains, the innermost folder that names exactly one deciding.

    Raises:
        UserError: the path names none.
    """
    for part in reversed(folder.absolute().parts):
        named = [target for target in TARGETS if target in part.lower()]
        if len(named) == 1:
            return named[0]
    raise UserError(f"{folder}: names neither svhn nor usps; say which with --target, or pass --checkpoint")


if __name__ == "__main__":
    run_main(main)
