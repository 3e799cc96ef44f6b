"""Conversions and resyntheses against what they should be: the target's own recording of the text, the original."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.audio.wav import resample
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.voices.alignment import distances, warping_path
from sqvae_speech.evaluation.voices.cepstra import VOICE_SPEC, cepstral_distortion, mel_cepstra, voice_mel
from sqvae_speech.evaluation.voices.pitch import pitch_scores, pitch_track
from sqvae_speech.evaluation.voices.quality import pesq, stoi
from sqvae_speech.evaluation.voices.recordings import Recording
from sqvae_speech.units.f0 import F0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Analysis:
    """What two recordings are compared by.

    Attributes:
        cepstra: (T, D) float64.
        f0: (T,) float32 Hz, 0 where unvoiced; None where pitch is not compared.
    """

    cepstra: NDArray[np.float64]
    f0: NDArray[np.float32] | None


@dataclass(frozen=True)
class Distance:
    """How far a recording is from another.

    Attributes:
        mcd: mel-cepstral distortion, dB.
        cents: root mean square difference in pitch; None where pitch is not compared or nothing is voiced in both.
        voicing_error: share of frames, 0 to 1; None where pitch is not compared.
    """

    mcd: float
    cents: float | None
    voicing_error: float | None


@dataclass(frozen=True)
class TruthScores:
    """Conversions and their sources against the target speaker's own recordings of the same text.

    Attributes:
        pairs: conversions for which there is such a recording.
        converted: mean distance of the conversions.
        source: mean distance of the recordings they were made from.
        factor: mean distortion of the sources over that of the conversions: how much nearer conversion has come.
        nearer: share of the conversions that are nearer than their sources.
    """

    pairs: int
    converted: Distance
    source: Distance
    factor: float
    nearer: float


@dataclass(frozen=True)
class CopyScores:
    """Resyntheses against the very recordings they were made from.

    Attributes:
        recordings: how many.
        distance: mean.
        stoi: mean; None without the package.
        pesq: mean, wide band for recordings of 16 kHz and more, else narrow band; None without the package.
    """

    recordings: int
    distance: Distance
    stoi: float | None
    pesq: float | None


def analyse(recording: Recording, pitch: F0 | None) -> Analysis:
    """Analyse a recording; ``pitch`` is the range to look through, None to leave pitch out."""
    mel = voice_mel(recording.wav, recording.sample_rate)
    f0 = None
    if pitch is not None:
        f0 = pitch_track(recording.wav, recording.sample_rate, VOICE_SPEC, mel.shape[1], pitch)
    return Analysis(mel_cepstra(mel), f0)


def distance(reference: Analysis, other: Analysis) -> Distance:
    """Compare along the path of dynamic time warping over the cepstra."""
    path = warping_path(distances(reference.cepstra, other.cepstra))
    mcd = cepstral_distortion(reference.cepstra, other.cepstra, path)
    if reference.f0 is None or other.f0 is None:
        return Distance(mcd, None, None)
    scores = pitch_scores(reference.f0, other.f0, path)
    return Distance(mcd, scores.cents, scores.voicing_error)


def truth_scores(pairs: Sequence[tuple[Distance, Distance]]) -> TruthScores:
    """Of the distances of conversions and of their sources from the truth, one pair at least."""
    converted, source = mean_distance(one for one, _ in pairs), mean_distance(two for _, two in pairs)
    return TruthScores(
        pairs=len(pairs),
        converted=converted,
        source=source,
        factor=source.mcd / converted.mcd,
        nearer=float(np.mean([one.mcd < two.mcd for one, two in pairs])),
    )


def mean_distance(values: Iterable[Distance]) -> Distance:
    """The mean of each, over those that have it."""
    each = list(values)
    return Distance(
        float(np.mean([one.mcd for one in each])),
        _mean(one.cents for one in each),
        _mean(one.voicing_error for one in each),
    )


def copy_scores(items: Sequence[tuple[Recording, Recording, float, Distance]]) -> CopyScores:
    """Of (original, resynthesis, seconds into the original at which it begins, distance), one at least."""
    scorers: dict[str, Callable[..., float]] = {"stoi": stoi, "pesq": pesq}
    means: dict[str, float | None] = {}
    for name, score in scorers.items():
        values: list[float] = []
        try:
            for original, resynthesis, start, _ in items:
                values.append(score(*_same_time(original, resynthesis, start)))
        except UserError as error:
            logger.warning("%s is left out: %s", name.upper(), error)
            values = []
        means[name] = _mean(values)
    return CopyScores(len(items), mean_distance(item[3] for item in items), means["stoi"], means["pesq"])


def _same_time(
    original: Recording, resynthesis: Recording, start: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Both at the lower of their rates, from the same moment on, and of one length."""
    rate = min(original.sample_rate, resynthesis.sample_rate)
    wavs = [
        one.wav if one.sample_rate == rate else resample(one.wav, one.sample_rate, rate)
        for one in (original, resynthesis)
    ]
    first = round(start * rate)
    samples = min(len(wavs[0]) - first, len(wavs[1]))
    return wavs[0][first : first + samples], wavs[1][:samples], rate


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
