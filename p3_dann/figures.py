"""Show what augmentation makes of source images, next to unlabeled images of each target.

python p3_dann/figures.py --data-root sample_data    # images/P3/augmentations.png
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import add_common_arguments, make_parser, positive_int, run_main
from common.data import dataset_name, load_digit_images
from common.images import make_grid, to_uint8
from common.plots import new_figure, save_figure
from common.seed import generator, seed_everything
from p3_dann.augment import augment
from p3_dann.config import make_config
from p3_dann.dataset import SOURCE, TARGETS

import torch


def rows_of(data_root: Path, target: str, count: int, seed: int) -> dict[str, torch.Tensor]:
    """Return what the rows for a target are called, and their uint8 images (count, 3, 28, 28)."""
    config = make_config("ours", "full", "cpu", target)
    names, rows = [dataset_name(data_root, domain).split(" (")[0] for domain in (SOURCE, target)], {}
    for name, domain, role in zip(names, (SOURCE, target), ("source", "target"), strict=True):
        images = load_digit_images(data_root, domain, "train")
        images = images[torch.randperm(len(images), generator=generator(seed, "augmentations", domain))[:count]]
        seed_everything(seed)
        # Inputs have mean 0 and standard deviation 1: 2.5 of them to either side are shown.
        rows[name], rows[f"{name},\naugmented"] = images, to_uint8(augment(images, config, role) / 2.5)
    return rows


def main() -> None:
    """Parse the command line and write the figure."""
    parser = make_parser(__doc__)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), help="domains to show")
    parser.add_argument("--columns", type=positive_int, default=10, help="images per row")
    parser.add_argument("--images", type=Path, default=ROOT / "images/P3", help="folder of the figure")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    figure, axes = new_figure(1, len(arguments.targets), (5.6 * len(arguments.targets), 2.6))
    for axis, target in zip(axes[0], arguments.targets, strict=True):
        rows = rows_of(arguments.data_root, target, arguments.columns, arguments.seed)
        grid = make_grid(torch.cat(list(rows.values())), columns=arguments.columns)
        axis.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set(xticks=[], yticks=[17 + 30 * row for row in range(len(rows))])
        axis.set_yticklabels(list(rows), fontsize=8)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
    path = arguments.images / "augmentations.png"
    save_figure(figure, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    run_main(main)
