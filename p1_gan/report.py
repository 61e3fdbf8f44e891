"""The section of report.md on Problem 1, made from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from common.files import sha256
from common.paths import Workspace
from common.report import architecture, code, details, duration, percent, picture, summary_table, table
from common.results import of_all_seeds, of_first_seed, read_results
from p1_gan.ablation import ROWS
from p1_gan.model import CHANNELS, LATENT_SIZE
from p1_gan.presets import METHODS
from p1_gan.train import NETWORKS

Results = Mapping[str, Mapping[str, Any]]

PRESET_ORDER = ("full", "cpu", "sample")
INPUTS = {"generator": (LATENT_SIZE, 1, 1), "discriminator": (3, 64, 64)}
INGREDIENTS = {
    "optimizer": "optimiser",
    "generator_learning_rate": "learning rate of G",
    "discriminator_learning_rate": "learning rate of D",
    "weight_decay": "weight decay",
    "real_label": "label of real pictures",
    "instance_noise": "instance noise at the start",
    "diff_augment": "differentiable augmentation",
    "ema_decay": "averaging of G's weights",
}


def render(space: Workspace) -> str:
    """Return the section as Markdown; what was not measured is said to be missing."""
    results = read_results(space.results, "p1")
    preset = main_preset(results)
    parts = ["## Problem 1\n", "### 1. Architectures of methods A and B\n", differences(results, preset)]
    if note := width_note(results, preset):
        parts.append(note)
    for method in METHODS:
        for role, network in zip(INPUTS, NETWORKS[method], strict=True):
            model = network()
            text = code(architecture(model)) + "\n" + code(summary_table(model, INPUTS[role]))
            parts.append(details(f"Method {method}: {role}, {type(model).__name__}", text))
    parts.append("### 2. The first 32 pictures of each method\n")
    for method in METHODS:
        parts += [grid(space, results, method, preset), seen(space, method)]
    parts += [measurements(results, preset), "### 3. What was observed\n", observations(space, results, preset)]
    parts += ["### 4. What each ingredient of B brings\n", ablation(results, preset)]
    return "\n".join(parts)


def main_preset(results: Results) -> str:
    """Return the largest preset with a finished training."""
    return next((name for name in PRESET_ORDER if any(training(results, method, name) for method in METHODS)), "cpu")


def training(results: Results, method: str, preset: str) -> Mapping[str, Any] | None:
    """Return the record of the training of ``method``."""
    return of_first_seed(results, f"train/{method}/{preset}")


def evaluation(results: Results, method: str, preset: str) -> Mapping[str, Any] | None:
    """Return the measurement of the pictures of ``method``."""
    return of_first_seed(results, f"evaluate/{method}/{preset}")


def draws(results: Results, method: str, preset: str) -> list[Mapping[str, Any]]:
    """Return what was measured of the pictures of ``method``, one entry for each sampling seed."""
    one = evaluation(results, method, preset)
    if one is None:
        return []
    others = f"evaluate/{method}/{preset}/weights{one['seed']}/seed"
    return [one, *(value for key, value in results.items() if key.startswith(others))]


def distances(results: Results, method: str, preset: str) -> list[float]:
    """Return FD-HOG of the pictures of ``method``, one for each sampling seed measured."""
    return [draw["fd_hog"] for draw in draws(results, method, preset)]


def face_rates(results: Results, method: str, preset: str) -> str:
    """Return the face rate in words: its mean and range where several sampling seeds were measured."""
    rates = [draw["face_rate"] for draw in draws(results, method, preset) if "face_rate" in draw]
    return _mean_range(rates, percent) if rates else "not run (dlib is not installed)"


def differences(results: Results, preset: str) -> str:
    """Return how the two methods differ, read from the records of their trainings."""
    a, b = (training(results, method, preset) for method in METHODS)
    rows = [["spectral norm of D", "no", "yes"]]
    if a and b:
        rows += [[text, _show(a[key]), _show(b[key])] for key, text in INGREDIENTS.items() if a[key] != b[key]]
    note = "" if a and b else "\n*Not run: `bash scripts/train_p1.sh` trains both and fills this table.*\n"
    return table(["difference", "A: DCGAN", "B: SN-GAN variant"], rows) + note


def width_note(results: Results, preset: str) -> str:
    """Return a remark where the networks that were trained are not as wide as those of the report."""
    run = training(results, "A", preset) or training(results, "B", preset)
    channels = run.get("channels", CHANNELS) if run else CHANNELS
    if channels == CHANNELS:
        return ""
    sizes = [sum(parameter.numel() for parameter in network(channels).parameters()) for network in NETWORKS["A"]]
    return (
        f"Preset `{preset}` trains these classes with {channels} instead of {CHANNELS} channels at 32x32: "
        f"{sizes[0]:,} and {sizes[1]:,} parameters. Below are the networks of the report.\n"
    )


def grid(space: Workspace, results: Results, method: str, preset: str) -> str:
    """Return one grid with what made it."""
    run = training(results, method, preset)
    made = ""
    if run:
        made = (
            f": {run['dataset']}, {run['train_images']:,} pictures, preset `{preset}`, {run['steps']:,} steps of "
            f"{run['batch_size']}, seed {run['seed']}, {duration(run['seconds'])} on {run['device']}"
        )
    return picture(space, f"P1/GAN_{method}_grid.png", f"Method {method}{made}")


def seen(space: Workspace, method: str) -> str:
    """Return what a person wrote on looking at the grid, as long as it is still the same grid.

    ``images/P1/GAN_<method>_grid.md`` begins with the picture's SHA-256; a new picture wants a new look.
    """
    shown, remarks = (space.images / "P1" / f"GAN_{method}_grid.{suffix}" for suffix in ("png", "md"))
    if not remarks.is_file() or not shown.is_file():
        return ""
    digest, text = remarks.read_text(encoding="utf-8").split("\n", 1)
    return text.strip() + "\n" if digest == sha256(shown) else ""


def measurements(results: Results, preset: str) -> str:
    """Return the table of what the task and this repository measure."""
    found = {method: evaluation(results, method, preset) for method in METHODS}
    if not any(found.values()):
        return "*Not run: no generated pictures were measured yet.*\n"
    one = next(value for value in found.values() if value)
    rows = []
    for method, values in found.items():
        if values:
            score = values["fid"] if isinstance(values["fid"], str) else f"{values['fid']:.2f}"
            rate = face_rates(results, method, preset)
            distance = _mean_range(distances(results, method, preset))
            rows.append([method, score, rate, distance, f"{values['nearest_train_median']:.2f}"])
    floor = f"{one['fid_floor']:.2f}" if "fid_floor" in one else "-"
    real_rate = percent(one["face_rate_of_val"]) if "face_rate_of_val" in one else "-"
    floor_row = ["real pictures", floor, real_rate, f"{one['fd_hog_floor']:.2f}"]
    rows.append([*floor_row, f"{one['nearest_train_median_of_val']:.2f}"])
    header = ["", "FID", "face rate", "FD-HOG", "median distance to the nearest training picture"]
    return table(header, rows) + (
        f"\n{one['images']:,} pictures of each. The face rate is the share in which dlib's HOG detector finds exactly "
        "one face. FD-HOG is a Fréchet distance on HOG and colour features, not comparable with FID. The last row is "
        "the same figure of as many random real training pictures (face rate and nearest distance: of the validation "
        "set).\n"
    )


def observations(space: Workspace, results: Results, preset: str) -> str:
    """Return what the recorded numbers show."""
    lines = []
    a, b = (evaluation(results, method, preset) for method in METHODS)
    if a and b:
        several = {method: distances(results, method, preset) for method in METHODS}
        better, worse = sorted(METHODS, key=lambda method: statistics.fmean(several[method]))
        apart = (
            ""
            if min(map(len, several.values())) < 2
            else "; the ranges do not overlap"
            if max(several[better]) < min(several[worse])
            else "; the ranges overlap, so the difference says little"
        )
        lines.append(
            f"By FD-HOG the pictures of {better} are nearer to the real faces than those of {worse}: "
            f"{_mean_range(several[better])} against {_mean_range(several[worse])}{apart}. This is one training each; "
            "how much trainings differ among themselves was not measured."
        )
        if "face_rate_of_val" in a:
            lines.append(
                f"Real faces have a face rate of {percent(a['face_rate_of_val'])}: above that it says nothing more "
                "about quality. Detector and FD-HOG both rest on HOG features, so they are no independent witnesses."
            )
        for method, values in (("A", a), ("B", b)):
            ratio = values["nearest_train_median"] / values["nearest_train_median_of_val"]
            verdict = "no sign of copying" if ratio > 0.8 else "nearer than real pictures are: look at the neighbours"
            lines.append(
                f"{method}: its pictures lie at {percent(ratio, 0)} of the distance to the nearest training picture "
                f"that held-out real ones have, by the features of FD-HOG, and "
                f"{percent(values['nearer_than_closest_percent_of_val'])} of them lie nearer than 99 % of those: "
                f"{verdict}."
            )
    for method in METHODS:
        run = training(results, method, preset)
        if run:
            final, loss = run["final"], run["loss"]
            # Goodfellow et al., 2014, proposition 1, with real pictures labelled real_label instead of 1.
            balance = f" ({run['real_label'] / 2:g} for both would be the equilibrium)" if loss == "bce" else ""
            lines.append(
                f"{method}: in the last logged step the discriminator gives real pictures {final['d_real']:.2f} and "
                f"generated ones {final['d_fake']:.2f}{balance}."
            )
    if not lines:
        return "*Not run: nothing to discuss yet.*\n"
    captions = {
        "progress": "one latent over the course of training",
        "neighbours": "the pictures nearest to a training picture (above), and that picture (below)",
    }
    pictures = [
        picture(space, f"P1/GAN_{method}_{name}.png", f"Method {method}: {caption}")
        for name, caption in captions.items()
        for method in METHODS
    ]
    return "".join(f"- {line}\n" for line in lines) + "\n" + "\n".join(pictures)


def ablation(results: Results, preset: str) -> str:
    """Return the table of the ablation: one ingredient of B off at a time, on an equal, short budget."""
    runs = {row: of_all_seeds(results, f"ablation/{row}/{preset}") for row in ROWS}
    one = next((values[0] for values in runs.values() if values), None)
    if one is None:
        return "*Not run: `python p1_gan/ablation.py` trains and measures the rows.*\n"
    measured = {
        row: [value for value in values if value["steps"] == one["steps"]] for row, values in runs.items() if values
    }
    distance = {row: [value["fd_hog"] for value in values] for row, values in measured.items()}
    full = distance.get("B")
    rows = []
    for row, values in measured.items():
        rates = [value["face_rate"] for value in values if "face_rate" in value]
        change = statistics.fmean(distance[row]) - statistics.fmean(full) if full else 0.0
        rows.append(
            [
                row,
                _mean_range(distance[row], kind="seeds"),
                f"{change:+.2f}" if full and row != "B" else "",
                _mean_range(rates, percent, "seeds") if rates else "not run",
            ]
        )
    text = table(["row", "FD-HOG", "against B", "face rate"], rows)
    missing = [row for row in ROWS if row not in measured]
    if missing:
        text += f"\n*Not run: {', '.join(missing)}.*\n"
    text += (
        f"\n{one['steps']:,} steps of {one['batch_size']} in every row, {one['images']:,} pictures of each training; "
        f"real pictures among themselves {one['fd_hog_floor']:.2f}. A positive number against B means that FD-HOG is "
        "worse without the ingredient. So short a budget favours what works early.\n"
    )
    return text + "".join(f"\n- {line}" for line in ablation_lines(distance, one["steps"])) + "\n"


def ablation_lines(distance: Mapping[str, list[float]], steps: int) -> list[str]:
    """Return what the ablation shows: which rows lie further from B than repetitions of one training do.

    ``no-adamw`` repeats B: with B's settings weight decay scales the weights by less than 1e-4 in so few steps.
    """
    if not {"B", "no-adamw"} <= distance.keys():
        return []
    repeated = distance["B"] + distance["no-adamw"]
    chance = (
        f"AdamW and Adam differ by weight decay alone, which in {steps:,} steps changes the weights by less than a "
        f"ten-thousandth. *B* and *no-adamw* are therefore {len(repeated)} repetitions of nearly one training, and "
        f"their FD-HOG of {min(repeated):.2f} to {max(repeated):.2f} shows what chance does."
    )
    if min(map(len, distance.values())) < 2:
        return [f"{chance} With one seed a row, the rows cannot be told apart from it."]
    others = {row: values for row, values in distance.items() if row not in ("B", "no-adamw")}
    worse = [row for row, values in others.items() if min(values) > max(repeated)]
    better = [row for row, values in others.items() if max(values) < min(repeated)]
    within = [row for row in others if row not in worse + better]
    verdicts = {
        "In every seed worse than all of these": worse,
        "In every seed better than all of these": better,
        "No difference that chance would not make within this budget": within,
    }
    return [chance, *(f"{verdict}: {', '.join(rows)}." for verdict, rows in verdicts.items() if rows)]


def readme_table(space: Workspace) -> str:
    """Return the short table of README.md."""
    results = read_results(space.results, "p1")
    preset = main_preset(results)
    found = [(method, evaluation(results, method, preset)) for method in METHODS]
    rows = [
        [method, face_rates(results, method, preset), _mean_range(distances(results, method, preset))]
        for method, values in found
        if values
    ]
    if not rows:
        return "*P1: not run yet.*\n"
    real = next(values for _, values in found if values)
    rate = percent(real["face_rate_of_val"]) if "face_rate_of_val" in real else "-"
    rows.append(["real pictures", rate, f"{real['fd_hog_floor']:.2f}"])
    return table([f"P1, 1000 faces, preset `{preset}`", "face rate", "FD-HOG"], rows)


def _mean_range(
    values: list[float], show: Callable[[float], str] = "{:.2f}".format, kind: str = "sampling seeds"
) -> str:
    if len(values) == 1:
        return show(values[0])
    mean, ends = show(statistics.fmean(values)), f"{show(min(values))} to {show(max(values))}"
    return f"{mean} ({ends}, {len(values)} {kind})"


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
