"""One training run: its folder, checkpoints, log, progress bar, and the record of what it was.

Every train.py reads::

    run = TrainingRun(arguments, dist, "p1", f"p1_{method}", config)
    if run.is_finished():
        return
    run.resume(weights=ema.model, model=model, optimizer=optimizer)      # a checkpoint, if there is one
    for step in run.steps(config.steps, config.batch_size):
        loss = ...
        run.check_finite(loss)                                           # stops at the first non-finite loss
        if (step + 1) % config.log_every == 0:
            run.log(loss=loss)                                           # one line of stats.jsonl
    run.finish(PANELS, train_images=len(images))                         # weights, record, curves

Killed at any moment and started again, a run ends with the same weights and log as if never killed.

Its folder holds config.json, checkpoint.pt (everything needed to resume), stats.jsonl (the log) and, once finished,
weights.safetensors, records/train.json (what the run was) and curves.png.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import ROOT
from common.cli import EXIT_TRY_AGAIN, UserError, progress_bar
from common.device import Distributed, seconds_without_core
from common.files import file_digest, write_bytes, write_json, write_text
from common.seed import derive_seed, random_state, set_random_state
from common.viz import save_curves
from common.weights import load_checkpoint, save_weights, write_record

import torch
from torch import nn


class ExponentialMovingAverage:
    """A shadow copy of ``model`` that follows it with ``decay`` in [0, 1) after every optimizer step.

    Parameters are averaged. Buffers are copied: BatchNorm's running statistics of ``model`` stand in for those of the
    average, which they approach as the learning rate falls to 0. The ramp-up min(decay, (1 + step) / (10 + step)) lets
    the copy follow quickly at first, as in TensorFlow's ``ExponentialMovingAverage(num_updates)``; without it the
    random start is remembered.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; for GANs
    Yazici et al., "The unusual effectiveness of averaging in GAN training", 2019.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.step = decay, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the shadow toward ``model``."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        self.step += 1
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1.0 - decay)
        for shadow, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            shadow.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.step = state["step"]


# What a run writes, and all that --restart deletes.
OWN_FILES = (
    "checkpoint.pt",
    "weights.safetensors",
    "stats.jsonl",
    "curves.png",
    "records/train.json",
    "samples_[0-9]*.png",
    "grids/[0-9]*.png",
    "snapshots/[0-9]*.safetensors",
)
CHECKPOINT_SECONDS = 60.0  # the result does not depend on it
AGREEMENT_STEPS = 10  # several processes ask each other this rarely whether to stop, since asking waits for the device
RUNNING, OUT_OF_TIME, INTERRUPTED = range(3)  # why to stop; the largest of several processes counts for all


def seconds_left(max_seconds: int | None, begun: float) -> int | None:
    """Return what a run may take of the ``max_seconds`` of a command that began at ``begun``, at least 1."""
    return max_seconds and max(1, round(max_seconds - (time.perf_counter() - begun)))


