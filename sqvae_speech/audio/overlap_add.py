"""Overlap-add, the last step of an inverse short-time Fourier transform."""

import math

from torch import Tensor


def overlap_add(frames: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Sum frames that begin ``hop_length`` samples after each other, each under a window.

    Args:
        frames: (B, count, length).
        window: (length,).
        hop_length: samples, at most ``length``.

    Returns:
        (B, (count - 1) * hop_length + length), from the first frame's first sample on.
    """
    batch, count, length = frames.shape
    overlap = math.ceil(length / hop_length)
    total = frames.new_zeros(batch, count + overlap - 1, hop_length)
    pieces = zip(frames.split(hop_length, dim=2), window.split(hop_length), strict=True)
    for lag, (piece, weight) in enumerate(pieces):
        total[:, lag : lag + count, : piece.shape[2]].addcmul_(piece, weight)
    return total.flatten(1)[:, : (count - 1) * hop_length + length]
