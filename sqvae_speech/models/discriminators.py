"""Networks that tell recordings from synthesised wavs, for adversarial training of a vocoder."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

# Samples of the windows at 16 kHz and near it; hops are a quarter.
RESOLUTIONS = (2048, 1024, 512)
_SLOPE = 0.1


class Judgement(NamedTuple):
    """What a discriminator says of a batch.

    Attributes:
        score: (B, 1, ...), higher where it takes the wav for a recording.
        features: of its hidden layers.
    """

    score: Tensor
    features: list[Tensor]


class StftDiscriminator(nn.Module):
    """Two-dimensional convolutions over a complex spectrum, as in EnCodec (Defossez et al., arXiv 2210.13438).

    Args:
        size: samples of the Hann window and of the transform.
        channels: of the hidden layers.
    """

    window: Tensor

    def __init__(self, size: int, channels: int):
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        layers = [nn.Conv2d(2, channels, (3, 9), padding=(1, 4))]
        for dilation in (1, 2, 4):
            layers.append(
                nn.Conv2d(channels, channels, (3, 9), (1, 2), padding=(dilation, 4), dilation=(dilation, 1))
            )
        layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.last = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, wav: Tensor) -> Judgement:
        """(B, T) float32 wavs."""
        spectrum = torch.stft(
            wav,
            self.size,
            self.size // 4,
            window=self.window,
            normalized=True,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # (B, 2, frames, bins)
        features = []
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return Judgement(self.last(x), features)


class Discriminators(nn.Module):
    """One :class:`StftDiscriminator` a resolution.

    Args:
        channels: of each.
        sizes: of the windows.
    """

    def __init__(self, channels: int = 32, sizes: Sequence[int] = RESOLUTIONS):
        super().__init__()
        self.members = nn.ModuleList(StftDiscriminator(size, channels) for size in sizes)

    def forward(self, wav: Tensor) -> list[Judgement]:
        """(B, T) float32 -> what each says."""
        return [member(wav) for member in self.members]
