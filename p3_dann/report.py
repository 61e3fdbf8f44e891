"""The section of report.md on Problem 3, made from what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from common.paths import Workspace
from common.report import (
    architecture,
    brief,
    code,
    details,
    duration,
    mean_std,
    percent,
    picture,
    summary_table,
    table,
)
from common.results import of_all_seeds, read_results
from p3_dann.model import DANN_model
from p3_dann.presets import MODES, PARTS, TARGETS

Results = Mapping[str, Mapping[str, Any]]

ROWS = {"source": "Trained on source", "dann": "DANN", "target": "Trained on target"}
COLUMNS = {"svhn": "MNIST-M → SVHN", "usps": "MNIST-M → USPS"}
SPLITS = {"accuracy": "validation", "test_accuracy": "test"}
# The presets of PARTS in words; all share the schedule of PARTS_OF, which has both gradient reversal and ensembling.
PARTS_OF = "cpu"
PART_NAMES = {
    "joint_batchnorm": "No adaptation loss, BatchNorm sees the target",
    "adversarial": "DANN alone (gradient reversal)",
    "adversarial_weak": "DANN alone, a tenth as strong",
    "self_ensembling": "Self-ensembling alone (no gradient reversal)",
}
BOTH = "DANN with self-ensembling"
PRESET_ORDER = ("full", "cpu", "sample")
# Measured by others on the course's own data: 63,544 coloured SVHN and 5,950 USPS digits to train on.
REFERENCES = {
    "original report": {"svhn": (0.429, 0.448, 0.856), "usps": (0.720, 0.768, 0.849)},
    "best of about 20 public solutions": {"svhn": (0.509, 0.544, 0.972), "usps": (0.900, 0.924, 0.993)},
}


def render(space: Workspace) -> str:
    """Return the section as Markdown; what was not measured is said to be missing."""
    results = read_results(space.results, "p3")
    presets = [preset for preset in PRESET_ORDER if any(key.startswith(f"{preset}/") for key in results)]
    main = presets[0] if presets else "cpu"
    parts = [
        "## Problem 3\n",
        "### 1. Accuracy on the target\n",
        accuracy_table(results, main),
        data_note(results, main),
        *(other_preset(results, preset) for preset in presets[1:]),
        reference_table(),
        "### 2. The latent space of the adapted model\n",
        *(latent_space(space, results, target) for target in TARGETS),
        "### 3. Implementation and discussion\n",
        implementation(results, main),
        details("Architecture", code(architecture(DANN_model()))),
        details("torchsummary", code(summary_table(DANN_model(), (3, 28, 28)))),
        "**What was observed.**\n",
        discussion(results, main),
    ]
    return "\n".join(part for part in parts if part)


def main_preset(results: Results) -> str:
    """Return the largest preset that adapted to SVHN, whose figures stand on the first page."""
    return next((name for name in PRESET_ORDER if runs_of(results, name, "svhn", "dann")), "cpu")


def runs_of(results: Results, preset: str, target: str, mode: str) -> list[Mapping[str, Any]]:
    """Return the finished runs of one cell of the table, by seed."""
    return of_all_seeds(results, f"{preset}/{target}/{mode}")


def accuracies(results: Results, preset: str, target: str, mode: str, split: str = "accuracy") -> list[float]:
    """Return the accuracy of every seed of one cell, on the validation set or (``test_accuracy``) the test set."""
    return [run[split] for run in runs_of(results, preset, target, mode) if split in run]


def cell(
    results: Results, preset: str, target: str, mode: str, split: str = "accuracy", usual: int | None = None
) -> str:
    """Return one cell of the table in words; the number of seeds is left out where it is the ``usual`` one."""
    values = accuracies(results, preset, target, mode, split)
    return mean_std(values, count=len(values) != usual) if values else "not run"


def usual_seeds(results: Results, preset: str) -> int:
    """Return how many seeds most rows of the table have."""
    counts = [len(runs_of(results, preset, target, mode)) for target in TARGETS for mode in MODES]
    return max(counts)


def rows_of(results: Results, preset: str) -> list[tuple[str, str, str]]:
    """Return name, preset and mode of the main rows; parts of the adaptation have rows where they were trained."""
    parts = [part for part in ("adversarial", "self_ensembling") if parts_measured(results, preset, TARGETS, [part])]
    return [
        (ROWS["source"], preset, "source"),
        *((PART_NAMES[part], part, "dann") for part in parts),
        (adapted_name(results, preset), preset, "dann"),
        (ROWS["target"], preset, "target"),
    ]


def adapted_name(results: Results, preset: str) -> str:
    """Return what the adaptation of ``preset`` consists of."""
    runs = [run for target in TARGETS for run in runs_of(results, preset, target, "dann")]
    return BOTH if any(run["consistency_weight"] > 0 for run in runs) else ROWS["dann"]


def accuracy_table(results: Results, preset: str) -> str:
    """Return the table the task asks for, with parts of the adaptation and the original recipe as rows of their own."""
    rows = rows_of(results, preset)
    if parts_measured(results, preset, TARGETS):
        parts = [(name, part, "dann") for part, name in PART_NAMES.items()]
        rows = [rows[0], *parts, *rows[-2:]]
    rows += [("Original recipe: " + ROWS[mode].replace("Trained", "trained"), "original", mode) for mode in MODES[:2]]
    columns = [
        (target, split)
        for target in TARGETS
        for split in SPLITS
        if split == "accuracy" or accuracies(results, preset, target, "dann", split)
    ]
    usual = usual_seeds(results, preset)
    return table(
        ["", *(f"{COLUMNS[target]}, {SPLITS[split]}" for target, split in columns)],
        [
            [name, *(cell(results, row_preset, target, mode, split, usual) for target, split in columns)]
            for name, row_preset, mode in rows
        ],
    )


def parts_measured(results: Results, preset: str, targets: Sequence[str], parts: Sequence[str] = tuple(PARTS)) -> bool:
    """Return whether any of ``parts`` was trained alone for ``targets``, on the schedule of ``preset``."""
    return preset == PARTS_OF and any(runs_of(results, part, target, "dann") for part in parts for target in targets)


def other_preset(results: Results, preset: str) -> str:
    """Return the table of a smaller preset, with what it cost."""
    rows = [
        [name, *(cell(results, row_preset, target, mode) for target in COLUMNS)]
        for name, row_preset, mode in rows_of(results, preset)
    ]
    spent = [run for target in TARGETS for mode in MODES for run in runs_of(results, preset, target, mode)[:1]]
    seconds = sum(run["seconds"] for run in spent)
    devices = " and ".join(sorted({run["device"] for run in spent}))
    cost = f"Preset `{preset}`: {len(spent)} runs of the first seed took {duration(seconds)} in all on {devices}.\n"
    return f"{cost}\n{table(['', *COLUMNS.values()], rows)}"


def data_note(results: Results, preset: str) -> str:
    """Return which data the table is about, how it was trained, and how far its figures can be read."""
    runs = {
        target: found[0]
        for target in TARGETS
        if (found := runs_of(results, preset, target, "dann") or runs_of(results, preset, target, "source"))
    }
    if not runs:
        return "*Not run: no training of P3 is recorded yet; `bash scripts/train_p3.sh` makes this table.*\n"
    seeds = usual_seeds(results, preset)
    spread = f"mean ± standard deviation over {seeds} training seeds" if seeds > 1 else "one training seed"
    notes = [
        f"Accuracy on pictures of the target, {spread}, preset `{preset}`. The last step's weights are evaluated; no "
        "label of the target chooses a checkpoint.",
        "*Original recipe* is the recipe of the original report as far as it tells it (plain pixels, no augmentation, "
        "gradient reversal alone). All other rows share network, input normalisation, steps, optimiser and averaging.",
        "In the rows above *Trained on target*, source pictures are changed to look like the target's, in zoom, width "
        "and neighbouring digits, chosen by eye from unlabelled target pictures: *Trained on source* has that "
        "knowledge of the target, and no adaptation loss. *Trained on target* has the target's own, smaller changes.",
    ]
    tested = {target: run for target, run in runs.items() if "test_accuracy" in run}
    if tested:
        error = " and ".join(
            f"±{sampling_error(run['test_accuracy'], run['test_images']):.1f} points "
            f"({COLUMNS[target]}, {run['test_images']:,} pictures)"
            for target, run in tested.items()
        )
        notes.append(
            "Validation is the task's figure. The test split is the cleaner one, used once after all choices: some "
            "augmentation settings, the batch size and the steps were chosen after early validation results. Beyond "
            f"the spread over seeds, the choice of test pictures alone makes about {error} at 95 %."
        )
    spent = [run for target in TARGETS for run in runs_of(results, preset, target, "dann")]
    if spent:
        notes.append(f"The quickest run of *{adapted_name(results, preset)}* took {trained_in(spent)}.")
    counts = [
        f"{COLUMNS[target]}: {run['counts']['labelled']:,} labelled pictures of {run['source_data']}, "
        f"{run['counts']['unlabelled']:,} unlabelled ones of {run['target_data']}; "
        f"evaluated on {run['counts']['val']:,} pictures of it."
        for target, run in runs.items()
    ]
    return "".join(f"- {note}\n" for note in [*counts, *notes])


def sampling_error(share: float, count: int) -> float:
    """Return half the width, in points, of the 95 % interval of a share of ``count`` pictures."""
    return 196 * math.sqrt(share * (1 - share) / count)


def trained_in(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the shortest training time of several runs and where it was measured."""
    quickest = min(runs, key=lambda run: run["seconds"])
    return f"{duration(quickest['seconds'])} on {quickest['device']}"


