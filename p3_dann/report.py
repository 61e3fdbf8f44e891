"""What p3_dann/report.md shows: its tables, values and pictures, from what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from common.dataset import domain_title
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
from common.results import of_all_seeds
from p3_dann.dataset import REPORTED_TARGETS, SOURCE
from p3_dann.ladder import DRAWN, METHOD_TITLES, RUNG_TITLES, ladder_runs
from p3_dann.model import CLASSES, DANN_model
from p3_dann.presets import MODES, ON_THE_SCHEDULE_OF_CPU, PRESETS, TrainConfig, presets_for

Run = Mapping[str, Any]

SCHEDULES = ("full", "cpu", "sample")  # presets that train all modes, the largest first
SPLITS = {"validation": "accuracy", "test": "test_accuracy"}
# Title, preset ("": the one the page is about) and mode of every row of the first table.
ROWS = (
    ("Trained on source", "", "source"),
    ("DANN", "adversarial", "dann"),
    ("Self-ensembling, as published", "self_ensembling", "dann"),
    ("Self-ensembling, extended", "", "dann"),
    ("Self-ensembling, extended, with the schedule of preset `full`", "full", "dann"),
    ("Trained on target", "", "target"),
    ("Original recipe: trained on source", "original", "source"),
    ("Original recipe: DANN", "original", "dann"),
)
# What decides how a run is adapted, beside its inputs and its schedule; the second only where there is a teacher.
ADAPTATION = ("adversary", "consistency_weight", "domain_weight", "grl_lambda_max", "half_turn")
OF_THE_TEACHER = ("class_thresholds", "confidence", "consistency_warmup", "distribution_alignment", "refinement")


def parts(page: Page) -> dict[str, Any]:
    """Return what the places of the template are filled with."""
    results = page.results
    preset = main_preset(results)
    names = targets(results)
    first_of_each = [run for target in names for run in runs_of(results, preset, target, "dann")[:1]]
    every = [run for key, run in results.items() if key.startswith("train/")]
    model = DANN_model()
    printed = architecture(model) + "\n" + summary_table(model, (3, 28, 28))
    return {
        "results": results,
        "preset": preset,
        "schedules": schedules(first_of_each, PRESETS[preset].steps),
        "accuracy_table": accuracy_table(results, preset),
        "other_tables": {
            name: accuracy_table(results, name) for name in SCHEDULES if name != preset and is_complete(results, name)
        },
        "digit_table": digit_table(results, preset),
        "option_table": option_table(results, preset),
        "data_table": data_table(results, preset),
        "ladder_table": ladder_table(results, preset),
        "plots": plots(results, preset),
        "gains": {target: gains(results, preset, target) for target in names},
        "sampling": [sampling_error(run) for run in first_of_each if "accuracy" in run],
        "settings": details("Every setting", settings_table()),
        "network": details("The network, and torchsummary", printed),
        "machines": measured_on(every),
        "adapted_in": " and ".join(f"{duration(run['seconds'])} for {column(run['target'])}" for run in first_of_each),
    }


def found(results: Results, preset: str) -> bool:
    """Return whether anything of ``preset`` was trained."""
    return any(trained(results, preset, target, mode) for target in targets(results) for mode in MODES)


def is_complete(results: Results, preset: str) -> bool:
    """Return whether ``preset`` trained every mode for one of the targets."""
    return any(all(trained(results, preset, target, mode) for mode in MODES) for target in targets(results))


def main_preset(results: Results) -> str:
    """Return the preset that the page is about: the largest that trained every mode, or else that trained anything."""
    for is_trained in (is_complete, found):
        for preset in SCHEDULES:
            if is_trained(results, preset):
                return preset
    return "cpu"


def targets(results: Results) -> list[str]:
    """Return the targets of the report, then any other that something was trained for."""
    others = {key.split("/")[1] for key in results if key.startswith("train/")} - set(REPORTED_TARGETS)
    return [*REPORTED_TARGETS, *sorted(others)]


def trained(results: Results, preset: str, target: str, mode: str) -> list[Run]:
    """Return all trainings of one cell, by seed."""
    return of_all_seeds(results, f"train/{target}/{mode}/{preset}")


def column(target: str) -> str:
    """Return the title of a target's column."""
    return f"{domain_title(SOURCE)} → {domain_title(target)}"


