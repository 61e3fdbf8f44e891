"""Make the data that every problem trains on, in the one layout that common/dataset.py describes.

    python data/prepare.py sample                                  # drawn in seconds, no network
    python data/prepare.py public                                  # downloads, then converts
    python data/prepare.py public --raw downloads --faces lfw      # from files you already have
    python data/prepare.py public --raw downloads --parts usps svhn --force
    python data/prepare.py course hw2_data.zip --data-root hw2_data
    python data/prepare.py course /data/hw2_data --check           # only check it
    python data/prepare.py own-faces photos.zip                    # any pictures: the middle square of each
    python data/prepare.py own-faces celeba.zip --stretched-from 178x218 --name "CelebA (stored at 64x64)"
    python data/prepare.py own-digits receipts scans/ --labels labels.csv
    python data/prepare.py own-digits receipts scans/ --label-folders      # scans/0/, scans/1/, ...

A part (face, or a domain of digits) appears whole or not at all; the same command goes on with what is missing.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cli import HelpFormatter, make_parser, positive_int
from common.errors import run_main
from common.paths import DEFAULT_DATA_ROOT
from data.course import check_course, make_course
from data.layout import PARTS, locked, parts_to_make
from data.own import Source, check_domain, make_own_digits, make_own_faces
from data.public import ORIGINAL_FACES, Downloads, make_public
from data.sample import make_sample

# MNIST-M also answers to the name of what one downloads for it.
PART_NAMES = {part: part for part in PARTS} | {"mnist": "mnistm"}


def main() -> None:
    """Parse the command line and make the parts asked for."""
    arguments = _parser().parse_args()
    parts = list(dict.fromkeys(PART_NAMES[part] for part in getattr(arguments, "parts", ())))
    match arguments.command:
        case "course" if arguments.check:
            check_course(arguments.source, parts)
            return
        case "own-faces":
            parts = ["face"]
        case "own-digits":
            check_domain(arguments.domain)
            parts = [arguments.domain]
    data_root = arguments.data_root
    with locked(data_root):
        missing = parts_to_make(data_root, parts, arguments.force)
        match arguments.command:
            case "sample":
                make_sample(data_root, missing, arguments.seed, workers=arguments.workers)
            case "public":
                downloads = Downloads(arguments.raw or data_root / "raw", arguments.download)
                faces, face_count = arguments.faces, arguments.face_count
                make_public(data_root, downloads, missing, arguments.seed, faces, face_count, arguments.workers)
            case "course":
                make_course(data_root, arguments.source, missing)
            case "own-faces":
                make_own_faces(data_root, _own(arguments, "faces"), arguments.seed, arguments.person_folders)
            case "own-digits":
                own = _own(arguments, "digits")
                make_own_digits(data_root, parts[0], own, arguments.seed, arguments.labels, arguments.label_folders)
    print(f"{data_root}: ready ({', '.join(parts)})")


def _own(arguments: argparse.Namespace, kind: str) -> Source:
    name = arguments.name or f"own {kind} ({arguments.source.resolve().name})"
    return Source(arguments.source, name, arguments.crop, arguments.stretched_from, arguments.workers)


def _parser() -> argparse.ArgumentParser:
    summary, examples, note = __doc__.strip().split("\n\n")
    parser = make_parser(f"{summary} {note}\n\n{examples}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="SOURCE")

    sample = _subcommand(commands, "sample", "the built-in sample set: small, drawn here, no network")

    public = _subcommand(commands, "public", "MNIST, BSDS500, SVHN, USPS and CelebA or LFW")
    public.add_argument("--raw", type=Path, default=None, help="folder of downloads (unset: DATA_ROOT/raw)")
    public.add_argument(
        "--download", action=argparse.BooleanOptionalAction, default=True, help="download what the folder lacks"
    )
    public.add_argument(
        "--faces", choices=("auto", "celeba", "lfw"), default="auto", help="auto: what is there, CelebA first"
    )
    public.add_argument("--face-count", type=positive_int, default=ORIGINAL_FACES, help="take at most so many faces")

    course = _subcommand(commands, "course", "the course's own folder or zip, checked file by file")
    course.add_argument("source", type=Path, metavar="folder", help="what holds face/ and digits/, or a zip of it")
    course.add_argument("--check", action="store_true", help="only check, write nothing")

    own_faces = _subcommand(commands, "own-faces", "your own pictures as faces, 64x64")
    own_digits = _subcommand(commands, "own-digits", "your own pictures as a domain of digits, 28x28")
    own_digits.add_argument("domain", metavar="name", help="of the folder digits/NAME, by which P3 calls this target")
    for command in (own_faces, own_digits):
        command.add_argument("source", type=Path, help="folder of any depth, .zip or .tar of pictures of any kind")
        command.add_argument("--crop", type=positive_int, help="side of the middle square (unset: the largest)")
        command.add_argument(
            "--stretched-from", type=_size, metavar="WxH", help="the pictures were squashed from this shape: undo it"
        )
        command.add_argument("--name", type=_line, help="what results call the set (unset: own ..., and its folder)")
    own_faces.add_argument("--person-folders", action="store_true", help="a folder is a person, of one split only")
    known = own_digits.add_mutually_exclusive_group()
    known.add_argument("--labels", type=Path, help="CSV image_name,label of those whose label is known")
    known.add_argument("--label-folders", action="store_true", help="folders called 0 to 9 tell the digits in them")

    for command in (sample, public, own_faces, own_digits):
        command.add_argument("--seed", type=int, default=0, help="everything random follows from it")
        command.add_argument("--workers", type=positive_int, default=None, help="how many work (unset: one a core)")
    for command in (sample, public, course):
        command.add_argument("--parts", nargs="+", choices=PART_NAMES, default=PARTS, help="what to make")
    for command in (sample, public, course, own_faces, own_digits):
        command.add_argument("--data-root", type=Path, default=DEFAULT_DATA_ROOT, help="folder to make")
        command.add_argument("--force", action="store_true", help="replace parts that are already made")
    return parser


def _subcommand(commands: argparse._SubParsersAction, name: str, summary: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=summary, description=summary, formatter_class=HelpFormatter)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width and a height, such as 178x218")
    return int(match[1]), int(match[2])


def _line(text: str) -> str:
    if not text.strip() or "\n" in text or len(text) > 100:
        raise argparse.ArgumentTypeError("must be one line of 1 to 100 characters")
    return text.strip()


if __name__ == "__main__":
    run_main(main)
