"""Ablation: train and measure variants that add or remove one ingredient, all on the same number of images.

    python p1_gan/ablation.py                                   # all variants, preset cpu
    python p1_gan/ablation.py --variants B no-ema
    python p1_gan/ablation.py --seed 1                          # again; the report shows the range over seeds

Rerun the same command to resume; finished variants are neither trained nor measured again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT
from common.cli import add_common_arguments, add_run_arguments, make_parser, positive_int, run_main
from common.device import init_distributed
from common.training import seconds_left
from p1_gan.config import METHODS, PRESETS, TrainConfig, make_config
from p1_gan.evaluate import RealFaces, evaluate
from p1_gan.inference import load_generator
from p1_gan.train import run_training

# Name -> whose networks and settings, and what differs from them.
VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "A": ("A", {}),
    "A-ema": ("A", {"ema_decay": 0.999}),
    "B": ("B", {}),
    "no-spectral-norm": ("A", METHODS["B"].fields),
    "no-ema": ("B", {"ema_decay": 0.0}),
    "no-augmentation": ("B", {"diff_augment": ()}),
    "no-smoothing-noise": ("B", {"real_label": 1.0, "instance_noise": 0.0}),
    "equal-learning-rates": ("B", {"discriminator_learning_rate": 2e-4}),
    "hinge": ("B", {"loss": "hinge"}),  # which has no label smoothing
}


def variant_config(name: str, preset: str, budget: int) -> TrainConfig:
    """Return the configuration of a variant that sees ``budget`` images."""
    method, changes = VARIANTS[name]
    config = replace(make_config(method, preset), **changes)
    steps = max(1, budget // config.batch_size)
    return replace(config, steps=steps, sample_every=steps)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=list(VARIANTS), help="which to run")
    parser.add_argument("--budget", type=positive_int, default=40_000, help="training images seen per variant")
    parser.add_argument("--num", type=positive_int, default=1000, help="generated images to measure per variant")
    add_common_arguments(parser)
    add_run_arguments(parser, PRESETS, "folder of all variants (default: runs/PRESET/p1_ablation)")
    arguments = parser.parse_args()
    root, begun = arguments.run_dir or ROOT / "runs" / arguments.preset / "p1_ablation", time.perf_counter()
    with init_distributed(arguments.device) as dist:
        real = RealFaces(arguments.data_root, dist.device)
        for variant in arguments.variants:
            method, changes = VARIANTS[variant]
            options = vars(arguments) | {"method": method, "variant": variant}
            options["overrides"] = sorted({*changes, "steps", "sample_every"})
            options["run_dir"] = root / f"{variant}_seed{arguments.seed}"
            options["max_seconds"] = seconds_left(arguments.max_seconds, begun)
            config = variant_config(variant, arguments.preset, arguments.budget)
            run = run_training(argparse.Namespace(**options), dist, config, real.train)
            if dist.is_main_process:
                model, trained = load_generator(run.weights_path, dist.device)
                evaluate(run.weights_path, model, trained, real, arguments.num, seed=0)


if __name__ == "__main__":
    run_main(main)
