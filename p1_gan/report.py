"""The section of report.md on Problem 1, made from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from common.files import sha256
from common.paths import Workspace
from common.report import architecture, brief, code, details, duration, percent, picture, summary_table, table
from common.results import of_all_seeds, of_first_seed, read_results
from p1_gan.ablation import ROWS
from p1_gan.model import CHANNELS, LATENT_SIZE
from p1_gan.presets import METHODS, PRESETS
from p1_gan.train import NETWORKS

Results = Mapping[str, Mapping[str, Any]]

PRESET_ORDER = ("full", "cpu", "sample")
# Key of the record -> what the report calls it, and how it shows a value.
LOOKS: dict[str, tuple[str, Callable[[float], str]]] = {
    "brightness": ("mean brightness, 0 to 1", "{:.3f}".format),
    "colourfulness": ("mean colourfulness, 0 to 1", "{:.3f}".format),
    "blank_border": ("pictures with a blank border", percent),
    "no_face": ("pictures with no face found", percent),
    "several_faces": ("pictures with several faces found", percent),
    "face_rate": ("pictures with exactly one face found", percent),
    "face_width_median": ("median width of the face, of 64 pixels", "{:.1f}".format),
    "face_width_mean": ("mean width of the face, of 64 pixels", "{:.1f}".format),
    "variety": ("variety, 0 to 1", "{:.3f}".format),
}
# What the original report says of A beside B, the measure that tests it, and whether A's would be larger (1).
CLAIMS = (
    ("It saw A whiter than B", "brightness", 1),
    ("It saw more and larger white or black areas around A's faces", "blank_border", 1),
    ("It saw larger faces in B", "face_width_mean", -1),
    ("It saw broken pictures in A and hardly any in B", "face_rate", -1),
)
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
    parts.append("B's layers are A's; spectral norm does not show in the printout.\n")
    for method in METHODS:
        for role, network in zip(INPUTS, NETWORKS[method], strict=True):
            model = network()
            text = code(architecture(model)) + "\n" + code(summary_table(model, INPUTS[role]))
            parts.append(details(f"Method {method}: {role}, {type(model).__name__}", text))
    parts.append("### 2. The first 32 pictures of each method\n")
    parts.append(data_note(results, preset))
    for method in METHODS:
        parts += [grid(space, results, method, preset), seen(space, method)]
    parts += [looks(results, preset), "#### Measures\n", measurements(results, preset)]
    parts += ["### 3. What was observed\n", observations(space, results, preset)]
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
    loss = (b or asdict(PRESETS["B"][preset]))["loss"].upper()
    name = f"B: DCGAN with spectral normalisation (BatchNorm kept, {loss} loss)"
    return table(["difference", "A: DCGAN", name], rows) + note


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


def data_note(results: Results, preset: str) -> str:
    """Return the data set's full name, which captions shorten."""
    run = training(results, "A", preset) or training(results, "B", preset)
    return f"Both are trained on {run['train_images']:,} pictures of {run['dataset']}.\n" if run else ""


def made_by(results: Results, method: str, preset: str, sampled: bool = True) -> str:
    """Return what made pictures of ``method``, for captions; empty where its training is not recorded.

    ``sampled``: the pictures are of inference.py, whose seed is named too.
    """
    run = training(results, method, preset)
    if run is None:
        return ""
    measured = evaluation(results, method, preset)
    sampling = f", sampling seed {measured['seed']}" if sampled and measured else ""
    return (
        f"{brief(run['dataset'])}, preset `{preset}`, {run['steps']:,} steps of {run['batch_size']}, seed "
        f"{run['seed']}{sampling}, {duration(run['seconds'])} on {run['device']}"
    )


def grid(space: Workspace, results: Results, method: str, preset: str) -> str:
    """Return one grid with what made it."""
    made = made_by(results, method, preset)
    return picture(space, f"P1/GAN_{method}_grid.png", f"Method {method}{made and ': '}{made}")


