"""Plot the features of trained networks in two dimensions (t-SNE), by digit and by domain, and measure domain mixing.

    python p3_dann/tsne.py                          # weights/: images/P3/DANN_{class,domain}_TSNE_{SVHN,USPS}.png
    python p3_dann/tsne.py --checkpoint runs/cpu/p3_svhn_dann_seed0/weights.safetensors
    python p3_dann/tsne.py --checkpoint runs/cpu/p3_svhn_{source,dann,ours}_seed0/weights.safetensors

Several checkpoints are compared in one figure, TSNE_TARGET.png, in images/ of the first run. Domain mixing is the
fraction of a feature's nearest neighbors that belong to the other domain: 0 where domains lie apart, 0.5 where they are
mixed. The digits of a domain without labels are predicted.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, make_parser, positive_int, progress_bar, run_main
from common.data import check_root, dataset_name, digest, load_digit_images
from common.device import pick_device
from common.files import file_digest
from common.metrics import accuracy
from common.seed import generator
from common.viz import PALETTE, new_figure, save_figure
from common.weights import images_folder, run_folder, write_record
from p3_dann.augment import prepare
from p3_dann.config import METHODS, TrainConfig
from p3_dann.dataset import SOURCE, TARGETS
from p3_dann.evaluate import load_labeled
from p3_dann.inference import load_model, predict, shipped_weights
from p3_dann.model import DANN_model

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

# Paul Tol, "Colour schemes", 2021, scheme muted with a dark gray: ten colors that color-blind readers distinguish.
DIGIT_COLORS = "#332288 #88CCEE #CC6677 #117733 #DDCC77 #882255 #44AA99 #AA4499 #999933 #555555".split()  # noqa: SIM905
MARKERS = ("o", "^")
LABEL_COLORS = (("black", "white"), ("white", "black"))  # text and outline of digits written over source and target
ROWS = ("class", "domain")  # by what points are colored
NEIGHBORS = 15
BATCH_SIZE = 64  # of each domain, where BatchNorm takes its statistics from the batch


class Embedding(NamedTuple):
    """One network's validation features in the plane: of the source, then of the target."""

    record: dict[str, Any]
    title: str
    plane: np.ndarray  # (2 N, 2)
    digits: np.ndarray  # (2 N,)


