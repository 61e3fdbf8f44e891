"""Measure faces: FID and face rate as the task defines them, distances by another network, looks, memorised pictures.

    python p1_gan/evaluate.py faces                                           # a folder of pictures
    python p1_gan/evaluate.py --checkpoint runs/cpu/p1_A_seed0/weights.safetensors --seed 1
    python p1_gan/evaluate.py faces --inception-weights pt_inception-2015-12-05-6726825d.pth
    python p1_gan/evaluate.py faces --memorisation                            # also the nearest training pictures

Without a folder it draws the pictures of inference.py itself; the report is made from these measurements. Distances of
1000 pictures are biased up, so each stands beside its floor: the same figure for as many random training pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cache import list_images, load_images
from common.cli import add_common_arguments, make_parser, positive_int
from common.dataset import FACE_SIZE, dataset_name
from common.device import pick_device
from common.errors import run_main
from common.files import sha256
from common.frechet import check_enough
from common.paths import workspace
from common.pictures import save_grid
from common.results import read_results, record, record_largest
from common.weights import images_seen, steps_done, which_training
from p1_gan.appearance import appearance, detections
from p1_gan.distances import RealFaces
from p1_gan.faces import detector, find_faces, share_with_one
from p1_gan.features import feature_network
from p1_gan.fid import FILE_NAME, NotRunError, fid, load_inception
from p1_gan.inference import draw_latents, generate
from p1_gan.methods import add_weights_arguments, load_generator, weights_path

MOST_REAL = 1000  # real pictures looked at for faces, which takes long
SHOWN_NEIGHBOURS = 8


def evaluate(
    images: torch.Tensor, arguments: argparse.Namespace, device: torch.device, neighbours: Path
) -> dict[str, Any]:
    """Return every figure of pictures uint8 (N, 3, 64, 64) that can be measured here."""
    train, val = (
        load_images(folder, list_images(folder), FACE_SIZE, "RGB") for folder in (arguments.train, arguments.val)
    )
    check_enough(train, arguments.train)
    check_enough(val, arguments.val)
    values: dict[str, Any] = {"val_images": len(val)}
    try:
        inception = load_inception(arguments.inception_weights, device)
    except NotRunError as reason:
        print(reason)
    else:
        values["fid"], values["fid_floor"] = fid(inception, images, val, train)
        print(f"FID: {values['fid']:.2f} (floor: {values['fid_floor']:.2f})")
    network = feature_network(device)
    if network is not None:
        real = RealFaces(train, val, network, arguments.val.parent / ".cache")
        found, generated = real.compare(images)
        values |= found
        for name, key in (("Fréchet distance", "fd_lite0"), ("KID", "kid_lite0")):
            print(f"{name} (EfficientNet-Lite0): {values[key]:.4g} (floor: {values[f'{key}_floor']:.4g})")
        if arguments.memorisation:
            found, distances, partners = real.nearest(generated)
            values |= found
            closest = distances.argsort()[:SHOWN_NEIGHBOURS]
            save_grid(torch.cat([images[closest], train[partners[closest]]]), neighbours, columns=len(closest))
            print(
                f"nearest training picture, median distance: {found['nearest_train_median']:.3f} (held-out real "
                f"pictures: {found['nearest_train_median_of_val']:.3f}); the nearest are shown in {neighbours}"
            )
    values |= look(images) | {f"{name}_of_val": value for name, value in look(val[:MOST_REAL]).items()}
    if "face_rate" in values:
        print(f"face rate: {100 * values['face_rate']:.1f} % (real: {100 * values['face_rate_of_val']:.1f} %)")
    return values


def look(images: torch.Tensor) -> dict[str, float]:
    """Return what can be seen of pictures; where there is no face detector, without anything about faces."""
    faces = find_faces(images, progress=True)
    found = {} if faces is None else {"face_rate": share_with_one(faces)} | detections(faces)
    return found | appearance(images)


def is_measured(entry: Mapping[str, Any], origin: Mapping[str, Any], arguments: argparse.Namespace) -> bool:
    """Tell whether ``entry`` holds all that this command would measure of pictures of the same ``origin``."""
    wanted = {"fd_lite0"} | ({"face_rate"} if detector() else set())
    wanted |= {"nearest_train_median"} if arguments.memorisation else set()
    wanted |= {"fid_floor"} if arguments.inception_weights else set()
    return not arguments.other_pictures and entry.items() >= origin.items() and entry.keys() >= wanted


def parse_arguments() -> argparse.Namespace:
    """Return the command line, with the folders of real pictures filled in."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="pictures to measure (unset: drawn from --checkpoint)")
    add_weights_arguments(parser)
    parser.add_argument("--num", type=positive_int, default=1000, help="how many pictures to draw")
    parser.add_argument(
        "--val", type=Path, default=None, help="other real pictures to compare with, for the screen alone"
    )
    parser.add_argument("--train", type=Path, default=None, help="other training pictures, likewise")
    parser.add_argument(
        "--memorisation",
        action="store_true",
        help="also find the nearest training pictures; at first this takes about half a minute for 1000 of them",
    )
    parser.add_argument("--inception-weights", type=Path, default=None, help=f"pytorch-fid's {FILE_NAME}")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    arguments.other_pictures = bool(arguments.val or arguments.train)
    arguments.val = arguments.val or arguments.data_root / "face" / "val"
    arguments.train = arguments.train or arguments.data_root / "face" / "train"
    return arguments


def main() -> None:
    """Parse the command line, draw or read pictures, measure, and record."""
    arguments = parse_arguments()
    device = pick_device(arguments.device)
    origin: dict[str, Any] = {"seed": arguments.seed, "dataset": dataset_name(arguments.train.parent.parent, "face")}
    if arguments.folder is not None:
        space = workspace("cpu", arguments.output)
        name = f"folder/{arguments.folder.resolve().name}"
        images = load_images(arguments.folder, list_images(arguments.folder), FACE_SIZE, "RGB", cache=False)
        check_enough(images, arguments.folder)
        origin["images"] = len(images)
    else:
        check_enough(range(arguments.num), "--num")
        model, config = load_generator(arguments.checkpoint, arguments.method, device)
        space = workspace(config["preset"], arguments.output)
        name = f"{config['method']}/{config['preset']}/weights{which_training(config)}/seed{arguments.seed}"
        origin |= {key: config[key] for key in ("method", "preset", "batch_size")}
        origin["steps"] = steps_done(config)
        origin["pictures_seen"] = images_seen(config)
        origin |= {"training_seed": config["seed"], "trained_on": config["dataset"]}
        origin["weights"] = sha256(weights_path(arguments.checkpoint, arguments.method))[:16]
        origin["images"] = arguments.num
        if is_measured(read_results(space.results, "p1").get(f"evaluate/{name}", {}), origin, arguments):
            print(f"measured before: evaluate/{name} in {space.results / 'p1.json'}")
            return
        images = generate(model, draw_latents(arguments.num, arguments.seed))
    neighbours = space.runs / "p1_neighbours" / f"{name.replace('/', '_')}.png"
    values = evaluate(images, arguments, device, neighbours)
    if arguments.other_pictures:
        print("not recorded: compared with other pictures than those of the data root")
    elif arguments.folder is not None:
        record(space.results, "p1", f"evaluate/{name}", origin | values, device)
    else:
        record_largest(space.results, "p1", f"evaluate/{name}", origin, values, device)


if __name__ == "__main__":
    run_main(main)
