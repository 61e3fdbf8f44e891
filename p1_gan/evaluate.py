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
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, positive_int, run_main
from common.data import FACE_SIZE, digest, list_images, load_images
from common.device import pick_device
from common.files import file_digest
from common.metrics import baseline_images, frechet_distance
from common.weights import Record, measured, run_folder
from p1_gan.dataset import load_faces
from p1_gan.inference import (
    add_weights_arguments,
    generate,
    load_generator,
    sample_latents,
    shipped_weights,
    snapshots_of,
)
from p1_gan.metrics import Extractor, cached, distances, efficientnet, image_statistics, inception, memorization

import torch

COURSE_IMAGES = 1000  # as the course defines its FID and counts its faces; also of every snapshot


class RealFaces:
    """The real images that generated ones are compared with."""

    def __init__(self, data_root: Path, device: torch.device) -> None:
        self.train, self.val = load_faces(data_root, "train"), load_faces(data_root, "val")
        self.digests = {"train_digest": digest(self.train), "val_digest": digest(self.val)}
        self.device, self.cache, self.extract = device, data_root / "face" / ".cache", efficientnet(device)

    def features(self, real: torch.Tensor) -> torch.Tensor:
        return cached(self.extract, real, self.cache)

    def measure(self, images: torch.Tensor) -> dict[str, float]:
        """Return all that can be measured of generated images here, with baselines."""
        features, val, train = self.extract(images), self.features(self.val), self.features(self.train)
        metrics = image_statistics(images) | distances(features, val) | memorization(features, val, train)
        baseline = self.val_statistics | distances(baseline_images(train, len(images)), val)
        if (extract := self.extract_fid) is not None:
            fid_features, fid_val = extract(images[:COURSE_IMAGES]), extract(self.val)
            metrics["fid"] = frechet_distance(fid_features, fid_val)
            baseline["fid"] = frechet_distance(extract(baseline_images(self.train, len(fid_features))), fid_val)
        return metrics | {f"{name}_baseline": value for name, value in baseline.items() if name in metrics}

    @cached_property
    def extract_fid(self) -> Extractor | None:
        """The extractor of FID; None where its weights are unavailable."""
        return inception(self.device)

    @property
    def available(self) -> list[str]:
        """The metrics that not every machine can measure, but this one."""
        return ["face_rate"] * (find_spec("dlib") is not None) + ["fid"] * (self.extract_fid is not None)

    @cached_property
    def val_statistics(self) -> dict[str, float]:
        return image_statistics(self.val)


def show(metrics: Record) -> None:
    for name, value in metrics.items():
        if isinstance(value, float):
            print(f"{name}: {value:.4g}")


def images_seen(config: Record) -> int:
    """Return how many images weights have seen; ``initial_images`` is of weights that were continued."""
    return config.get("step", config["steps"]) * config["batch_size"] + config.get("initial_images", 0)


def identity(kind: str, weights: Path, config: Record, **columns: Any) -> Record:
    """Return the columns of a record of ``kind`` that say which weights were measured, and how."""
    names = ("method", "variant", "preset", "seed", "overrides", "steps", "batch_size", "dataset")
    known = {name: config[name] for name in names if name in config}
    known |= {"images_seen": images_seen(config), "weights": file_digest(weights)}
    return {"problem": "p1", "kind": kind} | known | columns


def evaluate(weights: Path, model: torch.nn.Module, config: Record, real: RealFaces, num: int, seed: int) -> None:
    """Measure ``num`` images of a generator, unless its record is there, and print it."""
    columns = identity("evaluate", weights, config, sampling_seed=seed, num_images=num, **real.digests)

    def measure() -> dict[str, float]:
        return real.measure(generate(model, sample_latents(num, seed)))

    # After an installation or a download, what was missing is measured.
    show(measured(run_folder(weights), f"evaluate_seed{seed}", columns, measure, real.device, real.available))


def evaluate_snapshots(weights: Path, config: Record, real: RealFaces, seed: int) -> None:
    """Measure distances over the course of a run, from the snapshots of its generator, unless the record is there."""
    snapshots = snapshots_of(weights.parent)
    columns = identity("progress", weights, config, sampling_seed=seed, num_images=COURSE_IMAGES, **real.digests)

    def measure() -> dict[str, list[float]]:
        val, entries = real.features(real.val), []
        for path in snapshots:
            model, at = load_generator(path, real.device)
            features = real.extract(generate(model, sample_latents(COURSE_IMAGES, seed)))
            entries.append({"images_seen_at": images_seen(at), **distances(features, val)})
            print(f"{path.name}: {entries[-1]}")
        return {name: [entry[name] for entry in entries] for name in entries[0]}

    measured(weights.parent, f"progress_seed{seed}", columns, measure, real.device)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="images to measure instead of a generator's")
    add_weights_arguments(parser)
    parser.add_argument("--num", type=positive_int, help="images to generate (default: 5000; of preset sample 500)")
    parser.add_argument("--snapshots", action="store_true", help="also measure the snapshots of the run")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    if arguments.folder is not None:
        if arguments.checkpoint or arguments.num or arguments.snapshots:
            raise UserError(f"{arguments.folder}: is measured as it is; leave out --checkpoint, --num and --snapshots")
        images = load_images(arguments.folder, list_images(arguments.folder), FACE_SIZE, resize=True)
        show(RealFaces(arguments.data_root, device).measure(images))
        return
    weights = arguments.checkpoint or shipped_weights(arguments.method)
    model, config = load_generator(weights, device)
    num = arguments.num or (500 if config["preset"] == "sample" else 5000)
    real = RealFaces(arguments.data_root, device)
    evaluate(weights, model, config, real, num, arguments.seed)
    if arguments.snapshots:
        evaluate_snapshots(weights, config, real, arguments.seed)


if __name__ == "__main__":
    run_main(main)
