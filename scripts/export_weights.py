"""Ship the weights of a finished run in weights/, in half precision, and its training curves in images/.

    python scripts/export_weights.py runs/cpu/p3_svhn_ours_seed0 p3_svhn

Then measure what is shipped, for example with python p3_dann/evaluate.py --checkpoint weights/p3_svhn.safetensors, and
collect it: the numbers of weights/README.md are those of the rounded weights.
"""

from __future__ import annotations

import json
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
    parser.add_argument("name", help="name of the file in weights/, without its suffix")
    arguments = parser.parse_args()
    source, path = arguments.run / "weights.safetensors", WEIGHTS / f"{arguments.name}.safetensors"
    for file in (source, arguments.run / "curves.png"):
        if not file.is_file():
            raise UserError(f"{file}: missing; train to the end first")
    state, metadata = read_safetensors(source)
    config = json.loads(metadata["config"])
    save_weights(path, state, config, half=True)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    curves = ROOT / "images" / config["model"][:2].upper() / f"curves_{arguments.name}.png"
    shutil.copyfile(arguments.run / "curves.png", curves)
    print(f"wrote {curves}")


if __name__ == "__main__":
    run_main(main)
