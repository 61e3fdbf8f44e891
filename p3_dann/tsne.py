"""Draw the features of trained networks in two dimensions, coloured by digit and by domain.

    python p3_dann/tsne.py                                                   # the shipped models
    python p3_dann/tsne.py --preset cpu --modes dann source                  # and before adaptation
    python p3_dann/tsne.py --preset original                                 # DANN as in the original report
    python p3_dann/tsne.py --checkpoint runs/cpu/p3_svhn_dann_seed0/weights.safetensors

Writes images/P3/DANN_{class,domain}_TSNE_{SVHN,USPS}.png (SOURCE_... and TARGET_... for those modes, ORIGINAL_DANN_...
for that preset), and how well the domains mix to results/p3.json. Digits of a target without labels are predicted.
"""

from __future__ import annotations

import argparse
import glob
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import check_root, dataset_name, digit_domains, has_labels, load_digit_images, load_digits
from common.device import pick_device
from common.errors import UserError, run_main
from common.files import sha256
from common.paths import WEIGHTS, workspace
from common.plots import PALETTE, new_figure, save_figure
from common.results import record
from common.seed import generator, seed_everything
from common.weights import of_training
from p3_dann.dataset import REPORTED_TARGETS, SOURCE
from p3_dann.measures import features_of, other_domain_share, predict, vote_accuracy
from p3_dann.model import DANN_model, load_model
from p3_dann.presets import MODES, ON_THE_SCHEDULE_OF_CPU, PRESETS, TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Paul Tol, "Colour schemes", 2021, scheme muted with a dark grey: ten colours that colour-blind readers tell apart.
# fmt: off
DIGIT_COLOURS = (
    "#332288", "#88CCEE", "#CC6677", "#117733", "#DDCC77", "#882255", "#44AA99", "#AA4499", "#999933", "#555555",
)
# fmt: on
MARKERS = ("o", "^")
# Text and outline of the digits written over the points of source and target.
LABEL_COLOURS = (("black", "white"), ("white", "black"))
NEIGHBOURS = 15
STATES = {"source": "trained on source", "dann": "after adaptation", "target": "trained on target"}


def find_weights(arguments: argparse.Namespace) -> list[Path]:
    """Return the weights to draw; those that are missing are named on standard error.

    Raises:
        UserError: there are none at all.
    """
    if arguments.checkpoint:
        return [arguments.checkpoint]
    root, patterns = WEIGHTS, ["p3_{}.safetensors"]
    if arguments.preset:
        root = workspace(arguments.preset, arguments.output).runs
        patterns = [f"p3_{{}}_{mode}_seed{arguments.seed}/weights.safetensors" for mode in arguments.modes]
    elif arguments.modes != ["dann"]:
        raise UserError(
            f"--modes {' '.join(arguments.modes)}: weights/ has dann only; name a --preset you have trained"
        )
    found: list[Path] = []
    for pattern in patterns:
        paths = sorted(root.glob(pattern.format(glob.escape(arguments.target) if arguments.target else "*")))
        expected = [arguments.target] if arguments.target else REPORTED_TARGETS
        for path in (root / pattern.format(target) for target in expected):
            if path not in paths:
                print(f"note: {path}: not there, so it is not drawn", file=sys.stderr)
        found += paths
    if not found:
        raise UserError(f"{root}: holds nothing to draw; train first, or pass --preset or --checkpoint")
    return found


def load(data_root: Path, domain: str, seed: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return a domain's validation pictures in a random order, and their labels if it has them."""
    labels = None
    if has_labels(data_root, domain, "val"):
        images, labels = load_digits(data_root, domain, "val")
    else:
        images = load_digit_images(data_root, domain, "val")
    order = torch.randperm(len(images), generator=generator(seed, "tsne", domain))
    return images[order], None if labels is None else labels[order]


def embed(features: np.ndarray, seed: int) -> np.ndarray:
    """Return the t-SNE plane (N, 2) of features (N, 768), started from their principal components.

    Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; the start after Kobak and
    Berens, "The art of using t-SNE for single-cell transcriptomics", 2019.
    """
    seed %= 2**32  # the largest that scikit-learn takes
    reduced = PCA(min(50, *features.shape), random_state=seed).fit_transform(features)
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)


