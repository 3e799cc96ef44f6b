"""The network of our own vocoder: log-mel frames to a short-time spectrum, and by its inverse to a wav.

After Vocos (Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders", arXiv
2306.00814): ConvNeXt blocks (Liu et al., arXiv 2201.03545) at the frame rate throughout, no upsampling, and a head
that gives magnitude and phase of every bin. So that minutes of speech and minutes of a CPU are enough to learn from,
the network corrects a first guess: magnitudes that have the bands of the mel, and phases that move as a window of
Gaussian shape would have them move under these magnitudes (Prusa, Balazs and Sondergaard, "A noniterative method for
reconstruction of phase from STFT magnitude", 2017). What is said of phases is how far they turn from frame to frame,
which a mel tells, not where they stand, which it does not; :mod:`.vocoder_rounds` makes a wav of it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sqvae_speech.audio.filterbank import mel_filterbank
from sqvae_speech.audio.mel_inversion import MelInversion
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.vocoder import undo_log
from sqvae_speech.models.inverse_stft import InverseStft
from sqvae_speech.models.modules import length_mask

_DECIBELS = 80.0  # of input that are one unit
_UPDATES = 2  # of magnitudes
_QUIETEST = -12.0  # of the logarithm of a magnitude
_SHARPNESS = 1.4  # by how much sharper than those of the guess true peaks are


@dataclass(frozen=True)
class VocoderConfig:
    """The network.

    Attributes:
        channels: of the backbone.
        num_blocks: ConvNeXt blocks.
        expansion: width of a block's hidden layer, relative to ``channels``.
        kernel_size: frames that a convolution sees, odd.
        overlap: hops that a synthesis window is long, at least 3; None: as many as cover the mel's own window. Longer
            ones part harmonics better, and blur what is short.
        rounds: of phase search by Griffin-Lim, from the phases that the network says.
        mel_rounds: after them, of matching the mel of the wav to the one given.
    """

    channels: int = 256
    num_blocks: int = 6
    expansion: int = 2
    kernel_size: int = 7
    overlap: int | None = None
    rounds: int = 8
    mel_rounds: int = 3

    def __post_init__(self) -> None:
        for name, least in {
            **dict.fromkeys(("channels", "num_blocks", "expansion", "kernel_size"), 1),
            **dict.fromkeys(("rounds", "mel_rounds"), 0),
        }.items():
            if getattr(self, name) < least:
                raise ValueError(f"model.{name} must be at least {least}, got {getattr(self, name)}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"model.kernel_size must be odd, got {self.kernel_size}")
        if self.overlap is not None and self.overlap < 3:
            raise ValueError(f"model.overlap must be at least 3, got {self.overlap}")


class Polar(NamedTuple):
    """What the network says of each frame and bin.

    Attributes:
        log_magnitude: (B, T, bins) float32, natural logarithm, of the wav after its pre-emphasis.
        turn: (B, T, bins) float32, radians by which the phase moves from the frame before, beyond what it moves at
            the bin's own frequency.
    """

    log_magnitude: Tensor
    turn: Tensor


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
        y = over_time(self.depthwise, seen)
        y = self.contract(nn.functional.gelu(self.expand(self.norm(y))))
        return x + self.scale * y


class FirstGuess(nn.Module):
    """Magnitudes that have the bands of a mel, never negative, and how phases move under them.

    Magnitudes as for Griffin-Lim (:class:`sqvae_speech.audio.mel_inversion.MelInversion`), from what the bands take
    of the bins of ``inverse``.

    Args:
        mel_spec: of the mel.
        inverse: the transform that the magnitudes are of.
    """

    def __init__(self, mel_spec: MelSpec, inverse: InverseStft):
        super().__init__()
        self.mel_spec = mel_spec
        self.inversion = MelInversion(resampled_filterbank(mel_spec, inverse.n_fft), _UPDATES, extend=True)
        # noise is louder by a longer window
        self.gain = math.sqrt(float(inverse.window.square().sum()) / (0.375 * mel_spec.win_length))
        # of a Hann window of n_fft samples, γ is 0.25645 n_fft²
        self.slope = _SHARPNESS / (0.25645 * inverse.overlap)

    def log_magnitude(self, mel: Tensor) -> Tensor:
        """(B, n_mels, T) -> (B, T, bins)."""
        found = self.inversion(undo_log(mel.transpose(1, 2), self.mel_spec))
        found = found.clamp(min=1e-20).log() / self.mel_spec.power
        return (found + math.log(self.gain)).clamp(min=_QUIETEST)

    def turn(self, log_magnitude: Tensor) -> Tensor:
        """(B, T, bins) -> (B, T, bins): towards where there is more."""
        inner = (log_magnitude[..., 2:] - log_magnitude[..., :-2]) * (0.5 * self.slope)
        return nn.functional.pad(inner, (1, 1)).clamp(-math.pi, math.pi)


class VocoderNetwork(nn.Module):
    """Log-mel to magnitudes and turns of phase, for one MelSpec.

    Args:
        config: sizes.
        mel_spec: the features it takes.

    Attributes:
        inverse: the transform that its spectrum is of.
        context: mel frames on either side that what it says of a frame depends on.

    Raises:
        UserError: a MelSpec that :class:`InverseStft` refuses.
    """

    def __init__(self, config: VocoderConfig, mel_spec: MelSpec):
        super().__init__()
        self.config = config
        self.mel_spec = mel_spec
        self.inverse = InverseStft(mel_spec, config.overlap)
        self.guess = FirstGuess(mel_spec, self.inverse)
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
        nn.init.zeros_(self.head.weight)  # it begins with the guess as it is

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Polar:
        """Of an utterance it says the same alone and in any batch.

        Args:
            mel: (B, n_mels, T) float.
            lengths: (B,) int64, real frames of each; None: all.
        """
        real: Tensor | None = None
        if lengths is not None:
            mask = length_mask(lengths, mel.shape[2])
            mel = mel.masked_fill(~mask[:, None], self._floor)
            real = mask[..., None].to(mel.dtype)
        # silence is 0, as is what convolutions see beyond both ends
        x = (mel - self._floor) * (self.mel_spec.decibels_per_unit / _DECIBELS)
        x = self.first_norm(over_time(self.embed, x.transpose(1, 2)))
        for block in self.blocks:
            x = block(x, real)
        magnitude, turn = self.head(self.last_norm(x)).float().chunk(2, dim=-1)
        with torch.autocast(mel.device.type, enabled=False):  # products of magnitudes need all digits
            magnitude = (magnitude + self.guess.log_magnitude(mel.float())).clamp(max=self._largest)
            return Polar(magnitude, turn + self.guess.turn(magnitude))


def over_time(convolution: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution over time of (B, T, C): as one over an image of one row, whose memory a CPU need not turn."""
    image, weight = x.transpose(1, 2)[:, :, None], convolution.weight[:, :, None]
    padding = (0, *convolution.padding)
    made = nn.functional.conv2d(image, weight, convolution.bias, padding=padding, groups=convolution.groups)
    return made[:, :, 0].transpose(1, 2)


def resampled_filterbank(spec: MelSpec, n_fft: int) -> np.ndarray:
    """What mel bands take of the bins of a shorter transform, if magnitudes are straight between these.

    Returns:
        (n_mels, n_fft // 2 + 1) float64.
    """
    bins = np.arange(n_fft // 2 + 1)
    places = np.arange(spec.n_fft // 2 + 1) * (n_fft / spec.n_fft)
    between = np.stack([np.interp(places, bins, row) for row in np.eye(len(bins))], axis=1)
    return mel_filterbank(spec) @ between


def _floor(spec: MelSpec) -> float:
    """The value of a mel band in which there is nothing."""
    if spec.normalize:
        return 0.0
    if spec.log == "ln":
        return math.log(spec.clamp)
    return math.log10(spec.clamp) * (20.0 / spec.power if spec.log == "db" else 1.0)
