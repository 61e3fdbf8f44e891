"""Make the data that every problem trains on, in the one layout that common/data.py describes.

    python data/prepare.py sample                                  # rendered in seconds, no network
    python data/prepare.py public                                  # downloads, then converts
    python data/prepare.py public --raw downloads --faces lfw      # from files you already have
    python data/prepare.py public --raw downloads --parts usps svhn --force
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
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import DEFAULT_DATA_ROOT, HelpFormatter, make_parser, positive_int, run_main, seed_value
from common.seed import derive_seed
from data.course import course_place, make_course
from data.custom import Source, check_domain, make_digits, make_faces
from data.layout import PARTS, check_source, make_parts
from data.public import ORIGINAL_FACES, Downloads, make_public
from data.synthetic import make_sample

import numpy as np

# MNIST-M also answers to the name of what one downloads for it.
PART_NAMES = {part: part for part in PARTS} | {"mnist": "mnistm"}


def main() -> None:
    """Parse the command line and make the parts asked for."""
    arguments = _parser().parse_args()
    command, data_root = arguments.command, arguments.data_root
    if command == "own-faces":
        parts = ["face"]
    elif command == "own-digits":
        parts = [check_domain(arguments.domain)]
    else:
        parts = list(dict.fromkeys(PART_NAMES[part] for part in arguments.parts))
    for part in parts:
        for path in _sources(arguments, part):
            check_source(path, data_root, part, nested=command.startswith("own"))
    make_parts(data_root, parts, lambda part, folder: _make(arguments, part, folder), arguments.force)
    print(f"{data_root}: ready ({', '.join(parts)})")


def _make(arguments: argparse.Namespace, part: str, folder: Path) -> str:
    """Make ``part`` in the empty ``folder`` and return what the data are called."""
    if arguments.command == "course":
        return make_course(part, folder, arguments.source)
    if arguments.command == "sample":
        return make_sample(part, folder, arguments.seed, workers=arguments.workers)
    rng = np.random.default_rng(derive_seed(arguments.seed, part))
    if arguments.command == "public":
        downloads = Downloads(arguments.raw or arguments.data_root / "raw", arguments.download)
        return make_public(part, folder, downloads, rng, arguments.faces, arguments.face_count, arguments.workers)
    source = Source(arguments.source, arguments.crop, arguments.stretched_from, arguments.workers)
    if arguments.command == "own-digits":
        make_digits(folder, source, rng, arguments.labels, arguments.label_folders)
    else:
        make_faces(
            folder, source, rng, (lambda name: str(PurePosixPath(name).parent)) if arguments.person_folders else str
        )
    title = os.path.basename(os.path.realpath(arguments.source))
    return arguments.name or f"own {arguments.command.removeprefix('own-')} ({title})"


def _sources(arguments: argparse.Namespace, part: str) -> list[Path]:
    """Return the user's files that replacing ``part`` must not touch."""
    if arguments.command == "course":
        return [arguments.source / course_place(arguments.source, part)]
    named = [getattr(arguments, name, None) for name in ("source", "labels", "raw")]
    return [path for path in named if path is not None]


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="SOURCE")
    sample = _subcommand(commands, "sample", "the built-in sample set: small, rendered here, no network")
    public = _subcommand(commands, "public", "MNIST, BSDS500, SVHN, USPS and CelebA or LFW")
    course = _subcommand(commands, "course", "the course's own folder or archive, checked")
    own_faces = _subcommand(commands, "own-faces", "your own images as faces, 64x64")
    own_digits = _subcommand(commands, "own-digits", "your own images as a digit domain, 28x28")

    public.add_argument("--raw", type=Path, help="folder of downloads (unset: DATA_ROOT/raw)")
    public.add_argument(
        "--download", action=argparse.BooleanOptionalAction, default=True, help="download what the folder lacks"
    )
    public.add_argument(
        "--faces", choices=("auto", "celeba", "lfw"), default="auto", help="auto: what is there, CelebA first"
    )
    public.add_argument("--face-count", type=positive_int, default=ORIGINAL_FACES, help="take at most so many faces")

    course.add_argument("source", type=Path, metavar="folder", help="what holds face/ and digits/, or an archive of it")

    own_digits.add_argument("domain", metavar="name", help="of the folder digits/NAME, by which P3 calls this target")
    for command in (own_faces, own_digits):
        command.add_argument("source", type=Path, help="folder of any depth, .zip or .tar of images of any kind")
        command.add_argument("--crop", type=positive_int, help="side of the center square (unset: the largest)")
        command.add_argument(
            "--stretched-from", type=_size, metavar="WxH", help="the images were squashed from this shape: undo it"
        )
        command.add_argument("--name", help="what records call the set (unset: own ..., and its folder)")
    own_faces.add_argument("--person-folders", action="store_true", help="a folder is a person, of one split only")
    known = own_digits.add_mutually_exclusive_group()
    known.add_argument("--labels", type=Path, help="CSV image_name,label of those whose label is known")
    known.add_argument("--label-folders", action="store_true", help="folders called 0 to 9 tell the digits in them")

    for command in (sample, public, own_faces, own_digits):
        command.add_argument("--seed", type=seed_value, default=0, help="everything random follows from it")
        command.add_argument("--workers", type=positive_int, help="how many work (unset: one per core)")
    for command in (sample, public, course):
        command.add_argument("--parts", nargs="+", choices=PART_NAMES, default=PARTS, help="what to make")
    for command in (sample, public, course, own_faces, own_digits):
        command.add_argument("--data-root", type=Path, default=DEFAULT_DATA_ROOT, help="folder to make")
        command.add_argument("--force", action="store_true", help="replace parts that prepare.py made before")
    return parser


def _subcommand(commands: argparse._SubParsersAction, name: str, summary: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=summary, description=summary, formatter_class=HelpFormatter)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width and a height, such as 178x218")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    run_main(main)
