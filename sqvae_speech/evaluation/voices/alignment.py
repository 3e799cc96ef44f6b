"""Alignment in time of two recordings of the same words: dynamic time warping."""

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.errors import UserError


def distances(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Euclidean distance of every frame of one sequence to every frame of the other.

    Args:
        a: (T, D).
        b: (U, D).

    Returns:
        (T, U) float64.
    """
    from scipy.spatial.distance import cdist

    return cdist(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64))


def warping_path(cost: NDArray[np.floating]) -> NDArray[np.int64]:
    """The path of least total cost from the first frames of two sequences to their last ones.

    Steps go one frame on in one sequence or in both, all of weight 1 (Sakoe and Chiba, 1978, without slope
    constraint), as :func:`librosa.sequence.dtw` has them.

    Args:
        cost: (T, U) of pairing each frame with each other.

    Returns:
        (P, 2) int64, pairs of frames in order of time; the first is (0, 0), the last (T - 1, U - 1).

    Raises:
        UserError: a sequence without frames, or a cost that is not finite.
    """
    if cost.ndim != 2 or 0 in cost.shape:
        raise UserError(f"nothing to align: costs are {cost.shape}; both sequences need a frame")
    if not np.isfinite(cost).all():
        raise UserError("cannot align: a distance is NaN or infinite; one of the recordings is damaged")
    import librosa

    _, path = librosa.sequence.dtw(C=np.asarray(cost, dtype=np.float64))
    return np.ascontiguousarray(path[::-1], dtype=np.int64)
