"""Measure the speed of this repository on this machine, side by side with plain loops.

    python benchmarks/run.py                        # everything; the report's tables and plots
    python benchmarks/run.py --only speed loading --trials 1

Every measurement runs in a process of its own; ours and the plain loop take turns, so that a machine that slows
down slows both. Results go to results/benchmarks.json, plots to images/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cache import list_images
from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import dataset_name
from common.device import bfloat16_is_fast, pick_device
from common.errors import UserError, run_main
from common.paths import Workspace, workspace
from common.plots import new_figure, save_figure
from common.progress import progress_bar
from common.results import read_results, record

ONE = Path(__file__).with_name("one.py")
PARTS = ("speed", "layout", "loading", "growth")
BATCH_SIZES = {"p1": 32, "p2": 8, "p3": 64}  # what two CPU cores can bear with the networks of the report
LAYOUTS = {"p1": (32, 15), "p2": (8, 5), "p2-cpu": (32, 20), "p3": (64, 100)}  # batch, passes of each order
GROWING_BATCHES = (32, 64, 128, 256, 512)
GROWING_SETS = (10_000, 50_000, 200_000)
DIFFERENT_FILES = 1000  # a growing data set repeats so many files under new names


def measure(*command: object) -> dict[str, Any]:
    """Run ``one.py`` and return what it printed.

    Raises:
        UserError: it failed; its own last line says why.
    """
    done = subprocess.run([sys.executable, ONE, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"benchmarks/one.py {' '.join(map(str, command))}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def median_of(trials: Sequence[dict[str, Any]], key: str) -> float:
    """Return the median of a measured value."""
    return statistics.median(trial[key] for trial in trials)


def speed(arguments: argparse.Namespace, space: Workspace) -> None:
    """Compare our training steps with the plain loops, and see where the time of ours goes."""
    for problem, batch_size in BATCH_SIZES.items():
        ways = {"ours": (problem, "ours"), "plain": (problem, "plain")}
        if problem == "p3":
            ways["best"] = ("p3-best", "ours")
        trials: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        options = ["--batch-size", batch_size, "--seconds", arguments.seconds, "--data-root", arguments.data_root]
        options += ["--device", arguments.device]
        turns = [way for _ in range(arguments.trials) for way in ways]
        for way in progress_bar(turns, desc=f"speed of {problem}", unit="run"):
            trials[way].append(measure("train", *ways[way], *options, "--started", time.time()))
        ratios = [
            ours["images_per_second"] / plain["images_per_second"]
            for ours, plain in zip(trials["ours"], trials["plain"], strict=True)
        ]
        values = {"batch_size": batch_size, "trials": arguments.trials, "ratio": statistics.median(ratios)}
        values |= {"ratio_range": [min(ratios), max(ratios)]}
        values["precision"] = "bfloat16" if bfloat16_is_fast(pick_device(arguments.device)) else "float32"
        for way, measured in trials.items():
            values[way] = {key: median_of(measured, key) for key in measured[0] if key not in ("steps", "shares")}
            if way != "plain":
                parts = measured[0]["shares"]
                values[way]["shares"] = {part: statistics.fmean(m["shares"][part] for m in measured) for part in parts}
        record(space.results, "benchmarks", f"speed/{problem}", rounded(values), pick_device(arguments.device))


def layout(arguments: argparse.Namespace, space: Workspace) -> None:
    """Compare the two memory orders of images, which each problem's ``memory_format`` was chosen by."""
    values: dict[str, Any] = {}
    for problem, (batch_size, passes) in progress_bar(LAYOUTS.items(), desc="memory order", unit="network"):
        options = ["--batch-size", batch_size, "--trials", passes, "--device", arguments.device]
        values[problem] = measure("layout", problem, *options) | {"batch_size": batch_size}
    record(space.results, "benchmarks", "layout", rounded(values), pick_device(arguments.device))


def copies(source: Path, count: int, folder: Path) -> Path:
    """Fill ``folder`` with ``count`` pictures: links to files of ``source``, copied once, in turn."""
    originals = []
    (folder / "originals").mkdir(parents=True)
    (folder / "data").mkdir()
    for name in list_images(source)[:DIFFERENT_FILES]:
        originals.append(folder / "originals" / name)
        originals[-1].write_bytes((source / name).read_bytes())
    for index in range(count):
        os.link(originals[index % len(originals)], folder / "data" / f"{index:06d}.png")
    return folder / "data"


