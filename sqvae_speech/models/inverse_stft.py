"""A short-time Fourier transform on a mel's frames, and its inverse."""

import math

import torch
from torch import Tensor, nn

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.overlap_add import overlap_add
from sqvae_speech.errors import UserError

_LEAST_WEIGHT = 1e-3  # of windows over a sample; only a mel of a single frame has samples with less


class InverseStft(nn.Module):
    """Spectra whose frame ``t`` is centred where a mel's frame ``t`` is, by a Hann window of whole hops.

    Args:
        mel_spec: gives hop and place of the frames.
        overlap: hops that the window is long; None: as many as cover the mel's window, at least 3.

    Attributes:
        overlap: see above.
        n_fft: samples of the window and of the transform.
        num_bins: of the spectrum.
        start: sample of the wav on which the first frame's window begins, not above 0.

    Raises:
        UserError: a mel whose frames leave samples of the wav uncovered.
    """

    window: Tensor

    def __init__(self, mel_spec: MelSpec, overlap: int | None = None):
        super().__init__()
        self.mel_spec = mel_spec
        self.hop_length = mel_spec.hop_length
        self.overlap = overlap or max(3, math.ceil(mel_spec.win_length / mel_spec.hop_length))
        self.n_fft = self.overlap * mel_spec.hop_length
        self.num_bins = self.n_fft // 2 + 1
        centre = mel_spec.n_fft // 2 - mel_spec.pad_samples
        if not 0 <= centre <= mel_spec.hop_length:
            raise UserError(
                f"the first frame of a {mel_spec.name} mel is centred on sample {centre}; this vocoder needs it "
                f"within a hop, from 0 to {mel_spec.hop_length}: centre the frames (center: true), or use griffin_lim"
            )
        self.start = centre - self.n_fft // 2
        self.register_buffer("window", torch.hann_window(self.n_fft, periodic=True), persistent=False)

    def spectrum(self, wav: Tensor, num_frames: int) -> Tensor:
        """(B, samples) from sample 0 on, zeros beyond -> (B, ``num_frames``, num_bins) complex."""
        reach = (num_frames - 1) * self.hop_length + self.n_fft
        padded = nn.functional.pad(wav, (-self.start, max(0, reach + self.start - wav.shape[1])))
        return self.frames_of(padded[:, :reach])

    def frames_of(self, padded: Tensor) -> Tensor:
        """(B, samples) from sample :attr:`start` on -> (B, frames, num_bins) complex."""
        return torch.fft.rfft(padded.unfold(1, self.n_fft, self.hop_length) * self.window, n=self.n_fft)

    def weights(self, num_frames: int, mask: Tensor | None = None) -> Tensor:
        """Sum of the squared windows over each sample from :attr:`start` on, (1 or B, samples).

        Args:
            num_frames: T.
            mask: (B, T) bool, True for real frames; None: all.
        """
        squares = self.window.square().expand(1, num_frames, -1)
        if mask is not None:
            squares = squares * mask[..., None]
        return overlap_add(squares, self.hop_length).clamp(min=_LEAST_WEIGHT)

    def add(self, spectrum: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
        """The wav whose spectrum is nearest to the one given, in the least squares.

        Args:
            spectrum: (B, T, num_bins) complex.
            weights: of :meth:`weights` with the same ``mask``.
            mask: (B, T) bool.

        Returns:
            (B, samples) from :attr:`start` on.
        """
        frames = torch.fft.irfft(spectrum, n=self.n_fft) * self.window
        if mask is not None:
            frames = frames * mask[..., None]
        return overlap_add(frames, self.hop_length) / weights
