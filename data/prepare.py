"""Make the data that every problem trains on, in one layout (described in common/dataset.py).

python data/prepare.py public --raw downloads
python data/prepare.py public --raw downloads --faces lfw --parts face mnist
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cli import make_parser, non_negative_int, positive_int
from common.errors import run_main
from common.paths import DEFAULT_DATA_ROOT
from data.layout import locked, parts_to_make
from data.public import make_public

PARTS = {"face": "face", "mnist": "mnistm", "svhn": "svhn", "usps": "usps"}
ORIGINAL_FACES = 40489


def main() -> None:
    """Parse the command line and make the parts asked for."""
    arguments = _parser().parse_args()
    parts = list(dict.fromkeys(PARTS[part] for part in arguments.parts))
    with locked(arguments.data_root):
        missing = parts_to_make(arguments.data_root, parts, arguments.force)
        raw = arguments.raw or arguments.data_root / "raw"
        make_public(arguments.data_root, raw, missing, arguments.seed, arguments.faces, arguments.face_count)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("Make the training data.", __doc__.split("\n\n", 1)[1])
    commands = parser.add_subparsers(dest="command", required=True)
    public = commands.add_parser("public", help="from the public sets' own files")
    public.add_argument("--raw", type=Path, default=None, help="folder of downloads (unset: DATA_ROOT/raw)")
    public.add_argument("--faces", choices=("auto", "celeba", "lfw"), default="auto", help="where faces come from")
    public.add_argument("--face-count", type=positive_int, default=ORIGINAL_FACES, help="take at most so many faces")
    public.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to make")
    for command in (public,):
        command.add_argument("--data-root", type=Path, default=DEFAULT_DATA_ROOT, help="folder to make")
        command.add_argument("--seed", type=non_negative_int, default=0, help="everything random follows from it")
        command.add_argument("--force", action="store_true", help="replace parts that are already made")
    return parser


if __name__ == "__main__":
    run_main(main)
