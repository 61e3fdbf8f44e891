"""Draw the features of DANN in two dimensions, coloured by digit and by domain, for each target.

    python p3_dann/tsne.py
    python p3_dann/tsne.py --preset cpu --modes dann source                  # and before adaptation
    python p3_dann/tsne.py --preset sample --data-root sample_data
    python p3_dann/tsne.py --checkpoint runs/cpu/p3_svhn_dann_seed0/weights.safetensors

Writes images/P3/DANN_{class,domain}_TSNE_{SVHN,USPS}.png (SOURCE_... and TARGET_... for those modes), and how well the
domains mix to results/p3.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import dataset_name, load_digits
from common.device import pick_device
from common.errors import UserError, run_main
from common.paths import WEIGHTS, Workspace, workspace
from common.plots import PALETTE, new_figure, save_figure
from common.report import brief
from common.results import record
from common.seed import generator, seed_everything
from p3_dann.dataset import SOURCE
from p3_dann.evaluate import domain_features, load_model
from p3_dann.presets import MODES, PRESETS, TARGETS

# Paul Tol, "Colour schemes", 2021, scheme muted with a dark grey: ten colours that colour-blind readers tell apart.
DIGIT_COLOURS = (
    "#332288",
    "#88CCEE",
    "#CC6677",
    "#117733",
    "#DDCC77",
    "#882255",
    "#44AA99",
    "#AA4499",
    "#999933",
    "#555555",
)
DOMAIN_COLOURS = PALETTE[:2]
MARKERS = ("o", "^")
# Text and outline of the digits written over the points of source and target.
LABEL_COLOURS = (("black", "white"), ("white", "black"))
LEGEND = {"loc": "outside lower center", "fontsize": 12, "handletextpad": 0.1, "columnspacing": 1.0}
NEIGHBOURS = 15
STATES = {"source": "trained on source", "dann": "after adaptation", "target": "trained on target"}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), help="draw this preset's runs (unset: weights/)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["dann"], help="which of the preset's runs")
    parser.add_argument("--checkpoint", type=Path, help="draw this one instead")
    parser.add_argument("--points", type=positive_int, default=2000, help="pictures of each domain")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    if arguments.checkpoint:
        paths = [arguments.checkpoint]
    elif arguments.preset:
        runs = workspace(arguments.preset, arguments.output).runs
        names = [f"p3_{target}_{mode}_seed{arguments.seed}" for mode in arguments.modes for target in TARGETS]
        paths = [runs / name / "weights.safetensors" for name in names]
    elif arguments.modes != ["dann"]:
        raise UserError(
            f"--modes {' '.join(arguments.modes)}: weights/ has dann only; name a --preset you have trained"
        )
    else:
        paths = [WEIGHTS / f"p3_{target}.safetensors" for target in TARGETS]
    models = [load_model(path, device) for path in paths]
    for path, (model, config, trained) in zip(paths, models, strict=True):
        seed_everything(arguments.seed)
        target, mode = trained["target"], trained["mode"]
        domains = (SOURCE, target)
        pictures, labels = sample(arguments.data_root, domains, arguments.points, arguments.seed)
        features = torch.cat([domain_features(model, pictures[i], config, is_source=i == 0) for i in range(2)])
        features, digits = features.cpu().numpy(), torch.cat(labels).numpy()
        is_target = np.arange(len(digits)) >= len(labels[0])
        plane = embed(features, arguments.seed)
        names = [dataset_name(arguments.data_root, domain) for domain in domains]
        title = f"{brief(names[0])} → {brief(names[1])}, {STATES[mode]}"
        space = workspace(trained["preset"], arguments.output)
        drawn = [picture_path(space, mode, colouring, target) for colouring in ("class", "domain")]
        for draw, picture in zip((draw_classes, draw_domains), drawn, strict=True):
            save_figure(draw(plane, digits, is_target, tuple(name.split(" (")[0] for name in names), title), picture)
        values = separation(features, digits, is_target) | {
            "source_data": names[0],
            "target_data": names[1],
            "preset": trained["preset"],
            "mode": mode,
            "seed": trained["seed"],
            "points_per_domain": len(labels[0]),
            "neighbours": NEIGHBOURS,
        }
        record(space.results, "p3", f"tsne/{target}/{mode}", values, device)
        print(f"{path}: drawn to {drawn[0]} and {drawn[1]}")


def sample(
    data_root: Path, domains: tuple[str, str], points: int, seed: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return equally many random validation pictures and labels of each domain, at most ``points``."""
    sets = [load_digits(data_root, domain, "val") for domain in domains]
    count = min(points, *(len(labels) for _, labels in sets))
    chosen = [
        torch.randperm(len(labels), generator=generator(seed, "tsne", domain))[:count]
        for domain, (_, labels) in zip(domains, sets, strict=True)
    ]
    pairs = [(images[index], labels[index]) for (images, labels), index in zip(sets, chosen, strict=True)]
    return [images for images, _ in pairs], [labels for _, labels in pairs]


