"""A training run: its folder, lock, checkpoints, logs, progress bar, and polite end.

A training loop reads::

    with Run(folder, kind, config, state={"model": model, "optimizer": optimizer}, weights=...) as run:
        for step in run.steps(total_steps, images_per_step=batch_size):
            loss = ...
            run.guard(loss)                  # stops at the first step whose loss is not finite
            if step % 50 == 0:
                run.log(loss=loss)           # one line of stats.jsonl

Killed at any moment and started again, it ends with the same weights and logs as if never killed.
"""

from __future__ import annotations

import fcntl
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from tqdm import tqdm

from common.checkpoint import load_checkpoint, previous_path, save_checkpoint
from common.errors import UserError
from common.files import append_text, remove_leftovers, write_json, write_text
from common.plots import save_curves
from common.progress import progress_bar
from common.seed import random_state, set_random_state

GO_ON, TIME_IS_OVER, ASKED_TO_STOP = range(3)  # the largest one of several processes counts for all
AGREEMENT_STEPS = 10  # several processes ask each other so rarely, since asking waits for the device


class Stateful(Protocol):
    """Anything a checkpoint can hold: modules, optimisers, averages."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Put back what :meth:`state_dict` returned."""
        ...


class Run:
    """The folder of one training run and everything in it that is not the algorithm.

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
        folder: Path,
        kind: str,
        config: dict[str, Any],
        state: dict[str, Stateful],
        weights: Callable[[], dict[str, torch.Tensor]],
        *,
        device: torch.device,
        fresh: bool = False,
        is_writer: bool = True,
        tensorboard: bool = False,
        checkpoint_seconds: float = 60.0,
        defaults: dict[str, Any] | None = None,
        panels: Mapping[str, Sequence[str]] | None = None,
        title: str = "",
    ) -> None:
        """Open the folder, refusing one that another run holds.

        Args:
            folder: where everything goes; made if missing.
            kind: which model this trains, for example ``p1_gan/B``; other commands check it.
            config: the configuration, plain JSON values; a run resumes only with the same one.
            state: what a checkpoint must restore, by name.
            weights: returns the weights that inference uses (the EMA's, say).
            device: where the state lives.
            fresh: delete what an earlier run left and start anew.
            is_writer: False in the processes of a distributed run that write nothing.
            tensorboard: also write TensorBoard event files.
            checkpoint_seconds: how often to save; the result does not depend on it.
            defaults: what options had before they were options, for runs begun by older code.
            panels: what curves.png shows, as for :func:`common.plots.save_curves`; None draws none.
            title: its title.
        """
        self.folder, self.kind, self.config = Path(folder), kind, json.loads(json.dumps(config))
        self.state, self.weights, self.device = state, weights, device
        self.is_writer, self.checkpoint_seconds = is_writer, checkpoint_seconds
        self.rows: list[dict[str, Any]] = []
        self.step = 0  # the step in progress; every step below it is complete
        self.seconds = 0.0
        self._started: float | None = None
        self._first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self._stop_signal: int | None = None
        self._tensorboard_requested, self._events = tensorboard, None
        self._panels, self._title = panels, title
        self._fresh, self._defaults = fresh, json.loads(json.dumps(defaults or {}))
        self._bar: tqdm | None = None

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoint.pt"

    def __enter__(self) -> Self:
        # Before --fresh deletes anything: the package may be missing.
        open_tensorboard = _import_tensorboard() if self.is_writer and self._tensorboard_requested else None
        if self.is_writer:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"{self.folder}: another run is using this folder; wait for it, or choose --run-dir"
                ) from error
            remove_leftovers(self.folder)
            if self._fresh:
                # The old weights too: they would pass for the result of this run as soon as it is interrupted.
                results = [
                    self.folder / name for name in ("weights.safetensors", "last_good.safetensors", "curves.png")
                ]
                for path in (self.checkpoint, previous_path(self.checkpoint), self._stats, self._timing, *results):
                    path.unlink(missing_ok=True)
        if _several_processes():
            torch.distributed.barrier()  # no process reads a checkpoint that --fresh is about to delete
        if self.checkpoint.exists() or previous_path(self.checkpoint).exists():
            self._resume()
        if self.is_writer:
            write_json(self.folder / "config.json", self.config)
            write_text(self._stats, "".join(_line(row) for row in self.rows))
            if open_tensorboard:
                # Hides what an earlier start logged after its last checkpoint, or all of it where this one is fresh.
                self._events = open_tensorboard(str(self.folder), purge_step=self.step)
        self._old_handlers = {name: signal.signal(name, self._on_signal) for name in (signal.SIGINT, signal.SIGTERM)}
        self._started = self._saved_at = time.perf_counter()
        return self

    def __exit__(self, reason: type[BaseException] | None, *_: object) -> None:
        self.seconds, self._started = self.total_seconds, None
        if self._bar is not None:
            self._bar.close()  # or the line that says why the run ended would follow it in the same line
        try:
            if self._events:
                self._events.close()
            if self.is_writer and self._panels and self.rows:
                save_curves(self.rows, self._panels, self.folder / "curves.png", title=self._title)
        except Exception:
            # What ended the run says more: the disk that had no room for a checkpoint has none for curves.
            if reason is None:
                raise
        finally:
            if self.is_writer:
                self._lock.close()
            for name, handler in self._old_handlers.items():
                signal.signal(name, handler)

    def steps(
        self, total: int, images_per_step: int, description: str = "training", max_seconds: float | None = None
    ) -> Iterator[int]:
        """Yield the steps still to do, saving in time, at the end, and when asked to stop.

        With ``max_seconds`` this start ends after so long, complete and saved, wherever it is.

        Raises:
            KeyboardInterrupt: after SIGINT or SIGTERM, once the step in progress is complete and saved.
        """
        self._bar = progress_bar(
            total=total * images_per_step,
            initial=self.step * images_per_step,
            desc=description,
            unit="img",
            unit_scale=True,
            disable=not self.is_writer,
        )
        why = GO_ON
        with self._bar:
            while self.step < total:
                yield self.step
                self.step += 1
                self._bar.update(images_per_step)
                why = self._reason_to_stop(max_seconds)
                if why != GO_ON:
                    break
                if time.perf_counter() - self._saved_at > self.checkpoint_seconds and self.step < total:
                    self.save()
            if self._saved_step != self.step:
                self.save()
        if self.step < total and self.is_writer:
            command = "the same command without --fresh" if self._fresh else "the same command"
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
        if not self.is_writer:
            return
        append_text(self._stats, _line(row))
        if self._bar is not None:
            self._bar.set_postfix({key: f"{value:.3g}" for key, value in row.items() if key != "step"}, refresh=False)
        if self._events:
            for key, value in row.items():
                self._events.add_scalar(key, value, self.step)

    def say(self, message: str) -> None:
        """Show a remark above the progress bar, in the writing process only."""
        if self.is_writer:
            tqdm.write(f"step {self.step}: {message}", file=sys.stderr)

    def save(self) -> None:
        """Write a checkpoint, unless the state is no longer finite."""
        self._stop_if_not_finite()
        self._saved_at, self._saved_step = time.perf_counter(), self.step
        if not self.is_writer:
            return
        state, weights = {name: thing.state_dict() for name, thing in self.state.items()}, self.weights()
        # A finite loss can have a gradient that is not, or lie in one process of several.
        if not _is_finite([state, weights]):
            raise UserError(
                f"{self.folder}: the weights are not finite after step {self.step - 1}; the checkpoint before it is "
                "kept. Lower the learning rate, or resume with --precision fp32"
            )
        save_checkpoint(
            self.checkpoint,
            {
                "kind": self.kind,
                "config": self.config,
                "step": self.step,
                "state": state,
                "weights": weights,
                "random": random_state(),
                "rows": self.rows,
            },
        )
        write_json(self._timing, {"seconds": round(self.total_seconds, 1), "step": self.step})

    def _reason_to_stop(self, max_seconds: float | None) -> int:
        """Return why to stop after the step just done; several processes stop after the same one."""
        why = GO_ON
        if max_seconds and time.perf_counter() - self._started > max_seconds:
            why = TIME_IS_OVER
        if self._stop_signal is not None:
            why = ASKED_TO_STOP
        if not _several_processes():
            return why
        if self.step % AGREEMENT_STEPS:
            return GO_ON
        agreed = torch.tensor(why, device=self.device)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
        return int(agreed)

    @property
    def total_seconds(self) -> float:
        """Seconds of training so far, earlier starts included."""
        return self.seconds + (time.perf_counter() - self._started if self._started is not None else 0.0)

    _saved_step = -1

    @property
    def _stats(self) -> Path:
        return self.folder / "stats.jsonl"

    @property
    def _timing(self) -> Path:
        return self.folder / "timing.json"

    def _resume(self) -> None:
        payload = load_checkpoint(self.checkpoint, self.kind, self.device)
        saved = self._defaults | payload["config"]
        different = sorted(key for key in saved.keys() | self.config.keys() if saved.get(key) != self.config.get(key))
        if different:
            key = different[0]
            raise UserError(
                f"{self.folder}: trained with {key} {saved.get(key)}, asked for {self.config.get(key)}; "
                "pass the same options, --fresh to start anew, or another --run-dir"
            )
        for name, thing in self.state.items():
            thing.load_state_dict(payload["state"][name])
        set_random_state(payload["random"])
        self.rows, self.step = payload["rows"], payload["step"]
        self._saved_step = self.step
        if self._timing.exists():
            self.seconds = json.loads(self._timing.read_text())["seconds"]

    def _stop_if_not_finite(self) -> None:
        bad_step = int(self._first_bad_step)
        if bad_step >= 0:
            raise UserError(
                f"{self.folder}: the loss is not finite since step {bad_step}; the checkpoint before it is kept. "
                "Lower the learning rate, or resume with --precision fp32"
            )

    def _on_signal(self, number: int, _frame: object) -> None:
        # Under torchrun one Ctrl-C arrives twice, from the terminal and from the launcher; a person needs longer.
        insists = self._stop_signal is not None and time.perf_counter() - self._signalled_at > 1.0
        if insists:
            raise KeyboardInterrupt
        self._stop_signal, self._signalled_at = number, time.perf_counter()


def _several_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


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


def _import_tensorboard() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard: the package is not installed; pip install tensorboard") from error
    return SummaryWriter
