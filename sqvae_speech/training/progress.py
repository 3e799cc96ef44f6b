"""How fast a run is, over a recent window, and how long it will take; as a line for a terminal or for a log."""

import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import IO, NamedTuple, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")

_WINDOW = 30.0  # seconds
_MARKS = 0.1  # seconds between two marks of it
_QUIET = 300.0  # seconds after which a log gets a line even without a validation


class Rates(NamedTuple):
    """Over the window. Validations and checkpoints do not count.

    Attributes:
        steps: a second.
        amount: work a second, in the task's unit, of this process.
        data_seconds: a step, waiting for the batch.
        data_share: of the time, waiting for batches.
    """

    steps: float
    amount: float
    data_seconds: float
    data_share: float


class _Mark(NamedTuple):
    busy: float
    steps: int
    amount: int
    waited: float


class Meter:
    """Counts steps and work, and the time they take.

    It reads the clock of this process alone: nothing waits for the device. Where the device lags behind, that shows
    within a window, since whoever writes metrics waits for it.

    Args:
        clock: seconds.
        window: seconds that rates are of.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, window: float = _WINDOW):
        self._clock = clock
        self._window = window
        self._started = clock()
        self._paused = 0.0
        self._waited = 0.0
        self._steps = 0
        self._amount = 0
        self._marks = deque([_Mark(0.0, 0, 0, 0.0)])

    def batches(self, source: Iterator[Batch], amount: Callable[[Batch], int]) -> Iterator[Batch]:
        """Yield what ``source`` does, with the time waited for each and the ``amount`` of work in it."""
        while True:
            asked = self._clock()
            try:
                batch = next(source)
            except StopIteration:
                return
            self._waited += self._clock() - asked
            self._amount += amount(batch)
            yield batch

    def stepped(self) -> None:
        """A step is done."""
        self._steps += 1
        now = self._now()
        if now.busy - self._marks[-1].busy >= _MARKS:
            self._marks.append(now)
            while len(self._marks) > 2 and now.busy - self._marks[1].busy >= self._window:
                self._marks.popleft()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """What is done meanwhile is no step's time."""
        began = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - began

    def rates(self) -> Rates:
        """Now; zeros before the first step."""
        first, last = self._marks[0], self._now()
        seconds, steps = last.busy - first.busy, last.steps - first.steps
        if not steps or seconds <= 0:
            return Rates(0.0, 0.0, 0.0, 0.0)
        waited = last.waited - first.waited
        return Rates(steps / seconds, (last.amount - first.amount) / seconds, waited / steps, waited / seconds)

    def remaining(self, steps: int) -> float | None:
        """Seconds that ``steps`` more will take, validations and checkpoints included; None: unknown."""
        rate = self.rates().steps
        return steps / rate + steps * self._paused / self._steps if rate else None

    def _now(self) -> _Mark:
        return _Mark(self._clock() - self._started - self._paused, self._steps, self._amount, self._waited)


class ProgressLine:
    """One line that a terminal shows and renews; elsewhere a line in the log now and then.

    Args:
        total: steps of the run.
        step: that it goes on from.
        unit: of the work, plural: ``frames``.
        meter: of this process.
        shown: scalars on the line, ``{scalar: format}``.
        enabled: False shows nothing.
        stream: that is a terminal or is not.
    """

    def __init__(
        self,
        total: int,
        step: int,
        unit: str,
        meter: Meter,
        shown: Mapping[str, str],
        *,
        enabled: bool = True,
        stream: IO[str] | None = None,
    ):
        stream = sys.stderr if stream is None else stream
        self._total, self._step, self._unit, self._meter, self._shown = total, step, unit, meter, shown
        self._scalars = ""
        self._processes = 1.0
        self._stack = contextlib.ExitStack()
        self._bar = None
        self._in_log = enabled and not stream.isatty()
        self._logged = time.monotonic()
        if enabled and not self._in_log:
            form = "{percentage:3.0f}%|{bar:10}| {desc}"
            self._bar = self._stack.enter_context(
                tqdm(total=total, initial=step, bar_format=form, dynamic_ncols=True, file=stream, mininterval=0.2)
            )
            self._drawn = -float("inf")
            # a message of the log goes above the line, not through it
            self._stack.enter_context(logging_redirect_tqdm())

    def stepped(self, step: int) -> None:
        """Renew the line, at most a few times a second."""
        self._step = step
        if self._bar is not None and time.monotonic() - self._drawn >= self._bar.mininterval:
            self._draw(self._bar)

    def scalars(self, values: Mapping[str, float], processes: float = 1.0) -> None:
        """Take what is known since the last line of metrics.

        Args:
            values: by name.
            processes: work of all processes over that of this one.
        """
        self._processes = processes
        parts = [f"{name} {format(values[name], form)}" for name, form in self._shown.items() if name in values]
        self._scalars = ", ".join(parts)
        if self._in_log and time.monotonic() - self._logged >= _QUIET:
            self.log()

    def log(self) -> None:
        """A line in the log, unless there is a terminal that shows it all the time."""
        if self._in_log:
            self._logged = time.monotonic()
            logger.info("%s", self.text())

    def text(self) -> str:
        """``step 1,200/20,000, 6.1 steps/s, 10,788 frames/s, loss 123, 0:51:24 left, 2% waiting for data``."""
        rates = self._meter.rates()
        parts = [f"step {self._step:,}/{self._total:,}"]
        if rates.steps:
            steps = f"{rates.steps:.1f} steps/s" if rates.steps >= 1 else f"{1 / rates.steps:.1f} s/step"
            parts += [steps, f"{rates.amount * self._processes:,.0f} {self._unit}/s"]
        if self._scalars:
            parts.append(self._scalars)
        remaining = self._meter.remaining(self._total - self._step)
        if remaining is not None:
            parts.append(f"{timedelta(seconds=round(remaining))} left")
            parts.append(f"{rates.data_share:.0%} waiting for data")
        return ", ".join(parts)

    def close(self) -> None:
        if self._bar is not None:
            self._draw(self._bar)
        self._stack.close()

    def _draw(self, bar: tqdm) -> None:
        self._drawn = time.monotonic()
        bar.set_description_str(self.text(), refresh=False)
        bar.n = self._step
        bar.refresh()