def reference_table() -> str:
    """Return what others measured, on other data."""
    rows = [
        [f"{name}, {COLUMNS[target]}", *(percent(share) for share in shares)]
        for name, targets in REFERENCES.items()
        for target, shares in targets.items()
    ]
    return (
        "For orientation only, figures of others. They were measured on the course's data (63,544 coloured SVHN digits "
        "from the official files, 5,950 of USPS), not on the data sets named above; *best* is the best of each column "
        "and not one system.\n\n" + table(["", "source", "DANN", "target"], rows)
    )


def latent_space(space: Workspace, results: Results, target: str) -> str:
    """Return the t-SNE plots of one target, after adaptation and before, and what nearest neighbours say of them."""
    parts = [f"**{COLUMNS[target]}**\n", plots(space, results, target, "dann")]
    before = results.get(f"tsne/{target}/source")
    if before:
        parts.append(details("The same pictures, trained on source alone", plots(space, results, target, "source")))
    adapted = results.get(f"tsne/{target}/dann")
    if adapted:
        domain, digit = (
            f"; trained on source: {percent(before[key])}" if before else ""
            for key in ("knn_domain_accuracy", "knn_transfer_accuracy")
        )
        parts.append(
            f"Among the 768 features themselves, the {adapted['neighbours']} nearest neighbours tell the domain of a "
            f"picture in {percent(adapted['knn_domain_accuracy'])} of cases (perfectly mixed: 50 %{domain}). A vote of "
            f"source neighbours names the digit of a target picture in {percent(adapted['knn_transfer_accuracy'])} "
            f"(guessing: 10 %{digit}); the classifier has further layers after these features. Distances between "
            "clusters of a t-SNE plot carry no meaning.\n"
        )
    return "\n".join(parts)