def seen(space: Workspace, method: str) -> str:
    """Return what a person wrote on looking at the grid, as long as it is still the same grid.

    ``images/P1/GAN_<method>_grid.md`` begins with the picture's SHA-256; a new picture wants a new look.
    """
    shown, remarks = (space.images / "P1" / f"GAN_{method}_grid.{suffix}" for suffix in ("png", "md"))
    if not remarks.is_file() or not shown.is_file():
        return ""
    digest, text = remarks.read_text(encoding="utf-8").split("\n", 1)
    return text.strip() + "\n" if digest == sha256(shown) else ""


def looks(results: Results, preset: str) -> str:
    """Return the table of what tells A's pictures from B's, and what it says about the original report's remarks."""
    parts = []
    rows = [row for key, (text, show) in LOOKS.items() if (row := looks_row(results, preset, key, text, show))]
    if rows:
        count = max(len(draws(results, method, preset)) for method in METHODS)
        seeds = f", mean of {count} sampling seeds," if count > 1 else ""
        parts.append(table(["1000 pictures each", *METHODS, "real"], rows))
        parts.append(
            f"Of A and B{seeds} and of real validation pictures. Colourfulness: the mean difference between the "
            "largest and the smallest channel of a pixel. A blank border: along one side 4 pixels that are nearly "
            "black (mean below 0.1) or nearly white (above 0.9). Width: that of dlib's box, which comes in few sizes, "
            "where it finds exactly one face. Variety: the standard deviation of a pixel over the pictures.\n"
        )
    return "\n".join([*parts, claims(results, preset)])


def looks_row(results: Results, preset: str, key: str, text: str, show: Callable[[float], str]) -> list[str] | None:
    """Return one row of :func:`looks`; None where neither method was measured so."""
    found = [of_draws(results, method, preset, key) for method in METHODS]
    if not any(found):
        return None
    one = next((draw for method in METHODS for draw in draws(results, method, preset) if f"{key}_of_val" in draw), {})
    real = show(one[f"{key}_of_val"]) if one else "not measured"
    return [text, *(show(statistics.fmean(values)) if values else "not measured" for values in found), real]


def of_draws(results: Results, method: str, preset: str, key: str) -> list[float]:
    """Return one measure of the pictures of ``method``, for each sampling seed whose record has it."""
    return [draw[key] for draw in draws(results, method, preset) if key in draw]


def claims(results: Results, preset: str) -> str:
    """Return the original report's remarks on the difference between A and B, each with what was measured here."""
    lines = []
    for remark, key, sign in CLAIMS:
        text, show = LOOKS[key]
        a, b = (of_draws(results, method, preset, key) for method in METHODS)
        if not a or not b:
            lines.append(f"{remark}; here: not measured.")
            continue
        signed = [[sign * value for value in values] for values in (a, b)]
        if min(signed[0]) > max(signed[1]):
            verdict = "so it is here too"
        elif max(signed[0]) < min(signed[1]):
            verdict = "here it is the other way round"
        else:
            verdict = "no difference beyond that between sampling seeds"
        values = " and ".join(f"{name} {show(statistics.fmean(found))}" for name, found in (("A", a), ("B", b)))
        lines.append(f"{remark}; here ({text}): {values}, {verdict}.")
    head = "What the original report saw in its own pictures, and what these have:\n\n"
    return head + "".join(f"- {line}\n" for line in lines)


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
            source = (
                " LFW was collected with a face detector, so that its face rate is high by construction."
                if "LFW" in a["dataset"]
                else ""
            )
            lines.append(
                f"Real faces have a face rate of {percent(a['face_rate_of_val'])}: above that it says nothing more "
                f"about quality.{source} Detector and FD-HOG both use HOG features, so they do not confirm each other."
            )
        for method, values in (("A", a), ("B", b)):
            ratio = values["nearest_train_median"] / values["nearest_train_median_of_val"]
            verdict = (
                "no evidence of copying by this measure"
                if ratio > 0.8
                else "nearer than real ones: look at the neighbours"
            )
            lines.append(
                f"{method}: the median distance to the nearest training picture, by the features of FD-HOG, is "
                f"{ratio:.2f} times that of held-out real faces, and "
                f"{percent(values['nearer_than_closest_percent_of_val'])} of the pictures lie nearer than 99 % of "
                f"those: {verdict}."
            )
    lines += [balance(method, run) for method in METHODS if (run := training(results, method, preset))]
    if strength := discriminator_strength(results, preset):
        lines.append(strength)
    if not lines:
        return "*Not run: nothing to discuss yet.*\n"
    captions = {
        "progress": "one latent after so many steps of training",
        "neighbours": "the pictures nearest to a training picture (above), and that picture (below)",
    }
    pictures = []
    for name, caption in captions.items():
        for method in METHODS:
            made = made_by(results, method, preset, sampled=name == "neighbours")
            text = f"Method {method}, {caption}{made and ': '}{made}"
            pictures.append(picture(space, f"P1/GAN_{method}_{name}.png", text))
    return "".join(f"- {line}\n" for line in lines) + "\n" + "\n".join(pictures)


