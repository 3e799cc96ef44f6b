"""STOI and PESQ of a recording that was resynthesised, against the original. They need the extra ``voices``.

Both compare sample by sample: the two recordings have to say the same at the same time, as copy synthesis does and
the voice of another speaker does not.
"""

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.audio.wav import resample
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.optional import require

EXTRA = "voices"
WIDE_BAND, NARROW_BAND = 16_000, 8_000  # Hz
_WORST_OFFSET = 0.05  # s by which the two may differ in length


def stoi(reference: NDArray[np.floating], other: NDArray[np.floating], sample_rate: int) -> float:
    """Short-time objective intelligibility (Taal et al., IEEE TASLP 2011), by pystoi; 1 is the original.

    Args:
        reference: (samples,) floating point, the original.
        other: (samples,), beginning at the same time; the longer of the two is cut.
        sample_rate: Hz of both.

    Raises:
        UserError: the package is missing, lengths differ by more than 50 ms, less than 0.4 s of speech.
    """
    package = require("pystoi", EXTRA, "STOI")
    one, two = _same_length(reference, other, sample_rate)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and gives 1e-5 when there is too little speech
        try:
            return float(package.stoi(one, two, sample_rate))
        except RuntimeWarning:
            seconds = len(one) / sample_rate
            raise UserError(f"STOI needs 30 frames (0.4 s) of speech; these {seconds:.2f} s have fewer") from None


def pesq(reference: NDArray[np.floating], other: NDArray[np.floating], sample_rate: int) -> float:
    """Perceptual evaluation of speech quality, by the package pesq; -0.5 to 4.64.

    Wide band (ITU-T P.862.2) at 16 kHz; recordings of less than 16 kHz are scored narrow band (P.862, mapped by
    P.862.1) at 8 kHz. The two scales do not compare.

    Args:
        reference: (samples,) floating point, the original.
        other: (samples,), beginning at the same time; the longer of the two is cut.
        sample_rate: Hz of both, at least 8,000; others than 8 and 16 kHz are resampled.

    Raises:
        UserError: the package is missing, lengths differ by more than 50 ms, too low a rate, or no speech is found.
    """
    package = require("pesq", EXTRA, "PESQ")
    if sample_rate < NARROW_BAND:
        raise UserError(f"PESQ needs recordings of at least {NARROW_BAND} Hz; these have {sample_rate}")
    rate, mode = (WIDE_BAND, "wb") if sample_rate >= WIDE_BAND else (NARROW_BAND, "nb")
    one, two = _same_length(reference, other, sample_rate)
    if sample_rate != rate:
        one, two = (resample(wav, sample_rate, rate) for wav in (one, two))
    try:
        return float(package.pesq(rate, one, two, mode))
    except package.PesqError as error:
        reason = error.args[0] if error.args else error
        reason = reason.decode() if isinstance(reason, bytes) else reason
        raise UserError(f"PESQ cannot score these {len(one) / rate:.2f} s: {reason}") from None


def _same_length(
    reference: NDArray[np.floating], other: NDArray[np.floating], sample_rate: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if abs(len(reference) - len(other)) > _WORST_OFFSET * sample_rate:
        raise UserError(
            f"{len(reference)} and {len(other)} samples at {sample_rate} Hz; STOI and PESQ compare sample by sample: "
            "give two recordings of one length, which begin at the same time"
        )
    samples = min(len(reference), len(other))
    return np.asarray(reference[:samples], dtype=np.float32), np.asarray(other[:samples], dtype=np.float32)