@torch.no_grad()
def features_of(
    model: DANN_model, config: TrainConfig, source: torch.Tensor, target: torch.Tensor, batch_statistics: bool
) -> dict[str, torch.Tensor]:
    """Return what both classifiers see, and the class classifier's last features: (2, N, 768) and (2, N, 128).

    ``source`` and ``target`` are as many uint8 images (N, 3, 28, 28). With ``batch_statistics`` BatchNorm takes its
    statistics from batches of both domains, as in training.
    """
    device = next(model.parameters()).device
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.train(batch_statistics)
    count = max(1, len(source) // BATCH_SIZE)
    pairs = zip(source.tensor_split(count), target.tensor_split(count), strict=True)
    features = [model.features(prepare(torch.cat(pair).to(device), config)) for pair in pairs]
    layers = {"768": features, "128": [model.class_classifier[:-1](batch) for batch in features]}
    return {name: torch.cat([x.unflatten(0, (2, -1)).cpu() for x in batches], 1) for name, batches in layers.items()}


def domain_mixing(source: torch.Tensor, target: torch.Tensor) -> float:
    """Return the fraction of a feature's nearest neighbors that are of the other domain (0: apart, 0.5: mixed).

    Source and target are as many features (N, D), or mixed domains would not give 0.5.
    """
    features = torch.cat([source, target])
    is_target = torch.arange(len(features)) >= len(source)
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    nearest = distances.topk(min(NEIGHBORS, len(features) - 1), largest=False).indices
    return round((is_target[nearest] != is_target[:, None]).double().mean().item(), 4)


def knn_accuracy(source: torch.Tensor, labels_s: torch.Tensor, target: torch.Tensor, labels_t: torch.Tensor) -> float:
    """Return how often a vote of the nearest source features (N, D) gives the label of a target feature (M, D)."""
    nearest = torch.cdist(target, source).topk(min(NEIGHBORS, len(source)), largest=False).indices
    return round(accuracy(labels_s[nearest].mode(1).values, labels_t), 4)


def measure(checkpoint: Path, data_root: Path, points: int, seed: int, device: torch.device) -> Embedding:
    """Return the t-SNE embedding of a checkpoint's features, and record how well the domains mix in them."""
    model, config, header = load_model(checkpoint, device)
    domains = (SOURCE, header["target"])
    images, digits, is_labeled = [], [], True
    for domain in domains:
        labeled = load_labeled(data_root, domain, "val")
        x = load_digit_images(data_root, domain, "val") if labeled is None else labeled[0]
        order = torch.randperm(len(x), generator=generator(seed, "tsne", domain))[:points]
        images.append(x[order])
        digits.append(predict(model, x[order], config) if labeled is None else labeled[1][order])
        is_labeled = is_labeled and labeled is not None
    count = min(map(len, images))
    images, digits = [x[:count] for x in images], [y[:count] for y in digits]

    record: dict[str, Any] = header | {"problem": "p3", "kind": "tsne", "weights": file_digest(checkpoint)}
    record |= {"val_digest": digest(*images), "sampling_seed": seed, "num_images": count, "neighbors": NEIGHBORS}
    features = features_of(model, config, images[0], images[1], batch_statistics=False)
    in_training = features_of(model, config, images[0], images[1], batch_statistics=True)
    for mode, layers in (("eval", features), ("train", in_training)):
        for layer, values in layers.items():
            record[f"domain_mixing_{layer}_{mode}"] = domain_mixing(values[0], values[1])
    if is_labeled:
        record["knn_accuracy"] = knn_accuracy(features["768"][0], digits[0], features["768"][1], digits[1])
    write_record(run_folder(checkpoint), "tsne", record, device)

    title = METHODS[header["method"]].title
    title += "" if header["inputs"] == "augmented" else f", {header['inputs']} inputs"
    title += "" if is_labeled else " (digits as predicted)"
    title += "\n" + " → ".join(dataset_name(data_root, domain).split(" (")[0] for domain in domains)
    # Van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; started from the principal components after
    # Kobak and Berens, "The art of using t-SNE for single-cell transcriptomics", 2019.
    array = features["768"].flatten(0, 1).numpy()
    reduced = PCA(min(50, *array.shape), random_state=0).fit_transform(array)
    plane = TSNE(perplexity=min(30.0, (2 * count - 1) / 3), init="pca", random_state=0).fit_transform(reduced)
    return Embedding(record, title, plane, torch.cat(digits).numpy())


def plot(axis: Axes, embedding: Embedding, row: str) -> None:
    """Plot the points of both domains by ``class`` or ``domain``, and each digit on the point nearest its median."""
    axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim", frame_on=False)
    is_target = np.arange(len(embedding.plane)) >= len(embedding.plane) // 2
    for domain, (color, outline) in enumerate(LABEL_COLORS):
        points, digits = (values[is_target == bool(domain)] for values in (embedding.plane, embedding.digits))
        colors: Any = np.array(DIGIT_COLORS)[digits] if row == "class" else PALETTE[domain]
        axis.scatter(points[:, 0], points[:, 1], 12, colors, marker=MARKERS[domain], alpha=0.6, linewidths=0)
        stroke = [patheffects.withStroke(linewidth=3, foreground=outline)]
        for digit in np.unique(digits):
            cluster = points[digits == digit]
            x, y = cluster[np.linalg.norm(cluster - np.median(cluster, 0), axis=1).argmin()]
            text = axis.text(x, y, str(digit), color=color, fontsize=17, path_effects=stroke)
            text.set(weight="bold", ha="center", va="center", zorder=10)


def plot_networks(embeddings: list[Embedding], rows: Sequence[str]) -> Figure:
    """Return a figure with a column per network and a row per coloring of its points, by ``class`` or ``domain``."""
    size = 6.0 if len(embeddings) == 1 else 4.4
    figure, axes = new_figure(len(rows), len(embeddings), (size * len(embeddings), size * len(rows) + 0.6))
    for column, embedding in zip(axes.T, embeddings, strict=True):
        column[0].set_title(embedding.title)
        for axis, row in zip(column, rows, strict=True):
            plot(axis, embedding, row)
        mixing = f"domain mixing {100 * embedding.record['domain_mixing_768_eval']:.1f}% (mixed: 50%)"
        column[-1].set_xlabel(mixing)

    # One legend: digits by color, domains by marker, and by color where a row shows them so.
    shown = [("s", color, str(digit)) for digit, color in enumerate(DIGIT_COLORS)] if "class" in rows else []
    colors = PALETTE if "domain" in rows else ("#777777", "#777777")
    shown += [(MARKERS[0], colors[0], "source (digits black)"), (MARKERS[1], colors[1], "target (digits white)")]
    handles = [Line2D([], [], color=c, marker=m, label=label, linestyle="none", markersize=9) for m, c, label in shown]
    figure.legend(handles=handles, ncols=4, loc="outside lower center", handletextpad=0.1)
    return figure


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, nargs="+", help="weights (default: those of DANN in weights/)")
    parser.add_argument("--points", type=positive_int, default=2000, help="images of each domain")
    parser.add_argument("--images", type=Path, help="folder of the figures (default: images/P3, or that of the run)")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    check_root(arguments.data_root)
    checkpoints = arguments.checkpoint or [shipped_weights(target, "dann") for target in TARGETS]
    compared = len(arguments.checkpoint or []) > 1
    embeddings = [
        measure(path, arguments.data_root, arguments.points, arguments.seed, device)
        for path in progress_bar(checkpoints, desc="t-SNE", unit="network")
    ]
    # Those that are compared share one figure, in the folder of the first.
    groups = [embeddings] if compared else [[embedding] for embedding in embeddings]
    for checkpoint, group in zip(checkpoints, groups, strict=False):
        method = group[0].record["method"].upper()
        figures = {"TSNE": ROWS} if compared else {f"{method}_{row}_TSNE": (row,) for row in ROWS}
        for name, rows in figures.items():
            folder = arguments.images or images_folder(checkpoint, "P3")
            path = folder / f"{name}_{group[0].record['target'].upper()}.png"
            save_figure(plot_networks(group, rows), path)
            print(f"wrote {path}")


if __name__ == "__main__":
    run_main(main)
