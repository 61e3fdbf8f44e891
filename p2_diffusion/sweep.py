"""Compare ways of sampling: accuracy, Fréchet distance and seconds over sampler, steps and guidance.

    python p2_diffusion/sweep.py                                  # the shipped weights of preset cpu
    python p2_diffusion/sweep.py --preset full --device cuda
    python p2_diffusion/sweep.py --checkpoint runs/cpu/p2_seed0/weights.safetensors --num-per-digit 10

Settings already measured with the same weights are skipped, so a stopped sweep goes on where it was.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, add_preset_arguments, make_parser, resolve_config
from common.dataset import DIGIT_SIZE, dataset_name
from common.device import pick_device
from common.errors import run_main
from common.files import sha256
from common.paths import WEIGHTS, workspace
from common.plots import new_figure, save_figure
from common.report import percent
from common.results import read_results, record
from common.seed import generator
from p2_diffusion.classifier import load_judge
from p2_diffusion.dataset import DOMAIN
from p2_diffusion.diffusion import Diffusion
from p2_diffusion.evaluate import JUDGE, Evaluator
from p2_diffusion.inference import DEFAULT, generate, load_model
from p2_diffusion.model import UNet, unet_memory_format
from p2_diffusion.presets import SWEEP_PRESETS, SweepConfig
from p2_diffusion.samplers import SAMPLER_NAMES, SamplerConfig, sample

FAST_SAMPLERS = ("ddim", "dpmpp")


def settings(config: SweepConfig, timesteps: int) -> Iterator[SamplerConfig]:
    """Yield every setting once: samplers by steps at the default guidance, then guidance at the default steps."""
    known = set()
    for sampler in FAST_SAMPLERS:
        known |= {replace(DEFAULT, sampler=sampler, steps=min(steps, timesteps)) for steps in config.steps}
    known |= {replace(DEFAULT, steps=min(DEFAULT.steps, timesteps), guidance_scale=w) for w in config.guidance_scales}
    if config.ancestral:
        known.add(replace(DEFAULT, sampler="ddpm", steps=timesteps))
    yield from sorted(known, key=lambda setting: (setting.steps, setting.sampler, setting.guidance_scale))


def key_of(preset: str, setting: SamplerConfig) -> str:
    """Return the key of a setting in results/p2.json."""
    return f"sweep/{preset}/{setting.sampler}-{setting.steps}-w{setting.guidance_scale:g}"


def batch_effect(model: UNet, diffusion: Diffusion, seed: int) -> dict[str, float]:
    """Return how pictures drawn one by one differ from the same pictures drawn in one batch.

    Differences of the values in [-1, 1]: GroupNorm keeps its statistics within a picture, so only the rounding
    of differently shaped sums should be left. ``another_noise`` is the same mean between two columns of the
    batch, to compare with.
    """
    device = next(model.parameters()).device
    conditions = torch.arange(1, 11, device=device)
    noise = torch.randn(10, 3, DIGIT_SIZE, DIGIT_SIZE, generator=generator(seed, "batch effect")).to(device)
    noise = noise.contiguous(memory_format=unet_memory_format(device))
    config = replace(DEFAULT, sampler="ddim", steps=min(DEFAULT.steps, diffusion.timesteps), eta=0.0)
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


def plot(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw accuracy and Fréchet distance over the number of steps, and against each other over guidance.

    Bars of the accuracy are what chance does to that many pictures: Wilson's interval of 95 % (1927).
    """
    from scipy.stats import binomtest  # imported here: it takes a second that --help should not

    figure, axes = new_figure(1, 3, (13.5, 4.0))
    at_default = [entry for entry in entries if entry["guidance_scale"] == DEFAULT.guidance_scale]
    samplers = sorted({entry["sampler"] for entry in at_default})
    for number, sampler in enumerate(samplers):
        line = sorted((entry for entry in at_default if entry["sampler"] == sampler), key=lambda entry: entry["steps"])
        steps = [entry["steps"] for entry in line]
        accuracies = [100 * entry["accuracy"] for entry in line]
        right = [binomtest(round(entry["accuracy"] * entry["images"]), entry["images"]) for entry in line]
        ends = [100 * np.array(test.proportion_ci(method="wilson")) for test in right]
        bars = np.abs(np.transpose(ends) - accuracies)
        beside = 1.06 ** (number - len(samplers) // 2)  # on the logarithmic axis, so that bars do not hide each other
        places = [step * beside for step in steps]
        axes[0, 0].errorbar(places, accuracies, bars, fmt="o-", capsize=4, label=SAMPLER_NAMES[sampler])
        axes[0, 1].plot(steps, [entry["frechet"] for entry in line], "o-", label=SAMPLER_NAMES[sampler])
    axes[0, 1].axhline(entries[0]["frechet_floor"], color="0.5", linestyle="--", label="real training pictures")
    scales = [entry for entry in entries if (entry["sampler"], entry["steps"]) == (DEFAULT.sampler, DEFAULT.steps)]
    scales.sort(key=lambda entry: entry["guidance_scale"])
    axes[0, 2].plot([entry["frechet"] for entry in scales], [100 * entry["accuracy"] for entry in scales], "o-")
    for index, entry in enumerate(scales):
        point = (entry["frechet"], 100 * entry["accuracy"])
        place = (10, -16 if index % 2 else 6)
        axes[0, 2].annotate(f"w = {entry['guidance_scale']:g}", point, textcoords="offset points", xytext=place)
    guidance = f"w = {DEFAULT.guidance_scale:g}"
    axes[0, 0].set(
        title=f"accuracy, {guidance}, 95 % intervals", xlabel="steps (log)", ylabel="digits recognised, %", xscale="log"
    )
    axes[0, 1].set(title=f"Fréchet distance, {guidance}", xlabel="steps (log)", xscale="log")
    name = f"{SAMPLER_NAMES[DEFAULT.sampler]}, {DEFAULT.steps} steps"
    axes[0, 2].set(title=f"guidance, {name}", xlabel="Fréchet distance", ylabel="digits recognised, %")
    axes[0, 2].margins(0.18)
    for axis in axes[0, :2]:
        axis.set_xticks(sorted({entry["steps"] for entry in at_default}), minor=False)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axes[0, 1].legend()
    save_figure(figure, path)


def main() -> None:
    """Parse the command line, measure what is missing, and draw the plot."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, default=None, help="weights (unset: those shipped for the preset)")
    parser.add_argument("--judge", type=Path, default=JUDGE, help="weights of the judge")
    add_common_arguments(parser)
    add_preset_arguments(parser, SWEEP_PRESETS)
    arguments = parser.parse_args()
    config = resolve_config(arguments, SWEEP_PRESETS)
    device, preset = pick_device(arguments.device), arguments.preset
    space = workspace(preset, arguments.output)
    checkpoint = arguments.checkpoint or WEIGHTS / f"p2_unet_{preset}.safetensors"
    model, diffusion = load_model(checkpoint, device)
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
    source = {name: common[name] for name in ("weights", "seed")}
    record(space.results, "p2", f"batch/{preset}", source | batch_effect(model, diffusion, arguments.seed), device)
    entries = []
    for setting in settings(config, diffusion.timesteps):
        key = key_of(preset, setting)
        entry = read_results(space.results, "p2").get(key, {})
        if any(entry.get(name) != value for name, value in common.items()):
            started = time.perf_counter()
            images = generate(model, diffusion, digits.tolist(), setting, arguments.seed, config.batch_size)
            seconds = time.perf_counter() - started
            entry = common | {
                "sampler": setting.sampler,
                "steps": setting.steps,
                "guidance_scale": setting.guidance_scale,
                "seconds": round(seconds, 2),
                "frechet_floor": floor,
                **evaluator.measure(images, digits),
            }
            record(space.results, "p2", key, entry, device)
        print(
            f"{key}: {percent(entry['accuracy'])}, Fréchet {entry['frechet']:.2f} "
            f"(real: {entry['frechet_floor']:.2f}), {entry['seconds']:.1f} s",
            flush=True,
        )
        entries.append(entry)
    path = space.images / "P2" / f"sampler_sweep_{preset}.png"
    plot(entries, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    run_main(main)
