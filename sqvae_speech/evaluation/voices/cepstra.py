"""Mel-cepstral distortion: how far apart two recordings are in timbre, in dB."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.wav import resample
from sqvae_speech.evaluation.voices.alignment import distances, warping_path

ORDER = 24  # cepstra c_1 to c_24
# What all voice scores listen with, whatever the features of the model: 16 kHz, 25 ms windows every 10 ms, 80 Slaney
# bands up to 8 kHz, magnitudes in dB. 60 dB below its loudest band a recording counts as silent, so that what is too
# quiet to be heard (dither, digital zeros) does not decide.
VOICE_SPEC = MelSpec(
    name="voice_scores",
    sample_rate=16000,
    n_fft=1024,
    hop_length=160,
    win_length=400,
    n_mels=80,
    fmin=0.0,
    fmax=8000.0,
    log="db",
    clamp=1e-5,
    dynamic_range=60.0,
)


def voice_mel(wav: NDArray[np.floating], sample_rate: int) -> NDArray[np.float32]:
    """The log-mel of a recording by :data:`VOICE_SPEC`.

    Args:
        wav: (samples,) floating point.
        sample_rate: its own, Hz; other rates than 16 kHz are resampled.

    Returns:
        (80, T) float32, dB of magnitude, a frame every 10 ms.

    Raises:
        UserError: a recording too short for a frame, or with NaN.
    """
    samples = np.asarray(wav, dtype=np.float32)
    if sample_rate != VOICE_SPEC.sample_rate:
        samples = resample(samples, sample_rate, VOICE_SPEC.sample_rate)
    return _log_mel()(torch.from_numpy(samples)[None]).mel[0].numpy()


@lru_cache(maxsize=1)
def _log_mel() -> LogMel:
    return LogMel(VOICE_SPEC)  # made once: it takes as long as the mel of a word


def mel_cepstra(mel_db: NDArray[np.floating], order: int = ORDER) -> NDArray[np.float64]:
    r"""Mel cepstra of a log-mel, without the energy :math:`c_0`.

    With L_n the natural logarithm of the magnitude in band n of N,

    .. math:: c_d = \frac{2}{N} \sum_{n=0}^{N-1} L_n \cos\frac{\pi d (n + 1/2)}{N},

    so that :math:`L_n \approx c_0 + \sum_d c_d \cos(\pi d (n + 1/2) / N)`: the convention of mel-cepstral analysis
    (Tokuda, Kobayashi, Masuko and Imai, ICSLP 1994), here from a filter bank as for MFCC (Davis and Mermelstein,
    1980) rather than by a fit of the spectrum. Numbers compare among what was scored in this way only.

    Args:
        mel_db: (N, T), dB of magnitude.
        order: D, below N.

    Returns:
        (T, D) float64, :math:`c_1` to :math:`c_D`.
    """
    bands = mel_db.shape[0]
    angles = np.pi / bands * np.outer(np.arange(1, order + 1), np.arange(bands) + 0.5)
    natural = np.asarray(mel_db, dtype=np.float64) * (np.log(10.0) / 20.0)
    return (2.0 / bands * np.cos(angles) @ natural).T


def cepstral_distortion(
    reference: NDArray[np.float64], other: NDArray[np.float64], path: NDArray[np.int64] | None = None
) -> float:
    r"""Mel-cepstral distortion, dB (Kubichek, 1993): mean over the path of

    .. math:: \frac{10}{\ln 10} \sqrt{2 \sum_{d=1}^{D} (c_d - c'_d)^2}.

    That is the root mean square difference of the two spectra in dB, as far as D cepstra describe them.

    Args:
        reference: (T, D) of :func:`mel_cepstra`.
        other: (U, D).
        path: (P, 2) pairs of frames; None: dynamic time warping over these very distances.
    """
    if path is None:
        path = warping_path(distances(reference, other))
    difference = reference[path[:, 0]] - other[path[:, 1]]
    return float(10.0 / np.log(10.0) * np.sqrt(2.0 * np.square(difference).sum(axis=1)).mean())


def mel_cepstral_distortion(
    reference: NDArray[np.floating], other: NDArray[np.floating], sample_rate: int, other_rate: int | None = None
) -> float:
    """:func:`cepstral_distortion` of two recordings, aligned by dynamic time warping.

    Args:
        reference: (samples,) floating point.
        other: (samples,) floating point.
        sample_rate: Hz of ``reference``.
        other_rate: Hz of ``other``; None: the same.

    Raises:
        UserError: as :func:`voice_mel`.
    """
    one, two = voice_mel(reference, sample_rate), voice_mel(other, other_rate or sample_rate)
    return cepstral_distortion(mel_cepstra(one), mel_cepstra(two))
