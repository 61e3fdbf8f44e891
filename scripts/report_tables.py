"""Fill the tables of README.md, report.md and weights/README.md from results/*.jsonl.

    python scripts/report_tables.py            # after scripts/collect.py
    python scripts/report_tables.py --check    # exit 1 and name the tables that are out of date
    python scripts/report_tables.py --page out/report.md --results out/results --images out    # a page without prose

A table stands between <!-- table: NAME --> and <!-- /table -->; NAME is an entry of scripts/tables.toml, which says
what its rows and columns select. A number is mean ± half range over the n records selected.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import statistics
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import UserError, make_parser, run_main
from common.files import write_text
from common.weights import WEIGHTS, Record
from p2_diffusion.samplers import SAMPLERS
from scripts.collect import read_results

PAGES = [ROOT / "README.md", ROOT / "report.md", ROOT / "weights" / "README.md"]
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
PLACE = re.compile(r"\{(\w+) (\S+)((?: \w+=\S*)*)\}")  # {key format column=value ...} in a written row
DEFAULTS = {"preset": "cpu", "variant": "", "student_steps": ""}  # what a row selects unless it says otherwise
Records = Sequence[Record]
Spec = Mapping[str, Any]
TEXTS = ("label", "title", "key", "format")  # of a row or column; its other entries are filters


def read_records(folder: Path) -> list[Record]:
    """Return the results with the columns that only tables need: ``guidance``, ``class_0`` to ``class_9``, sizes."""
    records = read_results(folder)
    only_sample = {record.get("preset") for record in records} <= {"sample", None}
    for record in records:
        if only_sample or "preset" not in record:
            record["preset"] = DEFAULTS["preset"]
        if "sampler" in record:
            scale, (low, high) = record["guidance_scale"], record["guidance_interval"]
            within = "" if (low, high) == (0, 1) else f", {low:g} T to {high:g} T"
            record["guidance"] = "none" if scale == 1 else f"w = {scale:g}{within}"
            record["sampler"] = SAMPLERS[record["sampler"]].title
        per_class: list[float | None] = record.get("test_per_class_accuracy") or record.get("per_class_accuracy", [])
        digits = {k: value for k, value in enumerate(per_class) if value is not None}
        record |= {f"class_{digit}": value for digit, value in digits.items()}
        if digits:
            record["worst_class_accuracy"] = min(digits.values())
        if record["kind"] == "classifier":  # what it makes of real images is the baseline of generated ones
            record |= {f"{key}_baseline": record[key] for key in ("accuracy", "worst_class_accuracy")}
    files = ({"shipped": path.stem, "megabytes": path.stat().st_size / 1e6} for path in WEIGHTS.glob("*.safetensors"))
    return records + [{"kind": "file", "preset": DEFAULTS["preset"]} | file for file in files]


def select(records: Records, *specs: Spec) -> list[Record]:
    """Return the records whose columns have these values (a list: one of them; "": no such column; "*": any value).

    Files of weights/ count only where they are asked for or their run itself was not measured.
    """
    selected = list(records)
    filters = {key: value for spec in (DEFAULTS, *specs) for key, value in spec.items() if key not in TEXTS}
    for key, value in filters.items():
        values = [str(one) for one in (value if isinstance(value, list) else [value])]
        selected = [one for one in selected if str(one.get(key, "")) in values or ("*" in values and key in one)]
    return [record for record in selected if "shipped" not in record] or selected


def show(value: Any, form: str) -> str:
    """Return one value as text; ``form``: a format like ``.1f``, ``%``, ``x1000``, ``digits`` (of %), time, or text."""
    if form == "time":
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {seconds:02d} s"
    if form == "text":
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    scale, digits = {"%": (100, ".1f"), "digits": (100, ".0f"), "x1000": (1000, ".1f")}.get(form, (1, form))
    return re.sub(r"^-(0\.?0*)$", r"\1", format(scale * value, digits))


def cell(records: Records, key: str, form: str) -> tuple[str, int]:
    """Return mean ± half range over the records that have ``key`` ("" for none), and n (0: nothing to average)."""
    records = [record for record in records if key in record]
    most = max((record.get("num_images", 0) for record in records), default=0)
    values = [record[key] for record in records if record.get("num_images", 0) == most]  # not of fewer images
    if not values or form in ("text", "time", ",d", "g"):
        return (show(values[0], form) if values else ""), 0
    text = show(statistics.fmean(values), form)
    if key.endswith("_baseline"):
        return text, 0
    if form == "digits":
        return text, len(values)
    half = (max(values) - min(values)) / 2
    spread = f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{show(half, form)}" if len(values) > 1 else ""
    return text + spread, len(values)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table without rows and columns of which nothing was run; numbers are aligned to the right."""
    rows = [row for row in rows if any(row[1:])]
    if not rows:
        return "*Not run.*"
    lines = []
    for k, title in enumerate(header):
        texts = [row[k] for row in rows]
        if any(texts) or k == 0:
            number = all(re.match(r"[\d*–-]", text or "–") for text in texts)
            missing = "–" if k and number else ""
            lines.append([title, "---:" if number else "---", *(text or missing for text in texts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*lines, strict=True))


def grid(records: Records, rows: Sequence[Spec], columns: Sequence[Spec], real: str = "") -> str:
    """Return one row per entry of ``rows`` (``label`` and filters), one column per entry of ``columns``.

    A column has ``title``, ``key``, ``format`` and filters. ``real`` names a last row with the keys' ``_baseline``.
    """
    lines = []
    for row in rows:
        cells = [cell(select(records, column, row), column["key"], column["format"]) for column in columns]
        counts = {count for _, count in cells if count}
        if len(counts) == 1 and max(counts) > 1:
            lines.append([f"{row['label']} (n = {max(counts)})", *(text for text, _ in cells)])
        else:
            lines.append([row["label"], *(f"{text} (n = {count})" if count > 1 else text for text, count in cells)])
    if real:
        lines.append([real, *(cell(records, f"{one['key']}_baseline", one["format"])[0] for one in columns)])
    return markdown(["", *(column["title"] for column in columns)], lines)


def settings(records: Records, rows: Sequence[Spec], module: str) -> str:
    """Return the configuration of some runs, one option per line and one run per column."""
    names = [field.name for field in dataclasses.fields(importlib.import_module(module).TrainConfig)]
    runs = [select(records, row) for row in rows]
    lines = [[f"`--{name.replace('_', '-')}`", *(cell(run, name, "text")[0] for run in runs)] for name in names]
    return markdown(["", *(row["label"] for row in rows)], lines)


def written(records: Records, rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text, the first the header, with places like ``{face_rate % problem=p1 method=B}`` filled."""

    def fill(place: re.Match[str]) -> str:
        filters = dict(word.split("=") for word in place[3].split())
        return cell(select(records, filters), place[1], place[2])[0] or "not run"

    header, *lines = [[PLACE.sub(fill, text).replace("**not run**", "not run") for text in row] for row in rows]
    return markdown(header, lines)


def sweep(records: Records, columns: Sequence[Spec]) -> str:
    """Return every sampler setting that was compared, the cheapest first, bold where none is cheaper and closer."""
    records = [record for record in records if record["kind"] == "sweep"]
    rows = []
    for one in sorted(records, key=lambda one: (one["preset"], one["nfe"], one["frechet"])):
        same = [other for other in records if other["preset"] == one["preset"] and other is not one]
        beaten = any(other["nfe"] <= one["nfe"] and other["frechet"] <= one["frechet"] for other in same)
        texts = [cell([one], column["key"], column["format"])[0] for column in columns]
        rows.append([*texts[:-1], texts[-1] if beaten else f"**{texts[-1]}**"])
    return markdown([column["title"] for column in columns], rows)


def make_table(records: Records, name: str, specs: Mapping[str, Spec]) -> str:
    """Return the table called ``name``."""
    if name not in specs:
        raise UserError(f"table: {name}: not in scripts/tables.toml; there are: {', '.join(specs)}")
    spec = specs[name]
    rows = [spec.get("where", {}) | row if isinstance(row, dict) else row for row in spec.get("rows", ())]
    if spec.get("type") == "written":
        return written(records, rows)
    if spec.get("type") == "sweep":
        return sweep(records, spec["columns"])
    if "settings" in spec:
        return settings(records, rows, spec["settings"])
    return grid(records + spec.get("records", []), rows, spec["columns"], spec.get("real", ""))


def fill_page(text: str, records: Records, specs: Mapping[str, Spec]) -> tuple[str, list[str]]:
    """Return a page with its tables filled, and the names of those that changed."""
    tables = {name: make_table(records, name, specs) for _, name, _, _ in BLOCK.findall(text)}
    changed = [name for _, name, old, _ in BLOCK.findall(text) if old != f"{tables[name]}\n"]
    return BLOCK.sub(lambda block: f"{block[1]}{tables[block[2]]}\n{block[4]}", text), changed


def without_prose(text: str, images: Path, folder: Path) -> str:
    """Return headings, tables and images of a page for ``folder``; below ``images`` the images are found by name."""
    lines = []
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for match in re.finditer(rf"{BLOCK.pattern}|^#+ .*?$|{IMAGE.pattern}", text, re.DOTALL | re.MULTILINE):
        if path := match[6]:
            place = next(iter(sorted(images.rglob(f"images/**/{Path(path).name}"))), None)
            where = place and Path(os.path.relpath(place, folder)).as_posix()
            lines.append(f"![{place.name}]({where})" if place else f"*{path}: not run.*")
        else:
            lines.append((match[3] or match[0]).strip())
    lines.insert(1, "*Toy data and minutes of training: this page shows that everything works, not how well.*")
    return "\n\n".join(lines) + "\n"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, help="Markdown files to fill")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a table is out of date")
    parser.add_argument("--page", type=Path, help="write headings, tables and images of report.md to this file instead")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the .jsonl files")
    parser.add_argument("--images", type=Path, default=ROOT, help="folder searched for the images of --page")
    arguments = parser.parse_args()
    specs = tomllib.loads((ROOT / "scripts" / "tables.toml").read_text(encoding="utf-8"))
    records, stale = read_records(arguments.results), []
    if arguments.page:
        specs = {name: spec | {"records": []} for name, spec in specs.items()}  # others did not measure toy data
        page, _ = fill_page((ROOT / "report.md").read_text(encoding="utf-8"), records, specs)
        write_text(arguments.page, without_prose(page, arguments.images, arguments.page.parent))
        print(f"wrote {arguments.page}")
        return
    for path in arguments.pages:
        filled, changed = fill_page(path.read_text(encoding="utf-8"), records, specs)
        stale += [f"{path}: {name}" for name in changed]
        if changed and not arguments.check:
            write_text(path, filled)
    print("\n".join(f"{'out of date' if arguments.check else 'filled'}: {name}" for name in stale) or "up to date")
    sys.exit(bool(arguments.check and stale))


if __name__ == "__main__":
    run_main(main)
