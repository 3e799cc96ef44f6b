"""The network of our own vocoder: log-mel frames to a short-time spectrum, and by its inverse to a wav.

After Vocos (Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders", arXiv
2306.00814): ConvNeXt blocks (Liu et al., arXiv 2201.03545) at the frame rate throughout, and a head that gives the
logarithm of the magnitude and the phase of every bin. There is no upsampling, and nothing is causal or recurrent: a
frame of the spectrum depends on ``context`` mel frames on either side and on no others.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.overlap_add import overlap_add
from sqvae_speech.audio.vocoder import fit_samples
from sqvae_speech.errors import UserError
from sqvae_speech.models.modules import length_mask

_DECIBELS = 80.0  # of input that are one unit
_LEAST_WEIGHT = 1e-3  # of windows over a sample; only a mel of a single frame has samples with less


@dataclass(frozen=True)
class VocoderConfig:
    """The network.

    Attributes:
        channels: of the backbone.
        num_blocks: ConvNeXt blocks.
        expansion: width of a block's hidden layer, relative to ``channels``.
        kernel_size: frames that a convolution sees, odd.
        overlap: hops that a synthesis window is long, even and at least 4.
    """

    channels: int = 256
    num_blocks: int = 6
    expansion: int = 3
    kernel_size: int = 7
    overlap: int = 4

    def __post_init__(self) -> None:
        for name in ("channels", "num_blocks", "expansion", "kernel_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"model.kernel_size must be odd, got {self.kernel_size}")
        if self.overlap < 4 or self.overlap % 2:
            raise ValueError(f"model.overlap must be even and at least 4, got {self.overlap}")


class InverseStft(nn.Module):
    """From a spectrum at a mel's frame rate to samples: inverse transform, window, overlap-add.

    Frame ``t`` is centred where the mel's frame ``t`` is. The sum of windowed frames is divided by that of the
    squared windows, so a spectrum that was analysed with this window comes back exactly.

    Args:
        mel_spec: gives hop and place of the frames.
        overlap: hops that the window is long.

    Attributes:
        n_fft: samples of the window and of the transform.
        num_bins: of the spectrum.
        start: sample of the wav on which the first frame's window begins, not above 0.

    Raises:
        UserError: a mel whose frames leave samples of the wav uncovered.
    """

    window: Tensor

    def __init__(self, mel_spec: MelSpec, overlap: int):
        super().__init__()
        self.mel_spec = mel_spec
        self.hop_length = mel_spec.hop_length
        self.overlap = overlap
        self.n_fft = overlap * mel_spec.hop_length
        self.num_bins = self.n_fft // 2 + 1
        centre = mel_spec.n_fft // 2 - mel_spec.pad_samples
        if not 0 <= centre <= mel_spec.hop_length:
            raise UserError(
                f"the first frame of a {mel_spec.name} mel is centred on sample {centre}; this vocoder needs it "
                f"within a hop, from 0 to {mel_spec.hop_length}: centre the frames (center: true), or use griffin_lim"
            )
        self.start = centre - self.n_fft // 2
        self.register_buffer("window", torch.hann_window(self.n_fft, periodic=True), persistent=False)

    def pieces(self, spectrum: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What frames add to the wav, and the weights to divide its sum by.

        Args:
            spectrum: (B, T, num_bins) complex.
            mask: (B, T) bool, True for real frames; None: all.

        Returns:
            Both (B, (T - 1) * hop + n_fft) float32, from sample :attr:`start` on.
        """
        frames = torch.fft.irfft(spectrum, n=self.n_fft) * self.window
        weights = self.window.square().expand(1, frames.shape[1], -1)
        if mask is not None:
            frames, weights = frames * mask[..., None], weights * mask[..., None]
        return overlap_add(frames, self.hop_length), overlap_add(weights, self.hop_length).expand(len(frames), -1)

    @staticmethod
    def divide(total: Tensor, weights: Tensor) -> Tensor:
        """Sum over weight."""
        return total / weights.clamp(min=_LEAST_WEIGHT)

    def forward(self, spectrum: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, num_bins) complex, (B, T) bool -> (B, ``mel_spec.num_samples(T)``) float32."""
        wav = self.divide(*self.pieces(spectrum, mask))[:, -self.start :]
        return fit_samples(wav, self.mel_spec.num_samples(spectrum.shape[1]))


class ConvNextBlock(nn.Module):
    """Depthwise convolution over time, layer normalisation, two layers with a GELU between, a scaled residual.

    Args:
        config: of the network.
    """

    def __init__(self, config: VocoderConfig):
        super().__init__()
        channels, hidden = config.channels, config.channels * config.expansion
        size = config.kernel_size
        self.depthwise = nn.Conv1d(channels, channels, size, padding=size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, hidden)
        self.contract = nn.Linear(hidden, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1.0 / config.num_blocks))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``x`` (B, T, C); ``mask`` (B, T, 1), 0 where nothing may be heard."""
        seen = x if mask is None else x * mask
        y = self.depthwise(seen.transpose(1, 2)).transpose(1, 2)
        y = self.contract(nn.functional.gelu(self.expand(self.norm(y))))
        return x + self.scale * y


