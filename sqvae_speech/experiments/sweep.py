"""Running a sweep's trials one after the other, each in a process of its own; what is done is not done again."""

import contextlib
import enum
import fcntl
import logging
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from sqvae_speech.data.files import write_text
from sqvae_speech.errors import UserError
from sqvae_speech.experiments.runs import is_run, read_run
from sqvae_speech.experiments.sweep_config import ScoreConfig, SweepConfig
from sqvae_speech.experiments.trials import Trial
from sqvae_speech.training.identity import identity
from sqvae_speech.training.record import read_config

logger = logging.getLogger(__name__)

_OUTPUT = "{output}"  # in a reference's words: the sweep's folder
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class State(enum.StrEnum):
    """Of a trial: ``waiting`` has not begun, ``busy`` is run by another process."""

    WAITING = "waiting"
    INTERRUPTED = "interrupted"
    BUSY = "busy"
    DONE = "done"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """How a trial stands.

    Attributes:
        trial: whichever.
        folder: of its run.
        state: see :class:`State`.
        message: why, of one that failed.
    """

    trial: Trial
    folder: Path
    state: State
    message: str = ""


@dataclass(frozen=True)
class Reference:
    """What is scored beside the trials, without training.

    Attributes:
        name: of its row.
        words: of the command, in place of ``--model CHECKPOINT``.
        file: for its scores.
        last: whether it needs the trials, and so comes after them.
    """

    name: str
    words: tuple[str, ...]
    file: Path
    last: bool


