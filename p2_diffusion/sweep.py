"""Compare ways of sampling: accuracy, Fréchet distance and cost over sampler, steps, guidance and its interval.

    python p2_diffusion/sweep.py                                  # the shipped weights of preset cpu
    python p2_diffusion/sweep.py --preset full --device cuda
    python p2_diffusion/sweep.py --num-per-digit 10 --output mine # a quick look

Settings already measured with the same weights are skipped, so a stopped sweep goes on where it was. At the end it
names the setting that the rule of :func:`choose` takes; it becomes the default when written into presets.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, add_preset_arguments, make_parser, resolve_config
from common.dataset import DIGIT_SIZE, dataset_name
from common.device import pick_device
from common.errors import UserError, run_main
from common.files import sha256
from common.paths import workspace
from common.plots import PALETTE, new_figure, save_figure
from common.report import percent
from common.results import read_results, record, record_largest
from common.seed import generator
from common.weights import of_training, which_training
from p2_diffusion.build import load_model, to_device
from p2_diffusion.dataset import DOMAIN
from p2_diffusion.diffusion import Diffusion
from p2_diffusion.evaluate import JUDGE, Evaluator
from p2_diffusion.inference import generate, shipped_weights
from p2_diffusion.judge import load_judge
from p2_diffusion.model import UNet
from p2_diffusion.presets import SWEEP_PRESETS, SweepConfig, default_sampling
from p2_diffusion.samplers import SAMPLERS, SamplerConfig, sample

WITHIN_ACCURACY = 0.002  # a setting is good enough so far below the best accuracy,
WITHIN_FRECHET = 1.1  # and so many times the smallest distance away
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def settings(config: SweepConfig, default: SamplerConfig, timesteps: int) -> list[SamplerConfig]:
    """Return every setting once, the cheapest first: the product of what ``config`` lists, and ``default``.

    A network without guidance has no scale but 1, where the interval means nothing.
    """
    names = config.samplers or [name for name, sampler in SAMPLERS.items() if sampler.steps]
    found = {default}
    for name, steps, scale, interval in product(
        names, config.steps, config.guidance_scales, map(parse_interval, config.guidance_intervals)
    ):
        guided = {} if scale == 1 else {"guidance_scale": scale, "guidance_interval": interval}
        found.add(SamplerConfig(name, min(steps, timesteps), **guided))
    if config.all_steps:
        walkers = [name for name, sampler in SAMPLERS.items() if sampler.steps is None]
        found |= {replace(default, sampler=name, steps=timesteps) for name in walkers}
    if default.guidance_scale == 1:
        found = {setting for setting in found if setting.guidance_scale == 1}
    return sorted(found, key=lambda setting: (setting.steps, setting.name))


def parse_interval(text: str) -> tuple[float, float]:
    """Return LOW-HIGH as two shares of T.

    Raises:
        UserError: anything else.
    """
    try:
        low, high = map(float, text.split("-"))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low <= high <= 1:
        raise UserError(f"--guidance-intervals {text}: must be two shares of T, like 0.2-0.8")
    return low, high


def choose(entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the setting to sample with, None where no setting is near the best in both measures.

    It is the one with the fewest network passes within 0.2 points of the best accuracy and 10 % of the smallest
    Fréchet distance; between equals, the one with the smaller distance.
    """
    least = max(entry["accuracy"] for entry in entries) - WITHIN_ACCURACY - 1e-9  # shares of a few hundred pictures
    most = min(entry["frechet"] for entry in entries) * WITHIN_FRECHET
    near = [entry for entry in entries if entry["accuracy"] >= least and entry["frechet"] <= most]
    return min(near, key=lambda entry: (entry["passes"], entry["frechet"]), default=None)


@contextmanager
def count_passes(model: UNet) -> Iterator[list[int]]:
    """Yield a list that receives how many pictures each call of ``model`` maps; guidance maps each twice."""
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    try:
        yield sizes
    finally:
        hook.remove()


def batch_effect(model: UNet, diffusion: Diffusion, config: SamplerConfig, seed: int) -> dict[str, float]:
    """Return how pictures drawn one by one differ from the same pictures drawn in one batch.

    Differences of the values in [-1, 1]: GroupNorm keeps its statistics within a picture, so only the rounding
    of differently shaped sums should be left. ``another_noise`` is the same mean between two columns of the
    batch, to compare with.
    """
    device = next(model.parameters()).device
    conditions = torch.arange(1, 11, device=device)
    noise = torch.randn(10, 3, DIGIT_SIZE, DIGIT_SIZE, generator=generator(seed, "batch effect"))
    noise = to_device(noise, device)
    config = replace(config, sampler="ddim")
    together = sample(model, diffusion, conditions, noise, config)
    alone = torch.cat(
        [sample(model, diffusion, conditions[k : k + 1], noise[k : k + 1], config) for k in range(len(noise))]
    )
    difference = (together - alone).abs()
    return {
        "mean_difference": difference.mean().item(),
        "largest_difference": difference.max().item(),
        "another_noise": (together - together.roll(1, 0)).abs().mean().item(),
    }


