"""Rounds of Griffin-Lim: phases under which a spectrum of given magnitudes is one that a wav has."""

import math

import torch
from torch import Tensor

from sqvae_speech.audio.windowed_transform import WindowedTransform, power_of

_LEAST_POWER = 1e-30  # less is nothing; float32 holds its inverse, by which gradients are multiplied


def search_phases(
    transform: WindowedTransform,
    spectrum: Tensor,
    magnitude: Tensor,
    rounds: int,
    *,
    mask: Tensor | None = None,
    momentum: float = 0.99,
) -> Tensor:
    """Go to and fro between spectrum and wav (Perraudin, Balazs, Sondergaard, "A fast Griffin-Lim algorithm", WASPAA
    2013). Gradients flow.

    Args:
        transform: that the spectrum is of.
        spectrum: (B, T, bins) complex, with the phases to begin with.
        magnitude: (B, T, bins), not below 0.
        rounds: 0 or more.
        mask: (B, T) bool, True for real frames; None: all.
        momentum: from 0, the original algorithm, to less than 1.

    Returns:
        (B, samples) of :meth:`WindowedTransform.add`.
    """
    weights = transform.weights(magnitude.shape[1], mask)
    ahead = momentum / (1 + momentum)
    previous: Tensor | None = None
    for _ in range(rounds):
        wav = transform.add(spectrum, weights, mask)
        # The paper's step ahead of spectra, but for a factor, of which phases know nothing. The transform is linear,
        # and a wav has fewer numbers.
        rebuilt = transform.frames_of(wav if previous is None else torch.sub(wav, previous, alpha=ahead))
        spectrum, previous = with_magnitude(rebuilt, magnitude), wav
    return transform.add(spectrum, weights, mask)


def with_magnitude(spectrum: Tensor, magnitude: Tensor) -> Tensor:
    """Complex numbers of these magnitudes with the phases of ``spectrum``, 0 where it is 0.

    The same as ``magnitude * torch.sgn(spectrum)`` but for rounding, in two thirds of the time.
    """
    power = power_of(spectrum)
    if power.requires_grad:  # where there is nothing, the gradient is 0 too
        power = power.masked_fill(power < _LEAST_POWER, math.inf)
    return spectrum * (magnitude / power.clamp(min=_LEAST_POWER).sqrt())
