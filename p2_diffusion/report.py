"""Values, tables and captions of Problem 2; report.md beside this file has the words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report import Page, Results, architecture, details, duration, measured_on, percent, table
from common.results import of_first_seed
from p2_diffusion.build import build_model
from p2_diffusion.model import UNet
from p2_diffusion.presets import PRESETS, default_sampling
from p2_diffusion.samplers import SAMPLERS
from p2_diffusion.sweep import choose, guidance_title

Entry = Mapping[str, Any]

PRINTED = "full"  # the preset that trains the network of the original report


def parts(page: Page) -> dict[str, Any]:
    """Return what report.md has places for."""
    results = page.results
    shown = [entry for key, entry in results.items() if not key.startswith("evaluate/folder/")]
    swept = [preset for preset in PRESETS if sweep_entries(results, preset)]
    return {
        "results": results,
        "machine": measured_on(shown),
        "data": ", ".join(sorted({entry["dataset"] for entry in shown if "dataset" in entry})),
        "networks": networks(results),
        "drawn_with": "; ".join(
            f"`{preset}`: {named(vars(default_sampling(run)))}"
            for preset in PRESETS
            if (run := training(results, preset))
        ),
        "recipes": recipes(results),
        "printed_unet": details(
            f"The U-Net of the original report, {count(UNet()):,} parameters", architecture(UNet())
        ),
        "parameters_by_T": {timesteps: f"{count(UNet(timesteps)):,}" for timesteps in (200, 1000)},
        "per_digit": per_digit(results),
        "grid": page.picture("P2/diffusion_grid.png", "Rows: digits. Columns: ten starting noises" + made_by(results)),
        "strip": page.picture("P2/diffusion_grid_time.png", "The first 0 of the grid after so many time steps"),
        "animation": page.picture("P2/reverse.gif", "The first picture of each row of the grid"),
        "sweeps": [sweep(page, preset) for preset in swept],
        "by_network": "; ".join(found) if len(found := by_network(results)) > 1 else "",
    }


def count(model: UNet) -> int:
    """Return the number of parameters, those of embeddings included."""
    return sum(parameter.numel() for parameter in model.parameters())


def training(results: Results, preset: str) -> Entry | None:
    """Return the record of the first seed trained with ``preset``."""
    return of_first_seed(results, f"train/{preset}")


def evaluation(results: Results, preset: str) -> Entry | None:
    """Return what was measured of pictures of the network of :func:`training`, as it is sampled from by default."""
    run = training(results, preset)
    return results.get(f"evaluate/{preset}/seed{run['seed']}") if run else of_first_seed(results, f"evaluate/{preset}")


def shown_presets(results: Results) -> list[str]:
    """Return the presets that were trained or evaluated, and the printed network in any case."""
    found = [preset for preset in PRESETS if training(results, preset) or evaluation(results, preset)]
    return found if PRINTED in found else [PRINTED, *found]


def networks(results: Results) -> str:
    """Return the main table: how each network was trained and what it draws, beside real pictures."""
    rows = []
    for preset in shown_presets(results):
        run, measured = training(results, preset), evaluation(results, preset)
        rows.append(
            [
                f"`{preset}`",
                f"{count(build_model(run or vars(PRESETS[preset]))):,}" if run or measured else None,
                f"{run['steps'] * run['batch_size']:,}" if run else None,
                duration(run["seconds"]) if run else None,
                *(quality(measured, measured["frechet"]) if measured else [None] * 3),
                thousand_pictures(results, preset),
            ]
        )
    for preset in PRESETS:
        judge, measured = of_first_seed(results, f"judge/{preset}"), evaluation(results, preset)
        if judge and measured:
            rows.append(["real pictures", "", "", "", *quality(judge, measured["frechet_floor"]), ""])
    return table(
        [
            "preset",
            "parameters",
            "pictures trained on",
            "training",
            "digits recognised",
            "worst digit",
            "Fréchet distance",
            "1000 pictures take",
        ],
        rows,
    )


def quality(measured: Entry, frechet: float) -> list[str]:
    """Return accuracy, that of the worst digit, and distance."""
    worst = min(measured["per_digit"].values())
    return [percent(measured["accuracy"]), percent(worst), f"{frechet:.2f}"]


def thousand_pictures(results: Results, preset: str) -> str | None:
    """Return how long 1000 pictures take with the network's default sampler."""
    entry = evaluation(results, preset)
    if not entry or "sampling_seconds" not in entry:
        return None
    return duration(1000 * entry["sampling_seconds"] / entry["images"])


def swept_default(results: Results, preset: str) -> Entry | None:
    """Return what the sweep measured of the network's default sampler."""
    run = training(results, preset)
    return results.get(f"sweep/{preset}/seed{run['seed']}/{default_sampling(run).name}") if run else None