def guidance_title(entry: Mapping[str, Any]) -> str:
    """Return scale and interval of one measured setting in words."""
    low, high = entry["guidance_interval"]
    if entry["guidance_scale"] == 1:
        return "no guidance"
    return f"w = {entry['guidance_scale']:g}" + ("" if (low, high) == (0, 1) else f", {low:g} T to {high:g} T")


def plot(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw accuracy and Fréchet distance over the network passes a picture: colours samplers, marks guidance."""
    figure, axes = new_figure(1, 2, (12.0, 4.4))
    samplers = sorted({entry["sampler"] for entry in entries})
    guidances = sorted({guidance_title(entry) for entry in entries})
    colours, marks = dict(zip(samplers, PALETTE, strict=False)), dict(zip(guidances, "os^Dv<>pP*", strict=False))
    for name, guidance in product(samplers, guidances):
        line = [entry for entry in entries if (entry["sampler"], guidance_title(entry)) == (name, guidance)]
        if not line:
            continue
        line.sort(key=lambda entry: entry["passes"])
        passes = [entry["passes"] for entry in line]
        style = {"marker": marks.get(guidance), "color": colours.get(name), "linewidth": 0.8}
        axes[0, 0].plot(passes, [100 * entry["accuracy"] for entry in line], **style)
        axes[0, 1].plot(
            passes, [entry["frechet"] for entry in line], **style, label=f"{SAMPLERS[name].title}, {guidance}"
        )
    axes[0, 1].axhline(entries[0]["frechet_floor"], color="0.5", linestyle="--", label="real pictures")
    axes[0, 0].set(xlabel="network passes a picture (log)", ylabel="digits recognised, %", xscale="log")
    axes[0, 1].set(xlabel="network passes a picture (log)", ylabel="Fréchet distance (log)", xscale="log", yscale="log")
    for axis in (axes[0, 0].xaxis, axes[0, 1].xaxis, axes[0, 1].yaxis):
        low, high = axis.get_view_interval()
        axis.set_ticks([tick for tick in TICKS if low <= tick <= high])
        axis.set_ticks([], minor=True)
        axis.set_major_formatter("{x:g}")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    save_figure(figure, path)


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, default=None, help="weights (unset: those shipped for the preset)")
    parser.add_argument("--judge", type=Path, default=JUDGE, help="weights of the judge")
    add_common_arguments(parser)
    add_preset_arguments(parser, SWEEP_PRESETS)
    return parser.parse_args()


def main() -> None:
    """Parse the command line, measure what is missing, draw the plot, and name the best setting."""
    arguments = parse_arguments()
    config = resolve_config(arguments, SWEEP_PRESETS)
    device = pick_device(arguments.device)
    checkpoint = arguments.checkpoint or shipped_weights(arguments.preset)
    model, diffusion, trained = load_model(checkpoint, device)
    preset, space = trained["preset"], workspace(trained["preset"], arguments.output)
    default = default_sampling(trained)
    wanted = settings(config, default, diffusion.timesteps)
    evaluator = Evaluator(load_judge(arguments.judge, device), arguments.data_root)

    digits = torch.arange(10).repeat_interleave(config.num_per_digit)
    common = {
        "weights": sha256(checkpoint)[:16],
        "judge": sha256(arguments.judge)[:16],
        "images": len(digits),
        "seed": arguments.seed,
        "batch_size": config.batch_size,
        "dataset": dataset_name(arguments.data_root, DOMAIN),
    }
    floor = evaluator.floor(len(digits))  # not compared: its last digits depend on the machine
    effect = batch_effect(model, diffusion, default, arguments.seed)
    which = f"{preset}/seed{which_training(trained)}"
    record(space.results, "p2", f"batch/{which}", {"weights": common["weights"], **effect}, device)
    entries = []
    for setting in wanted:
        key = f"sweep/{which}/{setting.name}"
        entry = read_results(space.results, "p2").get(key, {})
        if any(entry.get(name) != value for name, value in common.items()):
            started = time.perf_counter()
            with count_passes(model) as sizes:
                images = generate(model, diffusion, digits.tolist(), setting, arguments.seed, config.batch_size)
            entry = {
                "sampler": setting.sampler,
                "steps": setting.steps,
                "guidance_scale": setting.guidance_scale,
                "guidance_interval": list(setting.guidance_interval),
                "passes": sum(sizes) / len(images),
                "seconds": round(time.perf_counter() - started, 2),
                "frechet_floor": floor,
                **evaluator.measure(images, digits),
            }
            record_largest(space.results, "p2", key, common, entry, device)
            entry = common | entry
        print(
            f"{key}: {percent(entry['accuracy'])}, Fréchet {entry['frechet']:.2f} "
            f"(real: {entry['frechet_floor']:.2f}), {entry['passes']:g} passes, {entry['seconds']:.1f} s",
            flush=True,
        )
        entries.append(entry)
    path = space.images / "P2" / f"sampler_sweep_{preset}{of_training(trained)}.png"
    plot(entries, path)
    print(f"wrote {path}")
    chosen = choose(entries)
    print(
        f"the rule takes {chosen['sampler']}, {chosen['steps']} steps, {guidance_title(chosen)}"
        if chosen
        else "no setting is near the best accuracy and the smallest distance"
    )


if __name__ == "__main__":
    run_main(main)
