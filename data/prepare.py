"""Make the data that every problem trains on, in the one layout that common/data.py describes.

    python data/prepare.py sample                                  # rendered in seconds, no network
    python data/prepare.py public                                  # downloads, then converts
    python data/prepare.py public --raw downloads --parts usps svhn    # from files you already have
    python data/prepare.py course hw2_data.zip --data-root hw2_data
    python data/prepare.py own-faces photos.zip                    # any images: the center square of each
    python data/prepare.py own-faces celeba.zip --stretched-from 178x218 --name "CelebA (stored at 64x64)"
    python data/prepare.py own-digits receipts scans/ --labels labels.csv
    python data/prepare.py own-digits receipts scans/ --label-folders      # scans/0/, scans/1/, ...

A part (face, or a digit domain) appears whole or not at all; the same command goes on with what is missing.
"""

import argparse
import os
import re
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import DEFAULT_DATA_ROOT, HelpFormatter, UserError, make_parser, positive_int, run_main, seed_value
from common.seed import derive_seed
from data.course import make_course
from data.custom import Source, check_domain, make_digits, make_faces
from data.layout import PARTS, make_parts, part_folder
from data.public import ORIGINAL_FACES, Downloads, make_public
from data.synthetic import make_sample

import numpy as np


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.data_root is None:  # toy data must not lie where every command expects real ones
        arguments.data_root = ROOT / "sample_data" if arguments.command == "sample" else DEFAULT_DATA_ROOT
    data_root = arguments.data_root
    if arguments.command == "own-faces":
        parts = ["face"]
    elif arguments.command == "own-digits":
        parts = [check_domain(arguments.domain)]
    else:
        parts = list(dict.fromkeys(arguments.parts))
    if arguments.command.startswith("own"):
        target, source = (Path(os.path.realpath(path)) for path in (part_folder(data_root, parts[0]), arguments.source))
        if target.is_relative_to(source):
            raise UserError(f"{arguments.source}: contains {target}; name the folder of the images alone")
    make_parts(data_root, parts, lambda part, folder: _make(arguments, part, folder))
    print(f"{data_root}: ready ({', '.join(parts)})")


def _make(arguments: argparse.Namespace, part: str, folder: Path) -> str:
    """Make ``part`` in the empty ``folder`` and return what the data are called."""
    if arguments.command == "course":
        return make_course(part, folder, arguments.source)
    if arguments.command == "sample":
        return make_sample(part, folder, arguments.seed)
    rng = np.random.default_rng(derive_seed(arguments.seed, part))
    if arguments.command == "public":
        downloads = Downloads(arguments.raw or arguments.data_root / "raw", arguments.download)
        return make_public(part, folder, downloads, rng, arguments.faces, arguments.face_count)
    source = Source(arguments.source, arguments.crop, arguments.stretched_from)
    if arguments.command == "own-digits":
        make_digits(folder, source, rng, arguments.labels, arguments.label_folders)
    else:
        make_faces(folder, source, rng, os.path.dirname if arguments.person_folders else str)
    title = os.path.basename(os.path.realpath(arguments.source))
    return arguments.name or f"own {arguments.command.removeprefix('own-')} ({title})"


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="SOURCE")
    command = partial(commands.add_parser, formatter_class=HelpFormatter)
    sample = command("sample", help="the built-in sample set: small, rendered here, no network")
    public = command("public", help="MNIST, BSDS500, SVHN, USPS and CelebA or LFW")
    course = command("course", help="the course's own folder or archive")
    own_faces = command("own-faces", help="your own images as faces, 64x64")
    own_digits = command("own-digits", help="your own images as a digit domain, 28x28")

    public.add_argument("--raw", type=Path, help="folder of downloads (default: DATA_ROOT/raw)")
    yes_no = argparse.BooleanOptionalAction
    public.add_argument("--download", action=yes_no, default=True, help="download missing files")
    public.add_argument(
        "--faces", choices=("auto", "celeba", "lfw"), default="auto", help="auto: CelebA unless only LFW is in --raw"
    )
    public.add_argument("--face-count", type=positive_int, default=ORIGINAL_FACES, help="maximum number of faces")

    course.add_argument("source", type=Path, metavar="folder", help="folder or archive with face/ and digits/")

    own_digits.add_argument("domain", metavar="domain", help="name of the new domain, for digits/DOMAIN and --target")
    for own in (own_faces, own_digits):
        own.add_argument("source", type=Path, help="folder (searched recursively), .zip or .tar of images")
        own.add_argument("--crop", type=positive_int, help="pixels a side of the center square (default: the largest)")
        own.add_argument("--stretched-from", type=_size, metavar="WxH", help="original size of squashed images")
        own.add_argument("--name", help="dataset name in records (default: own, and the folder's name)")
    own_faces.add_argument("--person-folders", action="store_true", help="one folder per person, each in one split")
    known = own_digits.add_mutually_exclusive_group()
    known.add_argument("--labels", type=Path, help="CSV file image_name,label; may name only some images")
    known.add_argument("--label-folders", action="store_true", help="read labels from subfolders named 0 to 9")

    for random in (sample, public, own_faces, own_digits):
        random.add_argument("--seed", type=seed_value, default=0, help="random seed")
    for several in (sample, public, course):
        several.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to make")
    for each in (sample, public, course, own_faces, own_digits):
        text = "output folder (default: sample_data for sample, else hw2_data, in the repository)"
        each.add_argument("--data-root", type=Path, help=text)
    return parser


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width and a height, such as 178x218")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    run_main(main)
