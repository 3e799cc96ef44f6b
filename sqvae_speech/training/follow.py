"""Following a run: its record, metrics, progress line and trackers, as one thing that the loop tells what it does."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import nn

from sqvae_speech.config import to_dict
from sqvae_speech.training.environment import redact
from sqvae_speech.training.finite import DivergedError
from sqvae_speech.training.lock import lock_run
from sqvae_speech.training.metrics_log import MetricsLog
from sqvae_speech.training.progress import Meter, ProgressLine
from sqvae_speech.training.record import RunRecord, harmless
from sqvae_speech.training.task import Task, TaskConfig
from sqvae_speech.training.trackers import open_trackers
from sqvae_speech.training.validation import isolated_random_state


class RunFollower:
    """Of one run; a context manager around the loop. Every process has one, the main one writes.

    Args:
        config: the whole run.
        exp_dir: of the run.
        task: what is trained.
        accelerator: of the loop.
        step: that it goes on from.
        progress: show a progress line.

    Raises:
        UserError: another process trains in the folder; a tracker that is unknown, not installed, or does not start.
    """

    def __init__(
        self, config: TaskConfig, exp_dir: Path, task: Task, accelerator: Accelerator, *, step: int, progress: bool
    ):
        self.settings = config.training
        self.exp_dir = exp_dir
        self.task = task
        self.accelerator = accelerator
        self.step = step
        self.meter = Meter()
        self.main = accelerator.is_main_process
        if not self.main:
            progress = False
        else:
            self._lock = lock_run(exp_dir)
            self.record = RunRecord(exp_dir)
            self.metrics = MetricsLog(exp_dir, task.curves, step)
            self.trackers = open_trackers(
                self.settings.trackers,
                exp_dir,
                project=self.settings.tracker_project,
                config=_without_secrets(to_dict(config)),
                resume_step=step,
            )
            self.record.start(config, step=step, processes=accelerator.num_processes, device=accelerator.device)
        self._progress = progress
        self._plotted = -1  # step

    def __enter__(self) -> Self:
        self.meter = Meter()
        self.line = ProgressLine(
            self.settings.num_steps,
            self.step,
            self.task.amount_unit,
            self.meter,
            self.task.shown,
            enabled=self._progress,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.line.close()
        if not self.main:
            return
        state = _state(error, done=self.step >= self.settings.num_steps)
        self.record.update(state, self.step, "" if error is None else str(error), now=True)
        if error is None and self.settings.num_plots and self._plotted < self.step:
            self._plot()
        self.metrics.close()
        self.trackers.close()
        self._lock.close()

    @property
    def plots_dir(self) -> Path | None:
        """Where figures of a validation go; None where none are drawn."""
        return self.exp_dir / "plots" if self.main and self.settings.num_plots > 0 else None

    def batches(self, source: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield what ``source`` does; the time waited is measured."""
        return self.meter.batches(source, self.task.amount)

    def stepped(self, step: int) -> None:
        """``step`` steps are done. Costs microseconds, and waits for no device."""
        self.step = step
        self.meter.stepped()
        self.line.stepped(step)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Around validations and checkpoints, whose time is no step's."""
        with self.meter.pause():
            yield

    def training(self, values: Mapping[str, float]) -> None:
        """Write a line of training metrics, with the speed; every process has to call it."""
        rates = self.meter.rates()
        amount = self._total(rates.amount)
        self.line.scalars(values, amount / rates.amount if rates.amount else 1.0)
        if not self.main:
            return
        speed = {
            "steps_per_second": rates.steps,
            f"{self.task.amount_unit}_per_second": amount,
            "data_seconds": rates.data_seconds,
            "run_seconds": self.record.seconds,
        }
        self._write("train", {**values, **speed})
        self.record.update("running", self.step)

    def validation(self, scores: Mapping[str, float], model: nn.Module) -> None:
        """Write the scores of a validation, and show examples and curves.

        Args:
            scores: by name.
            model: not wrapped.
        """
        if not self.main:
            return
        self._write("valid", scores)
        self.line.log()
        if self.plots_dir is not None:
            with harmless("examples cannot be shown"):
                self._show(model)
            self._plot()

    def _show(self, model: nn.Module) -> None:
        if not len(self.trackers):
            return

        @torch.no_grad()
        @isolated_random_state
        def show() -> None:
            self.trackers.examples(self.step, self.task.examples(model, self.step))

        show()

    def _plot(self) -> None:
        self._plotted = self.step
        with harmless("the curves cannot be drawn"):
            self.metrics.plot()

    def _write(self, split: str, values: Mapping[str, float]) -> None:
        with harmless(f"the metrics of step {self.step} cannot be written"):
            self.metrics.write(self.step, split, values)
        self.trackers.scalars(self.step, {f"{split}/{name}": value for name, value in values.items()})

    def _total(self, value: float) -> float:
        """The sum over processes."""
        if self.accelerator.num_processes == 1:
            return value
        return float(self.accelerator.reduce(torch.tensor(value, device=self.accelerator.device), "sum"))


def _state(error: BaseException | None, *, done: bool) -> str:
    if error is None:
        return "finished" if done else "interrupted"
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return "interrupted"
    return "diverged" if isinstance(error, DivergedError) else "failed"


def _without_secrets(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_secrets(value) for key, value in values.items()}
    return redact(values) if isinstance(values, str) else values
