"""What adaptation is worth the better the inputs are: five methods on every level of input treatment.

    python p3_dann/ablation.py                                  # both targets, preset cpu with 1,500 steps, seed 0
    python p3_dann/ablation.py --seed 1                         # once more: the figure then has means and all seeds
    python p3_dann/ablation.py --targets usps --methods source dann --inputs plain full

Rerun the same command to resume; finished runs are not trained again. Runs lie in runs/PRESET/p3_ablation (or
--run-dir), the figure, ablation.png, in images/ there. Training on the target's labels, on the full inputs, is the
ceiling.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import DEFAULT_PRESET, add_common_arguments, add_run_arguments, make_parser, positive_int, run_main
from common.distributed import init_distributed
from common.plots import PALETTE, new_figure, save_figure
from common.records import Record
from p3_dann.config import INPUTS, METHODS, PRESETS, make_config
from p3_dann.dataset import TARGETS
from p3_dann.train import train_and_evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPARED = ("source", "joint_batchnorm", "dann", "self_ensembling", "both")
CEILING = ("full", "target")
LEVELS = ("plain pixels", "+ standardized,\ngrayscale", "+ intensity,\nblur", "+ affine,\ndistractors")  # INPUTS


def read_records(folder: Path, preset: str, steps: int) -> list[Record]:
    """Return what was measured of the runs in ``folder`` that have this preset and number of steps."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/records/evaluate.json"))]
    return [record for record in found if (record["preset"], record["steps"]) == (preset, steps)]


def plot(records: list[Record], targets: list[str], steps: int) -> Figure:
    """Return the figure: validation accuracy over the levels, a panel per target, a line through the means of seeds."""
    figure, axes = new_figure(1, len(targets), (max(7.4, 5.4 * len(targets)), 4.8))

    def accuracies(target: str, inputs: str, method: str) -> list[float]:
        wanted = {"target": target, "inputs": inputs, "method": method}
        return [100 * record["accuracy"] for record in records if wanted.items() <= record.items()]

    for axis, target in zip(axes[0], targets, strict=True):
        for method, color in zip(COMPARED, PALETTE, strict=False):
            points = [
                (level, value) for level, inputs in enumerate(INPUTS) for value in accuracies(target, inputs, method)
            ]
            if not points:
                continue
            levels = sorted({level for level, _ in points})
            means = [statistics.fmean(value for other, value in points if other == level) for level in levels]
            axis.plot(levels, means, label=METHODS[method].title, color=color, linewidth=1.6)
            axis.plot([level for level, _ in points], [value for _, value in points], ".", color=color)
        if ceiling := accuracies(target, *CEILING):
            axis.axhline(statistics.fmean(ceiling), color="black", linestyle="--", label=METHODS["target"].title)
        record = next(record for record in records if record["target"] == target)
        axis.set_title(" → ".join(record[f"{domain}_dataset"].split(" (")[0] for domain in ("source", "target")))
        axis.set_xticks(range(len(INPUTS)), LEVELS, fontsize=9)
        axis.sharey(axes[0, 0])
    axes[0, 0].set_ylabel(f"validation accuracy after {steps:,} steps, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, 1 + len(targets)), fontsize=10)
    return figure


def main() -> None:
    """Parse the command line, train what is missing, and plot the figure."""
    parser = make_parser(__doc__)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), help="domains to adapt to")
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=list(INPUTS), help="levels")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help=f"default: {' '.join(COMPARED)}, and the ceiling")
    parser.add_argument("--steps", type=positive_int, default=1500, help="of every run")
    parser.add_argument("--preset", choices=PRESETS, default=DEFAULT_PRESET, help="the rest of the schedule")
    add_common_arguments(parser)
    add_run_arguments(parser)
    arguments = parser.parse_args()
    root = arguments.run_dir or ROOT / "runs" / arguments.preset / "p3_ablation"
    combinations = list(product(arguments.inputs, arguments.methods or COMPARED))
    combinations += [] if arguments.methods else [CEILING]

    started = time.perf_counter()
    with init_distributed(arguments.device) as dist:
        for target, (inputs, method) in product(arguments.targets, combinations):
            chosen = vars(arguments) | {"method": method, "inputs": inputs, "target": target, "overrides": ["steps"]}
            chosen["run_dir"] = root / f"{target}_{method}_{inputs}_seed{arguments.seed}"
            if arguments.max_seconds:  # of all runs together
                chosen["max_seconds"] = max(1, round(arguments.max_seconds - (time.perf_counter() - started)))
            config = replace(make_config(method, inputs, arguments.preset, target), steps=arguments.steps)
            variant = f"{method}_{inputs}"
            train_and_evaluate(argparse.Namespace(**chosen), config, dist, "p3_ablation", variant=variant)
        if dist.is_main_process:
            records = [r for r in read_records(root, arguments.preset, arguments.steps) if "accuracy" in r]
            drawn = [target for target in arguments.targets if any(record["target"] == target for record in records)]
            if drawn:
                save_figure(plot(records, drawn, arguments.steps), root / "images/ablation.png")
                print(f"wrote {root / 'images/ablation.png'}")


if __name__ == "__main__":
    run_main(main)
