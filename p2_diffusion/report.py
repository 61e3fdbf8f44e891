"""The section of report.md on Problem 2, made from what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from common.paths import Workspace
from common.report import architecture, brief, code, details, duration, percent, picture, table
from common.results import of_first_seed, read_results
from p2_diffusion.inference import DEFAULT
from p2_diffusion.model import UNet
from p2_diffusion.presets import PRESETS
from p2_diffusion.samplers import SAMPLER_NAMES
from p2_diffusion.train import build_model

Results = Mapping[str, Mapping[str, Any]]
Entry = Mapping[str, Any]

PRESET_ORDER = ("full", "cpu", "sample")


def render(space: Workspace) -> str:
    """Return the section as Markdown; what was not measured is said to be missing."""
    results = read_results(space.results, "p2")
    presets = trained_presets(results)
    parts = [
        "## Problem 2\n",
        "### 1. Architecture and implementation\n",
        implementation(results),
        details(
            f"The U-Net of the original report, {count_parameters(UNet()):,} parameters", code(architecture(UNet()))
        ),
        *(narrow_network(training(results, preset)) for preset in presets if preset != "full"),
        "### 2. Ten pictures of each digit\n",
        grid(space, results),
        "### 3. Six moments of the reverse process\n",
        strip(space, results),
        "### 4. What was observed\n",
        discussion(results),
        "#### How good the pictures are\n",
        main_table(results),
        judge_note(results),
        per_digit_table(results),
        *(sweep(space, results, preset) for preset in PRESET_ORDER if sweep_entries(results, preset)),
    ]
    return "\n".join(part for part in parts if part)


def trained_presets(results: Results) -> list[str]:
    """Return the presets whose training is recorded, the largest first."""
    return [preset for preset in PRESET_ORDER if training(results, preset)]


def training(results: Results, preset: str) -> Entry | None:
    """Return the record of the training of ``preset``."""
    return of_first_seed(results, f"train/{preset}")


def count_parameters(model: UNet) -> int:
    """Return the number of parameters, those of embeddings included."""
    return sum(parameter.numel() for parameter in model.parameters())


def implementation(results: Results) -> str:
    """Return what the code does, and the recipe of every recorded training."""
    lines = [
        "Time step and digit are embedded separately and added inside every residual block. Row 0 of the "
        "condition embedding is the null label, digits are rows 1 to 10.",
        "Training draws a random time step and Gaussian noise for each picture, as in Ho et al., 2020, algorithm 1; "
        "what the network predicts and how the loss is weighted stands in the table (prediction v: Salimans and Ho, "
        "2022; min-SNR: Hang et al., 2023). The label is dropped sample by sample (Ho and Salimans, 2022), so that "
        "the same network also learns the unconditional prediction.",
        "The default noise schedule is the cosine of Nichol and Dhariwal, 2021; the linear one is stretched by "
        "1000 / T, for the usual betas 1e-4 to 0.02 leave 36 % of the signal's amplitude at T = 200.",
        "Sampling uses the averaged weights; the passes with and without condition are one batch.",
    ]
    text = "".join(f"- {line}\n" for line in lines)
    presets = trained_presets(results)
    if not presets:
        return text + "\n*Not run: no training is recorded yet; `bash scripts/train_p2.sh` makes one.*\n"
    runs = [training(results, preset) for preset in presets]
    rows = [
        ["parameters", *(f"{run['parameters']:,}" for run in runs)],
        ["widths", *(" ".join(str(run["channels"] * mult) for mult in run["channel_mults"]) for run in runs)],
        ["schedule, T", *(f"{run['schedule']}, {run['timesteps']}" for run in runs)],
        ["prediction, min-SNR γ", *(f"{run['prediction']}, {run['min_snr_gamma']:g}" for run in runs)],
        ["steps × batch", *(f"{run['steps']:,} × {run['batch_size']}" for run in runs)],
        ["epochs", *(f"{run['epochs']:g}" for run in runs)],
        ["learning rate, EMA decay", *(f"{run['learning_rate']:g}, {run['ema_decay']:g}" for run in runs)],
        ["labels dropped", *(percent(run["label_dropout"], 0) for run in runs)],
        ["began with", *(began_with(run) for run in runs)],
        ["training pictures", *(f"{run['train_images']:,} of {run['dataset']}" for run in runs)],
        ["training time", *(duration(run["seconds"]) for run in runs)],
        ["pictures a second", *(f"{run['images_per_second']:,.0f}" for run in runs)],
        ["device", *(run["device"] for run in runs)],
    ]
    return text + "\n" + table(["preset", *(f"`{preset}`" for preset in presets)], rows) + missing_full(results)


def began_with(run: Entry) -> str:
    """Return which weights a training started from."""
    if not run.get("initial_weights"):
        return "random weights"
    return f"`{run['initial_weights']}`, trained on {run['initial_dataset']}"


def data_of(run: Entry | None) -> str:
    """Return what a model was trained on, first and last, in short names."""
    if run is None:
        return "–"
    data = brief(run["dataset"])
    return f"{brief(run['initial_dataset'])}, then {data}" if run.get("initial_weights") else data


def missing_full(results: Results) -> str:
    """Return the note that the network of the report was not trained, where that is so."""
    if training(results, "full"):
        return ""
    return (
        "\n*Not run: preset `full`, the network as printed below, which needs a GPU; "
        "`bash scripts/train_p2.sh --preset full` trains it.*\n"
    )


def narrow_network(run: Entry) -> str:
    """Return the architecture of a preset other than the report's, as it was trained."""
    model = build_model(dict(run))
    return details(
        f"Preset `{run['preset']}`, {count_parameters(model):,} parameters: the same class", code(architecture(model))
    )


