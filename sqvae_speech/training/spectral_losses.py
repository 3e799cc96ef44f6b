"""How far a synthesised wav is from a recording, by magnitudes of short-time spectra.

What both lack is phase: a mel does not hold it, so no loss may ask for it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.vocoder import fit_samples
from sqvae_speech.models.inverse_stft import InverseStft
from sqvae_speech.models.vocoder_network import Polar

RESOLUTIONS = (1200, 600, 240)  # samples of the windows, those of the paper
# Of the magnitude of a sine at full scale: 100 dB below lies what 16 bits cannot hold.
_LEAST = 1e-5
# Convergence of what is quieter than a sine 40 dB below full scale is relative to that: silence would divide by 0.
_QUIET = 1e-2
_COMPRESSION = 0.25  # power of magnitudes as weights: 40 dB are a factor of 3


class StftDistance(NamedTuple):
    """Means over the examples of a batch.

    Attributes:
        convergence: spectral convergence, the norm of the difference of magnitudes over that of the recording's.
        log_magnitude: mean absolute difference of natural logarithms of magnitudes.
    """

    convergence: Tensor
    log_magnitude: Tensor


class MultiResolutionStft(nn.Module):
    """The multi-resolution STFT loss of Parallel WaveGAN (Yamamoto et al., ICASSP 2020, arXiv 1910.11480).

    Args:
        sizes: samples of the Hann windows, each also of its transform; frames are a quarter of it apart, centred,
            with zeros beyond both ends.
    """

    def __init__(self, sizes: Sequence[int] = RESOLUTIONS):
        super().__init__()
        self.sizes = tuple(sizes)
        for size in self.sizes:
            self.register_buffer(f"window{size}", torch.hann_window(size), persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> StftDistance:
        """Compare wavs (B, T) float32; silence in both counts as equal. Gradients flow to ``made``."""
        convergences, differences = [], []
        for size in self.sizes:
            ours = self._magnitude(made, size)
            with torch.no_grad():
                theirs = self._magnitude(real, size)
                norm = theirs.flatten(1).norm(dim=1).clamp(min=_QUIET * theirs.shape[2] ** 0.5)
            convergences.append(((theirs - ours).flatten(1).norm(dim=1) / norm).mean())
            differences.append((theirs.log() - ours.log()).abs().mean())
        return StftDistance(torch.stack(convergences).mean(), torch.stack(differences).mean())

    def _magnitude(self, wav: Tensor, size: int) -> Tensor:
        window = self.get_buffer(f"window{size}")
        spectrum = torch.stft(
            wav, size, size // 4, window=window, center=True, pad_mode="constant", return_complex=True
        )
        parts = torch.view_as_real(spectrum * (2.0 / window.sum()))
        # the root has no gradient at 0
        return parts.square().sum(dim=-1).clamp(min=_LEAST**2).sqrt()


class PolarLoss(NamedTuple):
    """Means over the examples of a batch, of means over their frames and bins.

    Attributes:
        magnitude: absolute difference of natural logarithms of magnitudes, weighted by magnitude.
        turn: 1 less the cosine of the difference of turns, weighted by magnitude: 1 is a guess.
    """

    magnitude: Tensor
    turn: Tensor


class PolarDistance(nn.Module):
    """How far what the network says is from the spectrum of the recording, without synthesising anything.

    A turn is how far a phase moves from a frame to the next, which does not depend on where it began (the
    instantaneous frequency of APNet, Ai and Ling, arXiv 2305.07952).

    Args:
        inverse: the transform, of the wav after the pre-emphasis of its MelSpec.
    """

    def __init__(self, inverse: InverseStft):
        super().__init__()
        self.inverse = inverse
        self._least = _LEAST * float(inverse.window.sum()) / 2
        turns = torch.arange(inverse.num_bins) * (2.0 * torch.pi / inverse.overlap)
        self.register_buffer("rotation", torch.polar(torch.ones_like(turns), -turns), persistent=False)

    def forward(self, said: Polar, real: Tensor, lengths: Tensor) -> PolarLoss:
        """Compare with wavs (B, T) float32 of ``lengths`` (B,) frames, but for frames that reach beyond an end."""
        inverse = self.inverse
        count = said.turn.shape[1]
        edge = (inverse.overlap + 1) // 2
        frames = torch.arange(count, device=real.device)
        inside = (frames >= edge) & (frames < lengths[:, None] - edge)
        with torch.no_grad():
            factor = inverse.mel_spec.preemphasis
            emphasised = torch.cat([real[:, :1], real[:, 1:] - factor * real[:, :-1]], dim=1)
            spectrum = inverse.spectrum(emphasised, count)
            magnitude = spectrum.abs().clamp(min=self._least)
            moved = spectrum[:, 1:] * spectrum[:, :-1].conj() * self.get_buffer("rotation")
            weight = (magnitude[:, 1:] * magnitude[:, :-1]) ** _COMPRESSION
            weight = weight * (inside[:, 1:] & inside[:, :-1])[..., None]
            direction = torch.sgn(moved)
            loudness = magnitude**_COMPRESSION * inside[..., None]
        difference = (said.log_magnitude - magnitude.log()).abs()
        turn = said.turn[:, 1:]
        agreement = direction.real * turn.cos() + direction.imag * turn.sin()
        return PolarLoss(_weighted(difference, loudness), _weighted(1.0 - agreement, weight))


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """(B, ...) -> the mean over the examples of their weighted means, 0 where all weights are."""
    return ((values * weights).flatten(1).sum(dim=1) / weights.flatten(1).sum(dim=1).clamp(min=1e-9)).mean()


class MelDistance(nn.Module):
    """Mean absolute difference of natural logarithms of mel bands, those of a MelSpec.

    Args:
        mel_spec: whose bands. What it does to levels (its peak, its dynamic range, its pre-emphasis) is left out: a
            crop does not know the utterance's.
    """

    def __init__(self, mel_spec: MelSpec):
        super().__init__()
        spec = replace(mel_spec, log="ln", dynamic_range=None, normalize=False, peak=None, preemphasis=0.0)
        self._logmel = LogMel(spec, torch.float32)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Compare wavs (B, T) float32 -> scalar. Gradients flow to ``made``."""
        with torch.no_grad():
            target = self.log_mel(real)
        return (self.log_mel(made) - target).abs().mean()

    def log_mel(self, wav: Tensor) -> Tensor:
        """(B, T) float32 -> (B, n_mels, frames), of the windows that lie within the wav; NaN gives NaN."""
        spec = self._logmel.spec
        frames = fit_samples(wav, max(wav.shape[1], spec.win_length)).unfold(1, spec.win_length, spec.hop_length)
        mel = self._logmel.linear(frames)
        return self._logmel.log(mel, mel.amax(dim=(1, 2)))
