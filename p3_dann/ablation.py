"""Compare five methods at four levels of augmentation: what is adaptation worth as inputs improve?

    python p3_dann/ablation.py                                  # both targets, preset cpu with 1,500 steps, seed 0
    python p3_dann/ablation.py --seed 1                         # once more: the figure then has means and all seeds
    python p3_dann/ablation.py --targets usps --methods source dann --inputs plain augmented

Rerun the same command to resume. Runs lie in runs/PRESET/p3_ablation (or --run-dir), the figure in
images/ablation.png there. Training on the target's labels, on the augmented inputs, is the ceiling.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import UserError, add_common_arguments, add_run_arguments, make_parser, positive_int, run_main
from common.device import init_distributed
from common.training import seconds_left
from common.viz import PALETTE, new_figure, save_figure
from common.weights import Record, collected
from p3_dann.config import INPUTS, METHODS, PRESETS, make_config
from p3_dann.dataset import TARGETS
from p3_dann.train import train_and_evaluate

from matplotlib.figure import Figure

COMPARED = ["source", "joint_batchnorm", "dann", "self_ensembling", "dann_self_ensembling"]


def plot(records: list[Record], targets: list[str], steps: int) -> Figure:
    """Return the figure: validation accuracy over the levels, a panel per target, a line through the means of seeds."""
    figure, axes = new_figure(1, len(targets), (max(7.4, 5.4 * len(targets)), 5.4))

    def accuracies(target: str, inputs: str, method: str) -> list[float]:
        wanted = {"target": target, "inputs": inputs, "method": method, "variant": f"{method}_{inputs}"}
        matching = [record for record in records if wanted.items() <= record.items()]
        return [100 * record["accuracy"] for record in matching if "accuracy" in record]

    for axis, target in zip(axes[0], targets, strict=True):
        if axis is not axes[0, 0]:
            axis.sharey(axes[0, 0])
        for method, color in zip(COMPARED, PALETTE, strict=False):
            seeds = {level: accuracies(target, inputs, method) for level, inputs in enumerate(INPUTS)}
            points = [(level, value) for level, values in seeds.items() for value in values]
            means = [(level, statistics.fmean(values)) for level, values in seeds.items() if values]
            if means:
                axis.plot(*zip(*means, strict=True), color=color, label=METHODS[method].title)
                axis.plot(*zip(*points, strict=True), ".", color=color)
        if ceiling := accuracies(target, "augmented", "target"):
            place = (len(INPUTS) - 1, statistics.fmean(ceiling))  # it has these inputs
            axis.plot(*place, "_", color="black", markersize=18, markeredgewidth=2, label=METHODS["target"].title)
        record = next((record for record in records if record["target"] == target), None)
        if record is None:
            raise UserError(f"no records of {target} with {steps} steps; leave out --plot to train")
        axis.set_title(" → ".join(record[f"{domain}_dataset"].split(" (")[0] for domain in ("source", "target")))
        axis.set_xticks(range(len(INPUTS)), INPUTS)
        axis.margins(x=0.12)
        axis.set_xlabel("inputs")
    axes[0, 0].set_ylabel(f"validation accuracy after {steps:,} steps, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, 1 + len(targets)), fontsize=10)
    return figure


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), help="domains to adapt to")
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=list(INPUTS), help="levels of augmentation")
    known = [*COMPARED, "target"]
    parser.add_argument("--methods", nargs="+", choices=known, default=known, help="methods to compare")
    parser.add_argument("--steps", type=positive_int, default=1500, help="optimizer steps of every run")
    parser.add_argument("--plot", action="store_true", help="train nothing; plot what results/ holds")
    add_common_arguments(parser)
    add_run_arguments(parser, PRESETS, "folder of all runs (default: runs/PRESET/p3_ablation)")
    arguments = parser.parse_args()
    if arguments.plot:
        whole = {"preset": arguments.preset, "steps": arguments.steps}
        records = [record for record in collected("p3", "evaluate") if whole.items() <= record.items()]
        save_figure(plot(records, arguments.targets, arguments.steps), ROOT / "images/P3/ablation.png")
        print(f"wrote {ROOT / 'images/P3/ablation.png'}")
        return
    root, begun = arguments.run_dir or ROOT / "runs" / arguments.preset / "p3_ablation", time.perf_counter()
    with init_distributed(arguments.device) as dist:
        for target, inputs, method in product(arguments.targets, arguments.inputs, arguments.methods):
            if method == "target" and inputs != "augmented":
                continue
            options = vars(arguments) | {"method": method, "inputs": inputs, "target": target, "overrides": ["steps"]}
            options["variant"] = f"{method}_{inputs}"
            options["run_dir"] = root / f"{target}_{method}_{inputs}_seed{arguments.seed}"
            options["max_seconds"] = seconds_left(arguments.max_seconds, begun)
            config = replace(make_config(method, inputs, arguments.preset, target), steps=arguments.steps)
            train_and_evaluate(argparse.Namespace(**options), dist, config)
        if dist.is_main_process:
            paths = sorted(root.glob("*/records/evaluate.json"))
            records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
            save_figure(plot(records, arguments.targets, arguments.steps), root / "images/ablation.png")
            print(f"wrote {root / 'images/ablation.png'}")


if __name__ == "__main__":
    run_main(main)
