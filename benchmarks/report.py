"""The section of report.md on speed, made from what ``run.py`` measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from common.paths import Workspace
from common.report import duration, percent, picture, table
from common.results import read_results

Results = Mapping[str, Mapping[str, Any]]

NAMES = {
    "p1": "P1, DCGAN",
    "p2": "P2, the U-Net of the original report",
    "p3": "P3, DANN as in the original report",
}
AIMS = {"p1": 2.0, "p2": 1.4, "p3": 2.0}  # times the plain loop
CACHE_AIM = 20  # times faster than decoding
NOT_MEASURED = "*Not measured: run `python benchmarks/run.py`.*\n"
OUTSIDE_LIMIT = 0.05  # share of a step that may lie outside the networks before it is explained
# Part of a step: heading of its column, and its name in a sentence.
STEP_PARTS = {
    "data": ("data", "gathering and augmenting the batch"),
    "model": ("model", "the networks"),
    "optimiser": ("optimiser", "the optimiser"),
    "average and log": ("average, log", "averaging the weights and logging"),
    "run": ("progress, checkpoints", "progress and checkpoints"),
}


def render(space: Workspace) -> str:
    """Return the section as Markdown; what was not measured is said to be missing."""
    results = read_results(space.results, "benchmarks")
    caption = (
        "Costs as the data and the batch grow, on logarithmic axes; a dotted line is what proportional growth would be"
    )
    plot = [picture(space, "benchmarks/growth.png", f"{caption}.")] if "growth" in results else []
    missing = [] if any(f"speed/{problem}" in results for problem in NAMES) else [NOT_MEASURED]
    return "\n".join(["## Speed\n", *missing, tables(space), *plot])


def tables(space: Workspace, parts: Collection[str] | None = None) -> str:
    """Return the tables of some parts of ``run.py``, or of all, without those not measured."""
    results = read_results(space.results, "benchmarks")
    chosen = [show for part, shows in TABLES.items() if parts is None or part in parts for show in shows]
    return "\n".join(text for show in chosen if (text := show(results)))


def speed(results: Results) -> str:
    """Return the comparison with the plain loops."""
    entries = speed_entries(results)
    if not entries:
        return ""
    rows = []
    for problem, entry in entries.items():
        ours, plain = entry["ours"], entry["plain"]
        # Older records have no time until the first step begins.
        begins = ours.get("until_first_step_seconds")
        rows.append(
            [
                NAMES[problem],
                entry["batch_size"],
                f"{ours['images_per_second']:.1f}",
                f"{plain['images_per_second']:.1f}",
                ratio(entry),
                f"{AIMS[problem]:.1f}",
                f"{ours['peak_memory_mib']:.0f} / {plain['peak_memory_mib']:.0f}",
                f"{'–' if begins is None else f'{begins:.1f} s'} / {ours['first_step_seconds']:.1f} s",
            ]
        )
    header = ["training", "batch", "images/s", "plain loop", "ratio", "aim", "peak MiB, ours / plain"]
    header.append("start to first step begins / ends")
    any_entry = next(iter(entries.values()))
    text = (
        "`python benchmarks/run.py` times our training steps and those of plain loops (`benchmarks/plain.py`: same "
        "network and batch, float32, a DataLoader with workers that decodes PNG files), in turns and each in a process "
        f"of its own; nothing is compiled. Medians of {any_entry['trials']} trials on {any_entry['device']}; in "
        "brackets the smallest and largest ratio of a pair, bold where all are above 1. The time to the first step "
        "counts from the start of Python, with a warm cache.\n"
    )
    if any_entry["precision"] == "float32":
        text += "This device has no fast bfloat16, so ours computed in float32 as the plain loops do.\n"
    remarks = "".join(missed_aim(problem, entry) for problem, entry in entries.items())
    return "\n".join(part for part in (text, table(header, rows), remarks) if part)


def speed_entries(results: Results) -> dict[str, Mapping[str, Any]]:
    """Return the comparisons that were made, by problem."""
    return {problem: entry for problem in NAMES if (entry := results.get(f"speed/{problem}"))}


def ratio(entry: Mapping[str, Any]) -> str:
    """Return how many times as fast ours is, with the range; bold only where no pair says otherwise."""
    low, high = entry["ratio_range"]
    median = f"{entry['ratio']:.2f}"
    return f"{f'**{median}**' if low > 1 else median} ({low:.2f} to {high:.2f})"


def missed_aim(problem: str, entry: Mapping[str, Any]) -> str:
    """Return one sentence on what is left to gain where the ratio is below its aim."""
    if entry["ratio"] >= AIMS[problem]:
        return ""
    model = entry["ours"]["shares"]["model"]
    return (
        f"- {NAMES[problem]}, misses its aim of {AIMS[problem]:.1f}: {percent(model)} of our step is the networks' own "
        f"arithmetic in {entry['precision']}, so memory order, memory reuse and loading are the means that remain; "
        f"with everything else free the ratio would be {entry['ratio'] / model:.2f}.\n"
    )


def shares(results: Results) -> str:
    """Return where the time of a step goes, and what takes it where much is not the networks'."""
    rows, remarks = [], ""
    for problem, entry in speed_entries(results).items():
        for way, label in (("ours", NAMES[problem]), ("best", "P3, our recipe")):
            if way in entry:
                parts = entry[way]["shares"]
                rows.append([label, *(percent(parts[part]) for part in STEP_PARTS)])
                remarks += outside(label, parts)
    if not rows:
        return ""
    header = ["part of a step", *(heading for heading, _ in STEP_PARTS.values())]
    return "\n".join(part for part in (table(header, rows), remarks) if part)


