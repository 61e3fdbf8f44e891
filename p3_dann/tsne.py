"""Plot the features of trained networks in two dimensions (t-SNE), by digit and by domain, and measure domain mixing.

    python p3_dann/tsne.py                          # weights/: images/P3/DANN_{class,domain}_TSNE_{SVHN,USPS}.png
    python p3_dann/tsne.py --checkpoints runs/cpu/p3_svhn_dann_seed0/weights.safetensors
    python p3_dann/tsne.py --checkpoints runs/cpu/p3_svhn_{source,dann,ours}_seed0/weights.safetensors

Several checkpoints of one target are compared in one figure, TSNE_TARGET.png. Figures of runs go to the images/ of the
(first) run. Domain mixing is the fraction of a feature's nearest neighbors that belong to the other domain: 0 where
domains lie apart, 0.5 where they are mixed. The digits of a domain without labels are predicted.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, positive_int, progress_bar, run_main
from common.data import check_root, dataset_name, digest, digit_domains, load_digit_images
from common.device import pick_device
from common.files import file_digest
from common.plots import PALETTE, new_figure, save_figure
from common.records import images_folder, run_folder, write_record
from common.seed import generator, seed_everything
from p3_dann.augment import prepare
from p3_dann.config import METHODS, TrainConfig
from p3_dann.dataset import SOURCE, TARGETS
from p3_dann.evaluate import load_labeled, predict
from p3_dann.model import DANN_model, load_model, shipped_weights

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol, "Colour schemes", 2021, scheme muted with a dark gray: ten colors that color-blind readers distinguish.
# fmt: off
DIGIT_COLORS = (
    "#332288", "#88CCEE", "#CC6677", "#117733", "#DDCC77", "#882255", "#44AA99", "#AA4499", "#999933", "#555555",
)
# fmt: on
MARKERS = ("o", "^")
LABEL_COLORS = (("black", "white"), ("white", "black"))  # text and outline of digits written over source and target
NEIGHBORS = 15
BATCH_SIZE = 64  # of each domain, where BatchNorm takes its statistics from the batch


class Embedding(NamedTuple):
    """One network's validation features in the plane: of the source, then of the target."""

    title: str
    domains: Sequence[str]  # source and target
    plane: np.ndarray  # (2 N, 2)
    digits: np.ndarray  # (2 N,)
    mixing: float  # at the 768 features, in evaluation mode
    domain_accuracy: list[tuple[float, float]]  # (step, accuracy of the domain classifier) of its training


