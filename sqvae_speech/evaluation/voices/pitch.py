"""How far apart two recordings are in pitch: F0 and voicing along a path of alignment."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.sources import array_source
from sqvae_speech.units.f0 import F0, track_f0


@dataclass(frozen=True)
class PitchScores:
    """Of two recordings.

    Attributes:
        log_f0_rmse: root mean square difference of ln F0 over the pairs of frames that are voiced in both; None where
            there is no such pair.
        cents: the same in cents, 1200 / ln 2 times as much: 100 are a semitone.
        voicing_error: share of the pairs of frames of which one is voiced and the other is not, 0 to 1.
        voiced: pairs of frames voiced in both.
    """

    log_f0_rmse: float | None
    cents: float | None
    voicing_error: float
    voiced: int


def pitch_track(
    wav: NDArray[np.floating], sample_rate: int, spec: MelSpec, num_frames: int, settings: F0 | None = None
) -> NDArray[np.float32]:
    """F0 at the middle of every frame of a log-mel, by pYIN.

    Args:
        wav: (samples,) floating point.
        sample_rate: Hz.
        spec: of the log-mel.
        num_frames: T of it.
        settings: the range that is looked through; None: 65 to 400 Hz.

    Returns:
        (T,) float32, Hz, 0 where unvoiced.
    """
    source = array_source(np.asarray(wav, dtype=np.float32), sample_rate, "the recording")
    return track_f0(source, spec, num_frames, settings or F0())


def pitch_scores(
    reference: NDArray[np.floating], other: NDArray[np.floating], path: NDArray[np.int64]
) -> PitchScores:
    """Compare two F0 tracks.

    Args:
        reference: (T,) Hz, 0 where unvoiced.
        other: (U,) Hz, likewise.
        path: (P, 2) pairs of frames, as :func:`~sqvae_speech.evaluation.voices.alignment.warping_path` gives them.
    """
    one = np.asarray(reference, dtype=np.float64)[path[:, 0]]
    two = np.asarray(other, dtype=np.float64)[path[:, 1]]
    both = (one > 0) & (two > 0)
    rmse = float(np.sqrt(np.mean(np.log(two[both] / one[both]) ** 2))) if both.any() else None
    return PitchScores(
        log_f0_rmse=rmse,
        cents=None if rmse is None else rmse * 1200.0 / float(np.log(2.0)),
        voicing_error=float(np.mean((one > 0) != (two > 0))),
        voiced=int(both.sum()),
    )