class TrainingRun:
    """The folder of one run and everything in it that is not the algorithm."""

    def __init__(
        self, arguments: argparse.Namespace, dist: Distributed, problem: str, name: str, config: Mapping[str, Any]
    ) -> None:
        """Open the run of a command line; its folder is runs/PRESET/NAME[_VARIANT]_seedSEED, or --run-dir.

        ``config`` holds everything that decides the weights or the log, plain JSON values, ``model`` among them. A
        folder of something else, or of a run of another configuration, is a UserError.
        """
        settings = {"preset": arguments.preset, "seed": arguments.seed, "overrides": arguments.overrides}
        if arguments.variant:
            settings["variant"], name = arguments.variant, f"{name}_{arguments.variant}"
        self.config: dict[str, Any] = json.loads(json.dumps(dict(config) | settings))
        self.dist, self.problem = dist, problem
        folder = ROOT / "runs" / arguments.preset / f"{name}_seed{arguments.seed}"
        self.folder: Path = folder if arguments.run_dir is None else arguments.run_dir
        self.step = 0  # the step in progress; every step below it is complete
        self.entries: list[dict[str, Any]] = []  # of the log
        self._max_seconds = arguments.max_seconds
        self._saved_step, self._is_interrupted = -1, False
        if dist.is_main_process:
            self._claim_folder(arguments.restart)
        if dist.size > 1:
            torch.distributed.barrier()
        self._seconds_before, self._started = 0.0, time.perf_counter()

    def _claim_folder(self, restart: bool) -> None:
        """Make the folder this run's; only files that a run itself writes are ever deleted, and only here."""
        try:
            existing = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            existing = {}
        is_run = isinstance(existing, dict) and {"model", "preset", "seed"} <= existing.keys()
        # Hidden files are those of systems, and of a run that was killed before its first file was whole.
        if not is_run and self.folder.is_dir() and any(path.name[0] != "." for path in self.folder.iterdir()):
            raise UserError(f"{self.folder}: holds other files and no run; pass a new or empty --run-dir")
        if restart:
            for path in (path for pattern in OWN_FILES for path in self.folder.glob(pattern)):
                path.unlink()
        elif is_run and ((self.folder / "checkpoint.pt").exists() or self.weights_path.exists()):
            for key in sorted(existing.keys() | self.config.keys()):
                before, now = existing.get(key), self.config.get(key)
                if before != now:
                    raise UserError(
                        f"{self.folder}: trained with {key} {before}, not {now}; pass --restart or --run-dir"
                    )
        write_json(self.folder / "config.json", self.config)

    @property
    def weights_path(self) -> Path:
        """The weights of the finished run."""
        return self.folder / "weights.safetensors"

    def is_finished(self) -> bool:
        """Return whether this very run was finished before (and say so): its weights are those of its record."""
        try:
            record = json.loads((self.folder / "records/train.json").read_text(encoding="utf-8"))
            done = self.config.items() <= record.items() and file_digest(self.weights_path) == record["weights"]
        except (OSError, ValueError, KeyError, AttributeError):
            return False
        if done and self.dist.is_main_process:
            print(f"already finished: {self.weights_path}")
        return done

    def resume(self, weights: nn.Module, **state: Any) -> None:
        """Restore ``state`` from the checkpoint, if there is one; inference will use the state of ``weights``.

        ``state`` is anything with state_dict and load_state_dict: modules, optimizers, averages.
        """
        self._weights, self._state = weights, state
        # -1 until a loss is non-finite; kept on the device, since reading it would wait for every step.
        self._first_bad_step = torch.full((), -1, dtype=torch.int64, device=self.dist.device)
        if (self.folder / "checkpoint.pt").exists():
            payload = load_checkpoint(self.folder / "checkpoint.pt", self.dist.device)
            for name, thing in state.items():
                thing.load_state_dict(payload["state"][name])
            set_random_state(payload["random"])
            self.entries, self.step = payload["log"], payload["step"]
            self._saved_step, self._seconds_before = self.step, payload["seconds"]
        if self.dist.is_main_process:
            write_text(self.folder / "stats.jsonl", "".join(json.dumps(entry) + "\n" for entry in self.entries))

    def steps(self, total: int, images_per_step: int) -> Iterator[int]:
        """Yield the steps below ``total`` that are still to do, with checkpoints in time, at the end and when stopped.

        After SIGINT or SIGTERM it ends with KeyboardInterrupt, after --max-seconds with exit status 75.
        """
        self._images_per_step, self._saved_at = images_per_step, time.perf_counter()
        self._seconds_waited, self._has_warned = seconds_without_core(), False
        self._bar = progress_bar(
            total=total * images_per_step,
            initial=self.step * images_per_step,
            desc=self.folder.name,
            unit="img",
            unit_scale=True,
            disable=not self.dist.is_main_process or self.step >= total,
        )
        reason = RUNNING
        with self._bar, self._signals():
            while self.step < total and reason == RUNNING:
                if self.dist.size > 1:
                    torch.manual_seed(derive_seed(self.config["seed"], "process", self.dist.rank, self.step))
                yield self.step
                self.step += 1
                self._bar.update(images_per_step)
                reason = self._reason_to_stop()
                if (elapsed := time.perf_counter() - self._saved_at) > CHECKPOINT_SECONDS and self.step < total:
                    self._warn_of_busy_cores(elapsed)
                    self.save()
            if self._saved_step != self.step:
                self.save()
        if self.step < total or reason == INTERRUPTED:
            if self.dist.size > 1:
                torch.distributed.barrier()  # torchrun stops all when one leaves: not before the checkpoint is written
            if self.dist.is_main_process:
                print(f"stopped after step {self.step} of {total}; the same command resumes", file=sys.stderr)
            if reason == INTERRUPTED:
                raise KeyboardInterrupt
            sys.exit(EXIT_TRY_AGAIN)

    def check_finite(self, *losses: torch.Tensor) -> None:
        """Remember the first step with a non-finite loss; costs no synchronization."""
        finite = torch.stack([loss.detach().float().isfinite().all() for loss in losses]).all()
        bad_now = ~finite & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(bad_now, self.step, self._first_bad_step)

    def log(self, **values: float | torch.Tensor) -> None:
        """Append one entry to the log, numbers rounded to 6 significant digits, and show it in the progress bar."""
        self._stop_if_not_finite()
        plain = {key: value.item() if isinstance(value, torch.Tensor) else value for key, value in values.items()}
        numbers = {key: float(f"{value:.6g}") for key, value in plain.items()}
        self.entries.append({"step": self.step, **numbers})
        if not self.dist.is_main_process:
            return
        with open(self.folder / "stats.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(self.entries[-1]) + "\n")
        self._bar.set_postfix({key: f"{value:.3g}" for key, value in numbers.items()}, refresh=False)

    def mean_of_last_quarter(self, key: str) -> float:
        """Return the mean of a logged value over the last quarter of its entries: a single entry is noise."""
        values = [entry[key] for entry in self.entries if key in entry]
        tail = values[-max(1, len(values) // 4) :]
        return sum(tail) / len(tail)

    def save(self) -> None:
        """Write a checkpoint, unless losses or weights are non-finite."""
        self._stop_if_not_finite()
        self._saved_at, self._saved_step = time.perf_counter(), self.step
        if not self.dist.is_main_process:
            return
        weights = self._weights.state_dict()
        # A finite loss can have a gradient that is not.
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            self._stop(f"the weights became non-finite at step {self.step - 1}")
        payload = {
            "config": self.config,
            "step": self.step,
            "seconds": self.seconds,
            "state": {name: thing.state_dict() for name, thing in self._state.items()},
            "weights": weights,
            "random": random_state(),
            "log": self.entries,
        }
        content = io.BytesIO()  # through memory: torch's own writer does not report a full disk as such
        torch.save(payload, content)
        write_bytes(self.folder / "checkpoint.pt", content.getvalue())

    def finish(self, panels: Mapping[str, Sequence[str]], **facts: Any) -> None:
        """Write the weights, then the record with ``facts``, then the curves of ``panels``, in the main process."""
        if not self.dist.is_main_process:
            return
        save_weights(self.weights_path, self._weights.state_dict(), self.config)
        images_seen = self.step * self._images_per_step
        record = {"problem": self.problem, "kind": "train"} | self.config | facts
        record |= {"images_seen": images_seen, "weights": file_digest(self.weights_path)}
        record |= {"seconds": round(self.seconds, 1), "images_per_second": round(images_seen / self.seconds, 1)}
        write_record(self.folder, "train", record | {"processes": self.dist.size}, self.dist.device)
        print(f"wrote {self.weights_path}")
        save_curves(self.entries, panels, self.folder / "curves.png", title=self.folder.name)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, earlier starts included."""
        return self._seconds_before + time.perf_counter() - self._started

    def _reason_to_stop(self) -> int:
        """Return why to stop after the step just done; several processes stop after the same one."""
        reason = RUNNING
        if self._max_seconds and time.perf_counter() - self._started > self._max_seconds:
            reason = OUT_OF_TIME
        if self._is_interrupted:
            reason = INTERRUPTED
        if self.dist.size == 1:
            return reason
        if self.step % AGREEMENT_STEPS:
            return RUNNING
        agreed = torch.tensor(reason, device=self.dist.device)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
        return int(agreed)

    def _warn_of_busy_cores(self, elapsed: float) -> None:
        """Say once where threads waited for cores in the last ``elapsed`` seconds: each layer waits for the slowest."""
        before, self._seconds_waited = self._seconds_waited, seconds_without_core()
        threads, share = torch.get_num_threads(), (self._seconds_waited - before) / elapsed
        if threads > 1 and share > 0.3 and not self._has_warned and self.dist.is_main_process:
            self._has_warned = True
            advice = "stop this run and resume it with OMP_NUM_THREADS=1; the result is then no longer bit-identical"
            self._bar.write(f"warning: {threads} threads compete with other programs; {advice}", file=sys.stderr)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the run after the step in progress."""

        def remember(*_: object) -> None:
            self._is_interrupted = True

        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_if_not_finite(self) -> None:
        if self._first_bad_step >= 0:
            self._stop(f"the loss became non-finite at step {int(self._first_bad_step)}")

    def _stop(self, what: str) -> None:
        raise UserError(
            f"{self.folder}: {what}; the checkpoint before it is kept. Pass --restart and a lower learning rate, "
            "or --precision fp32"
        )