def made_by(results: Results) -> str:
    """Return who drew the two figures and on which data it was trained."""
    drawn = results.get("figures")
    if drawn is None:
        return ""
    run = training(results, drawn["preset"])
    how = f"{SAMPLER_NAMES[drawn['sampler']]}, {drawn['steps']} steps, w = {drawn['guidance_scale']:g}"
    data = (
        f" of {run['parameters'] / 1e6:.1f} M parameters, trained on {data_of(run)} "
        f"(seed {run['seed']}, {duration(run['seconds'])} on {run['device']})"
        if run
        else ""
    )
    return f" Preset `{drawn['preset']}`{data}; {how}, sampling seed {drawn['seed']}."


def grid(space: Workspace, results: Results) -> str:
    """Return the grid of all digits."""
    caption = f"Rows: digits 0 to 9. Columns: ten starting noises, the same in every row.{made_by(results)}"
    return picture(space, "P2/diffusion_grid.png", caption)


def strip(space: Workspace, results: Results) -> str:
    """Return the first 0 coming out of noise."""
    caption = f"The first 0 of the grid after so many reverse steps (left: pure noise).{made_by(results)}"
    return picture(space, "P2/diffusion_grid_time.png", caption)


def main_table(results: Results) -> str:
    """Return accuracy and Fréchet distance of the generated pictures, by preset."""
    rows = []
    for preset in PRESET_ORDER:
        measured, run = results.get(f"evaluate/{preset}"), training(results, preset)
        if measured:
            rows.append(
                [
                    f"`{preset}`",
                    f"{measured['images']:,}",
                    percent(measured["accuracy"]),
                    percent(min(measured["per_digit"].values())),
                    f"{measured['frechet']:.2f}",
                    f"{measured['frechet_floor']:.2f}",
                    thousand_pictures(results, preset),
                    f"{duration(run['seconds'])}, {run['device']}" if run else "not recorded",
                ]
            )
    if not rows:
        return "*Not run: no folder of generated pictures is evaluated yet.*\n"
    header = ["preset", "pictures", "accuracy", "worst digit", "Fréchet distance", "of as many real pictures"]
    note = (
        "\nPictures of `p2_diffusion/inference.py` with its default sampler, one training seed and one sampling seed. "
        "Accuracy: share of pictures in which the judge, a separate classifier, sees the digit that was asked for. "
        "Fréchet distance: between features of the judge and those of mnistm's val pictures, beside it that of as many "
        "real training pictures; features of digits say little about background or variety. It is no FID.\n"
    )
    return table([*header, "1000 pictures take", "training"], rows) + note


