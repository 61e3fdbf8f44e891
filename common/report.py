"""Markdown pieces of report.md: tables, folded sections, architectures, pictures."""

from __future__ import annotations

import contextlib
import io
import math
import re
import statistics
from collections.abc import Sequence

from torch import nn

from common.paths import Workspace

LONGEST_BRACKET = 24


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; cells are shown with ``str``."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def details(summary: str, body: str) -> str:
    """Return ``body`` folded away behind ``summary``."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body.rstrip()}\n\n</details>\n"


def code(text: str) -> str:
    """Return ``text`` as a code block."""
    return f"```text\n{text.rstrip()}\n```\n"


def architecture(model: nn.Module) -> str:
    """Return ``print(model)`` as the original report shows it.

    Newer torch prints ``bias=True`` in norm layers; it is taken out so that the text does not depend on
    the installed version.
    """
    return re.sub(r"((?:Batch|Group)Norm[^\n]*?), bias=True", r"\1", str(model))


def summary_table(model: nn.Module, input_size: tuple[int, ...]) -> str:
    """Return torchsummary's table for one input of ``input_size`` (no batch dimension), computed on the CPU."""
    from torchsummary import summary

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        summary(model.cpu().eval(), input_size, device="cpu")
    return text.getvalue().strip("\n")


def picture(space: Workspace, path: str, caption: str) -> str:
    """Return the picture ``images/<path>`` with its caption, or a line that says it was not made."""
    if not (space.images / path).is_file():
        return f"*{path}: not made in this run.*\n"
    return f"![{caption}](images/{path})\n\n*{caption}*\n"


def brief(dataset: str) -> str:
    """Return the name of a data set without a bracket that is too long for a caption; sections spell it out once."""
    name, bracket, rest = dataset.partition(" (")
    return name if bracket and len(rest) > LONGEST_BRACKET else dataset


def percent(share: float, digits: int = 1) -> str:
    """Return a share of 1 as a percentage, e.g. ``97.7 %``."""
    return f"{100 * share:.{digits}f} %"


def mean_std(shares: Sequence[float], digits: int = 1, count: bool = True) -> str:
    """Return mean ± sample standard deviation of shares as percentages, with their number if ``count``."""
    mean = 100 * statistics.fmean(shares)
    text, seeds = f"{mean:.{digits}f} %", "1 seed"
    if len(shares) > 1:
        text = f"{mean:.{digits}f} ± {100 * statistics.stdev(shares):.{digits}f} %"
        seeds = f"{len(shares)} seeds"
    return f"{text} ({seeds})" if count else text


def duration(seconds: float) -> str:
    """Return a time as ``42 s``, ``7 min 30 s`` or ``1 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(math.floor(minutes), 60)
    return f"{hours} h {minutes:02d} min"
