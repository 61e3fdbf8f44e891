"""The section of report.md on Problem 3, made from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from common.paths import Workspace
from common.report import architecture, code, details, duration, mean_std, percent, picture, summary_table, table
from common.results import of_all_seeds, read_results
from p3_dann.model import DANN_model
from p3_dann.presets import MODES, PARTS, TARGETS

Results = Mapping[str, Mapping[str, Any]]

ROWS = {"source": "Trained on source", "dann": "Adaptation (DANN)", "target": "Trained on target"}
COLUMNS = {"svhn": "MNIST-M → SVHN", "usps": "MNIST-M → USPS"}
# The presets of PARTS in words; all share the schedule of PARTS_OF, whose row has both.
PARTS_OF = "cpu"
PART_NAMES = {
    "joint_batchnorm": "neither: BatchNorm alone sees the target",
    "adversarial": "gradient reversal alone, as Ganin et al. define DANN",
    "adversarial_weak": "gradient reversal alone, a tenth as strong",
    "self_ensembling": "agreement with the averaged teacher alone",
    PARTS_OF: "both, the DANN of this report",
}
TSNE_NAMES = {"dann": "adapted", "source": "trained on source"}
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
        "### 1. Accuracy on the target's validation set\n",
        accuracy_table(results, main),
        data_note(results, main),
        test_table(results, main),
        parts_table(results, main),
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


def runs_of(results: Results, preset: str, target: str, mode: str) -> list[Mapping[str, Any]]:
    """Return the finished runs of one cell of the table, by seed."""
    return of_all_seeds(results, f"{preset}/{target}/{mode}")


def accuracies(results: Results, preset: str, target: str, mode: str, split: str = "accuracy") -> list[float]:
    """Return the accuracy of every seed of one cell, on the validation set or (``test_accuracy``) the test set."""
    return [run[split] for run in runs_of(results, preset, target, mode) if split in run]


def cell(results: Results, preset: str, target: str, mode: str, split: str = "accuracy") -> str:
    """Return one cell of the table in words."""
    values = accuracies(results, preset, target, mode, split)
    return mean_std(values) if values else "not run"


def accuracy_table(results: Results, preset: str, split: str = "accuracy") -> str:
    """Return the table the task asks for, with DANN alone and the original recipe as rows of their own."""
    rows = [
        [name, *(cell(results, row_preset, target, mode, split) for target in COLUMNS)]
        for name, row_preset, mode in (
            *rows_of(results, preset),
            ("DANN, as in the original report", "original", "dann"),
        )
    ]
    return table(["", *COLUMNS.values()], rows)


def rows_of(results: Results, preset: str) -> list[tuple[str, str, str]]:
    """Return name, preset and mode of the table's rows; DANN alone has one where it was trained as well."""
    rows = [(name, preset, mode) for mode, name in ROWS.items()]
    runs = [run for target in TARGETS for run in runs_of(results, preset, target, "dann")]
    if any(run["consistency_weight"] > 0 for run in runs):
        rows[1] = ("Adaptation (DANN with self-ensembling)", preset, "dann")
    if parts_measured(results, preset, TARGETS):
        rows.insert(1, ("DANN alone (gradient reversal)", "adversarial", "dann"))
    return rows


def test_table(results: Results, preset: str) -> str:
    """Return the same table on the targets' test sets, where the data has them."""
    runs = [run for target in TARGETS for run in runs_of(results, preset, target, "dann") if "test_accuracy" in run]
    if not runs:
        return ""
    counts = " and ".join(
        f"{run['test_images']:,} of {run['target_data']}" for run in {run["target"]: run for run in runs}.values()
    )
    return (
        f"On the **test split** ({counts}), which nothing reads but this one evaluation. It is the cleaner figure: "
        "while the recipe was made, the validation accuracy of early runs had been seen before the look of the "
        "source pictures, the batch size and the steps were settled.\n\n"
        + accuracy_table(results, preset, "test_accuracy")
    )


