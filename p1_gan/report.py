"""The section of report.md on Problem 1, made from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from common.files import sha256
from common.paths import Workspace
from common.report import architecture, code, details, duration, percent, picture, summary_table, table
from common.results import of_first_seed, read_results
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
        better, worse = ("B", "A") if b["fd_hog"] < a["fd_hog"] else ("A", "B")
        low, high = sorted((a["fd_hog"], b["fd_hog"]))
        lines.append(
            f"By FD-HOG method {better} is nearer to the real faces than {worse} ({low:.2f} against {high:.2f}; real "
            f"pictures among themselves {a['fd_hog_floor']:.2f})."
        )
        several = [distances(results, method, preset) for method in METHODS]
        if min(map(len, several)) > 1:
            apart = max(several[1]) < min(several[0]) or max(several[0]) < min(several[1])
            lines.append(
                f"Over {min(map(len, several))} sampling seeds of one training each the two ranges of FD-HOG "
                f"{'do not overlap' if apart else 'overlap, so the difference says little'} "
                f"(A {_mean_range(several[0])}, B {_mean_range(several[1])})."
            )
        for method, values in (("A", a), ("B", b)):
            ratio = values["nearest_train_median"] / values["nearest_train_median_of_val"]
            verdict = "no sign of copying" if ratio > 0.8 else "nearer than real pictures are: look at the neighbours"
            lines.append(
                f"{method}: its pictures lie at {percent(ratio, 0)} of the distance to the nearest training picture "
                f"that held-out real ones have: {verdict}."
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
    found = {row: of_first_seed(results, f"ablation/{row}/{preset}") for row in ROWS}
    measured = {row: values for row, values in found.items() if values}
    if not measured:
        return "*Not run: `python p1_gan/ablation.py` trains and measures the rows.*\n"
    full = measured.get("B")
    rows = []
    for row, values in measured.items():
        rate = percent(values["face_rate"]) if "face_rate" in values else "not run"
        change = f"{values['fd_hog'] - full['fd_hog']:+.2f}" if full and row != "B" else ""
        rows.append([row, values["steps"], f"{values['fd_hog']:.2f}", change, rate])
    text = table(["row", "steps", "FD-HOG", "against B", "face rate"], rows)
    missing = [row for row, values in found.items() if not values]
    if missing:
        text += f"\n*Not run: {', '.join(missing)}.*\n"
    one = next(iter(measured.values()))
    text += (
        f"\n{one['images']:,} pictures of each row, one training seed, batches of {one['batch_size']}; real pictures "
        f"among themselves {one['fd_hog_floor']:.2f}. A positive number against B means that the ingredient switched "
        "off helped. So short a budget favours what works early, and with one seed a small difference may be chance.\n"
    )
    changes = {
        row.removeprefix("no-"): values["fd_hog"] - full["fd_hog"]
        for row, values in measured.items()
        if full and row.startswith("no-")
    }
    helped = sorted((name for name, change in changes.items() if change > 0), key=changes.get, reverse=True)
    harmed = sorted((name for name, change in changes.items() if change <= 0), key=changes.get)
    if helped:
        text += f"\n- By FD-HOG these helped within this budget, the most first: {', '.join(helped)}.\n"
    if harmed:
        text += f"\n- These did not within this budget, the least first: {', '.join(harmed)}.\n"
    return text


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
    return table([f"P1, 1000 faces, preset `{preset}`", "face rate", "FD-HOG"], rows)


def _mean_range(values: list[float], show: Callable[[float], str] = "{:.2f}".format) -> str:
    if len(values) == 1:
        return show(values[0])
    mean, ends = show(statistics.fmean(values)), f"{show(min(values))} to {show(max(values))}"
    return f"{mean} ({ends}, {len(values)} sampling seeds)"


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
