"""The published residual networks for images and label maps (sony/sqvae, vision/networks), channels last."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sqvae_speech.models.normalization import BatchNorm2d


@dataclass(frozen=True)
class Layout:
    """How a published network differs from the others.

    Attributes:
        strides: of the encoder's convolutions, from image to latents, and of the decoder's, from last to first. One
            of stride 2 has a kernel of 4, one of stride 1 a kernel of 3; the first has D/2 channels, the others D.
        norm_last: batch normalisation and ReLU also after the encoder's last convolution.
        extra_decoder_block: the decoder has as many residual blocks as the encoder on the way to z, not one less.
    """

    strides: tuple[int, ...]
    norm_last: bool
    extra_decoder_block: bool

    @property
    def downsampling(self) -> int:
        """Pixels that a latent position stands for, along an axis."""
        return 2 ** self.strides.count(2)


# The names are the sizes that these were published for; each takes any size that its downsampling divides.
LAYOUTS = {
    "28x28": Layout((2, 2), norm_last=False, extra_decoder_block=True),
    "32x32": Layout((2, 2, 1), norm_last=True, extra_decoder_block=True),
    "64x64": Layout((2, 2, 1), norm_last=False, extra_decoder_block=False),
    "label_map": Layout((2, 2, 2), norm_last=False, extra_decoder_block=False),
}


class ResidualBlock(nn.Sequential):
    """``x + BN(conv1x1(ReLU(BN(conv3x3(ReLU(x))))))``: (B, D, H, W) -> (B, D, H, W)."""

    def __init__(self, dim: int):
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(dim, dim, 3, padding=1),
            BatchNorm2d(dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim, dim, 1),
            BatchNorm2d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _blocks(dim: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(dim) for _ in range(count)))


def _widths(layout: Layout, channels: int, dim: int) -> list[tuple[int, int]]:
    """Channels before and after each of the encoder's convolutions."""
    widths = [channels, dim // 2, *[dim] * (len(layout.strides) - 1)]
    return list(itertools.pairwise(widths))


class ImageEncoder(nn.Module):
    """Convolutions, then residual blocks; where the variance depends on the image, its last block has a twin.

    Args:
        layout: which network.
        channels: of the input.
        dim: D of the latents.
        num_blocks: residual blocks on the way to the latents.
        head: whether there is a block for the log-variance.
    """

    def __init__(self, layout: Layout, channels: int, dim: int, num_blocks: int, head: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for (inputs, outputs), stride in zip(_widths(layout, channels, dim), layout.strides, strict=True):
            layers += [
                nn.Conv2d(inputs, outputs, 2 + stride, stride, padding=1),
                BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        self.convolutions = nn.Sequential(*(layers if layout.norm_last else layers[:-2]))
        self.blocks = _blocks(dim, num_blocks - 1)
        self.latents = ResidualBlock(dim)
        self.log_var = ResidualBlock(dim) if head else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, channels, H, W) -> latents (B, H', W', D) and a log-variance for each, or None without a head."""
        x = self.blocks(self.convolutions(x))
        log_var = None if self.log_var is None else self.log_var(x).permute(0, 2, 3, 1)
        return self.latents(x).permute(0, 2, 3, 1), log_var


class ImageDecoder(nn.Module):
    """Residual blocks, then the encoder's convolutions turned round.

    Args:
        layout: which network.
        channels: of the output.
        dim: D of the latents.
        num_blocks: residual blocks of the encoder.
        activation: of the output.
    """

    def __init__(self, layout: Layout, channels: int, dim: int, num_blocks: int, activation: nn.Module):
        super().__init__()
        self.blocks = _blocks(dim, num_blocks - (0 if layout.extra_decoder_block else 1))
        layers: list[nn.Module] = []
        for (outputs, inputs), stride in zip(
            reversed(_widths(layout, channels, dim)), reversed(layout.strides), strict=True
        ):
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 2 + stride, stride, padding=1),
                BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        self.convolutions = nn.Sequential(*layers[:-2], activation)

    def forward(self, z: Tensor) -> Tensor:
        """(B, H', W', D) -> (B, channels, H, W)."""
        return self.convolutions(self.blocks(z.permute(0, 3, 1, 2)))


@torch.no_grad()
def initialize(network: nn.Module) -> None:
    """The published start: weights of convolutions N(0, 0.02²), scales of normalisations N(1, 0.02²)."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.normal_(0.0, 0.02)
        elif isinstance(module, BatchNorm2d):
            module.weight.normal_(1.0, 0.02)
