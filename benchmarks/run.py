"""Measure the speed of this repository on this machine, training side by side with plain loops.

    python benchmarks/run.py                        # about 15 minutes on two cores
    python benchmarks/run.py --only speed --trials 1
    python benchmarks/run.py --only inference       # the commands that use the shipped weights

Training and inference run as commands of their own, ours and the plain loop in turns, so that a machine that slows down
slows both. Results go to results/benchmarks.json, tables to the terminal.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cache import list_images, load_images
from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import DIGIT_SIZE, dataset_name
from common.device import bfloat16_is_fast, pick_device
from common.errors import UserError, run_main
from common.paths import ROOT, Workspace, workspace
from common.progress import progress_bar
from common.report import Results, duration, measured_on, table
from common.results import read_results, record

# The same work as that of the plain loops: no augmentation but theirs. Batches that two CPU cores can bear.
TRAININGS = {
    "p1": ("P1, DCGAN", 32, "p1_gan/train.py --method A"),
    "p2": ("P2, the U-Net of the original report", 8, "p2_diffusion/train.py --preset full --no-compile"),
    "p3": ("P3, DANN as in the original report", 64, "p3_dann/train.py --mode dann --target svhn --preset original"),
}
# Commands of inference, the option that says how many pictures, and how many one of its units are.
INFERENCES = (
    ("p1_gan/inference.py faces --method A", "--num", 1),
    ("p1_gan/inference.py faces --method B", "--num", 1),
    ("p2_diffusion/inference.py digits", "--num-per-digit", 10),
    ("p3_dann/inference.py hw2_data/digits/svhn/data pred.csv", "", 0),
    ("p3_dann/inference.py hw2_data/digits/usps/data pred.csv", "", 0),
)
WARM_UP_SECONDS = 5


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


def ours(problem: str, arguments: argparse.Namespace) -> float:
    """Return the pictures a second of train.py: of what a long run does beyond a short one, both from the start."""
    _, batch_size, command = TRAININGS[problem]
    script, *options = command.split()
    options += ["--batch-size", str(batch_size), "--data-root", arguments.data_root, "--device", arguments.device]
    options += ["--steps", str(10**9)]
    done = []
    for seconds in (WARM_UP_SECONDS, WARM_UP_SECONDS + arguments.seconds):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            printed_by(script, *options, "--max-seconds", seconds, "--output", folder, "--run-dir", run)
            done.append(json.loads((run / "timing.json").read_text()))
    short, long = done
    if long["step"] == short["step"]:
        raise UserError(f"--seconds {arguments.seconds}: a step of {problem} takes longer here; name more")
    return batch_size * (long["step"] - short["step"]) / (long["seconds"] - short["seconds"])


def plain(problem: str, arguments: argparse.Namespace) -> float:
    """Return the pictures a second of the plain loop."""
    options = ["--batch-size", TRAININGS[problem][1], "--seconds", arguments.seconds, "--device", arguments.device]
    return float(printed_by("benchmarks/plain.py", problem, *options, "--data-root", arguments.data_root))


def speed(arguments: argparse.Namespace, space: Workspace) -> None:
    """Compare our training steps with those of the plain loops."""
    device = pick_device(arguments.device)
    for problem, (_, batch_size, _) in TRAININGS.items():
        trials = progress_bar(range(arguments.trials), desc=f"speed of {problem}", unit="trial")
        pairs = [(ours(problem, arguments), plain(problem, arguments)) for _ in trials]
        ratios = [fast / slow for fast, slow in pairs]
        values = {
            "batch_size": batch_size,
            "trials": arguments.trials,
            "precision": "bfloat16" if bfloat16_is_fast(device) else "float32",
            "ours": statistics.median(pair[0] for pair in pairs),
            "plain": statistics.median(pair[1] for pair in pairs),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        }
        record(space.results, "benchmarks", f"speed/{problem}", rounded(values), device)


def loading(arguments: argparse.Namespace, space: Workspace) -> None:
    """Time the decoding of MNIST-M's pictures, and reading them from the cache that training makes."""
    folder = arguments.data_root / "digits" / "mnistm" / "data"
    names = list_images(folder)
    load_images(folder, names, DIGIT_SIZE)  # makes the cache
    ways = {"decode_seconds": False, "cache_seconds": True}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in progress_bar(range(arguments.trials), desc="loading", unit="trial"):
        for way, cache in ways.items():
            begun = time.perf_counter()
            load_images(folder, names, DIGIT_SIZE, cache=cache)
            seconds[way].append(time.perf_counter() - begun)
    values: dict[str, Any] = {way: statistics.median(trials) for way, trials in seconds.items()}
    values["ratio"] = values["decode_seconds"] / values["cache_seconds"]
    values |= {"images": len(names), "dataset": dataset_name(arguments.data_root, "mnistm"), "trials": arguments.trials}
    record(space.results, "benchmarks", "loading", rounded(values), pick_device(arguments.device))


