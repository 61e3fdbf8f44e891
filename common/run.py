"""One training: what it is called, whether it is done, its checkpoints, logs, progress bar, and polite end.

Every train.py reads::

    job = Job.of(arguments, config, "p1", kind="p1_gan/A", name="p1_A", key="train/A/cpu", dataset=...)
    if not job.is_finished(world):
        run = Run(job, world, state={"model": model, "optimizer": optimizer}, weights=ema.model.state_dict)
        with run:
            for step in run.steps(config.steps, config.batch_size):
                loss = ...
                run.guard(loss)              # stops at the first step whose loss is not finite
                if (step + 1) % config.log_every == 0:
                    run.log(loss=loss)       # one line of stats.jsonl
        if run.is_complete:
            job.finish(run, final_loss=...)  # weights and record

Killed at any moment and started again, it ends with the same weights and logs as if never killed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from tqdm import tqdm

from common.checkpoint import load_checkpoint, previous_path, save_checkpoint
from common.distributed import World
from common.errors import UserError
from common.files import append_text, remove_leftovers, write_json, write_text
from common.locks import hold
from common.paths import Workspace, workspace
from common.plots import save_curves
from common.progress import progress_bar
from common.results import read_results, record
from common.seed import derive_seed, random_state, set_random_state
from common.weights import load_weights, save_weights

Item = TypeVar("Item")
GO_ON, TIME_IS_OVER, ASKED_TO_STOP = range(3)  # the largest one of several processes counts for all
AGREEMENT_STEPS = 10  # several processes ask each other so rarely, since asking waits for the device
CHECKPOINT_SECONDS = 60.0  # the result does not depend on it
WEIGHTS_NAME = "weights.safetensors"
PICTURES = ("samples_*.png", "grids/*.png", "one_latent/*.png")  # that trainings draw on their way


@dataclass(frozen=True)
class Job:
    """One training as a command line asks for it: what decides its weights, and where everything goes.

    Attributes:
        problem: ``p1``, ``p2`` or ``p3``, whose results file takes the record.
        key: of the record.
        kind: of the weights, for example ``p1_gan/B``; whoever loads them checks it.
        config: everything that decides the weights, plain JSON values; saved with them.
        space: where pictures and results go.
        folder: where checkpoints, logs and weights go.
        fresh: start anew instead of going on from the checkpoint.
        max_seconds: save and leave after so long.
    """

    problem: str
    key: str
    kind: str
    config: dict[str, Any]
    space: Workspace
    folder: Path
    fresh: bool = False
    max_seconds: float | None = None

    @classmethod
    def of(
        cls, arguments: argparse.Namespace, config: Any, problem: str, kind: str, name: str, key: str, **data: Any
    ) -> Self:
        """Return the job of a command line with the options of :mod:`common.cli`.

        Args:
            arguments: parsed.
            config: the dataclass of the preset in force.
            problem: see the class.
            kind: see the class.
            name: of the run's folder, the seed left out.
            key: of the record, the seed left out.
            data: what else decides the weights, such as the data set's name.
        """
        space = workspace(arguments.preset, arguments.output)
        described = asdict(config) | {"preset": arguments.preset, "seed": arguments.seed} | data
        return cls(
            problem,
            f"{key}/seed{arguments.seed}",
            kind,
            json.loads(json.dumps(described)),
            space,
            arguments.run_dir or space.runs / f"{name}_seed{arguments.seed}",
            arguments.fresh,
            arguments.max_seconds,
        )

    @property
    def weights(self) -> Path:
        """The file of the finished training's weights."""
        return self.folder / WEIGHTS_NAME

    def is_finished(self, world: World) -> bool:
        """Tell whether exactly this training was finished and recorded before, and say so.

        Raises:
            UserError: what stands in its place is damaged, or of another model.
        """
        recorded = read_results(self.space.results, self.problem).get(self.key, {})
        if self.fresh or not self.weights.exists() or not recorded.items() >= self.config.items():
            return False
        if load_weights(self.weights, self.kind)[1] != self.config:
            return False
        # Not recorded again: the record would name the machine of now with the time of then.
        if world.is_writer:
            print(f"finished before: {self.weights}")
        return True

    def finish(self, run: Run, **measured: Any) -> None:
        """Write the weights of a complete run, and its record: ``measured`` with the circumstances."""
        save_weights(self.weights, run.weights(), self.kind, self.config)
        speed = {"seconds": round(run.total_seconds, 1), "images_per_second": round(run.images_per_second, 1)}
        processes = {"processes": run.world.size} if run.world.size > 1 else {}
        values = self.config | measured | speed | processes
        record(self.space.results, self.problem, self.key, values, run.world.device)
        print(f"wrote {self.weights}")


