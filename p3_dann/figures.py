"""Show what augmentation makes of source images, next to unlabeled images of each target.

python p3_dann/figures.py --data-root sample_data    # images/P3/augmentations.png
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import add_common_arguments, make_parser, run_main
from common.data import dataset_name, load_digit_images
from common.images import make_grid, to_uint8
from common.plots import new_figure, save_figure
from common.seed import generator, seed_everything
from p3_dann.augment import augment
from p3_dann.config import make_config
from p3_dann.dataset import SOURCE, TARGETS

import torch

COLUMNS = 10


def rows_of(data_root: Path, target: str, seed: int) -> dict[str, torch.Tensor]:
    """Return what the rows for a target are called, and their uint8 images (N, 3, 28, 28)."""
    config, rows = make_config("ours", "full", "cpu", target), {}
    for domain, role in ((SOURCE, "source"), (target, "target")):
        images = load_digit_images(data_root, domain, "train")
        images = images[torch.randperm(len(images), generator=generator(seed, "augmentations", domain))[:COLUMNS]]
        seed_everything(seed)
        name = dataset_name(data_root, domain).split(" (")[0]
        # Inputs have mean 0 and standard deviation 1: 2.5 of them to either side are shown.
        rows[name], rows[f"{name},\naugmented"] = images, to_uint8(augment(images, config, role) / 2.5)
    return rows


def main() -> None:
    """Parse the command line and write the figure."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=Path, default=ROOT / "images/P3", help="folder of the figure")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    figure, axes = new_figure(1, len(TARGETS), (5.6 * len(TARGETS), 2.6))
    for axis, target in zip(axes[0], TARGETS, strict=True):
        rows = rows_of(arguments.data_root, target, arguments.seed)
        axis.imshow(
            make_grid(torch.cat(list(rows.values())), COLUMNS).permute(1, 2, 0).numpy(), interpolation="nearest"
        )
        axis.set(xticks=[], yticks=[17 + 30 * row for row in range(len(rows))], yticklabels=list(rows))
        axis.tick_params(labelsize=8, length=0)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
    save_figure(figure, arguments.images / "augmentations.png")
    print(f"wrote {arguments.images / 'augmentations.png'}")


if __name__ == "__main__":
    run_main(main)
