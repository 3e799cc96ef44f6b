"""What a voice does to a spectrum, drawn at random: the encoder learns to hear past it, at no cost afterwards."""

import math

import torch
from torch import Tensor, nn

from sqvae_speech.models.modules import length_mask

CURVES = 5  # cosines that an equalizer's curve is made of: a constant, a tilt, and what is a little finer
# of what lies between the lowest and the highest value of a crop, standard deviations of a noise
_COLOUR = 0.1  # of its smooth spectrum
_FLUCTUATION = 0.05  # from frame to frame, band to band: some decibels, as noise has in windows of 25 ms


class SpectralPerturbation(nn.Module):
    """Bends the frequency axis of a log-mel, adds a smooth spectrum, covers it with noise, of each example with
    another; in training only.

    A longer vocal tract moves all formants down, another voice or microphone changes the balance of the spectrum,
    another room is louder between the words: all leave the phone what it is (Jaitly & Hinton, "Vocal tract length
    perturbation", 2013; the equalizer as in Choi et al., "NANSY", arXiv 2110.14513; noise covers what is less loud
    than itself, the log-max approximation of Varga & Moore, ICASSP 1990).

    Args:
        warp: largest bend a of :func:`warp_matrix`, drawn from [-warp, warp]; 0.1 moves the middle of the axis by 6%
            of its length, as much as a vocal tract that is a fifth longer or shorter; 0 bends nothing.
        equalizer: standard deviation of what is added, in units of the log-mel; 0 adds nothing.
        noise: level of the loudest noise, from 0, the lowest value of a crop, to 1, its highest; each crop's is drawn
            from [0, noise]. 0 covers nothing.

    Raises:
        ValueError: a bend or a noise that is not in [0, 1), a negative deviation.
    """

    def __init__(self, warp: float = 0.0, equalizer: float = 0.0, noise: float = 0.0):
        super().__init__()
        if not 0 <= warp < 1:
            raise ValueError(f"warp must be at least 0 and below 1, got {warp}")
        if not equalizer >= 0:
            raise ValueError(f"equalizer must be at least 0, got {equalizer}")
        if not 0 <= noise < 1:
            raise ValueError(f"noise must be at least 0 and below 1, got {noise}")
        self.warp, self.equalizer, self.noise = warp, equalizer, noise

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, n_mels, T) -> (B, n_mels, T); frames do not mix, so padding stays padding.

        Args:
            mel: floating point.
            lengths: (B,) int64 real frames; None when all are.
        """
        if not self.training:
            return mel
        batch_size, n_mels = mel.shape[:2]
        if self.warp:
            bend = self.warp * (2 * torch.rand(batch_size, device=mel.device) - 1)
            mel = warp_matrix(bend, n_mels).to(mel.dtype) @ mel
        if self.equalizer:
            gains = self.equalizer * torch.randn(batch_size, CURVES, device=mel.device)
            mel = mel + smooth_curves(gains, n_mels).to(mel.dtype)[..., None]
        if self.noise:
            mel = torch.maximum(mel, self._noise(mel, lengths))
        return mel

    def _noise(self, mel: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, n_mels, T): noise of a steady colour, whose level lies where it was drawn in the range of the crop."""
        real = mel
        if lengths is not None:
            mask = length_mask(lengths, mel.shape[2])[:, None]
            real = torch.where(mask, mel, mel[..., :1])  # the first frame stands for what is none
        lowest = real.amin(dim=(1, 2), keepdim=True)
        extent = real.amax(dim=(1, 2), keepdim=True) - lowest
        level = self.noise * torch.rand(len(mel), 1, 1, device=mel.device, dtype=mel.dtype)
        gains = _COLOUR * torch.randn(len(mel), CURVES, device=mel.device, dtype=mel.dtype)
        level = level + smooth_curves(gains, mel.shape[1])[..., None] + _FLUCTUATION * torch.randn_like(mel)
        return lowest + extent * level

    def extra_repr(self) -> str:
        return f"warp={self.warp}, equalizer={self.equalizer}, noise={self.noise}"


def warp_matrix(bend: Tensor, n_mels: int) -> Tensor:
    """Linear interpolation along a bent axis: (B,) bends in (-1, 1) -> (B, n_mels, n_mels), rows sum to one.

    Band m takes its value from the place to which the all-pass transform moves its centre,
    ``ω' = ω + 2 atan(a sin ω / (1 - a cos ω))`` with ω from 0 to π over the axis (Acero & Stern, ICASSP 1991):
    smooth, monotone, and the ends stay where they are. a > 0 reads further up, so that the spectrum moves down.
    """
    band = torch.arange(n_mels, device=bend.device, dtype=bend.dtype)
    angle = math.pi * (band + 0.5) / n_mels
    a = bend[:, None]
    bent = angle + 2 * torch.atan(a * angle.sin() / (1 - a * angle.cos()))
    place = (bent * (n_mels / math.pi) - 0.5).clamp(0, n_mels - 1)
    return (1 - (place[..., None] - band).abs()).clamp(min=0)


def smooth_curves(gains: Tensor, n_mels: int) -> Tensor:
    """Sums of the first cosines over the bands: (B, C) -> (B, n_mels).

    Gains of variance s² give curves whose variance, averaged over the bands, is s².
    """
    count = gains.shape[1]
    band = (torch.arange(n_mels, device=gains.device, dtype=gains.dtype) + 0.5) / n_mels
    cosines = torch.cos(math.pi * torch.arange(count, device=gains.device, dtype=gains.dtype)[:, None] * band)
    return gains @ cosines / math.sqrt(1 + (count - 1) / 2)
