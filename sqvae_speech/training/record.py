"""The record of a run, for whoever comes back to it: in what it ran, when it was started, how it stands.

Beside checkpoints, metrics and plots, ``exp/<name>/`` holds:

- ``config.yaml``: the whole configuration as run, but for passwords and tokens in addresses;
- ``environment.json``: versions, machine, variables, git, command line, of the last start;
- ``git-<digest>.diff``: what the source differed by from its commit, if it did;
- ``starts.jsonl``: a line each time the run was started or resumed;
- ``status.json``: state, step and time spent, renewed now and then.

Nothing here fails a run: what cannot be written is a warning.
"""

import calendar
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sqvae_speech.config import dump_yaml, flatten
from sqvae_speech.data.files import write_text
from sqvae_speech.training import environment

logger = logging.getLogger(__name__)

STATES = ("running", "finished", "interrupted", "diverged", "failed")
_RENEWED = 30.0  # seconds between two writings of the status of a run that goes on
_STALE = 900.0  # seconds after which a run that has said nothing, on another machine, is taken for dead


@contextlib.contextmanager
def harmless(what: str) -> Iterator[None]:
    """Turn any error into a warning that ``what`` failed."""
    try:
        yield
    except Exception as error:
        logger.warning("%s: %s: %s; the run goes on", what, type(error).__name__, error)


class RunRecord:
    """Writes the record of a run; only on the main process.

    Args:
        exp_dir: of the run.
        clock: seconds, of the status.
    """

    def __init__(self, exp_dir: Path, clock: Callable[[], float] = time.time):
        self.exp_dir = exp_dir
        self._clock = clock
        self._started = clock()
        self._written = -float("inf")
        self._before = float(read_status(exp_dir).get("seconds") or 0.0)

    @property
    def seconds(self) -> float:
        """Time spent on the run, over all its starts."""
        return self._before + self._clock() - self._started

    def start(self, config: Any, *, step: int, processes: int, device: Any) -> None:
        """Write down a start or a resume.

        Args:
            config: the whole run.
            step: that it goes on from; 0 for a new run.
            processes: that train together.
            device: of this process.
        """
        with harmless("the record of the run cannot be written"):
            earlier = read_config(self.exp_dir)
            write_text(self.exp_dir / "config.yaml", environment.redact(dump_yaml(config)))
            command, git = environment.command_line(), environment.git_state()
            facts = {**environment.describe(device), "git": dict(git.facts), "command": command, "cwd": os.getcwd()}
            if git.diff:
                name = f"git-{environment.digest(git.diff)}.diff"
                write_text(self.exp_dir / name, git.diff)
                facts["git"]["diff"] = name
            write_text(self.exp_dir / "environment.json", json.dumps(facts, indent=2) + "\n")
            line = {
                "time": _timestamp(self._clock()),
                "step": step,
                "processes": processes,
                "device": facts["device"],
                "host": facts["host"],
                "pid": os.getpid(),
                "command": command,
                "sqvae_speech": facts["sqvae_speech"],
                "torch": facts["torch"]["version"],
                "git": {key: facts["git"][key] for key in ("commit", "dirty", "diff", "none") if key in facts["git"]},
                "changed": _changes(earlier, read_config(self.exp_dir)) if earlier else {},
            }
            with (self.exp_dir / "starts.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.update("running", step, now=True)

    def update(self, state: str, step: int, message: str = "", *, now: bool = False) -> None:
        """Write the status; of a run that goes on, only when the last one is old.

        Args:
            state: one of :data:`STATES`.
            step: steps done.
            message: why, of a run that ended badly.
            now: in any case.
        """
        if not now and self._clock() - self._written < _RENEWED:
            return
        self._written = self._clock()
        status = {
            "state": state,
            "step": step,
            "seconds": round(self.seconds, 1),
            "time": _timestamp(self._clock()),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        with harmless("the status of the run cannot be written"):
            write_text(self.exp_dir / "status.json", json.dumps({**status, "message": message}) + "\n")


def read_status(exp_dir: Path) -> dict[str, Any]:
    """``status.json``; empty when there is none, or it is damaged."""
    try:
        status = json.loads((exp_dir / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def read_config(exp_dir: Path) -> dict[str, Any]:
    """``config.yaml`` as nested values; empty when there is none, or it is damaged."""
    try:
        values = yaml.safe_load((exp_dir / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def read_starts(exp_dir: Path) -> list[dict[str, Any]]:
    """The lines of ``starts.jsonl`` that are whole."""
    starts = []
    try:
        for line in (exp_dir / "starts.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                starts.append(json.loads(line))
    except (OSError, ValueError):
        pass
    return [start for start in starts if isinstance(start, dict)]


def is_alive(status: Mapping[str, Any], now: float | None = None) -> bool:
    """Whether the process that wrote a status of ``running`` still runs, as far as can be told from here."""
    if status.get("host") == socket.gethostname():
        try:
            os.kill(int(status["pid"]), 0)
        except PermissionError:
            return True
        except (OSError, KeyError, TypeError, ValueError):
            return False
        return True
    try:
        written = calendar.timegm(time.strptime(status["time"], _TIME_FORMAT))
    except (KeyError, TypeError, ValueError):
        return False
    return (time.time() if now is None else now) - written < _STALE


_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def _timestamp(seconds: float) -> str:
    return time.strftime(_TIME_FORMAT, time.gmtime(seconds))


def _changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from those of the last start, ``{key: [then, now]}``."""
    then, current = flatten(earlier), flatten(now)
    keys = [*current, *(key for key in then if key not in current)]
    return {key: [then.get(key), current.get(key)] for key in keys if then.get(key) != current.get(key)}
