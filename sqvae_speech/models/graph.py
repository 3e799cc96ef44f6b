"""From wavs to units as one graph of tensor operations, for exporting: features, encoder and quantizer."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from sqvae_speech.audio.filterbank import mel_filterbank
from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.models.inference import folded
from sqvae_speech.models.modules import ConvBlock, length_mask
from sqvae_speech.models.pretrained import SpeechBundle


class GraphLogMel(nn.Module):
    """:class:`~sqvae_speech.audio.logmel.LogMel` without anything that depends on values, in float64 likewise.

    The Fourier transform is two matrix products, of the even and of the odd part of a windowed frame about its
    middle, over no more than the samples under the window and the bins under a filter: runtimes differ in their
    operators for it, and all have this one.

    Args:
        spec: the features.
    """

    _distance: Tensor
    _after: Tensor
    _before: Tensor
    _cosines: Tensor
    _sines: Tensor
    _filters: Tensor

    def __init__(self, spec: MelSpec):
        super().__init__()
        self.spec = spec
        self._logmel = LogMel(spec)
        window = torch.zeros(2 * spec.win_length, dtype=torch.float64)
        window[: spec.win_length] = self._logmel.window
        self._middle = spec.win_length // 2
        distance = torch.arange(spec.win_length - self._middle + 1)  # of samples from the middle
        self.register_buffer("_distance", distance, persistent=False)
        self.register_buffer("_after", window[self._middle + distance], persistent=False)
        before = window[(self._middle - distance).clamp(min=0)] * (distance > 0) * (distance <= self._middle)
        self.register_buffer("_before", before, persistent=False)
        filters = torch.from_numpy(mel_filterbank(spec))
        bins = filters.any(dim=0).nonzero()[:, 0]
        # less whole turns, so that the argument is small and the cosine exact
        phase = (2 * np.pi / spec.n_fft) * (distance[:, None] * bins % spec.n_fft).double()
        self.register_buffer("_cosines", phase.cos(), persistent=False)
        self.register_buffer("_sines", phase.sin(), persistent=False)
        self.register_buffer("_filters", filters[:, bins].T.contiguous(), persistent=False)

    def num_frames(self, num_samples):
        """Frames of so many samples (an int or an int64 tensor) that are not too few."""
        return 1 + (num_samples + 2 * self.spec.pad_samples - self.spec.n_fft) // self.spec.hop_length

    def forward(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the log-mels.

        Args:
            wav: (B, T) float32, at the spec's rate.
            lengths: (B,) int64 real samples; what lies beyond is ignored.

        Returns:
            mel (B, n_mels, F) float32, 0 beyond an utterance's end, with a frame more where their number is odd,
            since the encoder takes pairs; (B,) int64 frames, 0 of a wav that is too short.
        """
        spec = self.spec
        wav = wav.masked_fill(~length_mask(lengths, wav.shape[1]), 0.0).double()
        if spec.peak is not None:
            peak = wav.abs().amax(dim=1, keepdim=True)
            wav = wav * torch.where(peak > 0, spec.peak / peak, 1.0)
        if spec.preemphasis:
            wav = torch.cat([wav[:, :1], wav[:, 1:] - spec.preemphasis * wav[:, :-1]], dim=1)
        num_frames = 2 * ((self.num_frames(wav.shape[1]) + 1) // 2)
        frames = torch.where(lengths < spec.min_samples, 0, self.num_frames(lengths))
        mel = self._linear(self._padded(wav, lengths, num_frames), num_frames)
        beyond = ~length_mask(frames, num_frames)[:, None]
        loudest = mel.masked_fill(beyond, 0.0).amax(dim=(1, 2))
        return self._logmel.log(mel, loudest).masked_fill(beyond, 0.0).float(), frames

    def _padded(self, wav: Tensor, lengths: Tensor, num_frames: int) -> Tensor:
        """What lies under the windows, each wav padded at its own two ends: (B, samples)."""
        spec = self.spec
        span = (num_frames - 1) * spec.hop_length + spec.win_length
        source = (torch.arange(span, device=wav.device) + spec.window_start)[None]
        last = lengths[:, None] - 1
        if spec.pad_mode == "reflect":
            source = source.abs()
            source = torch.where(source > last, 2 * last - source, source)
        inside = (source >= 0) & (source <= last)
        # a reflection beyond the other end, in frames behind a shorter wav's own, is blanked with these later
        return wav.gather(1, torch.where(inside, source, 0)).masked_fill(~inside, 0.0)

    def _linear(self, padded: Tensor, num_frames: int) -> Tensor:
        """(B, n_mels, F) before the logarithm, as :meth:`LogMel.linear`."""
        starts = torch.arange(num_frames, device=padded.device)[:, None] * self.spec.hop_length
        last = padded.shape[1] - 1
        after = padded[:, (starts + self._middle + self._distance).clamp(max=last)] * self._after
        before = padded[:, (starts + self._middle - self._distance).clamp(min=0)] * self._before
        real, imaginary = (after + before) @ self._cosines, (after - before) @ self._sines
        magnitude = real * real + imaginary * imaginary
        if self.spec.power == 1.0:
            magnitude = magnitude.sqrt()
        return (magnitude @ self._filters).transpose(1, 2)


class MelToUnits(nn.Module):
    """Encoder and quantizer as a graph: :meth:`~sqvae_speech.models.speech.SpeechModel.encode`, but for ties.

    The encoder is float32, its latents are compared with the codes in float64. Units whose two best codes lie as
    close together as float32 rounding, about one in 100,000, may be the other one: there is no second look.

    Args:
        bundle: the model; is copied.
    """

    def __init__(self, bundle: SpeechBundle):
        super().__init__()
        self.model = copy.deepcopy(bundle.model).cpu().eval().requires_grad_(False)
        blocks = [ConvBlock(folded(block), nn.ReLU()) for block in self.model.encoder.blocks]
        self.model.encoder.blocks = nn.ModuleList(blocks).float()
        del self.model.decoder

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            mel: (B, n_mels, F) float32, F even and at least 6.
            frames: (B,) int64 real ones.

        Returns:
            codes (B, N, F / 2 - 1) int64, 0 beyond an utterance's end; (B,) int64 units of each.
        """
        unit_lengths = self.model.num_units(frames).clamp(min=0)
        z, log_var = self.model.split_head(self.model.encoder(mel, frames).double(), unit_lengths)
        codes = self.model.quantizer.encode(z, log_var)
        codes = codes[:, None] if codes.dim() == 2 else codes.transpose(1, 2)
        return codes.masked_fill(~length_mask(unit_lengths, codes.shape[2])[:, None], 0), unit_lengths


class WavToUnits(nn.Module):
    """A tokenizer's encoding as a graph: features, then :class:`MelToUnits`.

    Args:
        bundle: the model; is copied.
    """

    def __init__(self, bundle: SpeechBundle):
        super().__init__()
        self.features = GraphLogMel(bundle.mel_spec)
        self.units = MelToUnits(bundle)

    def forward(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            wav: (B, T) float32 in [-1, 1] at the model's rate, T at least :func:`least_samples`.
            lengths: (B,) int64 real samples.

        Returns:
            codes (B, N, U) int64, 0 beyond an utterance's end; (B,) int64 units of each, 0 of a wav that is too
            short for one.
        """
        codes, unit_lengths = self.units(*self.features(wav, lengths))
        # chosen, not cut: whether the last one is too many would be a condition on the number of samples
        size = self.units.model.num_units(self.features.num_frames(wav.shape[1]))
        return codes.index_select(2, torch.arange(size, device=codes.device)), unit_lengths


def least_samples(spec: MelSpec) -> int:
    """Samples that a batch has to have, padding included: two units, as graphs take sizes of 1 for constants."""
    return spec.num_samples(6)
