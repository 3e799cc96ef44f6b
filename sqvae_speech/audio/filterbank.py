"""The mel filterbank, from its definition."""

import numpy as np

from sqvae_speech.audio.melspec import MelSpec

# Slaney's Auditory Toolbox: linear up to 1 kHz at 200/3 Hz a mel, then logarithmic, 27 mels for a factor of 6.4.
_SLANEY_HZ_PER_MEL = 200.0 / 3
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_BREAK_MEL = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
_SLANEY_LOG_STEP = np.log(6.4) / 27


def hz_to_mel(hz: np.ndarray, scale: str) -> np.ndarray:
    """Map frequencies in Hz to mels on the ``"slaney"`` or ``"htk"`` scale, float64."""
    hz = np.asarray(hz, dtype=np.float64)
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    above = _SLANEY_BREAK_MEL + np.log(np.maximum(hz, _SLANEY_BREAK_HZ) / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP
    return np.where(hz < _SLANEY_BREAK_HZ, hz / _SLANEY_HZ_PER_MEL, above)


def mel_to_hz(mel: np.ndarray, scale: str) -> np.ndarray:
    """Map mels to Hz, the inverse of :func:`hz_to_mel`, float64."""
    mel = np.asarray(mel, dtype=np.float64)
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    above = _SLANEY_BREAK_HZ * np.exp(_SLANEY_LOG_STEP * np.maximum(mel - _SLANEY_BREAK_MEL, 0.0))
    return np.where(mel < _SLANEY_BREAK_MEL, mel * _SLANEY_HZ_PER_MEL, above)


def band_edges(spec: MelSpec) -> np.ndarray:
    """Return the edges of the bands in Hz: (n_mels + 2,) float64, equally spaced in mels from ``fmin`` to ``fmax``.

    Band ``m`` goes from edge ``m`` to edge ``m + 2``; its centre is edge ``m + 1``.
    """
    low, high = hz_to_mel(np.array([spec.fmin, spec.fmax]), spec.mel_scale)
    return mel_to_hz(np.linspace(low, high, spec.n_mels + 2), spec.mel_scale)


def mel_filterbank(spec: MelSpec) -> np.ndarray:
    """Return the triangular filters of ``spec``: (n_mels, n_fft // 2 + 1) float64, never negative.

    Triangle ``m`` rises from edge ``m`` to edge ``m + 1`` and falls to edge ``m + 2``, linearly in Hz, see
    :func:`band_edges`. ``mel_norm="slaney"`` divides each triangle by half its width in Hz, so that all have the same
    area.
    """
    bins = np.arange(spec.n_fft // 2 + 1) * (spec.sample_rate / spec.n_fft)
    edges = band_edges(spec)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    weights = np.maximum(0.0, np.minimum(rising, falling))
    if spec.mel_norm == "slaney":
        weights *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return weights


def band_shares(filters: np.ndarray) -> np.ndarray:
    """Of what all bands together take of a bin, the part of each: (n_mels, bins), 0 in bins that are in no band."""
    covered = filters.sum(axis=0)
    return np.divide(filters, covered, out=np.zeros_like(filters), where=covered > 0)