def recipes(results: Results) -> str:
    """Return the configuration of every recorded training."""
    runs = [run for preset in PRESETS if (run := training(results, preset))]
    rows = [
        ["widths", *(" ".join(str(run["channels"] * mult) for mult in run["channel_mults"]) for run in runs)],
        ["noise schedule, T", *(f"{run['schedule']}, {run['timesteps']}" for run in runs)],
        ["prediction, min-SNR γ", *(f"{run['prediction']}, {run['min_snr_gamma']:g}" for run in runs)],
        ["steps × batch", *(f"{run['steps']:,} × {run['batch_size']}" for run in runs)],
        ["epochs", *(f"{run['epochs']:g}" for run in runs)],
        ["learning rate, EMA decay", *(f"{run['learning_rate']:g}, {run['ema_decay']:g}" for run in runs)],
        ["labels dropped", *(percent(run["label_dropout"], 0) for run in runs)],
        ["began with", *(run.get("initial_weights") or "random weights" for run in runs)],
        ["pictures a second", *(f"{run['images_per_second']:,.0f}" for run in runs)],
    ]
    return table(["preset", *(f"`{run['preset']}`" for run in runs)], rows) if runs else ""


def per_digit(results: Results) -> str:
    """Return the accuracy of each digit."""
    rows = [
        [f"`{preset}`", *(percent(measured["per_digit"].get(str(digit), 0), 0) for digit in range(10))]
        for preset in PRESETS
        if (measured := evaluation(results, preset))
    ]
    return table(["digit", *range(10)], rows) if rows else ""


def by_network(results: Results) -> list[str]:
    """Return what each network reaches, named by its size."""
    lines = []
    for preset in shown_presets(results):
        if measured := evaluation(results, preset):
            size = count(build_model(training(results, preset) or vars(PRESETS[preset])))
            found = f"{percent(measured['accuracy'])}, {measured['frechet']:.2f}"
            lines.append(f"{size / 1e6:.1f} M parameters: {found}")
    return lines


def made_by(results: Results) -> str:
    """Return which network drew the pictures, and how."""
    drawn = results.get("figures")
    if drawn is None or drawn["sampler"] not in SAMPLERS:
        return ""
    return f" (preset {drawn['preset']}, {named(drawn)})"


def named(entry: Entry) -> str:
    """Return a way of sampling in words."""
    return f"{SAMPLERS[entry['sampler']].title}, {entry['steps']} steps, {guidance_title(entry)}"


def sweep_entries(results: Results, preset: str) -> list[Entry]:
    """Return the settings measured with the newest weights of one preset, the cheapest first."""
    newest = (of_first_seed(results, f"batch/{preset}") or {}).get("weights")
    entries = [entry for key, entry in results.items() if key.startswith(f"sweep/{preset}/")]
    # A sampler may have been tried out and taken away again.
    entries = [entry for entry in entries if entry["weights"] == newest and entry["sampler"] in SAMPLERS]
    most = max((entry["images"] for entry in entries), default=0)
    entries = [entry for entry in entries if entry["images"] == most]
    return sorted(entries, key=lambda entry: (entry["passes"], entry["sampler"], entry["guidance_scale"]))


def sweep(page: Page, preset: str) -> dict[str, Any]:
    """Return the comparison of ways to sample from one network."""
    entries = sweep_entries(page.results, preset)
    default = swept_default(page.results, preset)
    chosen = choose(entries)
    rows = [
        [
            SAMPLERS[entry["sampler"]].title + (" (default)" if entry is default else ""),
            entry["steps"],
            guidance_title(entry),
            f"{entry['passes']:g}",
            percent(entry["accuracy"]),
            f"{entry['frechet']:.2f}",
            duration(1000 * entry["seconds"] / entry["images"]),
        ]
        for entry in entries
    ]
    header = ["sampler", "steps", "guidance", "passes a picture", "digits recognised", "Fréchet distance", "1000 take"]
    return {
        "preset": preset,
        "images": f"{entries[0]['images']:,}",
        "floor": f"{entries[0]['frechet_floor']:.2f}",
        "table": table(header, rows),
        "picture": page.picture(f"P2/sampler_sweep_{preset}.png", f"Quality over cost, preset {preset}"),
        "chosen": named(chosen) if chosen else "",
    }


def readme_table(results: Results) -> str:
    """Return the short table of README.md."""
    rows = [
        [
            f"`{preset}`",
            f"{count(build_model(run)) / 1e6:.1f} M",
            percent(measured["accuracy"]),
            f"{measured['frechet']:.2f} (real pictures: {measured['frechet_floor']:.2f})",
            thousand_pictures(results, preset),
        ]
        for preset in PRESETS
        if (run := training(results, preset)) and (measured := evaluation(results, preset))
    ]
    header = ["P2, preset", "parameters", "digits recognised", "Fréchet distance", "1000 pictures take"]
    return table(header, rows)
