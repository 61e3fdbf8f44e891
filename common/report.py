"""report.md: words from templates that a person writes, values, tables and pictures from what was measured.

Each problem has ``report.md``, Markdown with Jinja2 places, beside a ``report.py`` whose :func:`parts` fills them. A
paragraph that interprets results stands in a block that names the results it was written for::

    {% call written_for("4f1c09ab", "evaluate/*/cpu/*") %}
    B's faces are whole more often than A's.
    {% endcall %}

The figures are a digest of those results. When they change, the paragraph is left out and named, until a person has
read it again and put in the new digest, which ``scripts/render_report.py`` prints.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from common.paths import ROOT, Workspace

Results = Mapping[str, Mapping[str, Any]]
# What a measurement's circumstances are, not its result: it may change without a new look at the words.
CIRCUMSTANCES = ("device", "versions", "seconds", "images_per_second")


@dataclass
class Page:
    """One template filled for one workspace, and the paragraphs that no longer fit its results."""

    template: Path
    results: Results
    space: Workspace
    stale: list[str] = field(default_factory=list)

    def render(self, parts: Mapping[str, Any]) -> str:
        """Return the page as Markdown; ``parts`` are the template's names, beside those every page has."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(self.template.parent),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        shared = {name: globals()[name] for name in ("details", "duration", "percent", "table")}
        page = environment.get_template(self.template.name)
        text = page.render(shared | {"written_for": self.written_for, "picture": self.picture} | dict(parts))
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

    def written_for(self, digest: str, *patterns: str, caller: Any) -> str:
        """Return a paragraph that interprets the results whose keys match ``patterns``, if they are still the same.

        Only the committed report has such paragraphs: they were written for no other results.
        """
        if self.space.results.parent != ROOT:
            return ""
        found = self.digest(*patterns)
        if found == digest:
            return caller()
        place = self.template.relative_to(ROOT)
        self.stale.append(f'{place}: written_for("{digest}", {", ".join(patterns)}): these results are now "{found}"')
        return ""

    def digest(self, *patterns: str) -> str:
        """Return eight figures that stand for the measurements whose keys match, whatever machine made them."""
        chosen = {
            key: {name: value for name, value in entry.items() if name not in CIRCUMSTANCES}
            for key, entry in self.results.items()
            if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)
        }
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]

    def picture(self, path: str, caption: str) -> str:
        """Return the picture ``images/<path>`` with its caption, or a line that says it was not made."""
        if not (self.space.images / path).is_file():
            return f"*images/{path}: not made yet.*\n"
        return f"![{caption}](images/{path})\n\n*{caption}.*\n"


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; cells are shown with ``str``, None as not run.

    Rows and columns in which nothing was run are left out, and named in a line below.
    """
    kept = [row for row in rows if any(cell is not None for cell in row[1:])]
    if not kept:
        return "*Not run.*\n"
    columns = [0, *(k for k in range(1, len(header)) if any(row[k] is not None for row in kept))]
    left_out = [str(name) for k, name in enumerate(header) if k not in columns]
    left_out += [str(row[0]) for row in rows if row not in kept]
    lines = [[line[k] for k in columns] for line in (header, ["---"] * len(header), *kept)]
    text = "\n".join(
        "| " + " | ".join("not run" if cell is None else str(cell) for cell in line) + " |" for line in lines
    )
    return text + "\n" + (f"\n*Not run: {'; '.join(left_out)}.*\n" if left_out else "")


def details(summary: str, body: str) -> str:
    """Return ``body`` folded away behind ``summary``."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body.rstrip()}\n\n</details>\n"


def architecture(model: nn.Module) -> str:
    """Return ``print(model)`` as the original report shows it, as a code block.

    Newer torch prints ``bias=True`` in norm layers; it is taken out so that the text does not depend on
    the installed version.
    """
    return _code(re.sub(r"((?:Batch|Group)Norm[^\n]*?), bias=True", r"\1", str(model)))


def summary_table(model: nn.Module, input_size: tuple[int, ...]) -> str:
    """Return torchsummary's table for one input of ``input_size`` (no batch dimension), as a code block."""
    from torchsummary import summary

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        summary(model.cpu().eval(), input_size, device="cpu")
    return _code(text.getvalue().strip("\n"))


def percent(share: float, digits: int = 1) -> str:
    """Return a share of 1 as a percentage, e.g. ``97.7 %``."""
    return f"{100 * share:.{digits}f} %"


def mean_range(values: Sequence[float], show: Any = "{:.2f}".format) -> str | None:
    """Return the mean of several measurements and how far they reach, e.g. ``2.6 (2.5 to 2.8)``; None of none."""
    if len(values) < 2:
        return show(values[0]) if values else None
    return f"{show(statistics.fmean(values))} ({show(min(values))} to {show(max(values))})"


def duration(seconds: float) -> str:
    """Return a time as ``42 s``, ``7 min 30 s`` or ``1 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def measured_on(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return machines and torch versions of several measurements, in words."""
    machines = sorted({f"{entry['device']} (torch {entry['versions']['torch']})" for entry in entries})
    return "; ".join(machines) or "nothing yet"


def _code(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n"
