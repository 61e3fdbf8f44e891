"""Ship the weights of a finished run: a safetensors file in weights/ and its entry in weights/manifest.json.

    python scripts/export_weights.py runs/cpu/p3_svhn_dann_seed0 p3_svhn \\
        --results p3 --key train/svhn/dann/cpu/seed0 --metric accuracy

Half precision halves the file; ``--float32`` keeps the training's. Every loader checks a shipped file against
the hash in the manifest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safetensors import safe_open

from common.cli import make_parser
from common.errors import UserError, run_main
from common.files import sha256, write_json
from common.paths import ROOT, WEIGHTS
from common.results import read_results
from common.weights import load_weights, save_weights


def export(source: Path, name: str, results: str, key: str, metric: str, folder: Path, half: bool) -> Path:
    """Write ``folder/name.safetensors`` and its manifest entry, and return the file's path.

    Raises:
        UserError: no finished weights in ``source``, or no such measurement of them in the results.
    """
    path = source / "weights.safetensors"
    if not path.is_file():
        raise UserError(f"{path}: no finished weights; train to the end first")
    with safe_open(path, framework="pt") as file:
        kind = file.metadata()["kind"]
    measured = read_results(ROOT / "results", results).get(key)
    if measured is None or metric not in measured:
        raise UserError(f"results/{results}.json: holds no {metric} under {key}")
    state, config = load_weights(path, kind)
    if measured.get("weights") != sha256(path)[:16] and not measured.items() >= config.items():
        raise UserError(f"results/{results}.json: {key} was not measured of {path}")
    target = folder / f"{name}.safetensors"
    save_weights(target, state, kind, config, half=half)
    manifest = folder / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.exists() else {}
    entries[target.name] = {
        "sha256": sha256(target),
        "bytes": target.stat().st_size,
        "kind": kind,
        "preset": config["preset"],
        "data": {name: value for name, value in measured.items() if name in ("dataset", "source_data", "target_data")},
        "metric": {metric: measured[metric]},  # of the weights as trained, in float32
        "stored_as": "float16" if half else "float32",
        "measured": f"results/{results}.json: {key}",
    }
    write_json(manifest, entries)
    return target


def main() -> None:
    """Parse the command line and export."""
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("name", help="name of the file in weights/, without ending")
    parser.add_argument("--results", required=True, choices=("p1", "p2", "p3"), help="file in results/")
    parser.add_argument("--key", required=True, help="measurement in that file")
    parser.add_argument("--metric", required=True, help="figure of that measurement to put into the manifest")
    parser.add_argument("--float32", action="store_true", help="keep single precision")
    arguments = parser.parse_args()
    path = export(
        arguments.run,
        arguments.name,
        arguments.results,
        arguments.key,
        arguments.metric,
        WEIGHTS,
        half=not arguments.float32,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_main(main)