def parts_table(results: Results, preset: str) -> str:
    """Return what the parts of adaptation reach alone and together, where that was measured."""
    if not parts_measured(results, preset, TARGETS):
        return ""
    splits = {"accuracy": "validation", "test_accuracy": "test"}
    columns = [
        (target, split) for target in TARGETS for split in splits if accuracies(results, preset, target, "dann", split)
    ]
    source = ["trained on source", *(cell(results, preset, target, "source", split) for target, split in columns)]
    rows = [
        [name, *(cell(results, part, target, "dann", split) for target, split in columns)]
        for part, name in PART_NAMES.items()
        if any(runs_of(results, part, target, "dann") for target in TARGETS)
    ]
    return (
        "The row *Adaptation* has two parts: gradient reversal, and agreement with an averaged teacher on pictures of "
        "the target (self-ensembling). Each alone, neither, and both, everything else equal (`bash "
        "scripts/train_p3.sh --parts`):\n\n"
        + table(["", *(f"{COLUMNS[target]}, {splits[split]}" for target, split in columns)], [source, *rows])
    )


def parts_measured(results: Results, preset: str, targets: Sequence[str]) -> bool:
    """Return whether any of the parts was trained alone for ``targets``, on the schedule of ``preset``."""
    return preset == PARTS_OF and any(runs_of(results, part, target, "dann") for part in PARTS for target in targets)


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
    """Return which data the table is about, and how it was trained."""
    lines = []
    for target in TARGETS:
        for run in [*runs_of(results, preset, target, "dann"), *runs_of(results, preset, target, "source")][:1]:
            lines.append(
                f"- {COLUMNS[target]}: {run['counts']['labelled']:,} labelled pictures of {run['source_data']}, "
                f"{run['counts']['unlabelled']:,} without labels of the target; "
                f"evaluated on {run['counts']['val']:,} pictures of {run['target_data']}."
            )
    if not lines:
        return "*Not run: no training of P3 is recorded yet; `bash scripts/train_p3.sh` makes this table.*\n"
    spent = [run for target in TARGETS for run in runs_of(results, preset, target, "dann")]
    cost = (
        f" The quickest run of DANN took {duration(min(run['seconds'] for run in spent))} on {spent[0]['device']}."
        if spent
        else ""
    )
    head = (
        f"Preset `{preset}`, mean ± standard deviation over seeds. All rows but the last share network, input "
        "normalisation, steps, optimiser and averaging. Source pictures (the rows above *Trained on target*) are "
        "changed to look like the target's, in zoom, width and neighbouring digits, chosen by eye from unlabelled "
        "target pictures: *trained on source* has that knowledge of the target, and no adaptation loss. Target-only "
        f"has the target's own, smaller changes.{cost}\n"
    )
    return head + "\n" + "\n".join(lines) + "\n"


def reference_table() -> str:
    """Return what others measured, on other data."""
    rows = [
        [f"{name}, {COLUMNS[target]}", *(percent(share) for share in shares)]
        for name, targets in REFERENCES.items()
        for target, shares in targets.items()
    ]
    return (
        "For orientation, figures of others. They were measured on the course's data (63,544 coloured SVHN digits "
        "from the official files, 5,950 of USPS), so they name a region and are no like-for-like comparison with "
        "data sets of other names above.\n\n" + table(["", "source", "DANN", "target"], rows)
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
            f"picture in {percent(adapted['knn_domain_accuracy'])} of cases (perfectly mixed: 50 %{domain}). Source "
            f"neighbours name the digit of a target picture in {percent(adapted['knn_transfer_accuracy'])} (guessing: "
            f"10 %{digit}). The classifier's hidden layers come after these features.\n"
        )
    return "\n".join(parts)


