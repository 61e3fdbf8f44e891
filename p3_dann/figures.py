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
from common.seed import seed_everything
from common.viz import make_grid, new_figure, save_figure, to_uint8
from p3_dann.augment import augment
from p3_dann.config import make_config
from p3_dann.dataset import SOURCE, TARGETS

import torch

COLUMNS = 10


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=Path, default=ROOT / "images/P3", help="folder of the figure")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    figure, axes = new_figure(1, len(TARGETS), (5.6 * len(TARGETS), 2.6))
    for axis, target in zip(axes[0], TARGETS, strict=True):
        config, rows = make_config("ours", "augmented", "cpu", target), {}
        for domain, role in ((SOURCE, "source"), (target, "target")):
            seed_everything(arguments.seed)
            images = load_digit_images(arguments.data_root, domain, "train")
            images = images[torch.randperm(len(images))[:COLUMNS]]
            name = dataset_name(arguments.data_root, domain).split(" (")[0]
            # Inputs have mean 0 and standard deviation 1: 2.5 of them to either side are shown.
            rows[name], rows[f"{name},\naugmented"] = images, to_uint8(augment(images, config, role) / 2.5)
        grid = make_grid(torch.cat(list(rows.values())), COLUMNS)
        axis.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set(frame_on=False, xticks=[], yticks=[17 + 30 * row for row in range(len(rows))], yticklabels=list(rows))
        axis.tick_params(labelsize=8, length=0)
        axis.grid(visible=False)
    save_figure(figure, arguments.images / "augmentations.png")
    print(f"wrote {arguments.images / 'augmentations.png'}")


if __name__ == "__main__":
    run_main(main)