@torch.no_grad()
def features_of(
    model: DANN_model, config: TrainConfig, source: torch.Tensor, target: torch.Tensor, batch_statistics: bool
) -> dict[str, torch.Tensor]:
    """Return what both classifiers see, and the class classifier's last features: (2, N, 768) and (2, N, 128).

    Args:
        model: in evaluation mode.
        config: of the model.
        source: uint8 images (N, 3, 28, 28).
        target: as many.
        batch_statistics: let BatchNorm take its statistics from batches of both domains, as in training.
    """
    device = next(model.parameters()).device
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.train(batch_statistics)
    layers: dict[str, list[torch.Tensor]] = {"768": [], "128": []}
    count = max(1, len(source) // BATCH_SIZE)
    for x_s, x_t in zip(source.tensor_split(count), target.tensor_split(count), strict=True):
        features = model.features(prepare(torch.cat([x_s, x_t]).to(device), config))
        layers["768"].append(features.unflatten(0, (2, -1)).cpu())
        layers["128"].append(model.class_classifier[:-1](features).unflatten(0, (2, -1)).cpu())
    return {name: torch.cat(parts, 1) for name, parts in layers.items()}


def domain_mixing(source: torch.Tensor, target: torch.Tensor) -> float:
    """Return the fraction of a feature's nearest neighbors that are of the other domain (0: apart, 0.5: mixed).

    Source and target are as many features (N, D), or mixed domains would not give 0.5.
    """
    features = torch.cat([source, target])
    is_target = torch.arange(len(features)) >= len(source)
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    nearest = distances.topk(min(NEIGHBORS, len(features) - 1), largest=False).indices
    return round((is_target[nearest] != is_target[:, None]).double().mean().item(), 4)


def knn_accuracy(
    source: torch.Tensor, source_labels: torch.Tensor, target: torch.Tensor, labels: torch.Tensor
) -> float:
    """Return how often a vote of the nearest source features (N, D) gives the label of a target feature (M, D)."""
    nearest = torch.cdist(target, source).topk(min(NEIGHBORS, len(source)), largest=False).indices
    return round((source_labels[nearest].mode(1).values == labels).double().mean().item(), 4)


def embed(features: np.ndarray, seed: int) -> np.ndarray:
    """Return the t-SNE plane (N, 2) of features (N, 768), started from their principal components.

    Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; the start after Kobak and
    Berens, "The art of using t-SNE for single-cell transcriptomics", 2019.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    seed %= 2**32  # the largest that scikit-learn takes
    reduced = PCA(min(50, *features.shape), random_state=seed).fit_transform(features)
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)


def measure(checkpoint: Path, data_root: Path, points: int, seed: int, device: torch.device) -> Embedding:
    """Return the embedding of a checkpoint's features, and record how well the domains mix in them."""
    model, config, header = load_model(checkpoint, device)
    domains = (SOURCE, header["target"])
    seed_everything(seed)
    images, labels = [], []
    for domain in domains:
        x, y = load_labeled(data_root, domain, "val") or (load_digit_images(data_root, domain, "val"), None)
        order = torch.randperm(len(x), generator=generator(seed, "tsne", domain))
        images.append(x[order])
        labels.append(None if y is None else y[order])
    count = min(points, *map(len, images))
    images = [x[:count] for x in images]
    digits = [predict(model, x, config) if y is None else y[:count] for x, y in zip(images, labels, strict=True)]

    record: dict[str, Any] = header | {"problem": "p3", "kind": "tsne", "weights": file_digest(checkpoint)}
    record |= {"val_digest": digest(*images), "sampling_seed": seed, "num_images": count, "neighbors": NEIGHBORS}
    for mode in ("train", "eval"):
        features = features_of(model, config, images[0], images[1], mode == "train")
        for layer, values in features.items():
            record[f"domain_mixing_{layer}_{mode}"] = domain_mixing(values[0], values[1])
    labeled = all(y is not None for y in labels)
    if labeled:
        record["knn_accuracy"] = knn_accuracy(features["768"][0], digits[0], features["768"][1], digits[1])
    write_record(run_folder(checkpoint), "tsne", record, device)

    title = METHODS[header["method"]].title
    title += "" if header["inputs"] == "full" else f", {header['inputs']} inputs"
    title += "" if labeled else " (digits as predicted)"
    names = [dataset_name(data_root, domain).split(" (")[0] for domain in domains]
    log = checkpoint.with_name("stats.jsonl")
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    curve = [(entry["step"], entry["domain_accuracy"]) for entry in entries if "domain_accuracy" in entry]
    plane = embed(features["768"].flatten(0, 1).numpy(), seed)
    return Embedding(title, names, plane, torch.cat(digits).numpy(), record["domain_mixing_768_eval"], curve)


def plot(axis: Axes, embedding: Embedding, by_digit: bool, size: int) -> None:
    """Plot the points of both domains by digit or by domain, and every digit of each where most of its points are."""
    from matplotlib import patheffects

    axis.set(xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set_visible(False)
    is_target = np.arange(len(embedding.plane)) >= len(embedding.plane) // 2
    for domain, (color, outline) in enumerate(LABEL_COLORS):
        points, digits = (values[is_target == bool(domain)] for values in (embedding.plane, embedding.digits))
        colors: Any = np.array(DIGIT_COLORS)[digits] if by_digit else PALETTE[domain]
        alpha = 0.75 if by_digit else 0.45
        axis.scatter(points[:, 0], points[:, 1], 0.7 * size, colors, marker=MARKERS[domain], alpha=alpha, linewidths=0)
        stroke = [patheffects.withStroke(linewidth=size / 5, foreground=outline)]
        for digit in np.unique(digits):
            x, y = densest(points[digits == digit])
            text = axis.text(x, y, str(digit), color=color, fontsize=size, path_effects=stroke)
            text.set(weight="bold", ha="center", va="center", zorder=10)


def densest(points: np.ndarray) -> np.ndarray:
    """Return the point (2,) of ``points`` (N, 2) with the nearest neighbors: on a cluster, never between two."""
    values = torch.from_numpy(points)
    nearest = torch.cdist(values, values).topk(min(len(points), 1 + 2 * NEIGHBORS), largest=False).values
    return points[int(nearest.mean(1).argmin())]


def plot_networks(embeddings: list[Embedding], rows: Sequence[str]) -> Figure:
    """Return a figure with a column per network and the ``rows`` by digit, by domain, domain accuracy in training."""
    from matplotlib.lines import Line2D

    alone, domains = len(embeddings) == len(rows) == 1, embeddings[0].domains
    side = 7.0 if alone else 4.2
    figure, axes = new_figure(len(rows), len(embeddings), (side * len(embeddings), 0.94 * side * len(rows) + 0.8))
    for row, name in zip(axes, rows, strict=True):
        for axis, embedding in zip(row, embeddings, strict=True):
            if name == "domain accuracy":
                axis.plot(*np.array(embedding.domain_accuracy).reshape(-1, 2).T)
                axis.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
                axis.set(ylim=(0.4, 1.02), xlabel="step", ylabel="accuracy of the domain classifier")
                axis.set_visible(bool(embedding.domain_accuracy))
            else:
                plot(axis, embedding, name == "digit", size=19 if alone else 13)
                axis.set_xlabel(f"domain mixing {100 * embedding.mixing:.1f} % (mixed: 50 %)")
    for axis, embedding in zip(axes[0], embeddings, strict=True):
        axis.set_title(embedding.title)
    figure.suptitle(" → ".join(domains))

    # One legend: digits by color, domains by marker, and by color where a row shows them so.
    shown = [("s", color, str(digit)) for digit, color in enumerate(DIGIT_COLORS)] if "digit" in rows else []
    for number, domain in enumerate(domains):
        color = PALETTE[number] if "domain" in rows else "#777777"
        shown.append((MARKERS[number], color, f"{domain} (digits {('black', 'white')[number]})"))
    handles = [Line2D([], [], color=c, marker=m, label=label, linestyle="none", markersize=9) for m, c, label in shown]
    for columns in (6, 4, 2, 1):  # as wide as the names of the domains allow
        legend = figure.legend(handles=handles, ncols=columns, loc="outside lower center", handletextpad=0.1)
        if legend.get_window_extent().width < figure.bbox.width or columns == 1:
            break
        legend.remove()
    return figure


def main() -> None:
    """Parse the command line, plot and measure every checkpoint."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoints", type=Path, nargs="+", help="weights (default: those of DANN in weights/)")
    parser.add_argument("--points", type=positive_int, default=2000, help="images of each domain")
    parser.add_argument("--images", type=Path, help="folder of the figures (default: images/P3, or that of the run)")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    check_root(arguments.data_root)
    checkpoints: list[Path] = arguments.checkpoints or []
    if not checkpoints:
        for target in [target for target in TARGETS if target in digit_domains(arguments.data_root)]:
            dann = shipped_weights(target, "dann")
            checkpoints.append(dann if dann.exists() else shipped_weights(target))  # the title says whose they are
    if not checkpoints:
        raise UserError(f"{arguments.data_root}: has no {' or '.join(TARGETS)}; pass --checkpoints")
    headers = [load_model(path, device)[2] for path in checkpoints]
    compare = len(arguments.checkpoints or []) > 1
    if compare and len({header["target"] for header in headers}) > 1:
        raise UserError("--checkpoints: weights of several targets; name those of one target")
    embeddings = [
        measure(path, arguments.data_root, arguments.points, arguments.seed, device)
        for path in progress_bar(checkpoints, desc="t-SNE", unit="network")
    ]
    rows = ["digit", "domain"]
    if any(embedding.domain_accuracy for embedding in embeddings):
        rows.append("domain accuracy")
    figures = {}
    for path, header, embedding in zip(checkpoints, headers, embeddings, strict=True):
        folder, target = arguments.images or images_folder(path, "P3"), header["target"].upper()
        method = header["method"].upper() if arguments.checkpoints else "DANN"
        if not compare:
            figures[folder / f"{method}_class_TSNE_{target}.png"] = plot_networks([embedding], ["digit"])
            figures[folder / f"{method}_domain_TSNE_{target}.png"] = plot_networks([embedding], ["domain"])
        elif not figures:
            figures[folder / f"TSNE_{target}.png"] = plot_networks(embeddings, rows)
    for path, figure in figures.items():
        save_figure(figure, path)
        print(f"wrote {path}")


if __name__ == "__main__":
    run_main(main)
