"""One measurement in a process of its own, printed as one line of JSON; ``run.py`` starts them.

python benchmarks/one.py train p1 ours --batch-size 32
python benchmarks/one.py train p3 plain --batch-size 64
python benchmarks/one.py load hw2_data/digits/mnistm/data
python benchmarks/one.py layout p2 --batch-size 8
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.layout import PASSES, time_layouts
from common.cache import list_images, load_images
from common.cli import HelpFormatter, positive_int
from common.device import pick_device
from common.errors import run_main
from common.paths import DEFAULT_DATA_ROOT
from common.run import Run

WARM_UP_STEPS = 2
LEAST_STEPS = 3
# The same work as the plain loops: no augmentation but theirs.
OURS = {
    "p1": ("p1_gan.train", ["--method", "A", "--preset", "cpu"]),
    "p2": ("p2_diffusion.train", ["--preset", "full", "--no-compile"]),
    "p3": ("p3_dann.train", ["--mode", "dann", "--target", "svhn", "--preset", "original"]),
    "p3-best": ("p3_dann.train", ["--mode", "dann", "--target", "svhn", "--preset", "cpu"]),
}


class Enough(Exception):
    """Enough steps have been timed."""


class StepClock:
    """Times training steps, and what each part of them takes, until ``seconds`` are over.

    The parts of a step follow from torch's own hooks: *data* until the first forward pass, *model* (forward, loss,
    backward) until the optimiser, *optimiser*, *average and log* after it, and *run* (progress, checkpoints)
    between two steps.
    """

    def __init__(self, seconds: float, started: float, device: torch.device) -> None:
        self.seconds, self.started, self.device = seconds, started, device
        self.steps = -WARM_UP_STEPS
        self.shares: dict[str, float] = defaultdict(float)
        self.first_step: dict[str, float] = {}
        self.part, self._since, self._begun = "run", time.perf_counter(), 0.0

    def switch(self, part: str) -> None:
        """Count the time since the last switch for the part that ends."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.shares[self.part] += now - self._since
        self.part, self._since = part, now

    def step_begins(self) -> None:
        """Count the start of a step."""
        self.switch("data")
        self.first_step.setdefault("until_first_step_seconds", time.time() - self.started)

    def step_done(self) -> None:
        """Count a finished step.

        Raises:
            Enough: this was the last one needed.
        """
        self.switch("run")
        self.steps += 1
        self.first_step.setdefault("first_step_seconds", time.time() - self.started)
        if self.steps == 0:
            self.shares.clear()
            self._begun = time.perf_counter()
        elif self.steps >= LEAST_STEPS and time.perf_counter() - self._begun >= self.seconds:
            raise Enough

    def result(self, batch_size: int) -> dict[str, Any]:
        """Return what was measured."""
        elapsed = time.perf_counter() - self._begun
        total = sum(self.shares.values())
        on_gpu = self.device.type == "cuda"
        return {
            "images_per_second": batch_size * self.steps / elapsed,
            "seconds_per_step": elapsed / self.steps,
            "steps": self.steps,
            **self.first_step,
            "peak_memory_mib": torch.cuda.max_memory_allocated(self.device) / 2**20 if on_gpu else peak_process_mib(),
            "shares": {part: seconds / total for part, seconds in self.shares.items()},
        }


