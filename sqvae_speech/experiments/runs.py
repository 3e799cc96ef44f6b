"""Finding runs and reading how they stand, from their files alone; what is missing or half-written is left out."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqvae_speech.config import flatten
from sqvae_speech.errors import UserError
from sqvae_speech.training.metrics_log import read_metrics
from sqvae_speech.training.record import STATES, is_alive, read_config, read_starts, read_status

_MARKS = ("status.json", "starts.jsonl", "metrics.jsonl", "checkpoints")
_DEEPEST = 6  # folders below the one that is asked about


@dataclass(frozen=True)
class Run:
    """How a run stands.

    Attributes:
        path: its folder.
        status: ``running``, ``finished``, ``interrupted``, ``diverged`` or ``failed``.
        message: why, of one that ended badly.
        step: steps done.
        num_steps: of the whole run; None when its configuration cannot be read.
        config: every setting, ``{"section.key": value}``.
        scores: of the last validation.
        best: of the validation at the best checkpoint, with its ``step``.
        train: the last line of training metrics.
        seconds: spent on it, over all its starts; None for a run that has no record of it.
        device: that it was last started on.
        processes: that trained together then; None: unknown.
        starts: how often it was started.
    """

    path: Path
    status: str
    message: str = ""
    step: int = 0
    num_steps: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    train: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    device: str = ""
    processes: int | None = None
    starts: int = 0


def find_runs(folders: Iterable[str | Path]) -> list[Path]:
    """Folders of runs: those given, or those below.

    Raises:
        UserError: a folder that does not exist, or no run at all.
    """
    asked = [Path(folder) for folder in folders]
    found: dict[Path, None] = {}
    for folder in asked:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        found.update(dict.fromkeys(_below(folder, _DEEPEST)))
    if not found:
        names = ", ".join(map(str, asked))
        raise UserError(f"no run in {names}: a run is a folder with one of {', '.join(_MARKS)}")
    return list(found)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return any((folder / name).exists() for name in _MARKS)


def read_run(path: Path) -> Run:
    """Read a run. Never fails for what is missing or damaged in it."""
    status, starts, config = read_status(path), read_starts(path), flatten(read_config(path))
    rows = _rows(path / "metrics.jsonl")
    last_train = _last(rows, "train")
    valid = {int(row["step"]): row for row in rows if row["split"] == "valid"}
    last_valid = valid[max(valid)] if valid else {}
    best_step = _checkpoint(path, "best")
    num_steps = config.get("training.num_steps")
    steps = [_whole(status.get("step")), _checkpoint(path, "latest"), *(int(row["step"]) for row in rows[-1:])]
    step = max((step for step in steps if step is not None), default=0)
    last_start = starts[-1] if starts else {}
    state = str(status.get("state", ""))
    if state not in STATES:  # a run of before there was a record
        state = "finished" if isinstance(num_steps, int) and step >= num_steps else "interrupted"
    elif state == "running" and not is_alive(status):
        state = "interrupted"
    seconds = status.get("seconds")
    return Run(
        path=path,
        status=state,
        message=str(status.get("message", "")),
        step=step,
        num_steps=num_steps if isinstance(num_steps, int) else None,
        config=config,
        scores=_numbers(last_valid),
        best={"step": best_step, **_numbers(valid[best_step])} if best_step in valid else {},
        train=_numbers(last_train),
        seconds=float(seconds) if isinstance(seconds, (int, float)) else None,
        device=str(last_start.get("device", "")),
        processes=_whole(last_start.get("processes")),
        starts=len(starts),
    )


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
        return
    if depth == 0:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _below(folder / entry.name, depth - 1)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return read_metrics(path)
    except OSError:
        return []


def _last(rows: list[dict[str, Any]], split: str) -> dict[str, Any]:
    return next((row for row in reversed(rows) if row["split"] == split), {})


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in row.items()
        if name not in ("step", "split") and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _checkpoint(path: Path, pointer: str) -> int | None:
    """The step that ``checkpoints/latest`` or ``best`` names."""
    try:
        name = (path / "checkpoints" / pointer).read_text(encoding="utf-8").strip()
        return int(name.removeprefix("step-"))
    except (OSError, ValueError):
        return None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