def thousand_pictures(results: Results, preset: str) -> str:
    """Return how long 1000 pictures take with the default sampler, and where, as measured in the sweep."""
    entry = results.get(f"sweep/{preset}/{DEFAULT.sampler}-{DEFAULT.steps}-w{DEFAULT.guidance_scale:g}")
    return f"{duration(1000 * entry['seconds'] / entry['images'])}, {entry['device']}" if entry else "not measured"


def judge_note(results: Results) -> str:
    """Return how reliable the judge is."""
    judges = [judge for preset in PRESET_ORDER if (judge := of_first_seed(results, f"judge/{preset}"))]
    return "".join(
        f"The judge of preset `{judge['preset']}` was trained on {judge['train_images']:,} pictures of "
        f"{judge['dataset']} (train.csv alone) and is right on {percent(judge['accuracy'], 2)} of the "
        f"{judge['val_images']:,} of val.csv. An accuracy above that means that generated digits are more typical than "
        "real ones, not better.\n"
        for judge in judges
    )


def per_digit_table(results: Results) -> str:
    """Return the accuracy of each digit."""
    measured = {preset: results[f"evaluate/{preset}"] for preset in PRESET_ORDER if f"evaluate/{preset}" in results}
    if not measured:
        return ""
    rows = [
        [
            f"`{preset}`",
            *(percent(entry["per_digit"][str(k)], 0) if str(k) in entry["per_digit"] else "–" for k in range(10)),
        ]
        for preset, entry in measured.items()
    ]
    return table(["digit", *range(10)], rows)


def sweep_entries(results: Results, preset: str) -> list[Entry]:
    """Return the settings measured with the newest weights of one preset, by sampler, steps and guidance."""
    newest = results.get(f"batch/{preset}", {}).get("weights")
    entries = [entry for key, entry in results.items() if key.startswith(f"sweep/{preset}/")]
    entries = [entry for entry in entries if entry["weights"] == newest]
    return sorted(entries, key=lambda entry: (entry["sampler"], entry["steps"], entry["guidance_scale"]))


def is_default(entry: Entry) -> bool:
    """Tell whether ``entry`` is the setting that inference.py uses unless told otherwise."""
    return (entry["sampler"], entry["steps"], entry["guidance_scale"]) == (
        DEFAULT.sampler,
        DEFAULT.steps,
        DEFAULT.guidance_scale,
    )


def sweep(space: Workspace, results: Results, preset: str) -> str:
    """Return the comparison of samplers with one preset's weights."""
    entries = sweep_entries(results, preset)
    first = entries[0]
    rows = [
        [
            SAMPLER_NAMES[entry["sampler"]] + (" (default)" if is_default(entry) else ""),
            entry["steps"],
            f"{entry['guidance_scale']:g}",
            percent(entry["accuracy"]),
            f"{entry['frechet']:.2f}",
            f"{1000 * entry['seconds'] / entry['images']:.1f}",
        ]
        for entry in entries
    ]
    header = ["sampler", "steps", "guidance w", "accuracy", "Fréchet distance", "seconds for 1000"]
    caption = (
        f"What steps and guidance do: preset `{preset}`, {brief(first['dataset'])}, {first['images']:,} pictures a "
        f"setting, sampling seed {first['seed']}, {first['device']}. Bars: 95 % intervals of the accuracy."
    )
    return (
        f"**Sampler, steps and guidance, preset `{preset}`.** {first['images']:,} pictures of {first['dataset']} a "
        f"setting on {first['device']}; as many real pictures: Fréchet distance {first['frechet_floor']:.2f}. "
        "Seconds are of one run each and vary with what else the machine does.\n\n"
        + table(header, rows)
        + choice(entries)
        + "\n"
        + picture(space, f"P2/sampler_sweep_{preset}.png", caption)
    )


