"""Short-time spectra of a wav, and the wav of given ones."""

import torch
from torch import Tensor, nn

from sqvae_speech.audio.overlap_add import overlap_add


class WindowedTransform(nn.Module):
    """Fourier transforms of frames under a Hann window, and the way back. Sample 0 is the first under a window.

    Args:
        win_length: samples of the window.
        hop_length: samples from a frame to the next.
        n_fft: samples of a transform, at least ``win_length``.
        least_weight: see :meth:`weights`; less than windows that overlap add up to.

    Attributes:
        win_length, hop_length, n_fft: see above.
        num_bins: of a spectrum.
    """

    window: Tensor

    def __init__(self, win_length: int, hop_length: int, n_fft: int, least_weight: float):
        super().__init__()
        self.win_length = win_length
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.num_bins = n_fft // 2 + 1
        self._least_weight = least_weight
        self.register_buffer("window", torch.hann_window(win_length, periodic=True), persistent=False)

    def frames_of(self, wav: Tensor) -> Tensor:
        """(B, samples) -> (B, frames, num_bins) complex."""
        return torch.fft.rfft(wav.unfold(1, self.win_length, self.hop_length) * self.window, n=self.n_fft)

    def weights(self, num_frames: int, mask: Tensor | None = None) -> Tensor:
        """Sum of the squared windows over each sample, but at least ``least_weight``, (1 or B, samples).

        Args:
            num_frames: T.
            mask: (B, T) bool, True for real frames; None: all.
        """
        windows = self.window.expand(1, num_frames, -1)
        if mask is not None:
            windows = windows * mask[..., None]
        return overlap_add(windows, self.window, self.hop_length).clamp(min=self._least_weight)

    def add(self, spectrum: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
        """The wav whose spectrum is nearest to the one given, in the least squares.

        Args:
            spectrum: (B, T, num_bins) complex.
            weights: of :meth:`weights` with the same ``mask``.
            mask: (B, T) bool, True for real frames; None: all.

        Returns:
            (B, samples).
        """
        frames = torch.fft.irfft(spectrum, n=self.n_fft)[..., : self.win_length]
        if mask is not None:
            frames = frames * mask[..., None]
        return overlap_add(frames, self.window, self.hop_length) / weights


def power_of(spectrum: Tensor) -> Tensor:
    """Squared magnitudes of complex numbers, of the same shape: with their root a third of the time of ``abs``."""
    squares = torch.view_as_real(spectrum).square()
    return squares[..., 0] + squares[..., 1]
