"""Collect what runs have measured into results/*.jsonl, from which report_tables.py fills the pages.

    python scripts/collect.py                                  # all of runs/
    python scripts/collect.py runs/cpu/p1_B_seed0 runs/shipped
    python scripts/collect.py runs/sample --results runs/sample/results

A line replaces the one with the same identity; lines of runs that are not here stay. Left out, and named: trial
runs (options that differ from the preset, outside an ablation), records of weights that are gone, and preset sample.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import UserError, make_parser, run_main
from common.files import file_digest, write_text
from common.weights import WEIGHTS, Record

FILES = {"p1": "p1.jsonl", "p2": "p2.jsonl", "p3": "p3.jsonl", "benchmark": "benchmarks.jsonl"}  # by problem
# Which run it was measured of, or which file of weights/; and then which measurement.
RUN = ("problem", "method", "student_steps", "inputs", "target", "variant", "preset", "seed", "shipped")
MEASUREMENT = ("kind", "task", "load", "setting", "split", "sampling_seed", "num_images", "sampler", "sampling_steps")
IDENTITY = (*RUN, *MEASUREMENT, "guidance_scale", "guidance_interval", "rater")


def identity(record: Record, columns: tuple[str, ...] = IDENTITY) -> str:
    """Return what tells a record (with ``RUN``: its run) from every other one; results are sorted by it."""
    return json.dumps([str(record.get(column, "")) for column in columns])


def read_results(folder: Path) -> list[Record]:
    """Return the lines of all files in a results folder."""
    paths = [folder / name for name in FILES.values() if (folder / name).exists()]
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def read_run(folder: Path, sample: bool) -> tuple[list[Record], str]:
    """Return the records of one run's folder that count, and why others do not ("" if all do)."""
    shipped = folder.parent.name == "shipped"
    weights = WEIGHTS / f"{folder.name}.safetensors" if shipped else folder / "weights.safetensors"
    current = file_digest(weights) if weights.exists() else None
    known: Record = {"shipped": folder.name} if shipped else {}
    if (folder / "config.json").exists():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        known |= {key: config[key] for key in (*RUN, "overrides") if key in config}
    paths = sorted((folder / "records").glob("*.json"))
    records = [known | json.loads(path.read_text(encoding="utf-8")) for path in paths]
    if not sample and any(record.get("preset") == "sample" for record in records):
        return [], "preset sample; pass --results with another folder"
    changed = sorted({str(name) for record in records for name in record.get("overrides", ())})
    if changed and not any("variant" in record for record in records):
        return [], f"a trial run with other {', '.join(changed)}"
    kept = [record for record in records if record.get("weights", current) == current]
    return kept, "" if len(kept) == len(records) else f"{len(records) - len(kept)} records of other weights"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="*", type=Path, default=[ROOT / "runs"], help="folders to search for runs")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the .jsonl files")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.runs if not path.is_dir()]:
        raise UserError(f"{', '.join(missing)}: no such folder; train or evaluate first")
    sample = arguments.results.resolve() != ROOT / "results"
    here: dict[str, Record] = {}
    for folder in sorted({path.parent.resolve() for root in arguments.runs for path in root.rglob("records/")}):
        records, reason = read_run(folder, sample)
        if reason:
            print(f"left out: {folder}: {reason}")
        here |= {identity(record): record for record in records}
    # A run that was trained again takes with it what was measured of its old weights.
    current = {identity(record, RUN): record["weights"] for record in here.values() if "weights" in record}
    lines = {identity(record): record for record in read_results(arguments.results)} | here
    lines = {key: one for key, one in lines.items() if current.get(identity(one, RUN)) in (None, one.get("weights"))}
    for problem, name in FILES.items():
        of_problem = [lines[key] for key in sorted(lines) if lines[key]["problem"] == problem]
        text = "".join(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n" for record in of_problem)
        path = arguments.results / name
        if text != (path.read_text(encoding="utf-8") if path.exists() else ""):
            write_text(path, text)
    print(f"{len(here)} records into {arguments.results}, {len(lines) - len(here)} others kept")


if __name__ == "__main__":
    run_main(main)