def draw(
    plane: np.ndarray, digits: np.ndarray, is_target: np.ndarray, domains: list[str], title: str, by_digit: bool
) -> Figure:
    """Return the plot of both domains' points, with every digit of each written where most of its points are."""
    from matplotlib import patheffects

    figure, axes = new_figure(size=(7.0, 7.4))
    axis = axes[0, 0]
    axis.set(xticks=[], yticks=[], aspect="equal")
    axis.set_title(title, fontsize=11)
    axis.spines[:].set_visible(False)
    handles = [_handle("s", colour, str(digit)) for digit, colour in enumerate(DIGIT_COLOURS)] if by_digit else []
    for domain, (marker, (colour, outline), name) in enumerate(zip(MARKERS, LABEL_COLOURS, domains, strict=True)):
        chosen = is_target == bool(domain)
        colours = np.array(DIGIT_COLOURS)[digits[chosen]] if by_digit else PALETTE[domain]
        axis.scatter(*plane[chosen].T, s=14, c=colours, marker=marker, alpha=0.75 if by_digit else 0.45, linewidths=0)
        stroke = [patheffects.withStroke(linewidth=3.5, foreground=outline)]
        for digit in np.unique(digits[chosen]):
            text = axis.text(*densest(plane[chosen & (digits == digit)]), str(digit), color=colour, fontsize=19)
            text.set(weight="bold", ha="center", va="center", zorder=10, path_effects=stroke)
        handles += [_handle(marker, "#777777" if by_digit else PALETTE[domain], name)]
        handles += [_handle("$3$", colour, f"digit of {name}", path_effects=stroke)]
    style = {"loc": "outside lower center", "fontsize": 12, "handletextpad": 0.1, "columnspacing": 1.0}
    for columns in range(7 if by_digit else 4, 0, -1):  # as wide as the names of the domains allow
        legend = figure.legend(handles=handles, ncols=columns, **style)
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            break
        legend.remove()
    return figure


def densest(points: np.ndarray) -> np.ndarray:
    """Return the point (2,) of ``points`` (N, 2) with the nearest neighbours: on a cluster, never between two."""
    neighbours = NearestNeighbors(n_neighbors=min(len(points), 1 + 2 * NEIGHBOURS)).fit(points)
    return points[neighbours.kneighbors(points)[0].mean(axis=1).argmin()]


def _handle(marker: str, colour: str, label: str, **style: Any) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=10, label=label, **style)


def draw_model(
    path: Path, model: DANN_model, config: TrainConfig, trained: dict[str, Any], arguments: argparse.Namespace
) -> None:
    """Draw both plots of one network, and record what its features are like."""
    data_root, seed = arguments.data_root, arguments.seed
    target, mode, preset = trained["target"], trained["mode"], trained["preset"]
    seed_everything(seed)
    (source, source_digits), (pictures, digits) = (load(data_root, domain, seed) for domain in (SOURCE, target))
    count = min(arguments.points, len(source), len(pictures))
    has_digits = digits is not None
    digits = digits[:count] if has_digits else predict(model, pictures[:count], config).cpu()
    source_features, target_features = (features_of(model, part[:count], config).cpu() for part in (source, pictures))
    plane = embed(torch.cat([source_features, target_features]).numpy(), seed)
    shown, is_target = torch.cat([source_digits[:count], digits]).numpy(), np.arange(2 * count) >= count

    names = [dataset_name(data_root, domain) for domain in (SOURCE, target)]
    titles = [name.split(" (")[0] for name in names]
    title = f"{titles[0]} → {titles[1]}, {STATES[mode]}"
    if not has_digits:
        title += f" (digits of {titles[1]} as predicted)"
    space = workspace(preset, arguments.output)
    recipe = f"{preset.upper()}_" if preset in ("original", *ON_THE_SCHEDULE_OF_CPU) else ""
    name = f"{recipe}{mode.upper()}_{{}}_TSNE_{target.upper()}{of_training(trained)}.png"
    drawn = {way: f"P3/{name.format(way)}" for way in ("class", "domain")}
    for way, picture in drawn.items():
        save_figure(draw(plane, shown, is_target, titles, title, by_digit=way == "class"), space.images / picture)
    values = {
        "source_data": names[0],
        "target_data": names[1],
        "preset": preset,
        "mode": mode,
        "seed": trained["seed"],
        "weights": sha256(path)[:16],
        "points_per_domain": count,
        "neighbours": NEIGHBOURS,
        "other_domain_share": other_domain_share(source_features, target_features, NEIGHBOURS),
        "pictures": drawn,
    }
    if has_digits:
        transfer = vote_accuracy(source_features, source_digits[:count], target_features, digits, NEIGHBOURS)
        values["knn_transfer_accuracy"] = transfer
    key = f"tsne/{target}/{mode}/{preset}{of_training(trained)}"
    record(space.results, "p3", key, values, next(model.parameters()).device)
    print(" and ".join(str(space.images / picture) for picture in drawn.values()))


def main() -> None:
    """Parse the command line and draw every network it names."""
    parser = make_parser(__doc__)
    parser.add_argument("--target", help="draw this domain alone (unset: every one there is)")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="draw this preset's runs (unset: weights/)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["dann"], help="which of the preset's runs")
    parser.add_argument("--checkpoint", type=Path, help="draw this one instead")
    parser.add_argument("--points", type=positive_int, default=2000, help="pictures of each domain")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    check_root(arguments.data_root)
    if arguments.checkpoint and (arguments.target or arguments.preset or arguments.modes != ["dann"]):
        raise UserError("--checkpoint: its file names target, preset and mode; leave these options out")
    models = [(path, *load_model(path, device)) for path in find_weights(arguments)]
    for path, model, config, trained in models:
        if trained["target"] in digit_domains(arguments.data_root) or len(models) == 1:
            draw_model(path, model, config, trained, arguments)
        else:
            print(f"note: {path}: not drawn, no {trained['target']} in {arguments.data_root}/digits", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