def peak_process_mib() -> float:
    """Return the most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20


def time_plain(problem: str, batch_size: int, data_root: Path, clock: StepClock) -> None:
    """Run the plain loop of ``problem`` until the clock has enough."""
    loops = importlib.import_module("benchmarks.plain").LOOPS  # brings torchvision, which ours must not wait for
    for _ in loops[problem](data_root, batch_size, clock.device):
        clock.step_done()


def time_ours(problem: str, batch_size: int, data_root: Path, clock: StepClock) -> None:
    """Run ``train.py`` of ``problem``, as its command line does, until the clock has enough."""
    untimed = Run.steps

    def steps(self: Run, *arguments: Any, **options: Any) -> Iterator[int]:
        for step in untimed(self, *arguments, **options):
            clock.step_begins()
            yield step
            clock.step_done()

    def forward_begins(*_: Any) -> None:
        if clock.part != "model":  # else every layer would wait for the GPU
            clock.switch("model")

    hooks = [
        register_module_forward_pre_hook(forward_begins),
        register_optimizer_step_pre_hook(lambda *_: clock.switch("optimiser")),
        register_optimizer_step_post_hook(lambda *_: clock.switch("average and log")),
    ]
    module, options = OURS[problem]
    with tempfile.TemporaryDirectory() as folder:
        command = [module, *options, "--data-root", str(data_root), "--output", folder]
        command += ["--batch-size", str(batch_size), "--device", str(clock.device)]
        with patch.object(Run, "steps", steps), patch.object(sys, "argv", command):
            importlib.import_module(module).main()
    for hook in hooks:
        hook.remove()


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one way of training one problem."""
    device = pick_device(arguments.device) if arguments.way == "ours" else plain_device(arguments.device)
    clock = StepClock(arguments.seconds, arguments.started, device)
    way = time_ours if arguments.way == "ours" else time_plain
    with contextlib.suppress(Enough):
        way(arguments.problem, arguments.batch_size, arguments.data_root, clock)
    return clock.result(arguments.batch_size)


def plain_device(name: str) -> torch.device:
    """Return the device that ``pick_device`` would, with none of the settings it makes."""
    with patch("common.device.keep_freed_memory"):
        return pick_device(name)


def load(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the decoding of a folder of pictures, and reading it again from the cache."""
    names = list_images(arguments.folder)
    measured: dict[str, Any] = {"images": len(names)}
    images = None
    for name in ("decode_seconds", "cache_seconds"):
        del images  # a user's process holds them once
        begun = time.perf_counter()
        images = load_images(arguments.folder, names, arguments.size)
        measured[name] = time.perf_counter() - begun
    batch = torch.randint(len(names), (256,))
    begun = time.perf_counter()
    for _ in range(100):
        images[batch]
    measured["gather_milliseconds"] = (time.perf_counter() - begun) * 10
    return measured | {"tensor_mib": images.numel() / 2**20, "peak_memory_mib": peak_process_mib()}


def layout(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one problem's networks in both memory orders."""
    return time_layouts(arguments.problem, arguments.batch_size, arguments.trials, pick_device(arguments.device))


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=HelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train", help="steps of training", formatter_class=HelpFormatter)
    training.set_defaults(measure=train)
    training.add_argument("problem", choices=OURS)
    training.add_argument("way", choices=("ours", "plain"))
    training.add_argument("--batch-size", type=positive_int, default=32, help="images a step")
    training.add_argument("--seconds", type=float, default=15.0, help="time steps for so long, after two to warm up")
    training.add_argument("--data-root", type=Path, default=DEFAULT_DATA_ROOT, help="folder with face/ and digits/")
    training.add_argument("--device", default="auto", help="auto (cuda, else mps, else cpu), or a device's name")
    training.add_argument("--started", type=float, default=time.time(), help="time.time() at the start of the process")
    loading = commands.add_parser("load", help="reading a folder of pictures", formatter_class=HelpFormatter)
    loading.set_defaults(measure=load)
    loading.add_argument("folder", type=Path, help="folder of pictures without a cache")
    loading.add_argument("--size", type=positive_int, default=28, help="their height and width")
    order = commands.add_parser("layout", help="networks in both memory orders", formatter_class=HelpFormatter)
    order.set_defaults(measure=layout)
    order.add_argument("problem", choices=PASSES)
    order.add_argument("--batch-size", type=positive_int, default=32, help="images a pass")
    order.add_argument("--trials", type=positive_int, default=5, help="timed passes of each order")
    order.add_argument("--device", default="auto", help="auto (cuda, else mps, else cpu), or a device's name")
    arguments = parser.parse_args()
    print(json.dumps(arguments.measure(arguments)))


if __name__ == "__main__":
    run_main(main)