def loading(arguments: argparse.Namespace, space: Workspace) -> None:
    """Time the first and the second start on the training pictures of MNIST-M."""
    source = arguments.data_root / "digits" / "mnistm" / "data"
    trials = []
    for _ in progress_bar(range(arguments.trials), desc="loading", unit="run"):
        with tempfile.TemporaryDirectory() as folder:
            trials.append(measure("load", copies(source, len(list_images(source)), Path(folder))))
    values = {key: median_of(trials, key) for key in trials[0]} | {"trials": arguments.trials}
    values["ratio"] = values["decode_seconds"] / values["cache_seconds"]
    values["dataset"] = dataset_name(arguments.data_root, "mnistm")
    record(space.results, "benchmarks", "loading", rounded(values), pick_device(arguments.device))


def growth(arguments: argparse.Namespace, space: Workspace) -> None:
    """See how time and memory grow with the data set and with the batch."""
    device = pick_device(arguments.device)
    source = arguments.data_root / "digits" / "mnistm" / "data"
    sets, batches = [], []
    for count in progress_bar(GROWING_SETS, desc="growing data", unit="run"):
        with tempfile.TemporaryDirectory() as folder:
            sets.append(measure("load", copies(source, count, Path(folder))))
    for batch_size in progress_bar(GROWING_BATCHES, desc="growing batch", unit="run"):
        options = ["--batch-size", batch_size, "--seconds", arguments.seconds, "--data-root", arguments.data_root]
        options += ["--device", arguments.device]
        measured = measure("train", "p3-best", "ours", *options)
        batches.append({"batch_size": batch_size} | {k: v for k, v in measured.items() if k != "shares"})
    record(space.results, "benchmarks", "growth", rounded({"data": sets, "batch": batches}), device)


def draw_growth(space: Workspace) -> None:
    """Draw the plot of ``growth``."""
    entry = read_results(space.results, "benchmarks")["growth"]
    sets, batches = entry["data"], entry["batch"]
    figure, axes = new_figure(1, 4, (15.0, 3.4))
    counts = [point["images"] / 1000 for point in sets]
    sizes = [point["batch_size"] for point in batches]
    lines = [
        (axes[0][0], "loading", "thousand pictures", "seconds", counts, sets, "decode_seconds", "PNG files"),
        (axes[0][0], "loading", "thousand pictures", "seconds", counts, sets, "cache_seconds", "cache"),
        (axes[0][1], "memory of the data", "thousand pictures", "MiB", counts, sets, "tensor_mib", None),
        (axes[0][2], "one step (P3)", "batch size", "seconds", sizes, batches, "seconds_per_step", None),
        (axes[0][3], "peak memory (P3)", "batch size", "MiB", sizes, batches, "peak_memory_mib", None),
    ]
    for axis, title, x, y, xs, points, key, label in lines:
        axis.plot(xs, [point[key] for point in points], marker="o", label=label)
        axis.set(title=title, xlabel=x, ylabel=y, ylim=(0, None), xlim=(0, None))
        if label:
            axis.legend()
    save_figure(figure, space.images / "benchmarks" / "growth.png")


def rounded(thing: Any) -> Any:
    """Return nested values with floats of four significant digits."""
    if isinstance(thing, dict):
        return {key: rounded(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [rounded(value) for value in thing]
    return float(f"{thing:.4g}") if isinstance(thing, float) else thing


def main() -> None:
    """Parse the command line, measure, and draw."""
    parser = make_parser(__doc__.split("\n")[0], "\n".join(__doc__.split("\n\n")[1:2]))
    add_common_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--trials", type=positive_int, default=3, help="how often; medians are kept")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the steps of one trial are timed")
    arguments = parser.parse_args()
    arguments.data_root = arguments.data_root.resolve()
    space = workspace("cpu", arguments.output)
    if "speed" in arguments.only:
        speed(arguments, space)
    if "layout" in arguments.only:
        layout(arguments, space)
    if "loading" in arguments.only:
        loading(arguments, space)
    if "growth" in arguments.only:
        growth(arguments, space)
        draw_growth(space)
    print(f"wrote {space.results / 'benchmarks.json'}")


if __name__ == "__main__":
    run_main(main)
