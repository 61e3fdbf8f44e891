"""Compare samplers: accuracy and Fréchet distance over sampler, steps, guidance and its interval.

    python p2_diffusion/sweep.py                                  # the shipped small network and its students
    python p2_diffusion/sweep.py --preset full --checkpoint weights/p2_unet_full.safetensors --device cuda
    python p2_diffusion/sweep.py --num-per-digit 10               # a quick look

A student is measured at its own steps only. Settings already measured with the same weights are skipped, so a stopped
sweep resumes. At the end it plots quality over cost (for the shipped weights: of all that was measured on any of them)
and names the setting that the rule of choose() takes; it becomes the default when written into config.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import DEFAULT_PRESET, add_common_arguments, make_parser, parse_config, run_main
from common.device import pick_device
from common.files import file_digest
from common.plots import PALETTE, new_figure, save_figure
from common.records import Record, images_folder, run_folder
from common.weights import WEIGHTS
from p2_diffusion.config import SWEEP_PRESETS, SweepConfig, default_sampler
from p2_diffusion.evaluate import CLASSIFIER, Evaluator
from p2_diffusion.inference import load_model
from p2_diffusion.samplers import SAMPLERS, SamplerConfig

ACCURACY_TOLERANCE = 0.002  # a setting is good enough this far below the best accuracy,
FRECHET_TOLERANCE = 1.1  # and at this many times the smallest distance
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def settings(config: SweepConfig, trained: Mapping[str, Any]) -> list[SamplerConfig]:
    """Return every setting for a network once, the cheapest first; a student has but one."""
    default = default_sampler(trained)
    if "student_steps" in trained:
        return [default]
    found = {default}
    for (name, sampler), steps, scale, start in product(
        SAMPLERS.items(), config.steps, config.guidance_scales, config.guidance_starts
    ):
        if sampler.steps:
            setting = SamplerConfig(name, min(steps, trained["timesteps"]))
            found.add(setting if scale == 1 else replace(setting, guidance_scale=scale, guidance_interval=(start, 1.0)))
        elif config.all_steps:
            found.add(replace(default, sampler=name, steps=trained["timesteps"]))
    if not trained["label_dropout"]:  # no guidance without the null label
        found = {setting for setting in found if setting.guidance_scale == 1}
    return sorted(found, key=lambda setting: (setting.steps, repr(setting)))


def choose(records: Sequence[Record]) -> Record | None:
    """Return the setting to sample with, None where no setting is near the best in both measures.

    It is the one with the fewest network evaluations within 0.2 points of the best accuracy and 10 % of the smallest
    Fréchet distance; among equals, the one with the smaller distance.
    """
    min_accuracy = max(record["accuracy"] for record in records) - ACCURACY_TOLERANCE - 1e-9  # rounding of fractions
    max_frechet = min(record["frechet"] for record in records) * FRECHET_TOLERANCE
    near = [record for record in records if record["accuracy"] >= min_accuracy and record["frechet"] <= max_frechet]
    return min(near, key=lambda record: (record["nfe"], record["frechet"]), default=None)


def describe(record: Record) -> str:
    """Return network, sampler, steps and guidance of a record in words."""
    start, guidance = record["guidance_interval"][0], f"w = {record['guidance_scale']:g}"
    guidance = "no guidance" if record["guidance_scale"] == 1 else guidance + f" for t >= {start:g} T" * (start > 0)
    student = " student" * (record["method"] == "student")
    return f"{record['preset']}{student}, {record['sampler']}, {record['sampling_steps']} steps, {guidance}"


def sweep_records(checkpoint: Path) -> list[Record]:
    """Return what was measured with these weights, the records of the most images only."""
    paths = sorted((run_folder(checkpoint) / "records").glob("sweep_*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    records = [record for record in records if record["weights"] == file_digest(checkpoint)]
    most = max((record["num_images"] for record in records), default=0)
    return [record for record in records if record["num_images"] == most]


def plot(records: Sequence[Record], path: Path) -> None:
    """Plot accuracy and Fréchet distance over the network evaluations per image.

    One line per network and sampler (all students of a network are one): at each number of steps the guidance with the
    smallest distance. Colors are samplers, markers networks.
    """
    lines: dict[tuple[str, str], dict[int, Record]] = {}
    for record in records:
        sampler = "student" if record["method"] == "student" else record["sampler"]
        best = lines.setdefault((record["preset"], sampler), {})
        steps = record["sampling_steps"]
        if steps not in best or record["frechet"] < best[steps]["frechet"]:
            best[steps] = record
    colors = dict(zip(sorted({sampler for _, sampler in lines}), PALETTE, strict=False))
    markers = dict(zip(sorted({preset for preset, _ in lines}), "os^Dv", strict=False))
    figure, axes = new_figure(1, 2, (12.0, 4.4))
    label = "network evaluations per image (NFE, log)"
    axes[0, 0].set(xlabel=label, ylabel="recognized digits, %", xscale="log")
    axes[0, 1].set(xlabel=label, ylabel="Fréchet distance (log)", xscale="log", yscale="log")
    for (preset, sampler), best in sorted(lines.items()):
        line = sorted(best.values(), key=lambda record: record["nfe"])
        title = "distilled student (DDIM)" if sampler == "student" else SAMPLERS[sampler].title
        style = {"color": colors.get(sampler), "marker": markers.get(preset), "label": f"{title}, {preset}"}
        nfe = [record["nfe"] for record in line]
        axes[0, 0].plot(nfe, [100 * record["accuracy"] for record in line], **style)
        axes[0, 1].plot(nfe, [record["frechet"] for record in line], **style)
    axes[0, 1].axhline(records[0]["frechet_baseline"], color="0.5", linestyle="--", label="real images")
    for axis in (axes[0, 0].xaxis, axes[0, 1].xaxis, axes[0, 1].yaxis):
        low, high = axis.get_view_interval()
        axis.set_ticks([tick for tick in TICKS if low <= tick <= high])
        axis.set_ticks([], minor=True)
        axis.set_major_formatter("{x:g}")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    save_figure(figure, path)


def main() -> None:
    """Parse the command line, measure what is missing, plot, and name the best setting."""
    shipped = sorted(WEIGHTS.glob("p2_unet_*.safetensors"))
    parser = make_parser(__doc__)
    parser.add_argument("--preset", choices=SWEEP_PRESETS, default=DEFAULT_PRESET, help="which settings")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        default=[path for path in shipped if path.stem.startswith("p2_unet_cpu")],
        help="weights of networks and of students",
    )
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="weights of the evaluation classifier")
    parser.add_argument("--images", type=Path, help="folder for the plot (default: images/P2, or that of the run)")
    add_common_arguments(parser)
    arguments, config = parse_config(parser, lambda arguments: SWEEP_PRESETS[arguments.preset])
    device = pick_device(arguments.device)
    networks = [(checkpoint, load_model(checkpoint, device)[2]) for checkpoint in arguments.checkpoint]
    evaluator = Evaluator(arguments.classifier, arguments.data_root, device)
    records = []
    for checkpoint, trained in networks:
        for setting in settings(config, trained):
            record = evaluator.measure_sampler("sweep", checkpoint, setting, config.num_per_digit, arguments.seed)
            print(
                f"{describe(record)}: {record['accuracy']:.1%}, Fréchet {record['frechet']:.2f} "
                f"(real: {record['frechet_baseline']:.2f}), NFE {record['nfe']:g}",
                flush=True,
            )
            records.append(record)
    chosen = choose(records)
    print(f"the rule takes {describe(chosen)}" if chosen else "no setting is near the best in both measures")

    plotted = dict.fromkeys(path.resolve() for path in arguments.checkpoint)
    if any(path.parent == WEIGHTS for path in plotted):
        plotted |= dict.fromkeys(shipped)
    path = (arguments.images or images_folder(arguments.checkpoint[0], "P2")) / "quality_over_nfe.png"
    plot([record for checkpoint in plotted for record in sweep_records(checkpoint)], path)
    print(f"wrote {path}")


if __name__ == "__main__":
    run_main(main)
