"""Multi-resolution STFT distance: how far apart two wavs of the same samples are, over windows of several lengths."""

from typing import NamedTuple

import torch
from torch import Tensor

from sqvae_speech.errors import UserError


class Resolution(NamedTuple):
    """``n_fft``, ``hop_length`` and ``win_length`` in samples."""

    n_fft: int
    hop_length: int
    win_length: int


# Yamamoto, Song, Kim, ICASSP 2020 (Parallel WaveGAN), table 1
RESOLUTIONS = (Resolution(512, 50, 240), Resolution(1024, 120, 600), Resolution(2048, 240, 1200))
_FLOOR = 1e-7  # of power: -70 dB re full scale in a bin is as quiet as silence


class StftDistance(NamedTuple):
    """``total`` is the sum of ``convergence`` and ``log_magnitude``, each a mean over the resolutions."""

    total: float
    convergence: float
    log_magnitude: float


def stft_distance(
    reference: Tensor, other: Tensor, resolutions: tuple[Resolution, ...] = RESOLUTIONS
) -> StftDistance:
    r"""Distance of the magnitude spectra, eq. 4 to 6 of Parallel WaveGAN (arXiv 1910.11480).

    With magnitudes :math:`S` of the reference and :math:`\hat S` of the other, spectral convergence is
    :math:`\|S - \hat S\|_F / \|S\|_F` and log magnitude the mean of :math:`|\ln S - \ln \hat S|`; both are averaged
    over the resolutions, and added. Powers are floored at 1e-7, as there. Computed in float64.

    Args:
        reference: (samples,) floating point in [-1, 1].
        other: (samples,); the longer of the two is cut.
        resolutions: of the Fourier transforms; Hann windows, centred, reflected at the ends.

    Raises:
        UserError: not two one-dimensional wavs of floating point, or too short for the longest window.
    """
    if reference.ndim != 1 or other.ndim != 1 or not (reference.is_floating_point() and other.is_floating_point()):
        raise UserError(
            f"wavs are {tuple(reference.shape)} {reference.dtype} and {tuple(other.shape)} {other.dtype}; "
            "(samples,) of floating point are compared"
        )
    samples = min(len(reference), len(other))
    shortest = max(resolution.n_fft for resolution in resolutions) // 2 + 1
    if samples < shortest:
        raise UserError(f"{samples} samples are too few to compare spectra; at least {shortest} are needed")
    convergence, log_magnitude = 0.0, 0.0
    for resolution in resolutions:
        one, two = (_magnitudes(wav[:samples].double(), resolution) for wav in (reference, other))
        convergence += float(torch.linalg.norm(one - two) / torch.linalg.norm(one))
        log_magnitude += float((one.log() - two.log()).abs().mean())
    convergence, log_magnitude = convergence / len(resolutions), log_magnitude / len(resolutions)
    return StftDistance(convergence + log_magnitude, convergence, log_magnitude)


def _magnitudes(wav: Tensor, resolution: Resolution) -> Tensor:
    window = torch.hann_window(resolution.win_length, dtype=wav.dtype, device=wav.device)
    spectrum = torch.stft(wav, *resolution, window=window, return_complex=True)
    return spectrum.abs().square().clamp(min=_FLOOR).sqrt()
