"""Plot figures of P3: what augmentation makes of images, and which digits the shipped classifiers confuse.

    python p3_dann/figures.py --data-root sample_data

images/P3/augmentations_TARGET.png: images of the source and of a target, before and after augmentation.
images/P3/confusion.png: predictions on the test split by label, in percent.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import add_common_arguments, make_parser, run_main
from common.data import dataset_name, load_digit_images, load_digits
from common.device import pick_device
from common.viz import make_grid, new_figure, save_figure, to_uint8
from p3_dann.augment import augment
from p3_dann.config import make_config
from p3_dann.dataset import SOURCE, TARGETS
from p3_dann.inference import load_model, predict, shipped_weights

import torch
from matplotlib.figure import Figure

COLUMNS = 10


def plot_augmentations(data_root: Path, target: str, seed: int) -> Figure:
    """Return the figure of source and target images before and after augmentation."""
    figure, ((axis,),) = new_figure(1, 1, (5.6, 2.2))
    config, rows = make_config("ours", "augmented", "cpu", target), {}
    for domain, role in ((SOURCE, "source"), (target, "target")):
        torch.manual_seed(seed)
        images = load_digit_images(data_root, domain, "train")
        images = images[torch.randperm(len(images))[:COLUMNS]]
        name = dataset_name(data_root, domain).split(" (")[0]
        # Inputs have mean 0 and standard deviation 1: 2.5 of them to either side are shown.
        rows[name], rows[f"{name},\naugmented"] = images, to_uint8(augment(images, config, role) / 2.5)
    grid = make_grid(torch.cat(list(rows.values())), COLUMNS)
    axis.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set(frame_on=False, xticks=[], yticks=[17 + 30 * row for row in range(len(rows))], yticklabels=list(rows))
    axis.tick_params(labelsize=10, length=0)
    axis.grid(visible=False)
    return figure


def plot_confusion(data_root: Path, device: torch.device) -> Figure:
    """Return the confusion matrices of the shipped classifiers on the test splits, each row 100%."""
    figure, axes = new_figure(1, len(TARGETS), (5.6 * len(TARGETS), 5.4))
    for axis, target in zip(axes[0], TARGETS, strict=True):
        model, config, _ = load_model(shipped_weights(target), device)
        images, labels = load_digits(data_root, target, "test")
        counts = (10 * labels + predict(model, images, config)).bincount(minlength=100).view(10, 10)
        percent = 100 * counts / counts.sum(1, keepdim=True).clamp(min=1)
        axis.imshow(percent.numpy(), cmap="Blues", vmin=0, vmax=100)
        for label, predicted in counts.nonzero().tolist():
            value = percent[label, predicted].item()
            color = "white" if value > 50 else "black"
            axis.text(predicted, label, f"{value:.0f}", color=color, ha="center", va="center", fontsize=9)
        axis.set(title=dataset_name(data_root, target).split(" (")[0], xlabel="prediction", ylabel="label")
        axis.set(xticks=range(10), yticks=range(10))
        axis.grid(visible=False)
    return figure


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=Path, default=ROOT / "images/P3", help="folder of the figures")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    root, seed = arguments.data_root, arguments.seed
    figures = {f"augmentations_{target}": plot_augmentations(root, target, seed) for target in TARGETS}
    figures["confusion"] = plot_confusion(root, pick_device(arguments.device))
    for name, figure in figures.items():
        save_figure(figure, arguments.images / f"{name}.png")
        print(f"wrote {arguments.images / f'{name}.png'}")


if __name__ == "__main__":
    run_main(main)
