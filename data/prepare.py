"""Make the data that every problem trains on, in the one layout that common/dataset.py describes.

    python data/prepare.py sample                                  # drawn in seconds, no network
    python data/prepare.py public                                  # downloads, then converts
    python data/prepare.py public --raw downloads --faces lfw      # from files you already have
    python data/prepare.py public --raw downloads --parts usps svhn --force
    python data/prepare.py course hw2_data.zip --data-root hw2_data
    python data/prepare.py course /data/hw2_data --link            # check it, link to it
    python data/prepare.py course /data/hw2_data --check           # only check it

A part (face, mnistm, svhn, usps) appears whole or not at all; the same command goes on with what is missing.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cli import HelpFormatter, make_parser, non_negative_int, positive_int
from common.errors import run_main
from common.paths import DEFAULT_DATA_ROOT
from data.course import check_course, make_course
from data.layout import PARTS, locked, parts_to_make
from data.public import ORIGINAL_FACES, Downloads, make_public
from data.sample import make_sample

# MNIST-M also answers to the name of what one downloads for it.
PART_NAMES = {part: part for part in PARTS} | {"mnist": "mnistm"}


def main() -> None:
    """Parse the command line and make the parts asked for."""
    arguments = _parser().parse_args()
    parts = list(dict.fromkeys(PART_NAMES[part] for part in arguments.parts))
    if arguments.command == "course" and arguments.check:
        check_course(arguments.folder, parts)
        return
    data_root = arguments.data_root
    with locked(data_root):
        missing = parts_to_make(data_root, parts, arguments.force)
        if arguments.command == "sample":
            make_sample(data_root, missing, arguments.seed, workers=arguments.workers)
        elif arguments.command == "course":
            make_course(data_root, arguments.folder, missing, arguments.link)
        else:
            downloads = Downloads(arguments.raw or data_root / "raw", arguments.download)
            faces, face_count = arguments.faces, arguments.face_count
            make_public(data_root, downloads, missing, arguments.seed, faces, face_count, arguments.workers)
    print(f"{data_root}: ready ({', '.join(parts)})")


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
    course.add_argument("folder", type=Path, help="the folder that holds face/ and digits/, or a zip of it")
    course.add_argument("--link", action="store_true", help="link to the folders of pictures instead of copying them")
    course.add_argument("--check", action="store_true", help="only check, write nothing")

    for command in (sample, public):
        command.add_argument("--seed", type=non_negative_int, default=0, help="everything random follows from it")
        command.add_argument("--workers", type=positive_int, default=None, help="processes (unset: one for every core)")
    for command in (sample, public, course):
        command.add_argument("--parts", nargs="+", choices=PART_NAMES, default=PARTS, help="what to make")
        command.add_argument("--data-root", type=Path, default=DEFAULT_DATA_ROOT, help="folder to make")
        command.add_argument("--force", action="store_true", help="replace parts that are already made")
    return parser


def _subcommand(commands: argparse._SubParsersAction, name: str, summary: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=summary, description=summary, formatter_class=HelpFormatter)


if __name__ == "__main__":
    run_main(main)