def runs_of(results: Results, preset: str, target: str, mode: str) -> list[Run]:
    """Return the runs of one cell by seed; adapted ones only where they are adapted as the preset says today.

    Only runs of one schedule count, which is that of the first seed, or that of ``cpu`` where the preset says so.
    """
    runs = trained(results, preset, target, mode)
    if mode == "dann":
        config = asdict(presets_for(target)[preset])
        names = ADAPTATION + (OF_THE_TEACHER if config["consistency_weight"] else ())
        runs = [run for run in runs if all(run.get(name, config[name]) == config[name] for name in names)]
    compared = runs_of(results, "cpu", target, mode) if preset in ON_THE_SCHEDULE_OF_CPU else runs
    return [run for run in runs if schedule(run) in [schedule(other) for other in compared[:1]]]


def schedule(run: Run) -> tuple[int, int]:
    """Return what rows of one table must have in common."""
    return run["steps"], run["batch_size"]


def schedules(runs: Sequence[Run], planned: int) -> str:
    """Return how many steps each of ``runs`` had, where any had other than those ``planned``; else nothing."""
    if all(run["steps"] == planned for run in runs):
        return ""
    each = [f"{domain_title(run['target'])}: {run['steps']:,} steps" for run in runs]
    return f" ({'; '.join(each)})"


def cell(runs: Sequence[Run], measure: str = "accuracy") -> str | None:
    """Return mean and range of an accuracy over seeds; a dash where the pictures have no labels, None without runs."""
    values = [run[measure] for run in runs if measure in run]
    return "–" if runs and not values else mean_range(values, percent)


def rows_of(results: Results, preset: str) -> list[tuple[str, str, str]]:
    """Return the rows of the first table; those of other presets have the schedule of ``cpu``, or are left out."""
    rows = [(title, name or preset, mode) for title, name, mode in ROWS if name != preset]
    return [
        row
        for row in rows
        if row[1] == preset or preset == "cpu" or (row[1] == "original" and found(results, "original"))
    ]


def accuracy_table(results: Results, preset: str, splits: Sequence[str] = tuple(SPLITS), corner: str = "") -> str:
    """Return the table of the task: rows of training, columns of targets and splits."""
    chosen = rows_of(results, preset)
    names = [
        target for target in targets(results) if any(runs_of(results, name, target, mode) for _, name, mode in chosen)
    ]
    columns = [(target, split) for target in names for split in splits]
    rows = []
    for title, name, mode in chosen:
        cells = [cell(runs_of(results, name, target, mode), SPLITS[split]) for target, split in columns]
        seeds = [len(runs_of(results, name, target, mode)) for target in names]
        rows.append([title, *cells, ", ".join(map(str, seeds)) if any(seeds) else None])
    return table([corner, *(f"{column(target)}, {split}" for target, split in columns), "seeds, by target"], rows)


def digit_table(results: Results, preset: str) -> str:
    """Return the validation accuracy of every digit, before and after adaptation, means over seeds."""
    shown = [("trained on source", preset, "source"), ("adapted", preset, "dann")]
    if preset == "cpu" and found(results, "self_ensembling"):
        shown.insert(1, ("adapted as published", "self_ensembling", "dann"))
    if preset == "cpu" and found(results, "full"):
        shown.append(("adapted with the schedule of `full`", "full", "dann"))
    rows = []
    for target in targets(results):
        for title, name, mode in shown:
            each = [run["digit_accuracy"] for run in runs_of(results, name, target, mode) if "digit_accuracy" in run]
            shares = [[digits[str(digit)] for digits in each if str(digit) in digits] for digit in range(CLASSES)]
            nothing = "–" if each else None
            cells = [percent(statistics.fmean(values)) if values else nothing for values in shares]
            rows.append([f"{column(target)}, {title}", *cells])
    return table(["", *range(CLASSES)], rows)


def option_table(results: Results, preset: str) -> str:
    """Return what can be seen without labels of every adaptation on the ladder's last rung, then its accuracy."""
    rows = []
    for method, title in METHOD_TITLES.items():
        cells = []
        for target in targets(results):
            runs = ladder_runs(results, target, "geometry", method, preset)
            cells.append(mean_range([run["target_information"] for run in runs]))
            cells.append(mean_range([min(run["predicted_shares"]) for run in runs], percent))
            cells.append(cell(runs))
        rows.append([title, *cells])
    measures = ("information, nats", "rarest digit", "accuracy")
    return table(["", *(f"{domain_title(target)}: {name}" for target in targets(results) for name in measures)], rows)