def plots(space: Workspace, results: Results, target: str, mode: str) -> str:
    """Return the plots by digit and by domain of one model."""
    measured = results.get(f"tsne/{target}/{mode}")
    data = f"{measured['source_data']} → {measured['target_data']}" if measured else COLUMNS[target]
    points = f", {measured['points_per_domain']:,} validation pictures of each domain" if measured else ""
    return "\n".join(
        picture(
            space,
            f"P3/{mode.upper()}_{colouring}_TSNE_{target.upper()}.png",
            f"{data}, {TSNE_NAMES[mode]}: coloured {title}{points}",
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
        "Domain-adversarial training (Ganin et al., JMLR 2016): the domain classifier hangs on the 768 "
        "convolutional features behind gradient reversal, whose strength rises as λ = "
        f"{run['grl_lambda_max']:g} · (2 / (1 + exp(-10 p)) - 1) with the share p of training done.",
        f"{run['steps']:,} steps of {run['batch_size']} pictures of each domain, AdamW, learning rate "
        f"{run['learning_rate']:g}" + (" falling along a cosine" if run["cosine"] else "") + f", weight decay "
        f"{run['weight_decay']:g}, label smoothing {run['label_smoothing']:g}; the weights averaged with decay "
        f"{run['ema_decay']:g} after the last step are evaluated: no label of the target chooses a checkpoint.",
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
    original = accuracies(results, "original", target, "dann")
    if original and dann:
        change = 100 * (statistics.fmean(dann) - statistics.fmean(original))
        share = (
            f" Source-only with the new inputs, without any adaptation loss, reaches {mean_std(source)}: "
            f"{'most' if statistics.fmean(source) - statistics.fmean(original) > change / 200 else 'less than half'} "
            "of the difference comes with inputs, augmentation, optimiser and averaging, before any adaptation."
            if source and statistics.fmean(original) < statistics.fmean(source) < statistics.fmean(dann)
            else ""
        )
        word = "above" if change >= 0 else "below"
        lines.append(f"{name}: the recipe of this table is {abs(change):.1f} points {word} the original one.{share}")
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


def parts_sentence(results: Results, target: str) -> str:
    """Return how far each part of adaptation goes alone and whether both go further, on test pictures if any."""

    def measured(split: str) -> dict[str, list[float]]:
        cells = {"source": (PARTS_OF, "source"), **{part: (part, "dann") for part in PART_NAMES}}
        found = {name: accuracies(results, preset, target, mode, split) for name, (preset, mode) in cells.items()}
        return {name: values for name, values in found.items() if values}

    tested = measured("test_accuracy")
    found = tested if {"source", PARTS_OF} < tested.keys() else measured("accuracy")
    source, both = found.pop("source"), found.pop(PARTS_OF)
    gains = "; ".join(
        f"{PART_NAMES[part]}: {100 * (statistics.fmean(values) - statistics.fmean(source)):+.1f} points"
        for part, values in found.items()
    )
    best = max(found, key=lambda part: statistics.fmean(found[part]))
    if min(both) > max(max(values) for values in found.values()):
        verdict = "every seed with both is better than every seed with less"
    elif max(both) < min(found[best]):
        verdict = f"every seed with both is worse than every seed with *{PART_NAMES[best]}*"
    else:
        verdict = f"the ranges of the seeds of *both* and of *{PART_NAMES[best]}* overlap"
    place = "test split" if found.keys() <= tested.keys() else "validation set"
    gain = 100 * (statistics.fmean(both) - statistics.fmean(source))
    untested = (
        " Why gradient reversal alone does not help was not tested; the domains are augmented differently, which the "
        "domain classifier can see."
        if "adversarial" in found and statistics.fmean(found["adversarial"]) < statistics.fmean(source)
        else ""
    )
    return f"on the {place}, over source-only: {gains}; both: {gain:+.1f} points; {verdict}.{untested}"


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
    """Return what stands between DANN and a perfect score."""
    gap, network = 100 * (ceiling - dann), 100 * (1 - ceiling)
    if gap <= 0:
        return f"{name}: the adapted model reaches target-only; what is missing to 100 %, target-only misses too."
    return (
        f"{name}: of the {gap + network:.1f} % that the adapted model gets wrong, {gap:.1f} points are the gap to "
        f"target-only; the other {network:.1f} % target-only gets wrong as well."
    )


def readme_table(space: Workspace) -> str:
    """Return the short table of README.md: measured figures beside those of others."""
    results = read_results(space.results, "p3")
    rows = [
        [f"{COLUMNS[target]}: {name}", cell(results, row_preset, target, mode), f"`{row_preset}`"]
        for preset in PRESET_ORDER
        for target in TARGETS
        for name, row_preset, mode in rows_of(results, preset)
        if runs_of(results, row_preset, target, mode)
    ]
    return (
        table(["P3, accuracy on the target's validation set", "measured", "preset"], rows) if rows else "*Not run.*\n"
    )
