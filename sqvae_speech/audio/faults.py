"""What can be wrong with a wav that was made, checked without ears."""

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.audio.front_end import CLIPPED_LEVEL, CLIPPED_SAMPLES

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
