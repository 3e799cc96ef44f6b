"""From what the network says to a wav: sums of turns, then rounds that make a spectrum one that a wav can have."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.overlap_add import overlap_add
from sqvae_speech.audio.vocoder import undo_log
from sqvae_speech.models.inverse_stft import InverseStft
from sqvae_speech.models.vocoder_network import VocoderConfig, resampled_filterbank

_AHEAD = 0.99 / 1.99  # of momentum 0.99
_LEAST_WEIGHT = 1e-2  # of mel windows over a sample; only samples beyond both ends of the wav have less
_LARGEST_GAIN = 4.0  # of a round; more would blow up what a band holds by leakage alone


class MelMatching(nn.Module):
    """Brings the mel of a wav nearer to one that is given, band by band, and leaves all else as it is.

    Args:
        mel_spec: of the mel; its own windows are used.
        inverse: whose samples the wavs have.
    """

    window: Tensor
    filters: Tensor
    spread: Tensor

    def __init__(self, mel_spec: MelSpec, inverse: InverseStft):
        super().__init__()
        self.mel_spec = mel_spec
        self.n_fft = mel_spec.smallest_n_fft
        self.offset = mel_spec.window_start - inverse.start
        taken = resampled_filterbank(mel_spec, self.n_fft)
        covered = taken.sum(axis=0)
        self.register_buffer("filters", torch.from_numpy(taken.T).float(), persistent=False)
        # a bin is scaled as the bands that it is in, and one that is in none is left alone
        share = np.divide(taken, covered, out=np.zeros_like(taken), where=covered > 0)
        self.register_buffer("spread", torch.from_numpy(share).float(), persistent=False)
        window = torch.hann_window(mel_spec.win_length, periodic=True)
        self.register_buffer("window", window, persistent=False)

    @property
    def reach(self) -> int:
        """Frames on either side that a sample depends on."""
        return math.ceil(self.mel_spec.win_length / self.mel_spec.hop_length)

    def weights(self, num_frames: int, samples: int, mask: Tensor | None = None) -> Tensor:
        """Of :meth:`forward`, (1 or B, samples)."""
        squares = self.window.square().expand(1, num_frames, -1)
        if mask is not None:
            squares = squares * mask[..., None]
        return self._placed(overlap_add(squares, self.mel_spec.hop_length), samples).clamp(min=_LEAST_WEIGHT)

    def forward(self, wav: Tensor, linear: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
        """One round.

        Args:
            wav: (B, samples) of ``inverse.add``.
            linear: (B, T, n_mels), the mel before its logarithm, see :func:`sqvae_speech.audio.vocoder.undo_log`.
            weights: of :meth:`weights`.
            mask: (B, T) bool, True for real frames.

        Returns:
            (B, samples).
        """
        spec, hop = self.mel_spec, self.mel_spec.hop_length
        length = (linear.shape[1] - 1) * hop + spec.win_length
        frames = nn.functional.pad(wav, (max(0, -self.offset), 0))[:, max(0, self.offset) :][:, :length]
        spectrum = torch.fft.rfft(frames.unfold(1, spec.win_length, hop) * self.window, n=self.n_fft)
        parts = torch.view_as_real(spectrum).square()
        power = (parts[..., 0] + parts[..., 1]).clamp(min=1e-30)
        bands = (power.sqrt() if spec.power == 1.0 else power) @ self.filters  # in a third of the time of abs()
        gain = linear / bands.clamp(min=1e-9)
        gain = (gain if spec.power == 1.0 else gain.sqrt()).clamp(1.0 / _LARGEST_GAIN, _LARGEST_GAIN)
        scale = gain @ self.spread + self._uncovered
        made = torch.fft.irfft(spectrum * scale, n=self.n_fft)[..., : spec.win_length] * self.window
        if mask is not None:
            made = made * mask[..., None]
        return self._placed(overlap_add(made, hop), wav.shape[1]) / weights

    @property
    def _uncovered(self) -> Tensor:
        """(bins,) 1 for those in no band."""
        return (self.spread.sum(dim=0) == 0).to(self.spread.dtype)

    def _placed(self, wav: Tensor, samples: int) -> Tensor:
        """From the samples of mel windows to those of the wav."""
        wav = nn.functional.pad(wav[:, max(0, -self.offset) :], (max(0, self.offset), samples))
        return wav[:, :samples]


class VocoderRounds(nn.Module):
    """Magnitudes, phases and the mel to a wav.

    Args:
        config: of the network; ``rounds`` and ``mel_rounds`` are used.
        inverse: the transform that its spectra are of, which has no weights.

    Attributes:
        reach: frames on either side that a sample depends on.
    """

    first_phase: Tensor

    def __init__(self, config: VocoderConfig, inverse: InverseStft):
        super().__init__()
        self.rounds, self.mel_rounds = config.rounds, config.mel_rounds
        self.inverse = inverse
        self.matching = MelMatching(inverse.mel_spec, inverse)
        # half a window, and in every round a whole one on either side
        overlap = inverse.overlap
        self.reach = (overlap + 1) // 2 + self.rounds * (overlap - 1) + self.mel_rounds * self.matching.reach
        drawn = np.random.default_rng(0).uniform(0.0, 2.0 * np.pi, inverse.num_bins)
        self.register_buffer("first_phase", torch.from_numpy(drawn), persistent=False)

    def phases(self, turn: Tensor, before: Tensor | None = None) -> Tensor:
        """Sum up turns.

        Args:
            turn: (B, T, bins) as :class:`sqvae_speech.models.vocoder_network.Polar` has them.
            before: (B, bins) float64, the phase of the frame before; None: the first one's is a fixed draw.

        Returns:
            (B, T, bins) float64, radians.
        """
        own = torch.arange(turn.shape[2], device=turn.device, dtype=torch.float64) * (
            2 * math.pi / self.inverse.overlap
        )
        moved = turn.double() + own
        if before is None:
            moved = torch.cat([self.first_phase.expand(len(turn), 1, -1), moved[:, 1:]], dim=1)
            return moved.cumsum(dim=1)
        return moved.cumsum(dim=1) + before[:, None]

    def forward(self, log_magnitude: Tensor, phase: Tensor, mel: Tensor, mask: Tensor | None = None) -> Tensor:
        """Synthesise.

        Args:
            log_magnitude: (B, T, bins) float32.
            phase: (B, T, bins) of :meth:`phases`.
            mel: (B, n_mels, T).
            mask: (B, T) bool, True for real frames; None: all.

        Returns:
            (B, samples) float32 from sample ``inverse.start`` on, still with the pre-emphasis of the mel.
        """
        inverse = self.inverse
        magnitude = log_magnitude.exp()
        phase = phase.remainder(2 * math.pi).float()
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        weights = inverse.weights(spectrum.shape[1], mask)
        previous: Tensor | None = None
        for _ in range(self.rounds):  # fast Griffin-Lim, as in sqvae_speech.audio.vocoder
            rebuilt = inverse.frames_of(inverse.add(spectrum, weights, mask))
            ahead = rebuilt if previous is None else torch.sub(rebuilt, previous, alpha=_AHEAD)
            spectrum, previous = magnitude * torch.sgn(ahead), rebuilt
        wav = inverse.add(spectrum, weights, mask)
        if self.mel_rounds:
            linear = undo_log(mel.transpose(1, 2), inverse.mel_spec)
            own = self.matching.weights(linear.shape[1], wav.shape[1], mask)
            for _ in range(self.mel_rounds):
                wav = self.matching(wav, linear, own, mask)
        return wav