def inference(arguments: argparse.Namespace, space: Workspace) -> None:
    """Time the inference commands from the start of Python to the last file, with the shipped weights."""
    commands = []
    for command, count_option, unit in progress_bar(INFERENCES, desc="inference", unit="command"):
        script, *options = command.split()
        if count_option:
            options += [count_option, str(-(-arguments.pictures // unit))]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "hw2_data").symlink_to(arguments.data_root)
            begun = time.perf_counter()
            printed = printed_by(script, *options, "--device", arguments.device, folder=Path(folder))
            seconds = time.perf_counter() - begun
        pictures = int(re.search(r"(\d+) pictures", printed)[1])
        commands.append({"command": command, "pictures": pictures, "seconds": seconds})
    record(space.results, "benchmarks", "inference", rounded({"commands": commands}), pick_device(arguments.device))


def rounded(thing: Any) -> Any:
    """Return nested values with floats of four significant digits."""
    if isinstance(thing, dict):
        return {key: rounded(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [rounded(value) for value in thing]
    return float(f"{thing:.4g}") if isinstance(thing, float) else thing


def speed_table(results: Results) -> str:
    """Return the comparison with the plain loops; a ratio is bold where no trial says otherwise."""
    entries = {problem: entry for problem in TRAININGS if (entry := results.get(f"speed/{problem}"))}
    rows = []
    for problem, entry in entries.items():
        low, high = entry["ratio_range"]
        ratio = f"**{entry['ratio']:.2f}**" if low > 1 else f"{entry['ratio']:.2f}"
        figures = [f"{entry['ours']:.1f}", f"{entry['plain']:.1f}", f"{ratio} ({low:.2f} to {high:.2f})"]
        rows.append([TRAININGS[problem][0], entry["batch_size"], *figures, entry["precision"]])
    header = ["training", "batch", "images/s", "plain loop", "ratio (range)", "ours in"]
    return f"{table(header, rows)}\n*{measured_on([*entries.values()])}*\n" if rows else "*Not measured yet.*\n"


def times_table(results: Results) -> str:
    """Return what loading and the inference commands take; empty where neither was measured."""
    entries = [results[name] for name in ("loading", "inference") if name in results]
    rows = []
    if entry := results.get("loading"):
        for way, name in (("decode_seconds", "PNG files"), ("cache_seconds", "the cache")):
            rows.append([f"loading MNIST-M from {name}", f"{entry['images']:,}", f"{entry[way]:.2f} s"])
    if entry := results.get("inference"):
        rows += [[f"`{one['command']}`", f"{one['pictures']:,}", duration(one["seconds"])] for one in entry["commands"]]
    return f"{table(['', 'pictures', 'time'], rows)}\n*{measured_on(entries)}*\n" if rows else ""


PARTS = {"speed": speed, "loading": loading, "inference": inference}


def main() -> None:
    """Parse the command line, measure, and print the tables."""
    parser = make_parser(__doc__)
    add_common_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--trials", type=positive_int, default=3, help="how often; medians are kept")
    parser.add_argument("--seconds", type=positive_int, default=15, help="how long the steps of one trial are timed")
    parser.add_argument("--pictures", type=positive_int, default=1000, help="how many P1 and P2 draw in inference")
    arguments = parser.parse_args()
    arguments.data_root = arguments.data_root.resolve()
    arguments.device = str(pick_device(arguments.device))
    space = workspace("cpu", arguments.output)
    for part in arguments.only:
        PARTS[part](arguments, space)
    results = read_results(space.results, "benchmarks")
    print(f"{speed_table(results)}\n{times_table(results)}\nwrote {space.results / 'benchmarks.json'}")


if __name__ == "__main__":
    run_main(main)
