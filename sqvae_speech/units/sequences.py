"""The units of one utterance, and run-length coding of them."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class UtteranceUnits:
    """The discrete units of one utterance.

    Attributes:
        utterance_id: its id in the data directory.
        codes: (N, T) int64, N codebooks over T units; T may be 0 for a recording shorter than one unit.
        speaker: who speaks, when known.
        durations: (T,) int64, the units each one stands for, when deduplicated; None otherwise.
        text: the transcript, when known.
        peak: max abs of the waveform before peak normalisation, linear; undoes the level when decoding.
        num_frames: frames of the log-mel that was encoded.
    """

    utterance_id: str
    codes: np.ndarray
    speaker: str | None = None
    durations: np.ndarray | None = None
    text: str | None = None
    peak: float | None = None
    num_frames: int | None = None

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if codes.ndim == 1:
            codes = codes[None]
        if codes.ndim != 2 or (codes.size and not np.issubdtype(codes.dtype, np.integer)):
            raise ValueError(f"{self.utterance_id}: codes are integers, (N, T); got {codes.dtype} {codes.shape}")
        object.__setattr__(self, "codes", codes.astype(np.int64))
        if self.durations is not None:
            durations = np.asarray(self.durations, dtype=np.int64)
            if durations.shape != codes.shape[1:] or np.any(durations < 1):
                raise ValueError(
                    f"{self.utterance_id}: durations are (T,) and at least 1; got shape {durations.shape} for "
                    f"{codes.shape[1]} units"
                )
            object.__setattr__(self, "durations", durations)

    @property
    def num_units(self) -> int:
        """Units as stored: runs, when deduplicated."""
        return self.codes.shape[1]

    @property
    def total_units(self) -> int:
        """Units in time: with durations, their sum."""
        return self.num_units if self.durations is None else int(self.durations.sum())


def run_lengths(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Collapse runs of equal units; with several codebooks, a unit is the column of its N codes.

    Args:
        codes: (N, T) integers.

    Returns:
        ``(codes (N, R), durations (R,) int64)`` with the R runs and how many units each held.
    """
    if codes.shape[1] == 0:
        return codes, np.zeros(0, dtype=np.int64)
    changes = np.flatnonzero(np.any(codes[:, 1:] != codes[:, :-1], axis=0)) + 1
    starts = np.concatenate([[0], changes])
    return codes[:, starts], np.diff(np.append(starts, codes.shape[1])).astype(np.int64)


def deduplicate(units: UtteranceUnits) -> UtteranceUnits:
    """Collapse the runs of an utterance and keep their durations; one that has durations is merged further."""
    codes, runs = run_lengths(units.codes)
    if units.durations is not None:
        ends = np.cumsum(runs)
        totals = np.concatenate([[0], np.cumsum(units.durations)])
        runs = totals[ends] - totals[ends - runs]
    return replace(units, codes=codes, durations=runs)


def expand(units: UtteranceUnits) -> UtteranceUnits:
    """Undo :func:`deduplicate`: every unit stands for one step again. Without durations, the utterance as it is."""
    if units.durations is None:
        return units
    return replace(units, codes=np.repeat(units.codes, units.durations, axis=1), durations=None)