class Stateful(Protocol):
    """Anything a checkpoint can hold: modules, optimisers, averages."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Put back what :meth:`state_dict` returned."""
        ...


class Run:
    """The folder of one training and everything in it that is not the algorithm.

    ======================  ==========================================================
    config.json             the configuration in force
    checkpoint.pt           everything needed to go on (checkpoint.previous.pt: one before)
    stats.jsonl             one JSON object a logged step, the same bytes for the same seed
    timing.json             seconds spent so far, over all starts
    curves.png              the logged values of ``panels``, drawn at the end of every start
    ======================  ==========================================================
    """

    def __init__(
        self,
        job: Job,
        world: World,
        state: Mapping[str, Stateful],
        weights: Callable[[], dict[str, torch.Tensor]],
        panels: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Prepare a run; entering it opens the folder.

        Args:
            job: what is trained; a run resumes only with the same configuration.
            world: the processes that train; only its writer writes.
            state: what a checkpoint must restore, by name.
            weights: returns the weights that inference uses (the EMA's, say).
            panels: what curves.png shows, as for :func:`common.plots.save_curves`; None draws none.
        """
        self.job, self.world, self.state, self.weights = job, world, state, weights
        self.rows: list[dict[str, Any]] = []
        self.step = 0  # the step in progress; every step below it is complete
        self.is_complete = False
        self._images = 0
        self._seconds_before = 0.0
        self._started: float | None = None
        self._saved_at, self._saved_step = 0.0, -1
        self._first_bad_step = torch.full((), -1, dtype=torch.int64, device=world.device)
        self._stop_signal: int | None = None
        self._panels = panels
        self._bar: tqdm | None = None
        self._held = ExitStack()

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.job.folder

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoint.pt"

    def __enter__(self) -> Self:
        with ExitStack() as held:
            if self.world.is_writer:
                self.folder.mkdir(parents=True, exist_ok=True)
                busy = f"{self.folder}: another run is using this folder; wait for it, or choose --run-dir"
                held.enter_context(hold(self.folder / "lock", busy))
                remove_leftovers(self.folder)
                if self.job.fresh:
                    # The old weights too: they would pass for the result of this run as soon as it is interrupted.
                    results = [self.folder / name for name in (WEIGHTS_NAME, "last_good.safetensors", "curves.png")]
                    pictures = [path for pattern in PICTURES for path in self.folder.glob(pattern)]
                    logs = (self.checkpoint, previous_path(self.checkpoint), self._stats, self._timing)
                    for path in (*logs, *results, *pictures):
                        path.unlink(missing_ok=True)
            self._wait()  # no process reads a checkpoint that --fresh is about to delete
            if self.checkpoint.exists() or previous_path(self.checkpoint).exists():
                self._resume()
            if self.world.is_writer:
                write_json(self.folder / "config.json", self.job.config)
                write_text(self._stats, "".join(_line(row) for row in self.rows))
            for name in (signal.SIGINT, signal.SIGTERM):
                held.callback(signal.signal, name, signal.signal(name, self._on_signal))
            self._held = held.pop_all()
        self._started = self._saved_at = time.perf_counter()
        return self

    def __exit__(self, reason: type[BaseException] | None, *_: object) -> None:
        self._seconds_before, self._started = self.total_seconds, None
        if self._bar is not None:
            self._bar.close()  # or the line that says why the run ended would follow it in the same line
        with self._held:
            try:
                if self.world.is_writer and self._panels and self.rows:
                    save_curves(self.rows, self._panels, self.folder / "curves.png", title=self.job.key)
            except Exception:
                # What ended the run says more: the disk that had no room for a checkpoint has none for curves.
                if reason is None:
                    raise

    def steps(self, total: int, images_per_step: int) -> Iterator[int]:
        """Yield the steps still to do, saving in time, at the end, and when asked to stop.

        Raises:
            KeyboardInterrupt: after SIGINT or SIGTERM, once the step in progress is complete and saved.
        """
        self._images = total * images_per_step
        self._bar = progress_bar(
            total=self._images,
            initial=self.step * images_per_step,
            desc=self.job.key,
            unit="img",
            unit_scale=True,
            disable=not self.world.is_writer,
        )
        why = GO_ON
        with self._bar:
            while self.step < total:
                if self.world.size > 1:
                    torch.manual_seed(derive_seed(self.job.config["seed"], "process", self.world.rank, self.step))
                yield self.step
                self.step += 1
                self._bar.update(images_per_step)
                why = self._reason_to_stop()
                if why != GO_ON:
                    break
                if time.perf_counter() - self._saved_at > CHECKPOINT_SECONDS and self.step < total:
                    self.save()
            if self._saved_step != self.step:
                self.save()
        self.is_complete = self.step >= total
        if not self.is_complete and self.world.is_writer:
            command = "the same command without --fresh" if self.job.fresh else "the same command"
            print(f"stopped after step {self.step} of {total}; {command} goes on from here", file=sys.stderr)
        if why == ASKED_TO_STOP:
            raise KeyboardInterrupt

    def guard(self, *losses: torch.Tensor) -> None:
        """Remember the first step with a loss that is not finite; costs no synchronisation."""
        finite = torch.stack([loss.detach().float().isfinite().all() for loss in losses]).all()
        bad_now = ~finite & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(bad_now, self.step, self._first_bad_step)

    def log(self, **values: float | torch.Tensor | None) -> None:
        """Append one row to stats.jsonl (numbers rounded to 6 significant digits) and the progress bar."""
        self._stop_if_not_finite()
        row: dict[str, Any] = {"step": self.step}
        row |= {key: _rounded(value) for key, value in values.items() if value is not None}
        self.rows.append(row)
        if not self.world.is_writer:
            return
        append_text(self._stats, _line(row))
        if self._bar is not None:
            self._bar.set_postfix({key: f"{value:.3g}" for key, value in row.items() if key != "step"}, refresh=False)

    def say(self, message: str) -> None:
        """Show a remark above the progress bar, in the writing process only."""
        if self.world.is_writer:
            tqdm.write(f"step {self.step}: {message}", file=sys.stderr)

    def late_mean(self, key: str) -> float:
        """Return the mean of a logged value over the last quarter of the rows that have it; one alone is chance."""
        values = [row[key] for row in self.rows if key in row]
        late = values[-max(1, len(values) // 4) :]
        return sum(late) / len(late)

    def save(self) -> None:
        """Write a checkpoint, unless the state is no longer finite."""
        self._stop_if_not_finite()
        self._saved_at, self._saved_step = time.perf_counter(), self.step
        if not self.world.is_writer:
            return
        state, weights = {name: thing.state_dict() for name, thing in self.state.items()}, self.weights()
        # A finite loss can have a gradient that is not, or lie in one process of several.
        if not _is_finite([state, weights]):
            self._stop(f"the weights are not finite after step {self.step - 1}")
        save_checkpoint(
            self.checkpoint,
            {
                "kind": self.job.kind,
                "config": self.job.config,
                "step": self.step,
                "state": state,
                "weights": weights,
                "random": random_state(),
                "rows": self.rows,
            },
        )
        write_json(self._timing, {"seconds": round(self.total_seconds, 3), "step": self.step})

    @property
    def total_seconds(self) -> float:
        """Seconds of training so far, earlier starts included."""
        return self._seconds_before + (time.perf_counter() - self._started if self._started is not None else 0.0)

    @property
    def images_per_second(self) -> float:
        """Pictures a second over the whole training."""
        return self._images / max(self.total_seconds, 1e-9)

    @property
    def _stats(self) -> Path:
        return self.folder / "stats.jsonl"

    @property
    def _timing(self) -> Path:
        return self.folder / "timing.json"

    def _reason_to_stop(self) -> int:
        """Return why to stop after the step just done; several processes stop after the same one."""
        why = GO_ON
        if self.job.max_seconds and time.perf_counter() - self._started > self.job.max_seconds:
            why = TIME_IS_OVER
        if self._stop_signal is not None:
            why = ASKED_TO_STOP
        if self.world.size == 1:
            return why
        if self.step % AGREEMENT_STEPS:
            return GO_ON
        agreed = torch.tensor(why, device=self.world.device)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
        return int(agreed)

    def _wait(self) -> None:
        """Let every process come to this line before any goes on."""
        if self.world.size > 1:
            torch.distributed.barrier()

    def _resume(self) -> None:
        # The writer last: it may delete a damaged file, which nobody else may then be about to read.
        if self.world.is_writer:
            self._wait()
        payload = load_checkpoint(
            self.checkpoint, self.job.kind, map_location=self.world.device, repair=self.world.is_writer
        )
        if not self.world.is_writer:
            self._wait()
        saved, asked = payload["config"], self.job.config
        for key in sorted(saved.keys() | asked.keys()):
            if saved.get(key) != asked.get(key):
                raise UserError(
                    f"{self.folder}: trained with {key} {saved.get(key)}, asked for {asked.get(key)}; "
                    "pass the same options, --fresh to start anew, or another --run-dir"
                )
        for name, thing in self.state.items():
            thing.load_state_dict(payload["state"][name])
        set_random_state(payload["random"])
        self.rows, self.step = payload["rows"], payload["step"]
        self._saved_step = self.step
        if self._timing.exists():
            self._seconds_before = json.loads(self._timing.read_text())["seconds"]

    def _stop_if_not_finite(self) -> None:
        bad_step = int(self._first_bad_step)
        if bad_step >= 0:
            self._stop(f"the loss is not finite since step {bad_step}")

    def _stop(self, what: str) -> None:
        raise UserError(
            f"{self.folder}: {what}; the checkpoint before it is kept. Start anew with --fresh and a lower learning "
            "rate or --precision fp32"
        )

    def _on_signal(self, number: int, _frame: object) -> None:
        # Under torchrun one Ctrl-C arrives twice, from the terminal and from the launcher; a person needs longer.
        insists = self._stop_signal is not None and time.perf_counter() - self._signalled_at > 1.0
        if insists:
            raise KeyboardInterrupt
        self._stop_signal, self._signalled_at = number, time.perf_counter()


def within_max_seconds(items: Iterable[Item], arguments: argparse.Namespace) -> Iterator[Item]:
    """Yield what a command trains one after the other; each is left the rest of the command's --max-seconds."""
    end = time.perf_counter() + (arguments.max_seconds or 0)
    for item in items:
        if arguments.max_seconds:
            arguments.max_seconds = max(1, round(end - time.perf_counter()))
        yield item


def _is_finite(thing: Any) -> bool:
    """Return whether every tensor in nested dictionaries and lists is finite."""
    if isinstance(thing, torch.Tensor):
        return not thing.is_floating_point() or bool(thing.isfinite().all())
    if isinstance(thing, dict):
        return all(map(_is_finite, thing.values()))
    return not isinstance(thing, list | tuple) or all(map(_is_finite, thing))


def _rounded(value: float | torch.Tensor) -> float:
    return float(f"{value.item() if isinstance(value, torch.Tensor) else value:.6g}")


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
