"""Measure the speed of this repository on this machine, side by side with plain loops.

    python benchmarks/run.py                        # everything: about 20 minutes on two cores
    python benchmarks/run.py --only speed loading --trials 1
    python benchmarks/run.py --only inference       # the commands that use the shipped weights

Every measurement runs in a process of its own; ours and the plain loop take turns, so that a machine that slows
down slows both. Results go to results/benchmarks.json, plots to images/benchmarks/, tables to the terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from common.cache import list_images
from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import dataset_name
from common.device import bfloat16_is_fast, pick_device
from common.errors import UserError, run_main
from common.paths import ROOT, Workspace, workspace
from common.plots import new_figure, save_figure
from common.progress import progress_bar
from common.results import read_results, record

BATCH_SIZES = {"p1": 32, "p2": 8, "p3": 64}  # what two CPU cores can bear with the networks of the report
LAYOUTS = {"p1": (32, 15), "p2": (8, 5), "p2-cpu": (32, 20), "p3": (64, 100)}  # batch, passes of each order
GROWING_BATCHES = (32, 64, 128, 256, 512)
GROWING_SETS = (10_000, 50_000, 200_000)
DIFFERENT_FILES = 1000  # a growing data set repeats so many files under new names


@dataclass(frozen=True)
class Inference:
    """An inference command as README.md has it, and how long it may take on two CPU cores."""

    command: str
    limit_seconds: int  # the course's
    aim_seconds: int | None = None  # our own
    count_option: str = ""
    pictures_per_count: int = 1


INFERENCES = (
    Inference("p1_gan/inference.py faces --method A", 600, 30, "--num"),
    Inference("p1_gan/inference.py faces --method B", 600, 30, "--num"),
    Inference("p2_diffusion/inference.py digits", 900, None, "--num-per-digit", 10),
    Inference("p3_dann/inference.py hw2_data/digits/svhn/data pred.csv", 600),
    Inference("p3_dann/inference.py hw2_data/digits/usps/data pred.csv", 600),
)


def printed_by(script: str, *options: object, folder: Path | None = None) -> str:
    """Run ``script`` of the repository in ``folder`` and return what it printed.

    Raises:
        UserError: it failed; its own last line says why.
    """
    command = [sys.executable, str(ROOT / script), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{script} {' '.join(map(str, options))}: {last}")
    return done.stdout


def measure(*command: object) -> dict[str, Any]:
    """Run ``one.py`` and return what it measured."""
    return json.loads(printed_by("benchmarks/one.py", *command).splitlines()[-1])


def measure_training(
    problem: str, way: str, batch_size: int, seconds: float, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Time training steps for so many seconds."""
    options = ["--batch-size", batch_size, "--seconds", seconds, "--data-root", arguments.data_root]
    options += ["--device", arguments.device, "--started", time.time()]
    return measure("train", problem, way, *options)


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
        turns = [way for _ in range(arguments.trials) for way in ways]
        for way in progress_bar(turns, desc=f"speed of {problem}", unit="run"):
            trials[way].append(measure_training(*ways[way], batch_size, arguments.seconds, arguments))
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
        # A third of the time, as nothing is divided by a noisy second measurement.
        measured = measure_training("p3-best", "ours", batch_size, arguments.seconds / 3, arguments)
        batches.append({"batch_size": batch_size} | {k: v for k, v in measured.items() if k != "shares"})
    record(space.results, "benchmarks", "growth", rounded({"data": sets, "batch": batches}), device)
    draw_growth(space)


def draw_growth(space: Workspace) -> None:
    """Draw the plot of ``growth``, on logarithmic axes: what is proportional to the count follows its dotted line."""
    entry = read_results(space.results, "benchmarks")["growth"]
    figure, axes = new_figure(1, 4, (15.0, 3.6))
    panels = [
        ("loading", "images", "seconds", {"decode_seconds": "PNG files", "cache_seconds": "cache"}),
        ("memory of the data", "images", "MiB", {"tensor_mib": "pictures", "peak_memory_mib": "process, peak"}),
        ("one step (P3)", "batch_size", "seconds", {"seconds_per_step": "step"}),
        ("peak memory (P3)", "batch_size", "MiB", {"peak_memory_mib": "process, peak"}),
    ]
    for axis, (title, x, unit, lines) in zip(axes[0], panels, strict=True):
        points = entry["data" if x == "images" else "batch"]
        xs = [point[x] for point in points]
        for key, label in lines.items():
            ys = [point[key] for point in points]
            (line,) = axis.plot(xs, ys, marker="o", label=label)
            if key != "peak_memory_mib":  # of which torch itself is a part that does not grow
                axis.plot(xs, [ys[0] * count / xs[0] for count in xs], ":", color=line.get_color(), alpha=0.6)
        axis.set(title=title, xlabel=x.replace("_", " "), ylabel=unit, xscale="log", yscale="log")
        axis.set_xticks(xs, [f"{count:,}" for count in xs])
        axis.set_xticks([], minor=True)
        axis.legend()
    save_figure(figure, space.images / "benchmarks" / "growth.png")


def inference(arguments: argparse.Namespace, space: Workspace) -> None:
    """Time the inference commands from the start of Python to the last file, with the shipped weights."""
    commands = []
    for one in progress_bar(INFERENCES, desc="inference", unit="command"):
        script, *options = one.command.split()
        if one.count_option:
            options += [one.count_option, str(-(-arguments.pictures // one.pictures_per_count))]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "hw2_data").symlink_to(arguments.data_root)
            begun = time.perf_counter()
            printed = printed_by(script, *options, "--device", arguments.device, folder=Path(folder))
            seconds = time.perf_counter() - begun
        values = {"command": one.command, "pictures": int(re.search(r"(\d+) pictures", printed)[1])}
        values |= {"seconds": seconds, "limit_seconds": one.limit_seconds, "aim_seconds": one.aim_seconds}
        commands.append(values)
    record(space.results, "benchmarks", "inference", rounded({"commands": commands}), pick_device(arguments.device))


def rounded(thing: Any) -> Any:
    """Return nested values with floats of four significant digits."""
    if isinstance(thing, dict):
        return {key: rounded(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [rounded(value) for value in thing]
    return float(f"{thing:.4g}") if isinstance(thing, float) else thing


PARTS = {"speed": speed, "layout": layout, "loading": loading, "growth": growth, "inference": inference}


def main() -> None:
    """Parse the command line, measure, draw, and print the tables."""
    parser = make_parser(__doc__)
    add_common_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--trials", type=positive_int, default=3, help="how often; medians are kept")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the steps of one trial are timed")
    parser.add_argument("--pictures", type=positive_int, default=1000, help="how many P1 and P2 draw in inference")
    arguments = parser.parse_args()
    arguments.data_root = arguments.data_root.resolve()
    space = workspace("cpu", arguments.output)
    measured = [part for part in PARTS if part in arguments.only]
    for part in measured:
        PARTS[part](arguments, space)
    print(report.tables(space, measured))
    print(f"wrote {space.results / 'benchmarks.json'}")


if __name__ == "__main__":
    run_main(main)
