"""Measure the speed of this repository on this machine.

    python benchmarks/speed.py                        # everything, about an hour on two cores
    python benchmarks/speed.py training --trials 5    # ours side by side with the plain loops
    python benchmarks/speed.py sampling               # seconds per 1,000 images
    python benchmarks/speed.py threads                # OpenMP settings, idle and beside a busy process

Every trial is a command of its own, the compared ones in turns, so that a machine that slows down slows all of them.
Records go to runs/benchmarks/; scripts/collect.py brings them to results/benchmarks.jsonl.
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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT, usable_cores
from common.cli import UserError, add_common_arguments, make_parser, positive_int, progress_bar, run_main
from common.device import bfloat16_is_fast, pick_device
from common.weights import load_checkpoint, write_record

# The work of the plain loops, at batch sizes that two CPU cores can bear.
TRAINING = {
    "p1": (32, "p1_gan/train.py --method A"),
    "p2": (8, "p2_diffusion/train.py --preset full --no-compile"),
    "p3": (64, "p3_dann/train.py --method dann --target svhn --inputs plain"),
}
# How many images a user samples, and with what.
SAMPLING = {
    "p1 B": (1000, "p1_gan/inference.py {out} --method B --num 1000"),
    "p2 student": (1000, "p2_diffusion/inference.py {out} --model student4"),
    "p2 cpu": (1000, "p2_diffusion/inference.py {out} --model cpu"),
    "p2 full": (100, "p2_diffusion/inference.py {out} --model full --num-per-digit 10"),
    "p3 svhn": (8500, "p3_dann/inference.py {data}/digits/svhn/data {out}/pred.csv --target svhn"),
}
# Ways to run two OpenMP threads on two cores.
THREADS = {
    "default": {"GOMP_SPINCOUNT": "300000"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
THREADED = {
    "p1 cpu": "p1_gan/train.py --method A --batch-size 32",
    "p2 cpu": "p2_diffusion/train.py --preset cpu",
    "p3 cpu": "p3_dann/train.py --method ours --target svhn",
}
WARM_UP_SECONDS = 5


def printed_by(command: str, *options: object, env: dict[str, str] | None = None) -> str:
    """Run a command of the repository and return what it printed; its own last line says why it failed."""
    words = [sys.executable, *f"{ROOT}/{command}".split(), *map(str, options)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | (env or {}))
    if done.returncode not in (0, 75):  # 75: ended by --max-seconds
        raise UserError(f"{command}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return done.stdout


def steps_per_second(command: str, arguments: argparse.Namespace, env: dict[str, str] | None = None) -> float:
    """Return the speed of a train.py: the steps that a long run does beyond a short one, both from the start."""
    options = ["--data-root", arguments.data_root, "--device", arguments.device, "--steps", 10**9]
    done = []
    for seconds in (WARM_UP_SECONDS, WARM_UP_SECONDS + arguments.seconds):
        with tempfile.TemporaryDirectory() as folder:
            printed_by(command, *options, "--max-seconds", seconds, "--run-dir", f"{folder}/run", env=env)
            done.append(load_checkpoint(Path(folder, "run/checkpoint.pt")))
    short, long = done
    if long["step"] == short["step"]:
        raise UserError(f"--seconds {arguments.seconds}: too short for a step of {command}")
    return (long["step"] - short["step"]) / (long["seconds"] - short["seconds"])


def spread(name: str, values: list[float]) -> dict[str, float]:
    """Return the columns of a record that tell a measurement and how far its trials lie apart."""
    return {name: statistics.median(values), f"{name}_low": min(values), f"{name}_high": max(values)}


def record(arguments: argparse.Namespace, name: str, **columns: Any) -> None:
    """Write and print one row of the report's tables."""
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in columns.items()}
    rounded |= {"problem": "benchmark", "kind": name.split("_")[0], "trials": arguments.trials}
    print(json.dumps(write_record(arguments.run_dir, name.replace(" ", "_"), rounded, pick_device(arguments.device))))


def training(arguments: argparse.Namespace) -> None:
    """Compare our training steps with those of the plain loops."""
    precision = "bfloat16" if bfloat16_is_fast(pick_device(arguments.device)) else "float32"
    for problem, (batch_size, command) in TRAINING.items():
        ours, plain = [], []
        options = ["--batch-size", batch_size, "--data-root", arguments.data_root, "--device", arguments.device]
        for _ in progress_bar(range(arguments.trials), desc=f"training {problem}", unit="trial"):
            ours.append(batch_size * steps_per_second(f"{command} --batch-size {batch_size}", arguments))
            plain.append(float(printed_by(f"benchmarks/plain.py {problem}", *options, "--seconds", arguments.seconds)))
        ratios = [fast / slow for fast, slow in zip(ours, plain, strict=True)]
        columns = spread("ours", ours) | spread("plain", plain) | spread("ratio", ratios)
        record(arguments, f"training_{problem}", task=problem, batch_size=batch_size, precision=precision, **columns)


def sampling(arguments: argparse.Namespace) -> None:
    """Time the inference commands from the start of Python to the last file, with the shipped weights."""
    seconds: dict[str, list[float]] = {task: [] for task in SAMPLING}
    for _ in progress_bar(range(arguments.trials), desc="sampling", unit="trial"):
        for task, (_, command) in SAMPLING.items():
            with tempfile.TemporaryDirectory() as folder:
                begun = time.perf_counter()
                printed_by(command.format(out=folder, data=arguments.data_root), "--device", arguments.device)
                seconds[task].append(time.perf_counter() - begun)
    for task, (count, command) in SAMPLING.items():
        columns = spread("seconds", seconds[task])
        record(arguments, f"sampling_{task}", task=task, command=command, num_images=count, **columns)


def threads(arguments: argparse.Namespace) -> None:
    """Compare OpenMP settings on an idle machine, and beside a busy process of another session (terminal)."""
    for task, command in progress_bar(THREADED.items(), desc="threads", unit="loop"):
        for load, program in (("idle", "input()"), ("busy", "while True: pass")):
            other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, start_new_session=True)
            try:
                speeds: dict[str, list[float]] = {name: [] for name in THREADS}
                for _ in range(arguments.trials):
                    for name, variables in THREADS.items():
                        speeds[name].append(steps_per_second(command, arguments, env=variables))
            finally:
                other.kill()
            for name, values in speeds.items():
                columns = {"task": task, "load": load, "setting": name, "cores": usable_cores()}
                record(arguments, f"threads_{task}_{load}_{name}", **columns, **spread("steps_per_second", values))


PARTS = {"training": training, "sampling": sampling, "threads": threads}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"some of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--trials", type=positive_int, default=3, help="trials per measurement, of which the median")
    parser.add_argument("--seconds", type=positive_int, default=15, help="seconds of timed training per trial")
    parser.add_argument("--run-dir", type=Path, default=ROOT / "runs" / "benchmarks", help="folder for the records")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"part {min(unknown)}: choose from {', '.join(PARTS)}")
    arguments.data_root, arguments.device = arguments.data_root.resolve(), str(pick_device(arguments.device))
    for part in arguments.parts or PARTS:
        PARTS[part](arguments)


if __name__ == "__main__":
    run_main(main)