class VocoderNetwork(nn.Module):
    """Log-mel to wav, for one MelSpec.

    Args:
        config: sizes.
        mel_spec: the features it takes.

    Attributes:
        context: mel frames on either side that a frame of the spectrum depends on.

    Raises:
        UserError: see :class:`InverseStft`.
    """

    def __init__(self, config: VocoderConfig, mel_spec: MelSpec):
        super().__init__()
        self.config = config
        self.mel_spec = mel_spec
        self.inverse = InverseStft(mel_spec, config.overlap)
        size = config.kernel_size
        self.context = (config.num_blocks + 1) * (size // 2)
        self.embed = nn.Conv1d(mel_spec.n_mels, config.channels, size, padding=size // 2)
        self.first_norm = nn.LayerNorm(config.channels)
        self.blocks = nn.ModuleList(ConvNextBlock(config) for _ in range(config.num_blocks))
        self.last_norm = nn.LayerNorm(config.channels)
        self.head = nn.Linear(config.channels, 2 * self.inverse.num_bins)
        self._floor = _floor(mel_spec)
        self._largest = math.log(self.inverse.n_fft)  # a sine at full scale has a quarter of that
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def spectrum(self, mel: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, n_mels, T), (B, T) bool or None -> (B, T, bins) complex64."""
        # silence is 0, as is what convolutions see beyond both ends
        x = (mel - self._floor) * (self.mel_spec.decibels_per_unit / _DECIBELS)
        real: Tensor | None = None
        if mask is not None:
            x = x.masked_fill(~mask[:, None], 0.0)
            real = mask[..., None].to(x.dtype)
        x = self.first_norm(self.embed(x).transpose(1, 2))
        for block in self.blocks:
            x = block(x, real)
        magnitude, phase = self.head(self.last_norm(x)).float().chunk(2, dim=-1)
        magnitude = magnitude.clamp(max=self._largest).exp()
        return torch.complex(magnitude * phase.cos(), magnitude * phase.sin())

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Synthesise at the level that the mel has; an utterance is the same alone and in any batch.

        Args:
            mel: (B, n_mels, T) float.
            lengths: (B,) int64, real frames of each; None: all.

        Returns:
            (B, ``mel_spec.num_samples(T)``) float32, zero beyond each utterance's own samples.
        """
        if lengths is None:
            return self.inverse(self.spectrum(mel))
        mask = length_mask(lengths, mel.shape[2])
        wav = self.inverse(self.spectrum(mel, mask), mask)
        samples = torch.tensor([self.mel_spec.num_samples(length) for length in lengths.tolist()], device=wav.device)
        return wav * length_mask(samples, wav.shape[1])


def _floor(spec: MelSpec) -> float:
    """The value of a mel band in which there is nothing."""
    if spec.normalize:
        return 0.0
    if spec.log == "ln":
        return math.log(spec.clamp)
    return math.log10(spec.clamp) * (20.0 / spec.power if spec.log == "db" else 1.0)