def plots(space: Workspace, results: Results, target: str, mode: str) -> str:
    """Return the plots by digit and by domain of one model."""
    measured = results.get(f"tsne/{target}/{mode}")
    about, made = f"{COLUMNS[target]}. {ROWS[mode]}", ""
    if measured:
        preset, seed = measured["preset"], measured["seed"]
        trained = results.get(f"{preset}/{target}/{mode}/seed{seed}")
        name = adapted_name(results, preset) if mode == "dann" else ROWS[mode]
        about = f"{brief(measured['source_data'])} → {brief(measured['target_data'])}. {name}"
        made = f"; {measured['points_per_domain']:,} validation pictures of each domain, preset `{preset}`, seed {seed}"
        made += f", trained in {trained_in([trained])}" if trained else ""
    return "\n".join(
        picture(
            space,
            f"P3/{mode.upper()}_{colouring}_TSNE_{target.upper()}.png",
            f"{about}, coloured {title}{made}.",
        )
        for colouring, title in (("class", "by digit"), ("domain", "by domain"))
    )


def implementation(results: Results, preset: str) -> str:
    """Return the recipe in force, read from the record of a run."""
    runs = [run for target in TARGETS for run in runs_of(results, preset, target, "dann")]
    if not runs:
        return "*Not run: no DANN is recorded yet, so there is no recipe to describe.*\n"
    run = runs[0]
    lines = [
        "Domain-adversarial training (Ganin et al., JMLR 2016): the domain classifier is attached to the 768 "
        "convolutional features behind gradient reversal, whose strength rises as λ = "
        f"{run['grl_lambda_max']:g} · (2 / (1 + exp(-10 p)) - 1) with the share p of training done.",
        f"{run['steps']:,} steps of {run['batch_size']} pictures of each domain, AdamW, learning rate "
        f"{run['learning_rate']:g}" + (" falling along a cosine" if run["cosine"] else "") + f", weight decay "
        f"{run['weight_decay']:g}, label smoothing {run['label_smoothing']:g}; the weights averaged with decay "
        f"{run['ema_decay']:g} after the last step are evaluated.",
        batchnorm_sentence(run["batchnorm"]),
        *(
            f"{COLUMNS[target]}: {inputs_sentence(first)}"
            for target in TARGETS
            for first in runs_of(results, preset, target, "dann")[:1]
        ),
    ]
    if run["entropy_weight"] > 0:
        lines.append(
            f"Conditional entropy of target predictions, weight {run['entropy_weight']:g} (Shu et al., DIRT-T, 2018)."
        )
    if run["consistency_weight"] > 0:
        lines.append(
            f"Agreement with an averaged teacher on the target (French et al., 2018; hard labels and threshold as "
            f"in FixMatch and AdaMatch), weight {run['consistency_weight']:g}, where the teacher is at least "
            f"{run['confidence']:g} times as confident as the network is on the source."
        )
    lines.append(
        "`original` is the recipe of the original report as far as it is described: pixels in [-1, 1], no "
        "augmentation, Adam, the same network and λ; its number of epochs is not reported."
    )
    return "".join(f"- {line}\n" for line in lines)