def named(entry: Entry) -> str:
    """Return the setting of one row of the sweep in words."""
    return f"{SAMPLER_NAMES[entry['sampler']]}, {entry['steps']} steps, w = {entry['guidance_scale']:g}"


def choice(entries: Sequence[Entry]) -> str:
    """Return which settings are best at what, and what the default gives up for being good at all."""
    default = next((entry for entry in entries if is_default(entry)), None)
    if default is None:
        return ""
    nearest = min(entries, key=lambda entry: entry["frechet"])
    surest = max(entries, key=lambda entry: entry["accuracy"])
    close = [
        entry
        for entry in entries
        if entry["accuracy"] >= surest["accuracy"] - 0.01 and entry["frechet"] <= 1.25 * nearest["frechet"]
    ]
    cheapest = min(close or [nearest], key=lambda entry: (entry["steps"], entry["frechet"]))
    return (
        f"\nSmallest distance: {named(nearest)}. Highest accuracy: {named(surest)}. Fewest steps within 1 point of "
        f"the highest accuracy and 25 % of the smallest distance: {named(cheapest)}. The default is "
        f"{100 * (surest['accuracy'] - default['accuracy']):.1f} points and "
        f"{default['frechet'] - nearest['frechet']:.2f} of distance from the best of each.\n"
    )


def discussion(results: Results) -> str:
    """Return what the recorded numbers show about the original report's statements, and about guidance."""
    lines = [time_line()]
    for preset in PRESET_ORDER:
        if f"batch/{preset}" in results:
            lines.append(batch_line(preset, results[f"batch/{preset}"]))
        entries = sweep_entries(results, preset)
        if steps := steps_line(entries):
            lines.append(f"**Gradual noise** (`{preset}`). {steps}")
        if guidance := guidance_line(preset, entries):
            lines.append(guidance)
    lines.append(model_line(results))
    head = (
        "The original report says that a longer T needs more memory, that pictures of a batch influence each other, "
        "that adding noise gradually is only a means, and that quality depends mostly on the model.\n\n"
    )
    return head + "".join(f"- {line}\n" for line in lines)


def time_line() -> str:
    """Return what T costs, counted in the network itself."""
    counts = {num_timesteps: count_parameters(UNet(num_timesteps)) for num_timesteps in (200, 1000)}
    return (
        "**Memory and T.** A picture is trained at one random time step, so activations do not depend on T; only the "
        f"table of time embeddings does: {counts[200]:,} parameters at T = 200, {counts[1000]:,} at T = 1000."
    )


def batch_line(preset: str, measured: Entry) -> str:
    """Return whether the composition of a batch matters when sampling."""
    difference, other = measured["mean_difference"], measured["another_noise"]
    verdict = (
        "that is rounding: GroupNorm keeps its statistics within a picture, so the rest of the batch does not matter"
        if difference < 0.01 * other
        else "that is more than rounding, so the batch does matter here"
    )
    return (
        f"**Influence within a batch** (`{preset}`). Ten pictures drawn one by one differ from the same ten drawn "
        f"together by {difference:.1e} on average (values in [-1, 1]; two different pictures: {other:.2f}); {verdict}."
    )


def steps_line(entries: list[Entry]) -> str:
    """Return what many small steps buy over few."""
    ancestral = next((entry for entry in entries if entry["sampler"] == "ddpm"), None)
    default = next((entry for entry in entries if is_default(entry)), None)
    if ancestral is None or default is None:
        return ""
    gap = 100 * (ancestral["accuracy"] - default["accuracy"])
    ratio = ancestral["steps"] / default["steps"]
    resolution = 196 * math.sqrt(sum(e["accuracy"] * (1 - e["accuracy"]) / e["images"] for e in (ancestral, default)))
    verdict = "no difference was detected" if abs(gap) <= resolution else "the number of steps is not free here"
    return (
        f"{SAMPLER_NAMES[default['sampler']]} with {default['steps']} "
        f"steps has {percent(default['accuracy'])} and Fréchet distance {default['frechet']:.2f}, ancestral sampling "
        f"with {ancestral['steps']} steps {percent(ancestral['accuracy'])} and {ancestral['frechet']:.2f} in "
        f"{ratio:g} times the network passes. The accuracies are {abs(gap):.1f} points apart, chance alone makes up to "
        f"{resolution:.1f} (95 %): {verdict}."
    )


