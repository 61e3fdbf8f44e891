"""Render report.md, and the tables of README.md, from results/, images/ and the templates that hold the words.

    python scripts/render_report.py                    # the committed report
    python scripts/render_report.py --preset sample    # runs/sample/report.md

Rendering twice gives the same bytes. A paragraph that interprets results is left out, and named with their new digest,
when they have changed since it was written: read it again, then put the digest into its template.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.run import speed_table, times_table
from common.cli import make_parser
from common.errors import UserError, run_main
from common.files import write_text
from common.paths import ROOT, Workspace, workspace
from common.report import Page, Results, duration, percent, table
from common.results import read_results
from common.weights import MANIFEST
from p1_gan import report as p1
from p1_gan.methods import METHODS
from p2_diffusion import report as p2
from p2_diffusion.presets import PRESETS as P2_PRESETS
from p3_dann import report as p3
from p3_dann.presets import presets_for

PAGES = ("README.md", "weights/README.md")  # whose tables are rendered
PROBLEMS = {"p1": p1, "p2": p2, "p3": p3}
BLOCK = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)
PRESETS = ("full", "cpu")  # from the largest; `sample` is for trying out
FACES_OF_B = r"p1/evaluate/B/{}/weights0/seed\d+"
# What others measured: the row, the original report, the best of about 20 public solutions. Then where ours stands:
# keys of the results with a place for the preset, the value, the entry that names the data, and the data of others.
OTHERS = (
    ("P1: FID of 1000 pictures", "–", "22.97", FACES_OF_B, "fid", "dataset", "CelebA"),
    (
        "P1: pictures with exactly one face",
        "–",
        "96.4 %",
        FACES_OF_B,
        "face_rate",
        "dataset",
        "CelebA",
    ),
    *(
        (
            f"P3: {p3.column(target)}, {way}",
            original,
            best,
            rf"p3/train/{target}/{mode}/{{}}/seed\d+",
            "test_accuracy",
            "target_data",
            target.upper(),
        )
        for target, mode, way, original, best in (
            ("svhn", "source", "trained on the source", "42.9 %", "50.9 %"),
            ("svhn", "dann", "adapted", "44.8 %", "54.4 %"),
            ("svhn", "target", "trained on the target", "85.6 %", "97.2 %"),
            ("usps", "source", "trained on the source", "72.0 %", "90.0 %"),
            ("usps", "dann", "adapted", "76.8 %", "92.4 %"),
            ("usps", "target", "trained on the target", "84.9 %", "99.3 %"),
        )
    ),
)


def render_report(space: Workspace) -> tuple[str, list[str]]:
    """Return the whole report of one workspace as Markdown, and the paragraphs that were left out."""
    everything: dict[str, Results] = {}
    sections: dict[str, str] = {}
    stale: list[str] = []
    for name, module in PROBLEMS.items():
        page = Page(Path(module.__file__).with_suffix(".md"), read_results(space.results, name), space)
        sections[name] = page.render(module.parts(page))
        stale += page.stale
        everything |= {f"{name}/{key}": entry for key, entry in page.results.items()}
    front = Page(ROOT / "scripts" / "report.md", everything, space)
    measured = read_results(space.results, "benchmarks")
    tables = {
        "comparison": comparison_table(everything),
        "speed": speed_table(measured),
        "times": times_table(measured),
    }
    text = front.render(sections | tables)
    return text, front.stale + stale


def comparison_table(results: Results) -> str:
    """Return what others measured on the same data beside what was measured here; empty where no data are the same."""
    rows = []
    for name, original, best, keys, value, data, others_data in OTHERS:
        for preset in PRESETS:
            found = [entry for key, entry in results.items() if re.fullmatch(keys.format(preset), key)]
            values = [entry[value] for entry in found if isinstance(entry.get(value), float)]
            if values and all(is_most_of(entry.get(data, ""), others_data) for entry in found):
                mean = statistics.fmean(values)
                rows.append([name, original, best, percent(mean) if mean <= 1 else f"{mean:.2f}"])
                break
    return table(["", "original report", "best of about 20 public solutions", "here"], rows) if rows else ""


def is_most_of(data: str, name: str) -> bool:
    """Tell whether a data set is the one called ``name``, or by its own count at least three quarters of it."""
    if name == "CelebA":  # the course's faces, or all that are aligned; what tells a count of its own is a smaller part
        return re.fullmatch(r"CelebA(?: \(aligned, .*)?", data) is not None
    found = re.match(rf"{name}(?: \(([\d,]+) of ([\d,]+) |$)", data)
    counts = [int(count.replace(",", "")) for count in found.groups() if count] if found else [0, 1]
    return not counts or 4 * counts[0] >= 3 * counts[1]


def presets_table(space: Workspace) -> str:
    """Return what the training of each preset took, for README.md."""
    # Keys of trainings, and the configuration that their preset asks for.
    methods = "|".join(map(re.escape, METHODS))
    trainings = {
        "p1": (rf"train/(?P<what>{methods})/(?P<preset>[^/]+)/seed0", lambda what: METHODS[what].presets),
        "p2": (r"train/(?P<what>)(?P<preset>[^/]+)/seed0", lambda _: P2_PRESETS),
        "p3": (r"train/(?P<what>[^/]+)/dann/(?P<preset>[^/]+)/seed0", presets_for),
    }
    rows = []
    for problem, (pattern, presets_of) in trainings.items():
        for key, entry in read_results(space.results, problem).items():
            found = re.fullmatch(pattern, key)
            if found and found["preset"] in PRESETS:
                preset = presets_of(found["what"])[found["preset"]]
                seen, planned = (pictures_seen(values) for values in (entry, asdict(preset)))
                shown = f"{seen:,}" if seen == planned else f"{seen:,} of {planned:,}"
                name = f"{problem.upper()} {found['what']}".strip()
                rows.append([f"`{found['preset']}`", name, shown, entry["device"], duration(entry["seconds"])])
    rows.sort(key=lambda row: PRESETS.index(row[0].strip("`")))
    return table(["preset", "training", "pictures seen", "hardware", "time"], rows)


def pictures_seen(config: Mapping[str, Any]) -> int:
    """Return how many pictures the training of a configuration takes, of one domain where it sees two."""
    return round(config["steps"] * (1 + config.get("refinement", 0.0)) * config["batch_size"])


def weights_table(manifest: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what is shipped, for weights/README.md."""
    rows = []
    for name, entry in manifest.items():
        measured = ", ".join(f"{key.replace('_', ' ')} {percent(value)}" for key, value in entry["metric"].items())
        size = f"{entry['bytes'] / 1e6:.1f} MB"
        rows.append([f"`{name}`", f"`{entry['preset']}`", " → ".join(entry["data"].values()), measured, size])
    return table(["file", "preset", "data", "measured", "size"], rows)


