"""Measure generated faces: KID, Fréchet distance, FID, face rate, low-level statistics, memorization.

    python p1_gan/evaluate.py --checkpoint runs/cpu/p1_B_seed0/weights.safetensors
    python p1_gan/evaluate.py --method A --seed 1
    python p1_gan/evaluate.py --checkpoint runs/cpu/p1_B_seed0/weights.safetensors --snapshots    # over training
    python p1_gan/evaluate.py faces                                                               # a folder of images

Records go to the run's folder (runs/shipped/ for weights/). *_baseline is the same measure of as many real training
images; for face rate and statistics, of the validation images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, positive_int, run_main
from common.data import FACE_SIZE, digest, load_faces, load_folder
from common.device import pick_device
from common.files import file_digest
from common.images import save_grid
from common.metrics import baseline_images, check_enough, frechet_distance
from common.records import Record, measured, run_folder
from p1_gan.inference import add_weights_arguments, generate, load_generator, sample_latents, shipped_weights
from p1_gan.metrics import (
    cached,
    distances,
    efficientnet,
    face_detector,
    image_statistics,
    inception,
    memorization,
    nearest,
)

import torch

FID_IMAGES = 1000  # as the course defines its FID and counts its faces
SNAPSHOT_IMAGES = 1000
SHOWN = 8  # nearest training images


class RealFaces:
    """The real images that generated ones are compared with."""

    def __init__(self, data_root: Path, device: torch.device) -> None:
        self.train, self.val = load_faces(data_root, "train"), load_faces(data_root, "val")
        check_enough(self.train, data_root / "face" / "train")
        check_enough(self.val, data_root / "face" / "val")
        self.device, self.cache, self.extract = device, data_root / "face" / ".cache", efficientnet(device)

    @property
    def digests(self) -> Record:
        """What names these images in records."""
        return {"train_digest": digest(self.train), "val_digest": digest(self.val)}

    def distances(self, images: torch.Tensor) -> dict[str, float]:
        """Return the distances of generated images to the validation images; none without EfficientNet-Lite0."""
        if self.extract is None:
            return {}
        return distances(self.extract(images), cached(self.extract, self.val, self.cache))

    def measure(self, images: torch.Tensor, closest: Path | None = None) -> dict[str, float]:
        """Return all that can be measured of generated images here, with baselines.

        ``closest`` also compares them with the training images, and receives the closest pairs.
        """
        found = image_statistics(images)
        of_val = image_statistics(self.val[:FID_IMAGES], self.cache)
        found |= {f"{name}_baseline": of_val[name] for name in found if name in of_val}
        baseline, extract_fid = baseline_images(self.train, len(images)), inception(self.device)
        if self.extract is not None:
            features, val = self.extract(images), cached(self.extract, self.val, self.cache)
            found |= distances(features, val)
            real = distances(cached(self.extract, baseline, self.cache), val)
            found |= {f"{name}_baseline": value for name, value in real.items()}
            if closest is not None:
                train = cached(self.extract, self.train, self.cache)
                found |= memorization(features, val, train)
                distance, index = nearest(features, train)
                order = distance.argsort()[:SHOWN]
                save_grid(torch.cat([images[order], self.train[index[order]]]), closest, columns=len(order))
        if extract_fid is not None:
            val = extract_fid(self.val)
            found["fid"] = frechet_distance(extract_fid(images[:FID_IMAGES]), val)
            found["fid_baseline"] = frechet_distance(extract_fid(baseline[:FID_IMAGES]), val)
        for name, value in found.items():
            print(f"{name}: {value:.4g}")
        return found


def images_seen(config: Record) -> int:
    """Return how many images weights have seen; ``initial_images`` is of weights that were continued."""
    return config.get("step", config.get("steps", 0)) * config.get("batch_size", 0) + config.get("initial_images", 0)


def identity(kind: str, weights: Path, config: Record, **columns: Any) -> Record:
    """Return the columns of a record of ``kind`` that say which weights were measured, and how."""
    names = ("method", "variant", "preset", "seed", "overrides", "steps", "batch_size", "dataset")
    known = {name: config[name] for name in names if name in config}
    weights_columns = {"images_seen": images_seen(config), "weights": file_digest(weights)}
    return {"problem": "p1", "kind": kind} | known | weights_columns | columns


def evaluate(weights: Path, model: torch.nn.Module, config: Record, real: RealFaces, num: int, seed: int) -> Record:
    """Measure ``num`` images of a generator, unless its record is there; return the record."""
    available = {"efficientnet": real.extract is not None, "dlib": face_detector() is not None}
    columns = {"sampling_seed": seed, "num_images": num} | available | real.digests
    folder, name = run_folder(weights), f"evaluate_seed{seed}"

    def measure() -> dict[str, float]:
        return real.measure(generate(model, sample_latents(num, seed)), folder / "closest" / f"seed{seed}.png")

    return measured(folder, name, identity("evaluate", weights, config, **columns), measure, real.device)


def evaluate_snapshots(weights: Path, config: Record, real: RealFaces, seed: int) -> Record:
    """Measure distances over the course of a run, from the snapshots of its generator; return the record."""
    snapshots = sorted((weights.parent / "snapshots").glob("*.safetensors"))
    if not snapshots:
        raise UserError(f"{weights.parent / 'snapshots'}: no snapshots; train.py writes them")

    def measure() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"images_seen_at": []}
        for path in snapshots:
            model, at = load_generator(path, None, real.device)
            found["images_seen_at"].append(images_seen(at))
            for name, value in real.distances(generate(model, sample_latents(SNAPSHOT_IMAGES, seed))).items():
                found.setdefault(name, []).append(value)
            print(f"{path.name}: " + ", ".join(f"{name} {values[-1]:.4g}" for name, values in found.items()))
        return found

    columns = {"sampling_seed": seed, "num_images": SNAPSHOT_IMAGES} | real.digests
    progress = identity("progress", weights, config, **columns)
    return measured(weights.parent, f"progress_seed{seed}", progress, measure, real.device)


def main() -> None:
    """Parse the command line, sample or read images, measure."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="images to measure (default: sampled from --checkpoint)")
    add_weights_arguments(parser)
    parser.add_argument("--num", type=positive_int, help="images to sample (default: 5000; preset sample: 1000)")
    parser.add_argument("--snapshots", action="store_true", help="also measure the snapshots of the run")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    if arguments.folder is not None:
        images = load_folder(arguments.folder, FACE_SIZE, resize=True)
        check_enough(images, arguments.folder)
        RealFaces(arguments.data_root, device).measure(images)
        return
    weights = arguments.checkpoint or shipped_weights(arguments.method)
    model, config = load_generator(weights, arguments.method, device)
    num = arguments.num or (1000 if config["preset"] == "sample" else 5000)
    check_enough(range(num), "--num")
    real = RealFaces(arguments.data_root, device)
    evaluate(weights, model, config, real, num, arguments.seed)
    if arguments.snapshots:
        evaluate_snapshots(weights, config, real, arguments.seed)


if __name__ == "__main__":
    run_main(main)
