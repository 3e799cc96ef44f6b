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
        num_samples: samples of the wav that was encoded, at the rate of its log-mel.
        f0: (T,) float32, Hz, the mean over what is voiced of each unit; 0 where nothing is.
        entropy: (N, T) float32, nats, of the posterior that each code was chosen from.
        top_codes: (N, T, k) int64, the k most probable codes, the most probable first.
        top_probabilities: (N, T, k) float32, theirs.
        samples: (S, N, T) int64, S sequences drawn from the posterior.
    """

    utterance_id: str
    codes: np.ndarray
    speaker: str | None = None
    durations: np.ndarray | None = None
    text: str | None = None
    peak: float | None = None
    num_frames: int | None = None
    num_samples: int | None = None
    f0: np.ndarray | None = None
    entropy: np.ndarray | None = None
    top_codes: np.ndarray | None = None
    top_probabilities: np.ndarray | None = None
    samples: np.ndarray | None = None

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if codes.ndim == 1:
            codes = codes[None]
        if codes.ndim != 2 or (codes.size and not np.issubdtype(codes.dtype, np.integer)):
            raise ValueError(f"{self.utterance_id}: codes are integers, (N, T); got {codes.dtype} {codes.shape}")
        object.__setattr__(self, "codes", codes.astype(np.int64))
        books, units = codes.shape
        if self.durations is not None:
            durations = np.asarray(self.durations, dtype=np.int64)
            if durations.shape != (units,) or np.any(durations < 1):
                raise ValueError(
                    f"{self.utterance_id}: durations are (T,) and at least 1; got shape {durations.shape} for "
                    f"{units} units"
                )
            object.__setattr__(self, "durations", durations)
        for name, shape, dtype in (
            ("f0", (units,), np.float32),
            ("entropy", (books, units), np.float32),
            ("top_codes", (books, units, None), np.int64),
            ("top_probabilities", (books, units, None), np.float32),
            ("samples", (None, books, units), np.int64),
        ):
            self._check(name, shape, dtype)

    def _check(self, name: str, shape: tuple[int | None, ...], dtype: type) -> None:
        """One of the optional arrays: its dtype, and its shape, where None stands for any size."""
        if getattr(self, name) is None:
            return
        value = np.asarray(getattr(self, name), dtype=dtype)
        if len(value.shape) != len(shape) or any(
            found != wanted for found, wanted in zip(value.shape, shape, strict=True) if wanted is not None
        ):
            raise ValueError(f"{self.utterance_id}: {name} is {value.shape}, for codes {self.codes.shape}")
        object.__setattr__(self, name, value)

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
    """Collapse the runs of an utterance and keep their durations; one that has durations is merged further.

    F0 becomes the mean over what is voiced of a run, entropy its mean. Posteriors and samples belong to single steps
    and are left out.
    """
    codes, runs = run_lengths(units.codes)
    lasting = np.ones(units.num_units, dtype=np.int64) if units.durations is None else units.durations
    starts = np.cumsum(runs) - runs
    durations = np.add.reduceat(lasting, starts) if len(runs) else runs
    return replace(
        units,
        codes=codes,
        durations=durations,
        f0=None if units.f0 is None else _run_means(units.f0, lasting * (units.f0 > 0), starts),
        entropy=None if units.entropy is None else _run_means(units.entropy, lasting, starts),
        top_codes=None,
        top_probabilities=None,
        samples=None,
    )


def expand(units: UtteranceUnits) -> UtteranceUnits:
    """Undo :func:`deduplicate`: every unit stands for one step again. Without durations, the utterance as it is.

    F0 and entropy are those of the run, in each of its steps.
    """
    if units.durations is None:
        return units

    def repeat(values: np.ndarray) -> np.ndarray:
        assert units.durations is not None
        return np.repeat(values, units.durations, axis=-1)

    return replace(
        units,
        codes=repeat(units.codes),
        durations=None,
        f0=None if units.f0 is None else repeat(units.f0),
        entropy=None if units.entropy is None else repeat(units.entropy),
    )


def _run_means(values: np.ndarray, weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Weighted means of the runs that begin at ``starts``: (..., T) -> (..., R); 0 where all weights are."""
    if not len(starts):
        return values
    totals = np.add.reduceat(weights, starts).astype(np.float64)
    sums = np.add.reduceat(values.astype(np.float64) * weights, starts, axis=-1)
    return np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0).astype(np.float32)