def embed(features: np.ndarray, seed: int) -> np.ndarray:
    """Return the t-SNE plane (N, 2) of features (N, 768), started from their principal components.

    Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; the start after Kobak and
    Berens, "The art of using t-SNE for single-cell transcriptomics", 2019.
    """
    reduced = PCA(min(50, *features.shape), random_state=seed).fit_transform(features)
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)


def separation(features: np.ndarray, digits: np.ndarray, is_target: np.ndarray) -> dict[str, float]:
    """Return how far apart domains and digits are among the features, by nearest neighbours.

    ``knn_domain_accuracy`` is that of telling the domains apart (0.5: perfectly mixed), five-fold;
    ``knn_transfer_accuracy`` that of naming a target digit by its source neighbours.
    """
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(digits) // 4))
    transfer = neighbours.fit(features[~is_target], digits[~is_target]).score(features[is_target], digits[is_target])
    domain = cross_val_score(neighbours, features, is_target, cv=5).mean()
    return {"knn_domain_accuracy": round(float(domain), 4), "knn_transfer_accuracy": round(float(transfer), 4)}


def picture_path(space: Workspace, mode: str, colouring: str, target: str) -> Path:
    """Return where the plot coloured by ``colouring`` (class or domain) is written."""
    return space.images / "P3" / f"{mode.upper()}_{colouring}_TSNE_{target.upper()}.png"


def draw_classes(
    plane: np.ndarray, digits: np.ndarray, is_target: np.ndarray, domains: tuple[str, str], title: str
) -> Figure:
    """Return the plot with a colour for each digit, and a marker for each domain."""
    figure, axis = _axes(plane, digits, is_target, title)
    for domain, marker in enumerate(MARKERS):
        chosen = is_target == bool(domain)
        colours = np.array(DIGIT_COLOURS)[digits[chosen]]
        axis.scatter(*plane[chosen].T, s=14, c=colours, marker=marker, alpha=0.75, linewidths=0)
    handles = [_handle("s", colour, str(digit)) for digit, colour in enumerate(DIGIT_COLOURS)]
    handles += [_handle(marker, "#777777", name) for marker, name in zip(MARKERS, domains, strict=True)]
    handles += _label_handles(domains)
    figure.legend(handles=handles, ncols=7, **LEGEND)
    return figure


def draw_domains(
    plane: np.ndarray, digits: np.ndarray, is_target: np.ndarray, domains: tuple[str, str], title: str
) -> Figure:
    """Return the plot with a colour and a marker for each domain."""
    figure, axis = _axes(plane, digits, is_target, title)
    for domain, (marker, colour) in enumerate(zip(MARKERS, DOMAIN_COLOURS, strict=True)):
        chosen = is_target == bool(domain)
        axis.scatter(*plane[chosen].T, s=14, c=colour, marker=marker, alpha=0.45, linewidths=0)
    handles = [_handle(*design) for design in zip(MARKERS, DOMAIN_COLOURS, domains, strict=True)]
    handles += _label_handles(domains)
    figure.legend(handles=handles, ncols=4, **LEGEND)
    return figure


def densest(points: np.ndarray) -> np.ndarray:
    """Return the point (2,) of ``points`` (N, 2) with the nearest neighbours: on a cluster, never between two."""
    neighbours = NearestNeighbors(n_neighbors=min(len(points), 1 + 2 * NEIGHBOURS)).fit(points)
    return points[neighbours.kneighbors(points)[0].mean(axis=1).argmin()]


def _axes(plane: np.ndarray, digits: np.ndarray, is_target: np.ndarray, title: str) -> tuple[Figure, object]:
    """Return a figure with every digit of each domain written where most of its points are."""
    figure, axes = new_figure(size=(7.0, 7.4))
    axis = axes[0, 0]
    axis.set(xticks=[], yticks=[], aspect="equal")
    axis.set_title(title, fontsize=11)
    axis.spines[:].set_visible(False)
    for domain, (colour, outline) in enumerate(LABEL_COLOURS):
        chosen = is_target == bool(domain)
        for digit in np.unique(digits[chosen]):
            place = densest(plane[chosen & (digits == digit)])
            text = axis.text(*place, str(digit), color=colour, fontsize=19, weight="bold")
            text.set(ha="center", va="center", zorder=10)
            text.set_path_effects([patheffects.withStroke(linewidth=3.5, foreground=outline)])
    return figure, axis


def _handle(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=10, label=label)


def _label_handles(domains: tuple[str, str]) -> list[Line2D]:
    handles = []
    for (colour, outline), name in zip(LABEL_COLOURS, domains, strict=True):
        handle = _handle("$3$", colour, f"digit of {name}")
        handle.set_path_effects([patheffects.withStroke(linewidth=3, foreground=outline)])
        handles.append(handle)
    return handles


if __name__ == "__main__":
    run_main(main)
