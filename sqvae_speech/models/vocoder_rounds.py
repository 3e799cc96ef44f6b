"""From what the network says to a wav: sums of turns, then rounds that make a spectrum one that a wav can have."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from sqvae_speech.audio.band_matrix import BandMatrix
from sqvae_speech.audio.filterbank import band_shares
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.phase_search import search_phases
from sqvae_speech.audio.vocoder import undo_log
from sqvae_speech.audio.windowed_transform import WindowedTransform, power_of
from sqvae_speech.models.inverse_stft import InverseStft
from sqvae_speech.models.vocoder_network import VocoderConfig, resampled_filterbank

_LEAST_WEIGHT = 1e-2  # of mel windows over a sample; only samples beyond both ends of the wav have less
_LARGEST_GAIN = 4.0  # of a round; more would blow up what a band holds by leakage alone


class MelMatching(nn.Module):
    """Brings the mel of a wav nearer to one that is given, band by band, and leaves all else as it is.

    Args:
        mel_spec: of the mel; its own windows are used.
        inverse: whose samples the wavs have.
    """

    uncovered: Tensor

    def __init__(self, mel_spec: MelSpec, inverse: InverseStft):
        super().__init__()
        self.mel_spec = mel_spec
        self.offset = mel_spec.window_start - inverse.start  # of the first sample under a mel window
        n_fft = mel_spec.smallest_n_fft
        self.transform = WindowedTransform(mel_spec.win_length, mel_spec.hop_length, n_fft, _LEAST_WEIGHT)
        taken = resampled_filterbank(mel_spec, n_fft)
        self.bands = BandMatrix(torch.from_numpy(taken.T).float())
        # a bin is scaled as the bands that it is in, and one that is in none is left alone
        self.spread = BandMatrix(torch.from_numpy(band_shares(taken)).float())
        self.register_buffer("uncovered", torch.from_numpy(~taken.any(axis=0)).float(), persistent=False)

    @property
    def reach(self) -> int:
        """Frames on either side that a sample depends on."""
        return math.ceil(self.mel_spec.win_length / self.mel_spec.hop_length)

    def forward(self, wav: Tensor, linear: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
        """One round.

        Args:
            wav: (B, samples) of ``inverse.add``.
            linear: (B, T, n_mels), the mel before its logarithm, see :func:`sqvae_speech.audio.vocoder.undo_log`.
            weights: of ``transform``, with the same ``mask``.
            mask: (B, T) bool, True for real frames.

        Returns:
            (B, samples).
        """
        amplitude = self.mel_spec.power == 1.0
        start, end = self.offset, wav.shape[1] - self.offset - weights.shape[1]
        spectrum = self.transform.frames_of(nn.functional.pad(wav, (-start, -end)))
        power = power_of(spectrum).clamp(min=1e-30)  # the root has no gradient at 0
        gain = linear / self.bands(power.sqrt() if amplitude else power).clamp(min=1e-9)
        gain = (gain if amplitude else gain.sqrt()).clamp(1.0 / _LARGEST_GAIN, _LARGEST_GAIN)
        made = self.transform.add(spectrum * (self.spread(gain) + self.uncovered), weights, mask)
        return nn.functional.pad(made, (start, end))


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
        turns = phase * (0.5 / math.pi)
        phase = (turns - turns.round()).float() * (2 * math.pi)  # in half the time of a remainder
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        wav = search_phases(inverse, spectrum, magnitude, self.rounds, mask=mask)
        if self.mel_rounds:
            linear = undo_log(mel.transpose(1, 2), inverse.mel_spec)
            weights = self.matching.transform.weights(linear.shape[1], mask)
            for _ in range(self.mel_rounds):
                wav = self.matching(wav, linear, weights, mask)
        return wav
