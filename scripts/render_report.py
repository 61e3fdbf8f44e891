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

from common.cli import make_parser
from common.errors import UserError, run_main
from common.files import write_text
from common.paths import ROOT, Workspace, workspace
from common.report import table
from common.results import read_results
from p1_gan import report as p1
from p2_diffusion import report as p2
from p3_dann import report as p3

PROBLEMS = {"p1": p1, "p2": p2, "p3": p3}
BLOCK = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def render_report(space: Workspace) -> str:
    """Return the whole report of one workspace as Markdown."""
    parts = ["# Report\n", provenance(space), *(problem.render(space) for problem in PROBLEMS.values())]
    return "\n".join(part.rstrip() + "\n" for part in parts)


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


def refresh_readme(text: str, space: Workspace) -> str:
    """Return README's text with every block ``<!-- results:pN -->`` filled from the results.

    Raises:
        UserError: a block of a problem that does not exist.
    """

    def fill(block: re.Match[str]) -> str:
        if block[2] not in PROBLEMS:
            raise UserError(f"README.md: results:{block[2]} names no problem; use {', '.join(PROBLEMS)}")
        return block[1] + PROBLEMS[block[2]].readme_table(space).rstrip() + "\n" + block[3]

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
