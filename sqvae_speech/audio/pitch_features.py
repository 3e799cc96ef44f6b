"""F0 as a network takes it: of whom it is left out, so that it fits any voice."""

import numpy as np
from numpy.typing import NDArray

_SPREAD = 0.25  # of the natural logarithm of F0 within an utterance: about four semitones, of which speech has most
_LARGEST = 4.0


def pitch_features(f0: NDArray[np.floating]) -> NDArray[np.float32]:
    """How high each place is within its utterance.

    Args:
        f0: (T,) Hz, 0 where unvoiced, of a whole utterance.

    Returns:
        (T, 2) float32: the logarithm of F0 less its mean over what is voiced, over four semitones, 0 where unvoiced;
        and whether it is voiced, 0 or 1.
    """
    voiced = np.asarray(f0) > 0
    height = np.zeros(len(voiced))
    if voiced.any():
        logarithm = np.log(np.asarray(f0, dtype=np.float64)[voiced])
        height[voiced] = np.clip((logarithm - logarithm.mean()) / _SPREAD, -_LARGEST, _LARGEST)
    return np.stack([height, voiced], axis=1).astype(np.float32)
