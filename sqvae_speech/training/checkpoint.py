"""Checkpoints of a run: whole or absent, and enough to go on as if never interrupted.

``checkpoints/step-00002000/`` holds the model as inference loads it (``config.json``, ``model.safetensors``), the
run's ``config.yaml``, and ``training_state.pt`` (optimiser, schedule, random states of every process, data
position), which is read with ``weights_only=True``. ``latest`` and ``best`` are text files that name a folder.
"""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sqvae_speech.errors import UserError

logger = logging.getLogger(__name__)

STATE_NAME = "training_state.pt"


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its name and rename it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def snapshot(value: Any) -> Any:
    """A copy on the CPU of nested containers of tensors, which training no longer changes."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(snapshot(item) for item in value)
    return value


def random_states() -> dict[str, Any]:
    """The states of the generators that training draws from: torch's. The loader draws from its position alone."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """The inverse of :func:`random_states`."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


class Checkpoints:
    """The checkpoints of a run, written in a thread while training goes on.

    One that cannot be written, for a full disk say, is reported and left out; the earlier ones and the pointers stay
    as they are. After a power failure too, a pointer names only what is whole: files are on the disk before it is.

    Args:
        exp_dir: of the run.
        keep: how many of the latest to keep.
        keep_steps: steps that are kept for good.
    """

    def __init__(self, exp_dir: Path, keep: int, keep_steps: Collection[int] = ()):
        self.directory = exp_dir / "checkpoints"
        self.keep = keep
        self.keep_steps = frozenset(keep_steps)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None

    def latest(self) -> Path | None:
        """The folder to resume from, or None."""
        return self._named("latest")

    def save(
        self,
        step: int,
        save_model: Callable[[Path], None],
        config_yaml: str,
        state: dict[str, Any],
        *,
        best: bool = False,
    ) -> None:
        """Begin to write a checkpoint, after which those that are no longer kept are deleted.

        Waits for the one before. Nothing that is given may change until it is written: see :meth:`finish`.

        Args:
            step: its number.
            save_model: writes the model's files into a folder.
            config_yaml: of the run.
            state: all else that resuming needs.
            best: of those so far.
        """
        self._settle()
        self._pending = self._pool.submit(self._write, step, save_model, config_yaml, state, best)

    def finish(self) -> Path | None:
        """Wait until all is written; returns the latest.

        Raises:
            UserError: the last one could not be written.
        """
        error = self._settle()
        if error is not None:
            raise UserError(
                f"the last checkpoint could not be written ({error}): make room and run the same command again; it "
                f"goes on from {self.latest() or 'the beginning'}"
            ) from error
        return self.latest()

    def _settle(self) -> Exception | None:
        """Wait for the one that is being written; returns what went wrong, and reports it."""
        pending, self._pending = self._pending, None
        # safetensors and torch.save have errors of their own for a full disk
        error = None if pending is None else pending.exception()
        if error is None:
            return None
        if not isinstance(error, Exception):
            raise error
        logger.error("a checkpoint could not be written (%s); the latest is %s", error, self.latest() or "none yet")
        return error

    def _write(
        self, step: int, save_model: Callable[[Path], None], config_yaml: str, state: dict[str, Any], best: bool
    ) -> Path:
        final = self.directory / f"step-{step:08d}"
        partial = self.directory / f".{final.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            save_model(partial)
            (partial / "config.yaml").write_text(config_yaml, encoding="utf-8")
            torch.save(state, partial / STATE_NAME)
            for path in (*partial.iterdir(), partial):
                _to_disk(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(final, ignore_errors=True)  # the same step saved twice, after a resume
        partial.rename(final)
        _to_disk(self.directory)
        write_text(self.directory / "latest", final.name + "\n")
        if best:
            write_text(self.directory / "best", final.name + "\n")
        self._prune()
        return final

    def load_state(self, checkpoint: Path) -> dict[str, Any]:
        """Read ``training_state.pt`` of a checkpoint.

        Raises:
            UserError: it is missing, damaged or of an earlier version.
        """
        try:
            state = torch.load(checkpoint / STATE_NAME, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise UserError(f"{checkpoint} cannot be resumed from: it has no {STATE_NAME}") from None
        except Exception as error:  # torch.load raises whatever the damage makes it stumble over
            raise UserError(
                f"{checkpoint / STATE_NAME} is damaged ({type(error).__name__}): write the name of an earlier "
                f"checkpoint into {self.directory / 'latest'}"
            ) from error
        if "learning_rate" not in state:
            raise UserError(
                f"{checkpoint} is of an earlier version ({state.get('version')}, which had no schedules), and "
                "cannot be resumed from (its weights can be used): start in another folder"
            )
        return state

    def _named(self, pointer: str) -> Path | None:
        path = self.directory / pointer
        if not path.is_file():
            return None
        target = self.directory / path.read_text(encoding="utf-8").strip()
        return target if target.is_dir() else None

    def _prune(self) -> None:
        folders = sorted(self.directory.glob("step-*"))
        keep = {*folders[-self.keep :], self._named("best"), self._named("latest")}
        for folder in folders:
            if folder not in keep and int(folder.name.removeprefix("step-")) not in self.keep_steps:
                shutil.rmtree(folder)


def _to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