def balance(method: str, run: Mapping[str, Any]) -> str:
    """Return how the discriminator judged towards the end of one training."""
    when, late = game(run)
    # Goodfellow et al., 2014, proposition 1, with real pictures labelled real_label instead of 1.
    equal = f" ({run['real_label'] / 2:g} for both would be the equilibrium)" if run["loss"] == "bce" else ""
    return (
        f"{method}: {when} the discriminator gives real pictures {late['d_real']:.2f} and generated ones "
        f"{late['d_fake']:.2f}{equal}."
    )


def game(run: Mapping[str, Any]) -> tuple[str, Mapping[str, float]]:
    """Return when and how a training's game stood at last: means of its last quarter; one step in older records."""
    if "late" in run:
        return "on average over the last quarter of training", run["late"]
    return "in the last logged step", run["final"]


def discriminator_strength(results: Results, preset: str) -> str:
    """Return what the numbers say about the original report's remark that its discriminator was too strong."""
    runs = {method: training(results, method, preset) for method in METHODS}
    if not all(runs.values()) or any(run["loss"] != "bce" for run in runs.values()):
        return ""
    parts = []
    for method, run in runs.items():
        late = game(run)[1]
        lead = (late["d_real"] - late["d_fake"]) / run["real_label"]
        ratio = run["discriminator_learning_rate"] / run["generator_learning_rate"]
        verdict = "ahead, as there" if lead > 0.5 else "not far ahead"
        parts.append(
            f"{method}'s has a lead, D(x) - D(G(z)), of {percent(lead, 0)} of the largest possible and is {verdict} "
            f"(learning rate {ratio:g} times G's)"
        )
    return (
        "The original report found its discriminator too strong, so that more steps or a larger learning rate for it "
        f"did not help. Here {'; '.join(parts)}. B's judges noisier and augmented pictures; which ingredient narrows "
        "the lead was not measured."
    )


