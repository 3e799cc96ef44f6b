"""How loud a recording is, and making one as loud as another."""

import importlib.util
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.errors import UserError

LOUDNESS_BLOCK = 0.4  # seconds over which ITU-R BS.1770-4 measures
FULL_SCALE = 0.999  # what a match may reach at most
_FRAME = 0.02  # seconds over which activity is decided
_ACTIVE_RANGE = 25.0  # dB below the loudest frame, within which a frame is speech

LUFS, ACTIVE = "LUFS (ITU-R BS.1770-4)", "dB (root mean square of active speech)"


class Match(NamedTuple):
    """A recording made as loud as another.

    Attributes:
        wav: (samples,) float32.
        measure: :data:`LUFS` or :data:`ACTIVE`: what the next two are.
        reference: how loud the other one is; None where it is silent, and nothing was done.
        loudness: how loud ``wav`` now is; None where it is silent.
        gain: dB that were added.
        limited: dB that were taken off again, so that no sample exceeds 0.999.
    """

    wav: NDArray[np.float32]
    measure: str
    reference: float | None
    loudness: float | None
    gain: float
    limited: float


def integrated_loudness(wav: NDArray[np.floating], sample_rate: int) -> float:
    """Integrated loudness, LUFS (ITU-R BS.1770-4 by pyloudnorm); minus infinity below -70 LUFS.

    Recordings shorter than a block of 0.4 s are measured as one block.

    Args:
        wav: (samples,) floating point.
        sample_rate: Hz.

    Raises:
        UserError: the package is missing.
    """
    try:
        import pyloudnorm
    except ImportError:
        raise UserError(
            "loudness normalisation needs the package pyloudnorm: pip install pyloudnorm, or leave out --loudness"
        ) from None
    seconds = len(wav) / sample_rate
    # a little less than the whole, which rounding may make longer than the utterance
    block = LOUDNESS_BLOCK if seconds > LOUDNESS_BLOCK else 0.999 * seconds
    meter: Any = pyloudnorm.Meter(sample_rate, block_size=block)
    return float(meter.integrated_loudness(np.asarray(wav, dtype=np.float64)))


def active_level(wav: NDArray[np.floating], sample_rate: int) -> float:
    """Level of what is spoken, dB of full scale: root mean square over the frames of 20 ms that are speech.

    A frame is speech when it is at most 25 dB quieter than the loudest. (ITU-R BS.1770-4 needs 0.4 s and a package;
    this needs neither.) Minus infinity for silence.

    Args:
        wav: (samples,) floating point.
        sample_rate: Hz.
    """
    size = min(len(wav), round(_FRAME * sample_rate))
    if size == 0:
        return -np.inf
    frames = np.asarray(wav[: len(wav) // size * size], dtype=np.float64).reshape(-1, size)
    power = np.square(frames).mean(axis=1)
    loudest = float(np.max(power))
    if not loudest > 0:
        return -np.inf
    return float(10.0 * np.log10(power[power >= loudest * 10.0 ** (-_ACTIVE_RANGE / 10.0)].mean()))


def match_loudness(wav: NDArray[np.floating], reference: NDArray[np.floating], sample_rate: int) -> Match:
    """Make a recording as loud as another.

    By :func:`integrated_loudness` where pyloudnorm is installed and both last 0.4 s, else by :func:`active_level`.

    Args:
        wav: (samples,) floating point.
        reference: (samples,) of any length.
        sample_rate: Hz of both.
    """
    long_enough = min(len(wav), len(reference)) > LOUDNESS_BLOCK * sample_rate
    lufs = long_enough and importlib.util.find_spec("pyloudnorm") is not None
    measured = [(integrated_loudness if lufs else active_level)(one, sample_rate) for one in (reference, wav)]
    wanted, found = (value if np.isfinite(value) else None for value in measured)
    samples = np.asarray(wav, dtype=np.float32)
    gain = wanted - found if wanted is not None and found is not None else 0.0
    samples = samples * np.float32(10.0 ** (gain / 20.0))
    peak = float(np.abs(samples).max(initial=0.0))
    limited = max(0.0, 20.0 * float(np.log10(peak / FULL_SCALE))) if peak > 0 else 0.0
    if limited:
        samples = samples * np.float32(FULL_SCALE / peak)
    loudness = None if found is None else found + gain - limited
    return Match(samples, LUFS if lufs else ACTIVE, wanted, loudness, gain, limited)
