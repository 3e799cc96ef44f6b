"""Overlap-add, the last step of an inverse short-time Fourier transform."""

import math

from torch import Tensor
from torch.nn import functional as F


def overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """Sum frames that begin ``hop_length`` samples after each other.

    Args:
        frames: (B, count, length).
        hop_length: samples, at most ``length``.

    Returns:
        (B, (count - 1) * hop_length + length), from the first frame's first sample on.
    """
    batch, count, length = frames.shape
    overlap = math.ceil(length / hop_length)
    pieces = F.pad(frames, (0, overlap * hop_length - length)).unflatten(2, (overlap, hop_length))
    total = frames.new_zeros(batch, count + overlap - 1, hop_length)
    for lag in range(overlap):
        total[:, lag : lag + count] += pieces[:, :, lag]
    return total.flatten(1)[:, : (count - 1) * hop_length + length]
