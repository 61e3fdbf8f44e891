"""Measure a folder of generated faces: FID and face rate as the task defines them, FD-HOG, looks, memorised pictures.

    python p1_gan/evaluate.py out_dir --method B
    python p1_gan/evaluate.py out_dir --val hw2_data/face/val --inception-weights pt_inception-2015-12-05-6726825d.pth

FID needs Inception weights, which pytorch-fid downloads unless they are given. FID of 1000 pictures is biased up, so
every distance stands beside its floor: the same figure for as many random training pictures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cache import list_images, load_images
from common.cli import add_common_arguments, make_parser
from common.dataset import FACE_SIZE, dataset_name
from common.device import pick_device
from common.errors import run_main
from common.paths import workspace
from common.pictures import save_grid
from common.results import record
from p1_gan.appearance import appearance, detections
from p1_gan.faces import detector_available, find_faces, share_with_one
from p1_gan.fid import FILE_NAME, NotRunError, fid, load_inception
from p1_gan.frechet import FDHOG
from p1_gan.presets import METHODS, PRESETS

SHOWN_PICTURES = 32
SHOWN_NEIGHBOURS = 8


def nearest(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each query (N, D) the distance to, and the number of, its nearest reference (M, D)."""
    distances = torch.cdist(torch.from_numpy(queries).float(), torch.from_numpy(references).float())
    values, indices = distances.min(dim=1)
    return values.numpy(), indices.numpy()


def memorisation(
    images: torch.Tensor, train: torch.Tensor, fd_hog: FDHOG, path: Path | None = None
) -> dict[str, float]:
    """Compare distances to the nearest training picture: of generated ones and of held-out real ones.

    With ``path`` it draws the generated pictures that lie nearest to a training one, each above that one.

    Returns:
        Medians over generated and over held-out real pictures, and the share of generated ones nearer than the
        nearest percent of the real. A generator that copies has a much smaller median than real pictures do.
    """
    generated, partners = nearest(fd_hog.features(images), fd_hog.train_features)
    real, _ = nearest(fd_hog.reference_features, fd_hog.train_features)
    if path is not None:
        closest = np.argsort(generated)[:SHOWN_NEIGHBOURS]
        save_grid(torch.cat([images[closest], train[partners[closest]]]), path, columns=SHOWN_NEIGHBOURS)
    return {
        "nearest_train_median": float(np.median(generated)),
        "nearest_train_median_of_val": float(np.median(real)),
        "nearer_than_closest_percent_of_val": float((generated < np.quantile(real, 0.01)).mean()),
    }


def look(images: torch.Tensor) -> dict[str, float]:
    """Return face rate and what else can be seen of pictures; where dlib is missing, without anything about faces."""
    found = {}
    if detector_available():
        faces = find_faces(images, progress=sys.stderr.isatty())
        found = {"face_rate": share_with_one(faces)} | detections(faces)
    return found | appearance(images)


def evaluate(arguments: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """Return every figure that can be measured here."""
    images = load_images(arguments.folder, list_images(arguments.folder), FACE_SIZE, "RGB", cache=False)
    train, val = (
        load_images(folder, list_images(folder), FACE_SIZE, "RGB") for folder in (arguments.train, arguments.val)
    )
    values: dict[str, object] = {"images": len(images)}
    try:
        inception = load_inception(arguments.inception_weights, device)
    except NotRunError as reason:
        values["fid"] = str(reason)
        print(reason)
    else:
        values["fid"], values["fid_floor"] = fid(inception, images, val, train)
        print(f"FID: {values['fid']:.2f} (floor: {values['fid_floor']:.2f})")
    fd_hog = FDHOG(train, val)
    values |= {"fd_hog": fd_hog(images), "fd_hog_floor": fd_hog.floor(len(images))}
    print(f"FD-HOG: {values['fd_hog']:.3f} (floor: {values['fd_hog_floor']:.3f})")
    values |= look(images) | {f"{name}_of_val": value for name, value in look(val[:1000]).items()}
    if "face_rate" in values:
        print(f"face rate: {100 * values['face_rate']:.1f} % (real: {100 * values['face_rate_of_val']:.1f} %)")
    else:
        print("face rate: not run (dlib is not installed)")
    picture = None
    if arguments.name is None:
        folder = workspace(arguments.preset, arguments.output).images / "P1"
        picture = folder / f"GAN_{arguments.method}_neighbours.png"
        save_grid(images[:SHOWN_PICTURES], folder / f"GAN_{arguments.method}_grid.png", columns=8)
    values |= memorisation(images, train, fd_hog, picture)
    print(
        f"nearest training picture, median distance: {values['nearest_train_median']:.3f} "
        f"(held-out real pictures: {values['nearest_train_median_of_val']:.3f})"
    )
    return values


def main() -> None:
    """Parse the command line, measure, and record."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder of generated pictures")
    parser.add_argument("--method", choices=METHODS, default="B", help="which method made them")
    parser.add_argument("--preset", choices=sorted(PRESETS["A"]), default="cpu", help="which preset trained it")
    parser.add_argument("--name", default=None, help="key of the record (unset: METHOD/PRESET); pictures only without")
    parser.add_argument("--val", type=Path, default=None, help="real pictures to compare with (unset: in --data-root)")
    parser.add_argument("--train", type=Path, default=None, help="training pictures (unset: in --data-root)")
    parser.add_argument("--inception-weights", type=Path, default=None, help=f"pytorch-fid's {FILE_NAME}")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    arguments.val = arguments.val or arguments.data_root / "face" / "val"
    arguments.train = arguments.train or arguments.data_root / "face" / "train"
    device = pick_device(arguments.device)
    values = evaluate(arguments, device)
    values |= {
        "method": arguments.method,
        "preset": arguments.preset,
        "seed": arguments.seed,
        "dataset": dataset_name(arguments.train.parent.parent, "face"),
    }
    space = workspace(arguments.preset, arguments.output)
    name = arguments.name or f"{arguments.method}/{arguments.preset}"
    record(space.results, "p1", f"evaluate/{name}/seed{arguments.seed}", values, device)


if __name__ == "__main__":
    run_main(main)