def refresh_tables(text: str, space: Workspace) -> str:
    """Return a page's text with every block ``<!-- results:NAME -->`` filled from the results.

    Raises:
        UserError: a block of a table that does not exist.
    """
    tables = {name: module.readme_table(read_results(space.results, name)) for name, module in PROBLEMS.items()}
    tables |= {"presets": presets_table(space), "weights": weights_table(json.loads(MANIFEST.read_text()))}

    def fill(block: re.Match[str]) -> str:
        if block[2] not in tables:
            raise UserError(f"results:{block[2]}: names no table; use {', '.join(tables)}")
        shown = re.sub(r"\n\*Not run: .*", "", tables[block[2]])  # the report names what was not run
        return block[1] + shown.rstrip() + "\n" + block[3]

    return BLOCK.sub(fill, text)


def main() -> None:
    """Parse the command line, write the report, and name the paragraphs that no longer fit the results."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--preset", choices=(*PRESETS, "sample"), default="cpu", help="sample: the workspace of the built-in sample set"
    )
    parser.add_argument("--output", type=Path, default=None, help="folder with images/ and results/ (unset: by preset)")
    arguments = parser.parse_args()
    space = workspace(arguments.preset, arguments.output)
    if not space.results.is_dir():
        raise UserError(f"{space.results}: no results yet; train first, for example bash scripts/train_p3.sh")
    report = space.results.parent / "report.md"
    text, stale = render_report(space)
    write_text(report, text)
    print(f"wrote {report}")
    for paragraph in stale:
        print(f"left out, look at it again: {paragraph}")
    if space.results.parent == ROOT:
        for name in PAGES:
            write_text(ROOT / name, refresh_tables((ROOT / name).read_text(encoding="utf-8"), space))
            print(f"refreshed the tables of {ROOT / name}")


if __name__ == "__main__":
    run_main(main)