def batchnorm_sentence(batchnorm: str) -> str:
    """Return how BatchNorm met the two domains."""
    if batchnorm == "joint":
        return (
            "BatchNorm sees source and target in one batch and its running statistics are of both, so one function "
            "serves both domains. Source-only has the statistics of the source, target-only those of the target."
        )
    return (
        "BatchNorm normalises each domain of a batch by its own statistics and keeps running ones of the target, "
        "on which the network is used; the domain classifier alone sees both domains at once. Source-only has the "
        "statistics of the source, target-only those of the target."
    )


def inputs_sentence(run: Mapping[str, Any]) -> str:
    """Return what was done to the pictures."""
    always = [
        text
        for name, text in (
            ("grey", "made grey (random channel weights in training)"),
            ("instance_norm", "normalised one by one to mean 0 and deviation 1"),
        )
        if run[name]
    ]
    changes = [
        text
        for name, text in (
            ("invert_probability", "polarity"),
            ("intensity_scale", "contrast"),
            ("intensity_shift", "brightness"),
            ("affine_degrees", "rotation"),
            ("affine_shear", "shear"),
            ("affine_shift", "translation"),
            ("blur", "blur"),
            ("noise", "noise"),
            ("neighbour_probability", "neighbouring digits on the source side"),
        )
        if run[name] > 0
    ]
    inputs = "Pictures are " + " and ".join(always or ["scaled to [-1, 1]"])
    zoom = f"zoom {run['source_zoom'][0]:g} to {run['source_zoom'][-1]:g} (source)"
    width = f"width {run['source_width'][0]:g} to {run['source_width'][-1]:g} (source)"
    return f"{inputs}. Random changes in training: {', '.join([*changes, zoom, width])}."


def discussion(results: Results, preset: str) -> str:
    """Return what the recorded numbers show."""
    lines = [line for target in TARGETS for line in target_lines(results, preset, target)]
    return "".join(f"- {line}\n" for line in lines) or "*Not run: nothing to discuss yet.*\n"


