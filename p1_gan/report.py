"""The values, tables and printouts that p1_gan/report.md has places for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from common.report import (
    Page,
    Results,
    architecture,
    details,
    duration,
    mean_range,
    measured_on,
    percent,
    summary_table,
    table,
)
from common.results import of_all_seeds, of_first_seed
from common.weights import images_seen
from p1_gan.ablation import ROWS
from p1_gan.methods import METHODS
from p1_gan.model import LATENT_SIZE

Show = Callable[[float], str]
PRESET_ORDER = ("full", "cpu", "sample")
SETTINGS = {
    "loss": "loss",
    "optimizer": "optimiser",
    "generator_learning_rate": "learning rate of G",
    "discriminator_learning_rate": "learning rate of D",
    "decay_share": "share of the steps, at the end, over which both learning rates fall to 0",
    "weight_decay": "weight decay",
    "real_label": "label of real pictures",
    "instance_noise": "noise on D's inputs at the start",
    "diff_augment": "augmentation of D's inputs",
    "ema_decay": "averaging of G's weights",
}


def _thousandths(value: float) -> str:
    return f"{1000 * value:.1f}"


# Key of a measurement -> column, how a value is shown, and the key of the same figure of real pictures.
MEASURES: dict[str, tuple[str, Show, str]] = {
    "fid": ("FID", "{:.2f}".format, "fid_floor"),
    "fd_lite0": ("Fréchet distance (EfficientNet-Lite0)", "{:.1f}".format, "fd_lite0_floor"),
    "kid_lite0": ("KID (EfficientNet-Lite0) × 1000", _thousandths, "kid_lite0_floor"),
    "face_rate": ("face rate", percent, "face_rate_of_val"),
}
APPEARANCE: dict[str, tuple[str, Show, str]] = {
    "brightness": ("mean brightness, 0 to 1", "{:.3f}".format, "brightness_of_val"),
    "blank_border": ("blank border", percent, "blank_border_of_val"),
    "face_width_mean": ("mean width of the face, pixels", "{:.1f}".format, "face_width_mean_of_val"),
    "not_one_face": ("no single face found", percent, "not_one_face_of_val"),
    "colourfulness": ("colourfulness, 0 to 1", "{:.3f}".format, "colourfulness_of_val"),
    "variety": ("variety, 0 to 1", "{:.3f}".format, "variety_of_val"),
}
MEMORISATION: dict[str, tuple[str, Show, str]] = {
    "nearest_train_median": (
        "median distance to the nearest training picture",
        "{:.2f}".format,
        "nearest_train_median_of_val",
    ),
    "nearer_than_closest_percent_of_val": ("nearer than 99 % of real ones", percent, ""),
}


def parts(page: Page) -> dict[str, Any]:
    """Return what the template names."""
    results, preset = page.results, main_preset(page.results)
    measured = [value for method in METHODS for value in draws(results, method, preset)]
    trained = [run for method in METHODS if (run := training(results, method, preset))]
    return {
        "methods": METHODS,
        "preset": preset,
        "data": " and ".join(
            sorted({f"{run['train_images']:,} training pictures of {run['dataset']}" for run in trained})
        ),
        "images": " or ".join(f"{count:,}" for count in sorted({value["images"] for value in measured})),
        "machine": measured_on([*trained, *measured]),
        "budget": ablation_budget(results, preset),
        "settings": settings_table(results, preset),
        "printouts": printouts(),
        "trainings": trainings_table(results, preset),
        "measures": measures_table(results, preset, MEASURES),
        "looks": measures_table(results, preset, APPEARANCE),
        "memorisation": measures_table(results, preset, MEMORISATION),
        "repetitions": repetitions_table(results, preset),
        "ablation": ablation_table(results, preset),
    }


def main_preset(results: Results) -> str:
    """Return the preset that most methods were trained with, the largest of several."""
    trained = {name: sum(training(results, method, name) is not None for method in METHODS) for name in PRESET_ORDER}
    return max(PRESET_ORDER, key=trained.__getitem__) if any(trained.values()) else "cpu"


def training(results: Results, method: str, preset: str) -> Mapping[str, Any] | None:
    """Return the record of the training of ``method`` with the smallest seed."""
    return of_first_seed(results, f"train/{method}/{preset}")


def continuation(results: Results, method: str, preset: str) -> Mapping[str, Any] | None:
    """Return the record of the training that went on from the weights of :func:`training`; None where there is none."""
    return of_first_seed(results, f"train/{method}/{preset}/continued")


def draws(results: Results, method: str, preset: str, seed: int | None = None) -> list[Mapping[str, Any]]:
    """Return what was measured of pictures of one training, one entry for each sampling seed.

    ``seed`` is the training's; None takes that of :func:`training`.
    """
    if seed is None:
        seed = (training(results, method, preset) or {"seed": 0})["seed"]
    found = of_all_seeds(results, f"evaluate/{method}/{preset}/weights{seed}")
    found = [entry for entry in found if entry.get("weights") == found[0].get("weights")]
    return [
        entry | {f"not_one_face{end}": 1 - entry[key] for end in ("", "_of_val") if (key := f"face_rate{end}") in entry}
        for entry in found
    ]


def values_of(entries: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Return the numbers under ``key``, of the entries that have one (an FID that was not run is text)."""
    return [entry[key] for entry in entries if isinstance(entry.get(key), int | float)]