def outside(label: str, parts: Mapping[str, float]) -> str:
    """Return one sentence on a step that spends more than ``OUTSIDE_LIMIT`` outside its networks."""
    share = 1 - parts["model"]
    if share <= OUTSIDE_LIMIT:
        return ""
    largest = max((part for part in STEP_PARTS if part != "model"), key=lambda part: parts[part])
    return (
        f"- {label}, spends {percent(share)} of a step outside its networks, most of it on "
        f"{STEP_PARTS[largest][1]} ({percent(parts[largest])}).\n"
    )


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
        f"Loading {entry['images']:,.0f} pictures ({entry['dataset']}): {entry['decode_seconds']:.1f} s from PNG "
        f"files, {entry['cache_seconds']:.2f} s from the cache, **{entry['ratio']:.0f} times** faster "
        f"(aim: {CACHE_AIM}; medians of {entry['trials']}, {entry['device']}). A batch of 256 is then gathered in "
        f"{entry['gather_milliseconds']:.2f} ms.\n"
    )


def growth(results: Results) -> str:
    """Return how costs grow: what is linear costs the same by the picture, however many there are."""
    entry = results.get("growth")
    if entry is None:
        return ""
    sets, batches = entry["data"], entry["batch"]
    text = (
        f"From {ends(sets, 'images')} pictures, loading a thousand of them goes from "
        f"{each(sets, 'decode_seconds', 'images', 1000)} with PNG files, and from "
        f"{each(sets, 'cache_seconds', 'images', 1000)} with the cache. From {ends(batches, 'batch_size')} pictures a "
        f"batch, a P3 step goes from {each(batches, 'seconds_per_step', 'batch_size', 1)} a picture. Peak memory grows "
        f"by {added(batches, 'batch_size', 1)} with every picture of the batch"
    )
    # Older records have no peak memory of loading.
    if "peak_memory_mib" in sets[0]:
        text += f", and by {added(sets, 'images', 1000)} with every thousand of the data set"
    return f"{text} (between the two smallest, and between the two largest; {entry['device']}).\n"


def ends(points: Sequence[Mapping[str, float]], count: str) -> str:
    """Return the smallest and the largest count."""
    return f"{points[0][count]:,} to {points[-1][count]:,}"


def each(points: Sequence[Mapping[str, float]], key: str, count: str, unit: int) -> str:
    """Return the milliseconds of ``unit`` pictures at the smallest and the largest point, and their ratio."""
    first, last = (1000 * unit * point[key] / point[count] for point in (points[0], points[-1]))
    return f"{first:.3g} to {last:.3g} ms ({last / first:.2f} times as long)"


def added(points: Sequence[Mapping[str, float]], count: str, unit: int) -> str:
    """Return the peak memory that ``unit`` more pictures take, between the first two and the last two points."""
    slopes = (
        unit * (more["peak_memory_mib"] - fewer["peak_memory_mib"]) / (more[count] - fewer[count])
        for fewer, more in (points[:2], points[-2:])
    )
    return " and ".join(f"{slope:.2f}" for slope in slopes) + " MiB"


def inference(results: Results) -> str:
    """Return how long the inference commands take."""
    entry = results.get("inference")
    if entry is None:
        return ""
    rows = []
    for one in entry["commands"]:
        aim = "–" if one["aim_seconds"] is None else duration(one["aim_seconds"])
        measured = duration(one["seconds"])
        rows.append([f"`{one['command']}`", f"{one['pictures']:,}", measured, duration(one["limit_seconds"]), aim])
    text = (
        "Inference with the shipped weights, each command run once as a user runs it and timed from the start of "
        f"Python to its end ({entry['device']}).\n"
    )
    return text + "\n" + table(["command", "pictures", "time", "limit of the course", "our aim"], rows)


TABLES = {
    "speed": (speed, shares),
    "layout": (layout,),
    "loading": (loading,),
    "growth": (growth,),
    "inference": (inference,),
}


def readme_table(space: Workspace) -> str:
    """Return the ratios for the README."""
    rows = [
        [NAMES[problem], f"{entry['ours']['images_per_second']:.1f}", ratio(entry), entry["device"]]
        for problem, entry in speed_entries(read_results(space.results, "benchmarks")).items()
    ]
    if not rows:
        return "*Speed: not measured yet.*\n"
    return table(["training", "images/s", "ratio to the plain loop (range)", "device"], rows)