def target_lines(results: Results, preset: str, target: str) -> list[str]:
    """Return the observations on one target."""
    name, lines = COLUMNS[target], []
    source, dann, ceiling = (accuracies(results, preset, target, mode) for mode in MODES)
    if source and dann:
        gain = statistics.fmean(dann) - statistics.fmean(source)
        if gain > 0:
            verb = f"raises accuracy by {100 * gain:.1f} points over source-only"
        else:
            verb = f"loses {-100 * gain:.1f} points against source-only"
        lines.append(
            f"**{name}.** Adaptation {verb}{seeds_clause(source, dann)}.{closed_clause(source, dann, ceiling)}"
        )
    plain, original = (accuracies(results, "original", target, mode) for mode in ("source", "dann"))
    if plain and original:
        lines.append(f"{name}: {original_sentence(plain, original)}")
    if original and dann:
        lines.append(f"{name}: {recipe_sentence(original, source, dann)}")
    runs = runs_of(results, preset, target, "dann")
    if source and dann and parts_measured(results, preset, [target]):
        lines.append(f"{name}: {parts_sentence(results, target)}")
    elif source and runs and (runs[0]["consistency_weight"] > 0 or runs[0]["entropy_weight"] > 0):
        lines.append(
            f"{name}: the gain is that of gradient reversal and of the losses on target predictions together; how "
            "much each contributes was not measured."
        )
    if runs:
        lines.append(domain_line(name, runs, runs_of(results, preset, target, "source")))
    if ceiling and dann:
        lines.append(limit_line(name, statistics.fmean(dann), statistics.fmean(ceiling)))
    return lines


def original_sentence(source: Sequence[float], dann: Sequence[float]) -> str:
    """Return what DANN does in the original recipe, where gradient reversal is the only adaptation loss."""
    gain = 100 * (statistics.fmean(dann) - statistics.fmean(source))
    verb = "gains" if gain >= 0 else "loses"
    apart = min(max(source), max(dann)) < max(min(source), min(dann))
    seeds = "the seeds of the two do not overlap" if apart else "the ranges of the seeds overlap"
    return (
        f"with the original recipe (plain pixels, no augmentation) DANN {verb} {abs(gain):.1f} points over "
        f"source-only: {mean_std(dann)} against {mean_std(source)}; {seeds}. BatchNorm has "
        "statistics of both domains there and of the source alone in source-only; how much of the difference that "
        "makes was not measured."
    )


def recipe_sentence(original: Sequence[float], source: Sequence[float], dann: Sequence[float]) -> str:
    """Return how far the recipe of the table is from the original one, and how much of that needs no adaptation."""
    middle, low, high = (statistics.fmean(values) if values else 0.0 for values in (source, original, dann))
    word = "above" if high >= low else "below"
    text = f"the recipe of this table is {100 * abs(high - low):.1f} points {word} the original one."
    if not low < middle < high:
        return text
    share = "most" if middle - low > (high - low) / 2 else "less than half"
    return (
        f"{text} Source-only with the new inputs, without any adaptation loss, reaches {mean_std(source)}: {share} of "
        "the difference comes with inputs, augmentation, optimiser and averaging, before any adaptation."
    )


def parts_sentence(results: Results, target: str) -> str:
    """Return whether both parts of the adaptation go further than one alone, on test pictures if any."""

    def measured(split: str) -> dict[str, list[float]]:
        cells = {"source": (PARTS_OF, "source"), PARTS_OF: (PARTS_OF, "dann"), **{p: (p, "dann") for p in PART_NAMES}}
        found = {name: accuracies(results, preset, target, mode, split) for name, (preset, mode) in cells.items()}
        return {name: values for name, values in found.items() if values}

    tested = measured("test_accuracy")
    found = tested if {"source", PARTS_OF} < tested.keys() else measured("accuracy")
    place = "test split" if found is tested else "validation set"
    source, both = found.pop("source"), found.pop(PARTS_OF)
    gains = ", ".join(
        f"*{name}* {100 * (statistics.fmean(found[part]) - statistics.fmean(source)):+.1f}"
        for part, name in PART_NAMES.items()
        if part in found
    )
    best = max(found, key=lambda part: statistics.fmean(found[part]))
    if min(both) > max(max(values) for values in found.values()):
        verdict = "Every seed with both is better than every seed with less"
    elif max(both) < min(found[best]):
        verdict = f"Every seed with both is worse than every seed of *{PART_NAMES[best]}*"
    else:
        verdict = f"The ranges of the seeds of both and of *{PART_NAMES[best]}* overlap"
    gain = 100 * (statistics.fmean(both) - statistics.fmean(source))
    untested = (
        " Why gradient reversal does not help these inputs was not tested; the domains are augmented differently, "
        "which the domain classifier can see."
        if "adversarial" in found and statistics.fmean(found["adversarial"]) < statistics.fmean(source)
        else ""
    )
    return f"points over source-only on the {place}: {gains}, *{BOTH}* {gain:+.1f}. {verdict}.{untested}"