def ablation(results: Results, preset: str) -> str:
    """Return the table of the ablation: one ingredient of B off at a time, on an equal, short budget."""
    runs = {row: of_all_seeds(results, f"ablation/{row}/{preset}") for row in ROWS}
    one = next((values[0] for values in runs.values() if values), None)
    if one is None:
        return "*Not run: `python p1_gan/ablation.py` trains and measures the rows.*\n"
    measured = {
        row: [value for value in values if value["steps"] == one["steps"]] for row, values in runs.items() if values
    }
    distance = {row: {value["seed"]: value["fd_hog"] for value in values} for row, values in measured.items()}
    full = distance.get("B", {}).values()
    rows = []
    for row, values in measured.items():
        rates = [value["face_rate"] for value in values if "face_rate" in value]
        found = list(distance[row].values())
        change = statistics.fmean(found) - statistics.fmean(full) if full else 0.0
        rows.append(
            [
                row,
                _mean_range(found, kind="seeds"),
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


def ablation_lines(distance: Mapping[str, Mapping[int, float]], steps: int) -> list[str]:
    """Return what the ablation shows: which rows lie further from B than repetitions of one training do.

    ``no-adamw`` repeats B: with B's settings weight decay scales the weights by less than 1e-4 in so few steps.

    Args:
        distance: row -> training seed -> FD-HOG.
        steps: of every row.
    """
    if not {"B", "no-adamw"} <= distance.keys():
        return []
    repeated = [*distance["B"].values(), *distance["no-adamw"].values()]
    chance = (
        f"AdamW and Adam differ by weight decay alone, which in {steps:,} steps changes the weights by less than a "
        f"ten-thousandth. *B* and *no-adamw* are therefore {len(repeated)} repetitions of nearly one training, and "
        f"their FD-HOG of {min(repeated):.2f} to {max(repeated):.2f} shows what chance does."
    )
    if min(map(len, distance.values())) < 2:
        return [f"{chance} With one seed a row, the rows cannot be told apart from it."]
    others = {row: list(values.values()) for row, values in distance.items() if row not in ("B", "no-adamw")}
    worse = [row for row, values in others.items() if min(values) > max(repeated)]
    better = [row for row, values in others.items() if max(values) < min(repeated)]
    within = [row for row in others if row not in worse + better]
    verdicts = {
        "Worse than all of these in every seed": worse,
        "Better than all of these in every seed": better,
        "Not distinguishable from repeating the training": within,
    }
    return [
        f"{chance} A row counts as different only where all its seeds lie above, or all below, all of these.",
        *(f"{verdict}: {', '.join(rows)}." for verdict, rows in verdicts.items() if rows),
        *pairwise(distance),
        *averaging(distance, steps),
    ]


def pairwise(distance: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Return which rows beat B with the same seed in every seed, a weaker sign than the verdicts above it."""
    seeds = distance["B"].keys()
    lower = [
        row
        for row, values in distance.items()
        if row != "B" and values.keys() == seeds and all(values[seed] < distance["B"][seed] for seed in seeds)
    ]
    if not lower:
        return []
    return [
        f"Seed by seed FD-HOG is lower than B's with all {len(seeds)} seeds: {', '.join(lower)}. Chance alone does "
        f"that to one row in {2 ** len(seeds)}."
    ]


def averaging(distance: Mapping[str, Mapping[int, float]], steps: int) -> list[str]:
    """Return how much of B's lead over A is the averaging of G's weights."""
    comparisons = (
        ("Without averaging B", "no-ema", "A", "A"),
        ("With averaging alone A", "A-with-ema", "B", "B"),
    )
    lines = []
    for subject, row, other, name in comparisons:
        if row not in distance or other not in distance:
            continue
        found, against = list(distance[row].values()), list(distance[other].values())
        verdict = (
            f"is better than {name} in every seed"
            if max(found) < min(against)
            else f"is worse than {name} in every seed"
            if min(found) > max(against)
            else f"is not better than {name}"
            if statistics.fmean(found) >= statistics.fmean(against)
            else f"cannot be told from {name}"
        )
        values = f"{_mean_range(found, kind='seeds')} against {_mean_range(against, kind='seeds')}"
        lines.append(f"{subject} {verdict} after {steps:,} steps: FD-HOG {values}.")
    return lines


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
    values: Sequence[float], show: Callable[[float], str] = "{:.2f}".format, kind: str = "sampling seeds"
) -> str:
    if len(values) == 1:
        return show(values[0])
    mean, ends = show(statistics.fmean(values)), f"{show(min(values))} to {show(max(values))}"
    return f"{mean} ({ends}, {len(values)} {kind})"


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
