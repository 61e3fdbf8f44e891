"""Ship the weights of a finished run in weights/, in half precision, and its training curves in images/.

    python scripts/export_weights.py runs/cpu/p3_svhn_ours_seed0 p3_svhn

Then measure what is shipped, for example with python p3_dann/evaluate.py --checkpoint weights/p3_svhn.safetensors, and
collect it: the numbers of weights/README.md are those of the rounded weights.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import UserError, make_parser, run_main
from common.files import read_safetensors
from common.weights import WEIGHTS, save_weights


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("name", help="name of the file in weights/, without its suffix: pN_...")
    arguments = parser.parse_args()
    if not re.match(r"p[123]_", arguments.name):
        raise UserError(f"{arguments.name}: must begin with p1_, p2_ or p3_, after its problem")
    source, path = arguments.run / "weights.safetensors", WEIGHTS / f"{arguments.name}.safetensors"
    for file in (source, arguments.run / "curves.png"):
        if not file.is_file():
            raise UserError(f"{file}: missing; train to the end first")
    state, metadata = read_safetensors(source)
    save_weights(path, state, json.loads(metadata["config"]), half=True)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    curves = ROOT / "images" / arguments.name[:2].upper() / f"curves_{arguments.name}.png"
    shutil.copyfile(arguments.run / "curves.png", curves)
    print(f"wrote {curves}")


if __name__ == "__main__":
    run_main(main)