def measures_table(results: Results, preset: str, columns: Mapping[str, tuple[str, Show, str]]) -> str:
    """Return one row a method, mean and range over sampling seeds, and one of real pictures."""
    found = {method: draws(results, method, preset) for method in METHODS}
    rows = [
        [method, *(mean_range(values_of(entries, key), show) for key, (_, show, _) in columns.items())]
        for method, entries in found.items()
    ]
    every = [entry for entries in found.values() for entry in entries]
    of_real = []
    for key, (_, show, real_key) in columns.items():
        values = values_of(every, real_key)
        is_by_definition = not real_key and values_of(every, key)
        of_real.append(show(values[0]) if values else "–" if is_by_definition else None)
    rows.append(["real pictures", *of_real])
    return table(["", *(name for name, _, _ in columns.values())], rows)


def settings_table(results: Results, preset: str) -> str:
    """Return the settings that are not the same in all methods, of the trainings or, before them, of the presets."""
    planned = {name: method.presets.get(preset) for name, method in METHODS.items()}
    used = {name: training(results, name, preset) or (asdict(plan) if plan else {}) for name, plan in planned.items()}
    rows = [["networks", *(f"{m.generator.__name__}, {m.discriminator.__name__}" for m in METHODS.values())]]
    for key, name in SETTINGS.items():
        cells = [_shown(config[key]) if key in config else "–" for config in used.values()]
        if len(set(cells)) > 1:
            rows.append([name, *cells])
    return table(["", *(f"{name}: {method.title}" for name, method in METHODS.items())], rows)


def printouts() -> str:
    """Return every architecture and its summary folded away, once where the classes differ in name alone."""
    roles = {"generator": (LATENT_SIZE, 1, 1), "discriminator": (3, 64, 64)}
    blocks = []
    for role, inputs in roles.items():
        users: dict[str, list[str]] = {}
        for name, method in METHODS.items():
            model = getattr(method, role)()
            body = f"{architecture(model)}\n{summary_table(model, inputs)}".replace(type(model).__name__, "{name}")
            users.setdefault(body, []).append(f"{type(model).__name__} ({name})")
        for body, names in users.items():
            text = body.replace("{name}", names[0].split(" ")[0])
            blocks.append(details(f"{role.capitalize()}: {', '.join(names)}", text))
    return "\n".join(blocks)


def trainings_table(results: Results, preset: str) -> str:
    """Return what each training cost and how its game stood in the last quarter."""
    rows = []
    legs = {"": training, ", continued": continuation}
    for method, (leg, find) in product(METHODS, legs.items()):
        run = find(results, method, preset)
        if run is not None:
            seen = f"{run['steps'] * run['batch_size']:,} ({run['steps']:,} steps of {run['batch_size']})"
            cost = [seen, run["channels"], duration(run["seconds"]), f"{run['images_per_second']:.0f}"]
            rows.append([method + leg, *cost, *(f"{run['late'][key]:.2f}" for key in ("d_real", "d_fake"))])
        elif not leg:
            rows.append([method, *[None] * 6])
    return table(["", "pictures seen", "width", "time", "pictures a second", "D(x)", "D(G(z))"], rows)


def repetitions_table(results: Results, preset: str) -> str:
    """Return the measures of every training of each method; empty where none was repeated."""
    runs = [(method, run) for method in METHODS for run in of_all_seeds(results, f"train/{method}/{preset}")]
    if len(runs) <= len({method for method, _ in runs}):
        return ""
    rows = []
    for method, run in runs:
        found = draws(results, method, preset, run["seed"])
        shown = [mean_range(values_of(found, key), show) for key, (_, show, _) in MEASURES.items() if key != "fid"]
        seen = found[0]["pictures_seen"] if found else images_seen(run)
        rows.append([method, run["seed"], f"{seen:,}", *shown])
    names = [name for key, (name, _, _) in MEASURES.items() if key != "fid"]
    return table(["", "training seed", "pictures seen", *names], rows)


def ablation_budget(results: Results, preset: str) -> int | None:
    """Return the largest number of pictures that rows of the ablation were trained on; None where none was."""
    entries = [entry for name in ROWS for entry in of_all_seeds(results, f"ablation/{name}/{preset}")]
    return max((entry["steps"] * entry["batch_size"] for entry in entries if "fd_lite0" in entry), default=None)


def ablation_table(results: Results, preset: str) -> str:
    """Return one line a row of the ablation, mean and range over training seeds of the same budget."""
    budget, columns = ablation_budget(results, preset), ("fd_lite0", "kid_lite0", "face_rate")
    rows = []
    for name, row in ROWS.items():
        found = of_all_seeds(results, f"ablation/{name}/{preset}")
        found = [entry for entry in found if entry["steps"] * entry["batch_size"] == budget]
        shown = (mean_range(values_of(found, key), MEASURES[key][1]) for key in columns)
        rows.append([row.title, len(found) or None, *shown])
    return table(["", "seeds", *(MEASURES[key][0] for key in columns)], rows)


def readme_table(results: Results) -> str:
    """Return the short table of README.md."""
    return measures_table(results, main_preset(results), MEASURES)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