class Sweep:
    """The trials of a sweep in a folder, ``output/<trial>`` each.

    Args:
        config: of the sweep.
        trials: of it.
        output: for the runs and the results.

    Raises:
        UserError: a folder of a trial holds a run with other settings.
    """

    def __init__(self, config: SweepConfig, trials: Sequence[Trial], output: Path):
        self.config = config
        self.trials = list(trials)
        self.output = output
        self.stopped_by = 0
        for trial in self.trials:
            self._require_same(trial)

    def folder(self, trial: Trial) -> Path:
        return self.output / trial.name

    def references(self) -> list[Reference]:
        """All of them, in order."""
        return [
            Reference(
                name,
                tuple(word.replace(_OUTPUT, str(self.output)) for word in words),
                self.output / "references" / re.sub(r"[^A-Za-z0-9._=-]+", "-", name) / "scores.json",
                any(_OUTPUT in word for word in words),
            )
            for name, words in self.config.score.references.items()
        ]

    def outcomes(self) -> list[Outcome]:
        """How all trials stand, from their files."""
        return [self.outcome(trial) for trial in self.trials]

    def outcome(self, trial: Trial) -> Outcome:
        """How one stands."""
        folder = self.folder(trial)
        failure = folder / "sweep_failure"
        if not is_run(folder):
            message = _read(failure)
            return Outcome(trial, folder, State.FAILED if message else State.WAITING, message)
        run = read_run(folder)
        if run.status == "running":
            return Outcome(trial, folder, State.BUSY)
        if run.status == "diverged":
            return Outcome(trial, folder, State.DIVERGED, run.message)
        if message := _read(failure) or (run.message if run.status == "failed" else ""):
            return Outcome(trial, folder, State.FAILED, message)
        # by its steps: a run that is finished may have been made longer since
        trained = run.status == "finished" and run.step >= trial.config["training"]["num_steps"]
        done = trained and not self._unscored(folder)
        return Outcome(trial, folder, State.DONE if done else State.INTERRUPTED)

    def run(self, *, retry: bool = False, references: bool = True) -> list[Outcome]:
        """Run what is not done, in order. A trial that fails is reported and does not stop the others.

        A signal to stop is passed on to the trial that runs, which saves its state; then the sweep ends too, with
        the signal's number in ``stopped_by``.

        Args:
            retry: diverged trials too, from their last checkpoints.
            references: score them too; those that need the trials when all of these are done.
        """
        if references:
            self._run_references(last=False)
        for number, trial in enumerate(self.trials, start=1):
            if self.stopped_by:
                break
            before = self.outcome(trial)
            place = f"[{number}/{len(self.trials)}] {trial.name}"
            if before.state in (State.DONE, State.BUSY) or (before.state == State.DIVERGED and not retry):
                logger.info("%s: %s already", place, before.state)
                continue
            folder = before.folder
            folder.mkdir(parents=True, exist_ok=True)
            with _lock(folder) as lock:
                if lock is None:
                    logger.info("%s: is run by another process", place)
                    continue
                logger.info("%s: %s", place, "going on" if before.state != State.WAITING else "starting")
                self._run_trial(trial, folder, lock)
            after = self.outcome(trial)
            logger.info("%s: %s%s", place, after.state, f": {after.message}" if after.message else "")
        outcomes = self.outcomes()
        if references and all(outcome.state == State.DONE for outcome in outcomes):
            self._run_references(last=True)
        return outcomes

    def _run_references(self, *, last: bool) -> None:
        """Score those that are not scored, before the trials or after them."""
        for reference in self.references():
            if reference.last != last or reference.file.exists() or self.stopped_by:
                continue
            folder = reference.file.parent
            folder.mkdir(parents=True, exist_ok=True)
            with _lock(folder) as lock:
                if lock is None:
                    logger.info("%s: is scored by another process", reference.name)
                    continue
                logger.info("%s: scoring", reference.name)
                words = [*self.config.score.command, *reference.words, "--output", str(reference.file)]
                code, said = self._execute(_verb(words), folder / "score.log", lock)
                if code and not self.stopped_by:
                    logger.warning("%s: scoring ended with %s: %s", reference.name, _ending(code), said)

    def _run_trial(self, trial: Trial, folder: Path, lock: int) -> None:
        (folder / "sweep_failure").unlink(missing_ok=True)
        config = folder / "trial.yaml"
        write_text(config, yaml.safe_dump(trial.config, sort_keys=False))
        launcher = list(self.config.launcher) or [sys.executable]
        train = [*launcher, "-m", "sqvae_speech.bin.train", "--config", str(config), "--exp-dir", str(folder)]
        run = read_run(folder)
        if run.status != "finished" or run.step < trial.config["training"]["num_steps"]:
            code, said = self._execute(train, folder / "train.log", lock)
            if code and not self.stopped_by:
                status = read_run(folder).status
                # one that somebody else asked to stop has saved its state, and says so
                if status != "diverged" and not (status == "interrupted" and code > 128):
                    _fail(folder, f"training ended with {_ending(code)}: {said}")
                return
        for checkpoint, scores in self._unscored(folder):
            if self.stopped_by:
                return
            scores.parent.mkdir(exist_ok=True)
            words = [*self.config.score.command, "--model", str(checkpoint), "--output", str(scores)]
            code, said = self._execute(_verb(words), folder / "score.log", lock)
            if code and not self.stopped_by:
                _fail(folder, f"scoring {checkpoint.name} ended with {_ending(code)}: {said}")
                return

    def _execute(self, command: Sequence[str], log: Path, lock: int) -> tuple[int, str]:
        """Run a command with its output in ``log``; returns its exit code and its last line."""
        with log.open("ab") as file:
            file.write(f"\n$ {shlex.join(command)}\n".encode())
            file.flush()
            # In a session of its own: signals reach it once, through us. It keeps the lock if we are killed.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )

            def forward(number: int, frame: FrameType | None) -> None:
                self.stopped_by = number
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

            with _handlers(forward):
                code = process.wait()
        lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "")
        return code, f"{said.removeprefix('error: ')} (see {log})"

    def _unscored(self, folder: Path) -> list[tuple[Path, Path]]:
        """Checkpoints with the files for their scores, as far as those are missing or older."""
        missing = []
        for step in scored_steps(self.config.score, folder):
            checkpoint = folder / "checkpoints" / f"step-{step:08d}"
            scores = score_file(folder, step)
            weights = checkpoint / "model.safetensors"
            if not scores.exists() or (weights.exists() and weights.stat().st_mtime > scores.stat().st_mtime):
                missing.append((checkpoint, scores))
        return missing

    def _require_same(self, trial: Trial) -> None:
        theirs, ours = identity(read_config(self.folder(trial))), identity(trial.config)
        # a run of an older version does not know all keys
        lines = [
            f"  {key}: {theirs[key]} there, {ours[key]} here"
            for key in ours
            if key in theirs and theirs[key] != ours[key]
        ]
        if lines:
            raise UserError(
                f"{self.folder(trial)} holds a run with other settings:\n"
                + "\n".join(lines)
                + "\ngive another --output, or move that run away"
            )


def _verb(words: Sequence[str]) -> list[str]:
    """A command of ``sqvae-speech``."""
    return [sys.executable, "-m", "sqvae_speech.bin.main", *words]


def scored_steps(score: ScoreConfig, folder: Path) -> list[int]:
    """Steps of a run that its sweep scores."""
    if not score.command:
        return []
    return list(score.steps) or [read_run(folder).step]


def score_file(folder: Path, step: int) -> Path:
    """Where the scores of a checkpoint are."""
    return folder / "scores" / f"step-{step:08d}.json"


def _fail(folder: Path, message: str) -> None:
    write_text(folder / "sweep_failure", message + "\n")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[int | None]:
    """Give the descriptor of a lock on a trial, or None while another process has it."""
    with (folder / ".sweep_lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        yield file.fileno()


@contextlib.contextmanager
def _handlers(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # whoever started the thread has the signals
        return
    before = {number: signal.signal(number, handler) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
