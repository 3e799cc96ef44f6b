"""How far the decoded log-mel is from the real one: mean squared error in dB squared.

The published score (sony/sqvae, speech, its MSE evaluation script; the paper's 29.59 for VQ-VAE and 25.52 for SQ-VAE
on VCTK): the most probable codes, decoded with a speaker given beside each recording; the target is the log-mel
less a frame at each end (and less its last frame when their number is odd); squared errors are summed over all bands
and frames of all utterances, divided by how many there are (pooled: a long utterance weighs more than a short one),
and multiplied by top_db squared, 80^2, which undoes the features' scaling to [0, 1].
"""

import torch
from torch import Tensor


def squared_error_sums(reconstruction: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
    """Sum of squared errors of each utterance over its real frames, in float64.

    Args:
        reconstruction: (B, n_mels, T).
        target: (B, n_mels, T).
        lengths: (B,) int64 real frames; what lies beyond counts in nothing, whatever it is.

    Returns:
        (B,) float64.
    """
    real = torch.arange(target.shape[-1], device=target.device) < lengths[:, None]
    error = reconstruction.double() - target.double()
    return error.masked_fill(~real[:, None], 0.0).square().sum(dim=(1, 2))
