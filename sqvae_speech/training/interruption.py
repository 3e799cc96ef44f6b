"""Signals that ask a run to stop: it finishes its step, saves, and ends."""

import signal
import threading
import time
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

# kill and SLURM's pre-emption; the signal that SLURM users ask for ahead of a time limit (--signal=B:USR1@60); Ctrl-C
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interrupted(Exception):
    """A run was asked to stop, and has saved its state.

    Attributes:
        exit_code: what a process that ends so returns: 128 + the number of the signal, by the shell's convention.
    """

    def __init__(self, signal_number: int, step: int, checkpoint: object):
        name = signal.Signals(signal_number).name
        super().__init__(
            f"{name}: stopped after step {step}, saved in {checkpoint}; the same command goes on from there"
        )
        self.exit_code = 128 + signal_number


class Interruption:
    """Notes the first signal that asks to stop; a second Ctrl-C, after a second, ends the process at once, as ever.

    Within a second: a terminal sends Ctrl-C to a launcher and to what it started, and the launcher hands it on.

    A context manager; outside it, and in any thread but the main one, signals do what they did before.

    Args:
        device: that collectives run on.
        interval: on GPUs with several processes, steps between two looks at whether any of them got a signal, which
            wait for the device. On a CPU they look every step.
    """

    def __init__(self, device: torch.device, interval: int):
        self.device = device
        self.interval = interval if device.type != "cpu" else 1
        self.received = 0
        self._received_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._received_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._received_at > 1:
            raise KeyboardInterrupt

    def agreed(self, step: int) -> int:
        """The number of a signal that any process got, the same on all of them, or 0. All have to ask, each step."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self.received
        if step % self.interval:
            return 0
        flag = torch.tensor(self.received, device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return int(flag)
