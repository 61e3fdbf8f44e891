"""Compare samplers: accuracy and Fréchet distance over sampler, steps, guidance and its interval.

    python p2_diffusion/sweep.py                                  # the shipped small network and its students
    python p2_diffusion/sweep.py --preset full --checkpoint weights/p2_unet_full.safetensors --device cuda

A student is measured at its own steps only. Settings already measured with the same weights are skipped, so a stopped
sweep resumes. At the end it plots quality over cost (for shipped weights with what results/ holds of others) and
prints the setting that choose() recommends; to make it the default, write it into config.py.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import DEFAULT_PRESET, add_common_arguments, make_parser, positive_int, run_main
from common.device import pick_device
from common.metrics import wilson_interval
from common.viz import PALETTE, new_figure, save_figure
from common.weights import WEIGHTS, Record, collected, images_folder
from p2_diffusion.config import SWEEPS, default_sampler
from p2_diffusion.evaluate import CLASSIFIER, Evaluator
from p2_diffusion.inference import load_model
from p2_diffusion.samplers import SAMPLERS, SamplerConfig


def settings(preset: str, trained: Mapping[str, Any]) -> list[SamplerConfig]:
    """Return every setting for a network once, the cheapest first; a student has but one.

    Samplers that visit all T are measured without guidance and with the network's default; trailing timesteps are
    left to students.
    """
    compared = SWEEPS[preset]
    default = default_sampler(trained)
    if "student_steps" in trained:
        return [default]
    none = (1.0, (0.0, 1.0))
    guidance = {pair if pair[0] != 1 else none for pair in product(compared.scales, compared.intervals)}
    all_settings = {default}
    for name, sampler in SAMPLERS.items():
        if sampler.spacing == "trailing":
            continue
        if sampler.skips_timesteps:
            all_settings |= {SamplerConfig(name, steps, *how) for steps, how in product(compared.steps, guidance)}
        elif preset != "sample":  # there it would take as long as all others together
            for how in (none, (default.guidance_scale, default.guidance_interval)):
                all_settings.add(SamplerConfig(name, trained["timesteps"], *how))
    return sorted(all_settings, key=lambda setting: (setting.sampling_steps, repr(setting)))


def choose(records: Sequence[Record]) -> Record:
    """Return the setting to sample with.

    Of those within 10% of the smallest Fréchet distance, and within 0.2 points of the best accuracy among them, it is
    the one with the fewest network evaluations, then with the smallest distance.
    """
    max_frechet = min(record["frechet"] for record in records) * 1.1
    near = [record for record in records if record["frechet"] <= max_frechet]
    min_accuracy = max(record["accuracy"] for record in near) - 0.002 - 1e-9  # rounding
    near = [record for record in near if record["accuracy"] >= min_accuracy]
    return min(near, key=lambda record: (record["nfe"], record["frechet"]))


def describe(record: Record) -> str:
    """Return network, sampler, steps and guidance of a record in words."""
    student = " student" * (record["method"] == "student")
    scale, (low, high) = record["guidance_scale"], record["guidance_interval"]
    guidance = "no guidance" if scale == 1 else f"w = {scale:g} from {low:g} T to {high:g} T"
    return f"{record['preset']}{student}, {record['sampler']}, {record['sampling_steps']} steps, {guidance}"


def mean_over_seeds(records: Sequence[Record]) -> list[Record]:
    """Return one record per weights and setting, averaged over sampling seeds (``seeds``: how many)."""
    names = ("weights", "sampler", "sampling_steps", "guidance_scale", "guidance_interval")
    groups: dict[str, dict[int, Record]] = {}
    for record in sorted(records, key=lambda record: record["num_images"]):  # of two with one seed the larger counts
        groups.setdefault(str([record[name] for name in names]), {})[record["sampling_seed"]] = record
    means = []
    for by_seed in groups.values():
        first, *_ = group = list(by_seed.values())
        mean = {name: statistics.fmean(record[name] for record in group) for name in ("accuracy", "frechet")}
        means.append(first | mean | {"seeds": len(group), "num_images": sum(record["num_images"] for record in group)})
    return means


def plot(records: Sequence[Record], path: Path) -> None:
    """Plot accuracy and Fréchet distance of every setting over its network evaluations per image.

    Colors are samplers, markers networks. Hollow: no guidance; large: several sampling seeds; students are joined. The
    last of the ``records`` gives the distance of real images.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(mean_over_seeds(records), key=lambda record: record["nfe"]):
        sampler = "student" if record["method"] == "student" else record["sampler"]
        groups.setdefault((record["preset"], sampler), []).append(record)
    colors = dict(zip(sorted({sampler for _, sampler in groups}), PALETTE, strict=False))
    markers = dict(zip(sorted({preset for preset, _ in groups}), "osD", strict=False))
    figure, axes = new_figure(1, 2, (12.0, 4.6))
    label = "network evaluations per image (NFE, log)"
    axes[0, 0].set(xlabel=label, ylabel="accuracy, % (bars: 95% interval)", xscale="log")
    axes[0, 1].set(xlabel=label, ylabel="Fréchet distance (log)", xscale="log", yscale="log")
    for (preset, sampler), group in sorted(groups.items()):
        title = "distilled student (DDIM)" if sampler == "student" else SAMPLERS[sampler].title
        color = colors[sampler]
        axes[0, 1].plot([], [], markers[preset], color=color, label=f"{title}, {preset}")  # for the legend
        if sampler == "student":
            axes[0, 1].plot([one["nfe"] for one in group], [one["frechet"] for one in group], color=color)
        for one in group:
            is_hollow = one["guidance_scale"] == 1 and sampler != "student"
            style: dict[str, Any] = {"fmt": markers[preset], "color": color, "markersize": 8 if one["seeds"] > 1 else 5}
            style["markerfacecolor"] = "white" if is_hollow else color
            low, high = wilson_interval(one["accuracy"] * one["num_images"], one["num_images"])
            error = [[100 * (one["accuracy"] - low)], [100 * (high - one["accuracy"])]]
            axes[0, 0].errorbar(one["nfe"], 100 * one["accuracy"], error, elinewidth=0.6, **style)
            axes[0, 1].errorbar(one["nfe"], one["frechet"], **style)
    axes[0, 1].axhline(records[-1]["frechet_baseline"], color="0.5", linestyle="--", label="real images")
    for axis in (axes[0, 0].xaxis, axes[0, 1].xaxis, axes[0, 1].yaxis):
        low, high = axis.get_view_interval()
        axis.set_ticks([tick for tick in (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500) if low <= tick <= high])
        axis.set_ticks([], minor=True)
        axis.set_major_formatter("{x:g}")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    save_figure(figure, path)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--preset", choices=SWEEPS, default=DEFAULT_PRESET, help="which settings to compare")
    parser.add_argument("--checkpoint", type=Path, nargs="+", help="weights to compare (default: weights/, but full)")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="weights of the evaluation classifier")
    parser.add_argument("--images", type=Path, help="folder for the plot (default: images/P2, or that of the run)")
    parser.add_argument("--num-per-digit", type=positive_int, help="images of each digit (default: the preset's)")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    num_per_digit = arguments.num_per_digit or SWEEPS[arguments.preset].num_per_digit
    device = pick_device(arguments.device)
    evaluator = Evaluator(arguments.classifier, arguments.data_root, device)
    small = [path for path in sorted(WEIGHTS.glob("p2_unet_*.safetensors")) if "full" not in path.stem]
    checkpoints = arguments.checkpoint or small
    records: list[Record] = []
    for checkpoint in checkpoints:
        of_network, network = [], load_model(checkpoint, device)
        for setting in settings(arguments.preset, network[2]):
            record = evaluator.evaluate("sweep", checkpoint, network, setting, num_per_digit, arguments.seed)
            quality = f"{record['accuracy']:.1%}, Fréchet distance {record['frechet']:.2f}, NFE {record['nfe']:g}"
            print(f"{describe(record)}: {quality}", flush=True)
            of_network.append(record)
        print(f"recommended for {checkpoint}: {describe(choose(of_network))}")
        records += of_network
    print(f"recommended of all: {describe(choose(records))}")

    shown = checkpoints[0]
    path = (arguments.images or images_folder(shown, "P2")) / "quality_over_nfe.png"
    others = collected("p2", "sweep", "evaluate") if shown.resolve().parent == WEIGHTS else []
    plot([one for one in others if "variant" not in one] + records, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    run_main(main)
