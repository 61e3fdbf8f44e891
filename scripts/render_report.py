"""Render report.md, and the tables of README.md, from results/, images/ and the live models.

    python scripts/render_report.py                    # the committed report
    python scripts/render_report.py --preset sample    # runs/sample/report.md

Rendering twice gives the same bytes: what is not measured is said to be missing, nothing is typed in.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report as benchmarks
from common.cli import make_parser
from common.errors import UserError, run_main
from common.files import write_text
from common.paths import ROOT, Workspace, workspace
from common.report import duration, percent, picture, table
from common.results import of_first_seed, read_results
from p1_gan import report as p1
from p2_diffusion import report as p2
from p3_dann import report as p3

PROBLEMS = {"p1": p1, "p2": p2, "p3": p3}
SECTIONS = PROBLEMS | {"benchmarks": benchmarks}
BLOCK = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def render_report(space: Workspace) -> str:
    """Return the whole report of one workspace as Markdown."""
    parts = [
        "# Report\n",
        first_page(space),
        provenance(space),
        *(section.render(space) for section in SECTIONS.values()),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def first_page(space: Workspace) -> str:
    """Return three pictures, and one table of the main figures beside those of others."""
    rows = []
    results = read_results(space.results, "p1")
    preset = p1.main_preset(results)
    measured, run = p1.evaluation(results, "B", preset), p1.training(results, "B", preset)
    data = run["dataset"] if run else "–"
    fid = measured.get("fid") if measured else None
    rate = p1.face_rates(results, "B", preset) if measured else "not run"
    rows.append(["P1: pictures with one face", "–", "96.4 %", rate, data])
    rows.append(["P1: FID", "–", "22.97", f"{fid:.2f}" if isinstance(fid, float) else "not run", data])

    results = read_results(space.results, "p2")
    preset = next((name for name in p2.PRESET_ORDER if f"evaluate/{name}" in results), "cpu")
    measured, run = results.get(f"evaluate/{preset}"), p2.training(results, preset)
    rate = percent(measured["accuracy"]) if measured else "not run"
    rows.append(["P2: digits recognised", "–", "99.90 %", rate, p2.data_of(run)])

    results = read_results(space.results, "p3")
    preset = next((name for name in p3.PRESET_ORDER if p3.runs_of(results, name, "svhn", "dann")), "cpu")
    adapted = [(name, row_preset) for name, row_preset, mode in p3.rows_of(results, preset) if mode == "dann"]
    for target, column in p3.COLUMNS.items():
        original, best = (percent(targets[target][1]) for targets in p3.REFERENCES.values())
        runs = p3.runs_of(results, preset, target, "dann")
        data = runs[0]["target_data"] if runs else "–"
        for name, row_preset in adapted:
            here = p3.cell(results, row_preset, target, "dann")
            rows.append([f"P3: {column}, {name}", original, best, here, data])

    pictures = [
        picture(space, "P1/GAN_B_grid.png", "Faces drawn by method B"),
        picture(space, "P2/diffusion_grid.png", "Digits drawn to order"),
        picture(space, "P3/DANN_domain_TSNE_USPS.png", "Features of MNIST-M and USPS after adaptation"),
    ]
    note = (
        "The last column names the data of this run. The figures of others come from the course's own data (coloured "
        "SVHN, CelebA faces): where the names differ, they show a region and not a ranking. FID is run only where "
        "its Inception weights can be had; no other distance stands under its name.\n"
    )
    header = ["", "original report", "best known", "here", "data here"]
    return "\n".join([*pictures, table(header, rows), note])


def provenance(space: Workspace) -> str:
    """Return which machines and versions the figures come from."""
    rows = set()
    for problem in PROBLEMS:
        for entry in read_results(space.results, problem).values():
            rows.add((problem.upper(), entry["device"], entry["versions"]["torch"]))
    if not rows:
        return "*Nothing is measured yet.*\n"
    text = (
        "Every figure below was measured by a command of this repository and stands in `results/`; this file is "
        "rendered from there by `python scripts/render_report.py`.\n"
    )
    return text + "\n" + table(["problem", "measured on", "torch"], sorted(rows))


def presets_table(space: Workspace) -> str:
    """Return preset, hardware, time and result of every problem that was trained (first seed), for README.md."""
    rows = []
    faces, digits, domains = (read_results(space.results, problem) for problem in PROBLEMS)
    for preset in p3.PRESET_ORDER:
        for method in p1.METHODS:
            run, measured = p1.training(faces, method, preset), p1.evaluation(faces, method, preset)
            if run and measured:
                rate = measured.get("face_rate")
                result = f"face rate {percent(rate)}" if rate is not None else f"FD-HOG {measured['fd_hog']:.2f}"
                rows.append([f"`{preset}`", f"P1 {method}", run["device"], duration(run["seconds"]), result])
        run, measured = p2.training(digits, preset), digits.get(f"evaluate/{preset}")
        if run and measured:
            result = f"accuracy {percent(measured['accuracy'])}"
            rows.append([f"`{preset}`", "P2", run["device"], duration(run["seconds"]), result])
        for target, name in p3.COLUMNS.items():
            run = of_first_seed(domains, f"{preset}/{target}/dann")
            if run:
                result = f"accuracy {percent(run['accuracy'])}"
                rows.append([f"`{preset}`", f"P3 DANN, {name}", run["device"], duration(run["seconds"]), result])
    if not rows:
        return "*Nothing was trained yet.*\n"
    return table(["preset", "training", "hardware", "time", "result"], rows)


def refresh_readme(text: str, space: Workspace) -> str:
    """Return README's text with every block ``<!-- results:NAME -->`` filled from the results.

    Raises:
        UserError: a block of a table that does not exist.
    """

    tables = {name: section.readme_table for name, section in SECTIONS.items()} | {"presets": presets_table}

    def fill(block: re.Match[str]) -> str:
        if block[2] not in tables:
            raise UserError(f"README.md: results:{block[2]} names no table; use {', '.join(tables)}")
        return block[1] + tables[block[2]](space).rstrip() + "\n" + block[3]

    return BLOCK.sub(fill, text)


def main() -> None:
    """Parse the command line and write the report."""
    parser = make_parser(__doc__.split("\n")[0], __doc__.split("\n\n")[1])
    parser.add_argument("--preset", default="cpu", help="sample: the workspace of the built-in sample set")
    parser.add_argument("--output", type=Path, default=None, help="folder with images/ and results/ (unset: by preset)")
    arguments = parser.parse_args()
    space = workspace(arguments.preset, arguments.output)
    if not space.results.is_dir():
        raise UserError(f"{space.results}: no results yet; train first, for example bash scripts/train_p3.sh")
    report = space.results.parent / "report.md"
    write_text(report, render_report(space))
    print(f"wrote {report}")
    if space.results.parent == ROOT:
        readme = ROOT / "README.md"
        write_text(readme, refresh_readme(readme.read_text(encoding="utf-8"), space))
        print(f"refreshed the tables of {readme}")


if __name__ == "__main__":
    run_main(main)
