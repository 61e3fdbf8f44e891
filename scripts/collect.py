"""Collect what runs have measured into results/*.jsonl, from which report_tables.py fills the pages.

    python scripts/collect.py                                  # all of runs/
    python scripts/collect.py runs/cpu/p1_B_seed0 runs/shipped
    python scripts/collect.py runs/sample --results runs/sample/results

A line replaces the one with the same identity; lines of runs that are not here stay. Left out, and named: try-outs (options
that differ from the preset, outside an ablation), records of weights that are no longer there, and preset sample.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import UserError, make_parser, run_main
from common.files import file_digest, write_text
from common.records import Record
from common.weights import WEIGHTS

FILES = {"p1": "p1.jsonl", "p2": "p2.jsonl", "p3": "p3.jsonl", "benchmark": "benchmarks.jsonl"}  # by problem
RUN = ("problem", "method", "student_steps", "teacher", "inputs", "target", "variant", "preset", "seed")  # which run
IDENTITY = (
    *RUN,
    *("kind", "name", "split", "sampling_seed", "num_images", "sampler", "sampling_steps", "guidance_scale"),
    *("guidance_interval", "counter", "device"),
)


def identity(record: Record, columns: tuple[str, ...] = IDENTITY) -> str:
    """Return what tells a measurement (or with ``RUN`` its run) from every other one; it also sorts them."""
    # The same measurement on another machine replaces the old one, except where the machine is what is measured.
    timed = record["problem"] == "benchmark"
    return json.dumps([str(record.get(column, "")) for column in columns if column != "device" or timed])


def read_results(folder: Path) -> list[Record]:
    """Return the lines of all files in a results folder."""
    paths = [folder / name for name in FILES.values() if (folder / name).exists()]
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def read_run(folder: Path, sample: bool) -> tuple[list[Record], str]:
    """Return the records of one run's folder that count, and why others do not ("" if all do)."""
    shipped = folder.parent == ROOT / "runs" / "shipped"
    weights = WEIGHTS / f"{folder.name}.safetensors" if shipped else folder / "weights.safetensors"
    current = file_digest(weights) if weights.exists() else None
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").exists() else {}
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "records").glob("*.json"))]
    records = [{key: config[key] for key in (*RUN, "overrides") if key in config} | record for record in found]
    if not sample and any(record.get("preset") == "sample" for record in records):
        return [], "preset sample; pass --results with another folder"
    changed = sorted({str(name) for record in records for name in record.get("overrides", ())})
    if changed and not any("variant" in record for record in records):
        return [], f"a try-out with other {', '.join(changed)}"
    kept = [record for record in records if record.get("weights", current) == current]
    return kept, "" if len(kept) == len(records) else f"{len(records) - len(kept)} records of other weights"


def main() -> None:
    """Parse the command line, merge the records found into the results, and say what was left out."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="*", type=Path, default=[ROOT / "runs"], help="folders to search for runs")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the .jsonl files")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.runs if not path.is_dir()]:
        raise UserError(f"{', '.join(missing)}: no such folder; train or evaluate first")
    sample = arguments.results.resolve() != ROOT / "results"
    folders = sorted({path.parent.resolve() for root in arguments.runs for path in root.rglob("records/")})
    here: dict[str, Record] = {}
    weights: dict[str, str] = {}  # of the runs that are here
    # Shipped weights come first: a run that is here itself replaces what was measured of its rounded copy.
    for folder in sorted(folders, key=lambda folder: folder.parent != ROOT / "runs" / "shipped"):
        records, reason = read_run(folder, sample)
        if reason:
            print(f"left out: {folder}: {reason}")
        here |= {identity(record): record for record in records}
        weights |= {identity(record, RUN): record["weights"] for record in records if record["kind"] == "train"}
    lines = {identity(record): record for record in read_results(arguments.results)} | here
    for problem, name in FILES.items():
        # A run that was trained again takes with it what was measured of its old weights.
        chosen = [
            lines[key]
            for key in sorted(lines)
            if lines[key]["problem"] == problem
            and lines[key].get("weights") in (None, weights.get(identity(lines[key], RUN), lines[key].get("weights")))
        ]
        if chosen:
            text = "".join(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n" for record in chosen)
            write_text(arguments.results / name, text)
    print(f"{len(here)} records into {arguments.results}, {len(lines) - len(here)} others kept")


if __name__ == "__main__":
    run_main(main)
