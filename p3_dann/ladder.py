"""What adaptation is worth the better the inputs are: every method on every rung of a ladder of input treatments.

    python p3_dann/ladder.py                                    # every target of the report, preset cpu, seed 0
    python p3_dann/ladder.py --seed 1                           # once more: the figure then has their mean and range
    python p3_dann/ladder.py --targets usps --methods source adversarial
    python p3_dann/ladder.py --rungs geometry --methods unaligned refined    # for the table of ways to adapt
    python p3_dann/ladder.py --figure-only

Stopped or killed, the same command goes on; finished runs are not trained again. All runs of a rung differ in their
adaptation alone, and all have the same short schedule; refined and combined go on for a fifth of it. Writes
images/P3/ladder.png.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, add_run_arguments, make_parser, positive_int
from common.distributed import join_world
from common.errors import UserError, run_main
from common.paths import workspace
from common.plots import PALETTE, new_figure, save_figure
from common.report import Results
from common.results import of_all_seeds, of_one_schedule, read_results
from common.run import Job, within_max_seconds
from p3_dann.dataset import REPORTED_TARGETS
from p3_dann.model import KIND
from p3_dann.presets import ADAPTATIONS, PRESETS, TrainConfig, presets_for
from p3_dann.train import described, train_and_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE = "P3/ladder.png"
# Each rung has what is below it, and these fields of the preset in place of those of preset `original`.
RUNGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "normalised": ("instance_norm", "grey"),
    "intensity": ("invert_probability", "intensity_scale", "intensity_shift", "noise", "blur"),
    "geometry": (
        *("affine_degrees", "affine_shear", "affine_shift", "neighbour_probability"),
        *("source_zoom", "source_width", "target_zoom", "target_width"),
    ),
}
RUNG_TITLES = {"plain": "plain pixels", "normalised": "+ normalised, grey"}
RUNG_TITLES |= {"intensity": "+ intensity, blur", "geometry": "+ geometry, neighbours"}
# Source-only has BatchNorm statistics of the source alone, all others of both domains.
METHOD_TITLES = {
    "source": "source only",
    "joint_batchnorm": "source only, BatchNorm of both domains",
    "joint_batchnorm_half_turns": "source only, BatchNorm of both domains, half turns",
    "adversarial": "DANN",
    "adversarial_weak": "DANN, a tenth as strong",
    "conditional": "DANN, class-conditional (CDAN)",
    "self_ensembling": "self-ensembling, as published",
    "both": "DANN and self-ensembling",
    "both_shared_augmentation": "DANN and self-ensembling, both domains augmented alike",
    "unaligned": "self-ensembling without distribution alignment",
    "class_thresholds": "self-ensembling with thresholds by class (FlexMatch)",
    "raised": "self-ensembling, alignment raises only",
    "half_turns": "self-ensembling with half turns",
    "refined": "self-ensembling, then on the target alone (DIRT-T)",
    "combined": "self-ensembling of the presets: raises only, half turns, then on the target alone",
}
DRAWN = ("source", "joint_batchnorm", "adversarial", "self_ensembling", "both")  # on every rung; the others where asked


def recipe(rung: str, method: str, target: str, preset: str, steps: int) -> TrainConfig:
    """Return the configuration of one run of the ladder."""
    config = replace(presets_for(target)[preset], steps=steps, **ADAPTATIONS[method])
    names = list(RUNGS)
    above = [field for name in names[names.index(rung) + 1 :] for field in RUNGS[name]]
    return replace(config, **{field: getattr(PRESETS["original"], field) for field in above})


def key_of(target: str, rung: str, method: str, preset: str) -> str:
    """Return where one run of the ladder is recorded, the seed left out."""
    return f"ladder/{target}/{rung}/{method}/{preset}"


def ladder_runs(results: Results, *run: str) -> list[Mapping[str, Any]]:
    """Return what was measured of one run, named as for :func:`key_of`, by seed and of one schedule."""
    return of_one_schedule(of_all_seeds(results, key_of(*run)))


def accuracies_by_seed(results: Results, *run: str) -> list[float]:
    """Return the validation accuracies of :func:`ladder_runs`."""
    return [run["accuracy"] for run in ladder_runs(results, *run) if "accuracy" in run]


def draw(results: Results, targets: list[str], preset: str) -> Figure:
    """Return the figure: accuracy over the rungs, a panel for each target, a line with all seeds for each method."""
    figure, axes = new_figure(1, len(targets), (max(7.4, 5.4 * len(targets)), 4.6))
    for axis, target in zip(axes[0], targets, strict=True):
        for method, colour in zip(DRAWN, PALETTE, strict=False):
            found = [accuracies_by_seed(results, target, rung, method, preset) for rung in RUNGS]
            points = [(number, [100 * value for value in values]) for number, values in enumerate(found) if values]
            if not points:
                continue
            means = [statistics.fmean(values) for _, values in points]
            axis.plot([number for number, _ in points], means, label=METHOD_TITLES[method], color=colour, linewidth=1.6)
            for number, values in points:
                axis.plot([number] * len(values), values, ".", color=colour)
        run = next(run for key, run in results.items() if key.startswith(f"ladder/{target}/"))
        axis.set_title(" → ".join(run[name].split(" (")[0] for name in ("source_data", "target_data")))
        axis.set_xticks(range(len(RUNGS)), [RUNG_TITLES[rung].replace(", ", ",\n") for rung in RUNGS], fontsize=9)
        axis.set_ylabel("accuracy on validation pictures, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, 1 + len(targets)), fontsize=10)
    return figure


def run_job(arguments: argparse.Namespace, target: str, rung: str, method: str) -> bool:
    """Train and record one run, unless it is; return whether it is finished."""
    config = recipe(rung, method, target, arguments.preset, arguments.steps)
    name = f"p3_ladder/{rung}_{method}_{target}"
    mode = "source" if method == "source" else "dann"
    data = {"mode": mode, "target": target, "rung": rung, "method": method}
    data |= described(arguments.data_root, mode, target)
    with join_world(arguments.device) as world:
        world.check_batch(config.batch_size, least=2)
        job = Job.of(arguments, config, "p3", KIND, name, key_of(target, rung, method, arguments.preset), **data)
        return train_and_record(job, config, world, arguments.data_root)


def main() -> None:
    """Parse the command line, train what is missing, and draw the figure."""
    parser = make_parser(__doc__)
    parser.add_argument("--targets", nargs="+", default=list(REPORTED_TARGETS), help="domains to adapt to")
    listed = ", ".join(RUNGS)
    parser.add_argument("--rungs", nargs="+", choices=RUNGS, default=list(RUNGS), metavar="RUNG", help=listed)
    listed = ", ".join(METHOD_TITLES)
    parser.add_argument(
        "--methods", nargs="+", choices=METHOD_TITLES, default=list(DRAWN), metavar="METHOD", help=listed
    )
    parser.add_argument(
        "--steps", type=positive_int, default=1500, help="of every run; refined and combined add a fifth"
    )
    parser.add_argument("--preset", choices=("cpu", "full", "sample"), default="cpu", help="all the rest")
    parser.add_argument("--figure-only", action="store_true", help="draw what is recorded")
    add_common_arguments(parser)
    add_run_arguments(parser)
    arguments = parser.parse_args()
    if arguments.run_dir:
        raise UserError(f"--run-dir {arguments.run_dir}: is for one training; --output moves all of the ladder")
    runs = product(arguments.targets, arguments.rungs, arguments.methods)
    for run in within_max_seconds(() if arguments.figure_only else runs, arguments):
        if not run_job(arguments, *run):
            return
    space = workspace(arguments.preset, arguments.output)
    results = read_results(space.results, "p3")
    drawn = [
        target
        for target in arguments.targets
        if any(accuracies_by_seed(results, target, *run, arguments.preset) for run in product(RUNGS, DRAWN))
    ]
    if drawn:
        save_figure(draw(results, drawn, arguments.preset), space.images / FIGURE)
        print(f"wrote {space.images / FIGURE}")


if __name__ == "__main__":
    run_main(main)
