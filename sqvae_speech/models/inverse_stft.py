"""A short-time Fourier transform on a mel's frames, and its inverse."""

import math

from torch import Tensor, nn

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.windowed_transform import WindowedTransform
from sqvae_speech.errors import UserError

_LEAST_WEIGHT = 1e-3  # of windows over a sample; only a mel of a single frame has samples with less


class InverseStft(WindowedTransform):
    """Spectra whose frame ``t`` is centred where a mel's frame ``t`` is, by a Hann window of whole hops.

    What it takes and gives as a :class:`WindowedTransform` begins with sample :attr:`start`.

    Args:
        mel_spec: gives hop and place of the frames.
        overlap: hops that the window is long; None: as many as cover the mel's window, at least 3.

    Attributes:
        overlap: see above.
        n_fft: samples of the window and of the transform.
        num_bins: of the spectrum.
        start: sample of the wav with which the first frame's window begins, not above 0.

    Raises:
        UserError: a mel whose frames leave samples of the wav uncovered.
    """

    def __init__(self, mel_spec: MelSpec, overlap: int | None = None):
        hop_length = mel_spec.hop_length
        overlap = overlap or max(3, math.ceil(mel_spec.win_length / hop_length))
        super().__init__(overlap * hop_length, hop_length, overlap * hop_length, _LEAST_WEIGHT)
        self.mel_spec = mel_spec
        self.overlap = overlap
        centre = mel_spec.n_fft // 2 - mel_spec.pad_samples
        if not 0 <= centre <= mel_spec.hop_length:
            raise UserError(
                f"the first frame of a {mel_spec.name} mel is centred on sample {centre}; this vocoder needs it "
                f"within a hop, from 0 to {mel_spec.hop_length}: centre the frames (center: true), or use griffin_lim"
            )
        self.start = centre - self.n_fft // 2

    def spectrum(self, wav: Tensor, num_frames: int) -> Tensor:
        """(B, samples) from sample 0 on, zeros beyond -> (B, ``num_frames``, num_bins) complex."""
        reach = (num_frames - 1) * self.hop_length + self.n_fft
        padded = nn.functional.pad(wav, (-self.start, max(0, reach + self.start - wav.shape[1])))
        return self.frames_of(padded[:, :reach])
