"""What can be wrong with a wav that was made, checked without ears."""

import logging
import os

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.audio.front_end import CLIPPED_LEVEL, CLIPPED_SAMPLES
from sqvae_speech.audio.wav import write_wav

logger = logging.getLogger(__name__)

SILENT_LEVEL = -60.0  # dB of full scale, root mean square: speech that anybody can hear is 20 dB louder


def wav_faults(
    wav: NDArray[np.floating], num_samples: int | None = None, tolerance: int = 0, *, silence: bool = True
) -> list[str]:
    """List what is wrong, in words; an empty list is a wav that can be played to somebody.

    Args:
        wav: (samples,) floating point in [-1, 1].
        num_samples: how many it should have; None: any number but none.
        tolerance: samples by which it may differ from that, such as a frame.
        silence: whether silence is a fault.
    """
    if not len(wav):
        return ["it has no samples"]
    faults = []
    if num_samples is not None and abs(len(wav) - num_samples) > tolerance:
        faults.append(f"it has {len(wav)} samples, and should have {num_samples} (within {tolerance})")
    bad = int((~np.isfinite(wav)).sum())
    if bad:
        return [*faults, f"{bad} of {len(wav)} samples are NaN or infinite"]
    clipped = int((np.abs(wav) >= CLIPPED_LEVEL).sum())
    if clipped >= CLIPPED_SAMPLES:
        faults.append(f"it is clipped: {clipped} samples at full scale")
    power = float(np.square(np.asarray(wav, dtype=np.float64)).mean())
    level = 10.0 * np.log10(power) if power > 0 else -np.inf
    if silence and level < SILENT_LEVEL:
        faults.append(f"it is silent: {level:.0f} dB of full scale, root mean square")
    return faults


def write_checked_wav(
    path: str | os.PathLike[str],
    wav: NDArray[np.floating],
    sample_rate: int,
    num_samples: int | None = None,
    tolerance: int = 0,
) -> list[str]:
    """Write a wav that was made, and log a warning for each of its faults; one with NaN or infinity is not written.

    Args:
        path: see :func:`~sqvae_speech.audio.wav.write_wav`.
        wav: (samples,) floating point in [-1, 1].
        sample_rate: Hz.
        num_samples: see :func:`wav_faults`.
        tolerance: likewise.

    Returns:
        The faults, as :func:`wav_faults` has them.
    """
    faults = wav_faults(wav, num_samples, tolerance)
    for fault in faults:
        logger.warning("%s: %s", path, fault)
    if np.isfinite(wav).all():
        write_wav(path, wav, sample_rate)
    return faults
