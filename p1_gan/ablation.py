"""Switch off one ingredient of method B at a time: every row trains on the same budget and is then measured.

    python p1_gan/ablation.py                                   # all rows, preset cpu
    python p1_gan/ablation.py --rows B no-averaging
    python p1_gan/ablation.py --seed 1                          # once more: the report has mean and range of all seeds

Stopped or killed, the same command goes on; finished rows are neither trained nor measured again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, add_run_arguments, make_parser, positive_int
from common.dataset import described, load_faces
from common.distributed import World, join_world
from common.errors import UserError, run_main
from common.frechet import check_enough
from common.results import read_results, record
from common.run import Job, within_max_seconds
from p1_gan.distances import RealFaces
from p1_gan.faces import detector, face_rate
from p1_gan.features import feature_network
from p1_gan.inference import draw_latents, generate
from p1_gan.methods import METHODS, kind_of, load_generator
from p1_gan.presets import TrainConfig
from p1_gan.train import train

EVERY_SETTING = tuple(field.name for field in fields(TrainConfig))


@dataclass(frozen=True)
class Row:
    """One training of the ablation.

    Attributes:
        title: what the report calls it.
        method: whose networks and preset it takes.
        settings: fields whose values it takes from the other method's preset instead.
        loss: replaces that of the preset.
    """

    title: str
    method: str
    settings: tuple[str, ...] = ()
    loss: str | None = None

    def config(self, preset: str) -> TrainConfig:
        """Return what trains it, the budget left aside."""
        other = METHODS["B" if self.method == "A" else "A"]
        changes = {name: getattr(other.presets[preset], name) for name in self.settings}
        changes |= {"loss": self.loss} if self.loss else {}
        return replace(METHODS[self.method].presets[preset], **changes)


ROWS = {
    "A": Row("A", "A"),
    "A-averaged": Row("A with averaged weights", "A", ("ema_decay",)),
    "B": Row("B", "B"),
    "no-spectral-norm": Row("B without spectral norm", "A", EVERY_SETTING),
    "no-averaging": Row("B without averaged weights", "B", ("ema_decay",)),
    "no-augmentation": Row("B without augmentation", "B", ("diff_augment",)),
    "no-smoothing-noise": Row("B without label smoothing and noise", "B", ("real_label", "instance_noise")),
    "no-learning-rates": Row(
        "B with A's learning rates",
        "B",
        ("generator_learning_rate", "discriminator_learning_rate", "decay_share"),
    ),
    "hinge": Row("B with hinge loss, which has no label smoothing", "B", loss="hinge"),
}


def train_row(arguments: argparse.Namespace, name: str, world: World, faces: torch.Tensor) -> Job | None:
    """Train one row, unless it was before; return None where it was stopped."""
    row = ROWS[name]
    config = row.config(arguments.preset)
    world.check_batch(config.batch_size, least=2)
    steps = max(1, arguments.budget // config.batch_size)
    config = replace(config, steps=steps, grid_every=steps)
    data = {"method": row.method, **described(arguments.data_root, "face")}
    key = f"ablation/{name}/{arguments.preset}"
    job = Job.of(arguments, config, "p1", kind_of(row.method), f"p1_ablation/{name}", key, **data)
    if not job.is_finished(world):
        run = train(job, config, world, faces)
        if not run.is_complete:
            return None
        if world.is_writer:
            job.finish(run, train_images=len(faces))
    return job


def measure_row(job: Job, arguments: argparse.Namespace, world: World, real: RealFaces | None) -> None:
    """Add distances and face rate of one trained row to its record, unless they are there."""
    values = read_results(job.space.results, "p1")[job.key]
    wanted = ({"fd_lite0"} if real else set()) | ({"face_rate"} if detector() else set())
    if values.get("images") == arguments.num and values.keys() >= wanted:
        return
    model, _ = load_generator(job.weights, job.config["method"], world.device)
    images = generate(model, draw_latents(arguments.num, arguments.seed))
    measured = {"images": len(images)} | ({} if real is None else real.compare(images)[0])
    rate = face_rate(images, progress=True)
    if rate is not None:
        measured["face_rate"] = rate
    record(job.space.results, "p1", job.key, values | measured, world.device)
    print(f"{job.key}: " + ", ".join(f"{name} {value:.4g}" for name, value in measured.items()))


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--preset", choices=sorted(METHODS["B"].presets), default="cpu", help="where the settings come from"
    )
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--budget", type=positive_int, default=40_000, help="pictures that every row is trained on")
    parser.add_argument("--num", type=positive_int, default=1000, help="pictures to measure of every row")
    add_common_arguments(parser)
    add_run_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Parse the command line, train, measure and record row after row."""
    arguments = parse_arguments()
    if arguments.run_dir is not None:
        raise UserError("--run-dir: every row has a folder of its own; choose --output")
    with join_world(arguments.device) as world:
        faces, val = (load_faces(arguments.data_root, split) for split in ("train", "val"))
        check_enough(val, arguments.data_root / "face" / "val")
        network = feature_network(world.device) if world.is_writer else None
        real = RealFaces(faces, val, network, arguments.data_root / "face" / ".cache") if network else None
        on_device = faces.to(world.device)
        for name in within_max_seconds(arguments.rows, arguments):
            job = train_row(arguments, name, world, on_device)
            if job is None:
                return
            if world.is_writer:
                measure_row(job, arguments, world, real)


if __name__ == "__main__":
    run_main(main)
