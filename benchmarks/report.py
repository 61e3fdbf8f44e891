"""The section of report.md on speed, made from what ``run.py`` measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.paths import Workspace
from common.report import percent, picture, table
from common.results import read_results

Results = Mapping[str, Mapping[str, Any]]

NAMES = {
    "p1": "P1, DCGAN",
    "p2": "P2, the U-Net of the original report",
    "p3": "P3, DANN as in the original report",
}
PARTS = ("data", "model", "optimiser", "average and log", "run")


def render(space: Workspace) -> str:
    """Return the section as Markdown; what was not measured is said to be missing."""
    results = read_results(space.results, "benchmarks")
    parts = ["## Speed\n", speed(results), shares(results), layout(results), loading(results), growth(space, results)]
    return "\n".join(part for part in parts if part)


def speed(results: Results) -> str:
    """Return the comparison with the plain loops."""
    rows = []
    for problem, name in NAMES.items():
        entry = results.get(f"speed/{problem}")
        if entry is None:
            continue
        low, high = entry["ratio_range"]
        ours, plain = entry["ours"], entry["plain"]
        rows.append(
            [
                name,
                entry["batch_size"],
                f"{ours['images_per_second']:.1f}",
                f"{plain['images_per_second']:.1f}",
                f"**{entry['ratio']:.2f}** ({low:.2f} to {high:.2f})",
                f"{ours['peak_memory_mib']:.0f} / {plain['peak_memory_mib']:.0f}",
                f"{ours['first_step_seconds']:.1f} s",
            ]
        )
    if not rows:
        return "*Not measured: run `python benchmarks/run.py`.*\n"
    header = ["training", "batch", "images/s", "plain loop", "ratio", "peak MiB, ours / plain", "start to first step"]
    any_entry = next(results[f"speed/{problem}"] for problem in NAMES if f"speed/{problem}" in results)
    text = (
        "`python benchmarks/run.py` times our training steps and those of plain loops (`benchmarks/plain.py`: same "
        "network and batch, float32, a DataLoader with workers that decodes PNG files), in turns and each in a process "
        f"of its own. Medians of {any_entry['trials']} trials on {any_entry['device']}; in brackets the smallest and "
        "largest ratio of a pair. The time to the first step counts from the start of Python, with a warm cache.\n"
    )
    if any_entry.get("precision") == "float32":
        text += "This device has no fast bfloat16, so ours computed in float32 as the plain loops do.\n"
    return text + "\n" + table(header, rows)


def shares(results: Results) -> str:
    """Return where the time of a step goes."""
    rows = []
    for problem, name in NAMES.items():
        entry = results.get(f"speed/{problem}", {})
        for way, label in (("ours", name), ("best", "P3, our recipe")):
            if way in entry:
                parts = entry[way]["shares"]
                rows.append([label, *(percent(parts[part]) for part in PARTS)])
    if not rows:
        return ""
    header = ["part of a step", "data", "model", "optimiser", "average, log", "progress, checkpoints"]
    return table(header, rows)


def layout(results: Results) -> str:
    """Return which memory order is faster for which networks."""
    entry = results.get("layout")
    if entry is None:
        return ""
    rows = []
    for problem, name in (NAMES | {"p2-cpu": "P2, the U-Net of preset cpu"}).items():
        contiguous, channels_last = entry[problem]["contiguous"], entry[problem]["channels_last"]
        rows.append([name, f"{contiguous:.3f} s", f"{channels_last:.3f} s", f"{contiguous / channels_last:.2f}"])
    text = (
        f"Forward and backward pass with images in torch's default order and in channels_last, in turns "
        f"({entry['device']}). P1 and P3 train in channels_last, P2 does on GPUs only.\n"
    )
    return text + "\n" + table(["networks", "contiguous", "channels_last", "times faster in channels_last"], rows)


def loading(results: Results) -> str:
    """Return what the cache saves."""
    entry = results.get("loading")
    if entry is None:
        return ""
    return (
        f"Loading {entry['images']:,} pictures ({entry['dataset']}): {entry['decode_seconds']:.1f} s from PNG files, "
        f"{entry['cache_seconds']:.2f} s from the cache, **{entry['ratio']:.0f} times** faster "
        f"(medians of {entry['trials']}, {entry['device']}). A batch of 256 is then gathered in "
        f"{entry['gather_milliseconds']:.2f} ms.\n"
    )


def growth(space: Workspace, results: Results) -> str:
    """Return how costs grow."""
    entry = results.get("growth")
    if entry is None:
        return ""
    caption = (
        "Costs as the data and the batch grow: seconds to load pictures and their size in memory; seconds and peak "
        f"memory of a DANN step. {entry['device']}."
    )
    return picture(space, "benchmarks/growth.png", caption)


def readme_table(space: Workspace) -> str:
    """Return the ratios for the README."""
    results = read_results(space.results, "benchmarks")
    rows = [
        [name, f"{entry['ours']['images_per_second']:.1f}", f"{entry['ratio']:.2f}", entry["device"]]
        for problem, name in NAMES.items()
        if (entry := results.get(f"speed/{problem}"))
    ]
    if not rows:
        return "*Speed: not measured yet.*\n"
    return table(["training", "images/s", "times the plain loop", "on"], rows)