def guidance_line(preset: str, entries: list[Entry]) -> str:
    """Return what guidance buys and what it costs."""
    scales = sorted(
        (entry for entry in entries if (entry["sampler"], entry["steps"]) == (DEFAULT.sampler, DEFAULT.steps)),
        key=lambda entry: entry["guidance_scale"],
    )
    if len(scales) < 2:
        return ""
    weak, strong = scales[0], scales[-1]
    closest = min(scales, key=lambda entry: entry["frechet"])
    best = max(scales, key=lambda entry: entry["accuracy"])
    trade = (
        "no scale is best in both"
        if closest["guidance_scale"] != best["guidance_scale"]
        else "one scale is best in both"
    )
    return (
        f"**Guidance** (`{preset}`). From w = {weak['guidance_scale']:g} to w = {strong['guidance_scale']:g} accuracy "
        f"goes from {percent(weak['accuracy'])} to {percent(strong['accuracy'])} and the Fréchet distance from "
        f"{weak['frechet']:.2f} to {strong['frechet']:.2f}. Accuracy is highest at w = {best['guidance_scale']:g}, the "
        f"distance smallest at w = {closest['guidance_scale']:g}: {trade}."
    )


def model_line(results: Results) -> str:
    """Return what the larger network buys over the smaller one."""
    runs = {preset: training(results, preset) for preset in ("cpu", "full")}
    scores = {preset: results.get(f"evaluate/{preset}") for preset in ("cpu", "full")}
    if not all(runs.values()) or not all(scores.values()):
        missing = " and ".join(f"`{name}`" for name in runs if not (runs[name] and scores[name]))
        return f"**The model.** Not run: this compares presets `cpu` and `full`, and {missing} is not measured."
    gap = 100 * (scores["full"]["accuracy"] - scores["cpu"]["accuracy"])
    parts = ", ".join(
        f"`{preset}` ({runs[preset]['parameters']:,} parameters, {runs[preset]['epochs']:g} epochs, "
        f"{duration(runs[preset]['seconds'])} on {runs[preset]['device']}) {percent(scores[preset]['accuracy'])} and "
        f"{scores[preset]['frechet']:.2f}"
        for preset in ("cpu", "full")
    )
    nearer = scores["full"]["frechet"] < scores["cpu"]["frechet"]
    verdict = f"{gap:+.1f} points for the larger network and {'a smaller' if nearer else 'no smaller'} distance"
    return f"**The model.** Accuracy and Fréchet distance: {parts}; {verdict}."


def finding(results: Results) -> str:
    """Return in one sentence what the sweep of the largest preset shows; empty where it was not measured."""
    return next((line for preset in PRESET_ORDER if (line := steps_line(sweep_entries(results, preset)))), "")


def readme_table(space: Workspace) -> str:
    """Return the short table of README.md: measured figures by preset."""
    results = read_results(space.results, "p2")
    rows = []
    for preset in PRESETS:
        if measured := results.get(f"evaluate/{preset}"):
            run = training(results, preset)
            rows.append(
                [
                    f"`{preset}`",
                    f"{run['parameters'] / 1e6:.1f} M" if run else "–",
                    percent(measured["accuracy"]),
                    f"{measured['frechet']:.2f} (real pictures: {measured['frechet_floor']:.2f})",
                    thousand_pictures(results, preset),
                ]
            )
    if rows and "evaluate/full" not in results:
        size = f"{count_parameters(UNet()) / 1e6:.1f} M"
        rows.append(["`full`, the original report's", size, "not run: needs a GPU", "not run", "not run"])
    header = ["P2, preset", "parameters", "digits recognised by a separate classifier", "Fréchet distance"]
    return table([*header, "time for 1000 pictures"], rows) if rows else "*Not run.*\n"
