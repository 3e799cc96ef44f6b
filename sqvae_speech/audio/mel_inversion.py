"""From mel bands back to spectra, which mel bands do not tell whole."""

import numpy as np
import torch
from torch import Tensor, nn

from sqvae_speech.audio.band_matrix import BandMatrix
from sqvae_speech.audio.filterbank import band_shares


class MelInversion(nn.Module):
    """Finds spectra, never negative, that have given mel bands.

    By multiplicative updates for the Kullback-Leibler divergence (Lee and Seung, "Algorithms for non-negative matrix
    factorization", 2001), which fit quiet bands as closely as loud ones.

    Args:
        filters: (n_mels, bins), what bands take of the bins.
        updates: the first ones do the most.
        extend: bins in no band, of which nothing is known, get what the nearest one that is in some has; else 0.
    """

    per_band: Tensor

    def __init__(self, filters: np.ndarray, updates: int, *, extend: bool = False):
        super().__init__()
        self.updates = updates
        shares = band_shares(filters)
        if extend:
            bins, known = np.arange(filters.shape[1]), np.flatnonzero(filters.any(axis=0))
            shares = shares[:, known[np.abs(bins[:, None] - known).argmin(axis=1)]]
        self.to_bands = BandMatrix(torch.from_numpy(filters.T).float())
        self.to_bins = BandMatrix(torch.from_numpy(shares).float())
        sums = filters.sum(axis=1)
        per_band = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
        self.register_buffer("per_band", torch.from_numpy(per_band).float(), persistent=False)

    def forward(self, mel: Tensor) -> Tensor:
        """(..., n_mels) linear, float32 -> (..., bins). Gradients flow."""
        # a bin gets the mean over its bands, weighted by what they take of it
        found = self.to_bins(mel * self.per_band)
        for _ in range(self.updates):
            found = found * self.to_bins(mel / self.to_bands(found).clamp(min=1e-30))
        return found