def finding(results: Results, preset: str) -> str:
    """Return in a few words which adaptation helps, on the test split; empty where that is not known."""
    compared = {
        "DANN": ("original", "original"),
        "self-ensembling alone": (preset, "self_ensembling"),
        "gradient reversal alone": (preset, "adversarial"),
    }
    gains: dict[str, list[str]] = {}
    for name, (base, adapted) in compared.items():
        for target in TARGETS:
            source = accuracies(results, base, target, "source", "test_accuracy")
            dann = accuracies(results, adapted, target, "dann", "test_accuracy")
            if source and dann:
                gain = 100 * (statistics.fmean(dann) - statistics.fmean(source))
                gains.setdefault(name, []).append(f"{gain:+.1f} ({COLUMNS[target]})")
    if preset != PARTS_OF or gains.keys() != compared.keys():
        return ""
    plain, ensembling, reversal = (f"{name} {' and '.join(gains[name])}" for name in compared)
    return (
        f"Points over training on the source, test split. With the original recipe: {plain}. With our inputs: "
        f"{ensembling}, {reversal}."
    )


def seeds_clause(source: Sequence[float], dann: Sequence[float]) -> str:
    """Return whether the seeds agree on the sign of the difference."""
    if min(len(source), len(dann)) < 2:
        return f" ({len(dann)} seed(s) of DANN, {len(source)} of source-only, too few to confirm it)"
    if min(dann) > max(source):
        return f", and the worst of {len(dann)} seeds with it is better than the best of {len(source)} without"
    return ", but the ranges of the seeds overlap"


def closed_clause(source: Sequence[float], dann: Sequence[float], ceiling: Sequence[float]) -> str:
    """Return which share of the way to target-only was made."""
    if not ceiling or statistics.fmean(ceiling) <= statistics.fmean(source):
        return ""
    low, middle, high = (statistics.fmean(values) for values in (source, dann, ceiling))
    return f" That is {percent((middle - low) / (high - low), 0)} of the way to training on the target's own labels."


def domain_line(name: str, runs: Sequence[Mapping[str, Any]], source_runs: Sequence[Mapping[str, Any]]) -> str:
    """Return how the domain classifier fared, and what adaptation cost on the source."""
    domain = statistics.fmean(run["domain_accuracy"] for run in runs)
    loss = statistics.fmean(run["domain_loss"] for run in runs)
    state = "the features still differ" if domain > 0.55 else "it is reduced to guessing by the end"
    line = (
        f"{name}: in the last quarter of training the domain classifier is right in {percent(domain)} of cases "
        f"(loss {loss:.3f}; guessing: 50 %, 0.693), so {state}."
    )
    if source_runs:
        kept = statistics.fmean(run["source_accuracy"] for run in runs)
        before = statistics.fmean(run["source_accuracy"] for run in source_runs)
        line += (
            f" On the source's own validation set the adapted model has {percent(kept)}, source-only {percent(before)}."
        )
    return line


def limit_line(name: str, dann: float, ceiling: float) -> str:
    """Return what stands between the adapted model and the one trained on the target."""
    if dann >= ceiling:
        return f"{name}: the adapted model reaches the one trained on the target."
    return (
        f"{name}: its error is {percent(1 - dann)}, that of the model trained on the target {percent(1 - ceiling)}: a "
        f"gap of {100 * (ceiling - dann):.1f} points."
    )


def readme_table(space: Workspace) -> str:
    """Return the short table of README.md."""
    results = read_results(space.results, "p3")
    rows = []
    for preset in PRESET_ORDER:
        for target in TARGETS:
            for name, row_preset, mode in rows_of(results, preset):
                runs = runs_of(results, row_preset, target, mode)
                if runs:
                    count = len(runs)
                    cells = (cell(results, row_preset, target, mode, split, count) for split in reversed(SPLITS))
                    rows.append([f"{COLUMNS[target]}: {name}", *cells, count])
    if not rows:
        return "*Not run.*\n"
    header = ["P3, accuracy on the target", "test split", "validation split", "training seeds"]
    return table(header, rows) + "\n" + finding(results, PARTS_OF)