def data_table(results: Results, preset: str) -> str:
    """Return which pictures were learned from and evaluated on."""
    rows = []
    for target in targets(results):
        run = next((run for mode in ("dann", "source") for run in trained(results, preset, target, mode)), None)
        if run:
            counts = [
                f"{run['counts'][part]:,}" if part in run["counts"] else "–"
                for part in ("labelled", "unlabelled", "val", "test")
            ]
            rows.append([run["source_data"], run["target_data"], *counts])
    header = ["source", "target", "labelled", "unlabelled", "validation", "test"]
    return table(header, rows)


def ladder_table(results: Results, preset: str) -> str:
    """Return the validation accuracies of the ladder; empty where none was run."""
    rows = []
    for target in targets(results):
        for method in DRAWN:
            cells = [cell(ladder_runs(results, target, rung, method, preset)) for rung in RUNG_TITLES]
            if any(cells):
                rows.append([f"{column(target)}, {METHOD_TITLES[method]}", *cells])
    return table(["", *RUNG_TITLES.values()], rows) if rows else ""


def plots(results: Results, preset: str) -> list[dict[str, Any]]:
    """Return the t-SNE plots of the adapted network, those before adaptation, and of the original recipe's DANN.

    Of several adapted networks the one that saw most is shown, which is the one that is shipped.
    """
    shown = []
    for target in targets(results):
        adapted = next((name for name in SCHEDULES if f"tsne/{target}/dann/{name}" in results), preset)
        for title, name in (("after adaptation", adapted), ("DANN, original recipe", "original")):
            measured = results.get(f"tsne/{target}/dann/{name}")
            files = {way: f"P3/DANN_{way}_TSNE_{target.upper()}.png" for way in ("class", "domain")}
            if measured or name == adapted:
                files = measured["pictures"] if measured else files
                before = results.get(f"tsne/{target}/source/{preset}", {}).get("pictures") if name == adapted else None
                plot = {"title": f"{column(target)}, {title}", "files": files, "measured": measured}
                shown.append(plot | {"before": before})
    return shown


def gains(results: Results, preset: str, target: str) -> dict[str, str]:
    """Return in points of validation accuracy what adaptation adds to training on the source."""

    def mean(runs: Sequence[Run]) -> float | None:
        values = [run["accuracy"] for run in runs if "accuracy" in run]
        return statistics.fmean(values) if values else None

    def of(name: str, mode: str) -> float | None:
        return mean(runs_of(results, name, target, mode))

    def on_the_ladder(method: str) -> float | None:
        return mean(ladder_runs(results, target, "geometry", method, preset))

    pairs = {
        "original": (of("original", "source"), of("original", "dann")),
        "reversal": (of(preset, "source"), of("adversarial", "dann")),
        "short": (on_the_ladder("source"), on_the_ladder("adversarial")),
        "weak": (on_the_ladder("source"), on_the_ladder("adversarial_weak")),
        "published": (of(preset, "source"), of("self_ensembling", "dann")),
        "ensembling": (of(preset, "source"), of(preset, "dann")),
    }
    shown = {
        name: "not run" if None in (before, after) else f"{100 * (after - before):+.1f} points"
        for name, (before, after) in pairs.items()
    }
    return shown | {mode: cell(runs_of(results, preset, target, mode)) or "not run" for mode in MODES}


def sampling_error(run: Run) -> str:
    """Return half the width of the 95 % interval that the number of validation pictures alone gives an accuracy."""
    count, share = run["counts"]["val"], run["accuracy"]
    half = 196 * math.sqrt(share * (1 - share) / count)
    return f"±{half:.1f} points ({column(run['target'])}, {count:,} pictures)"


def settings_table() -> str:
    """Return every field of the presets the report is about, as they are today."""
    shown = {f"`cpu`, {domain_title(target)}": presets_for(target)["cpu"] for target in REPORTED_TARGETS}
    shown["`original`"] = PRESETS["original"]
    rows = [
        [field.metadata["help"], *(_value(getattr(config, field.name)) for config in shown.values())]
        for field in fields(TrainConfig)
    ]
    return table(["", *shown], rows)


def readme_table(results: Results) -> str:
    """Return the short table of README.md: the test split alone."""
    return accuracy_table(results, main_preset(results), ("test",), "P3, accuracy")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " to ".join(map(str, value)) if isinstance(value, tuple) else str(value)
