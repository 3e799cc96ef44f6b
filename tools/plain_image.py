"""The published 32 x 32 image model and its training step, written plainly: what the package's are timed against.

Modules of PyTorch in its default memory layout, (N, K) distances by the expanded square, softmax, logarithms and
Gumbel noise as the published code has them, ARELBO, Adam as it comes. Nothing of the package is used.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainBlock(nn.Module):
    """``x + BN(conv1x1(ReLU(BN(conv3x3(ReLU(x))))))``."""

    def __init__(self, dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(dim, dim, 3, padding=1),
            nn.BatchNorm2d(dim),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 1),
            nn.BatchNorm2d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _normed(layer: nn.Module, channels: int) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(channels), nn.ReLU()]


class PlainImage(nn.Module):
    """Encoder, Gaussian quantizer of type I (σ² = 1 + exp(s)), decoder.

    Args:
        codebook_size: K.
        dim: D.
        num_blocks: residual blocks of either side.
    """

    def __init__(self, codebook_size: int = 512, dim: int = 64, num_blocks: int = 2):
        super().__init__()
        half = dim // 2
        self.encoder = nn.Sequential(
            *_normed(nn.Conv2d(3, half, 4, 2, 1), half),
            *_normed(nn.Conv2d(half, dim, 4, 2, 1), dim),
            *_normed(nn.Conv2d(dim, dim, 3, 1, 1), dim),
            *[PlainBlock(dim) for _ in range(num_blocks)],
        )
        self.decoder = nn.Sequential(
            *[PlainBlock(dim) for _ in range(num_blocks)],
            *_normed(nn.ConvTranspose2d(dim, dim, 3, 1, 1), dim),
            *_normed(nn.ConvTranspose2d(dim, half, 4, 2, 1), half),
            nn.ConvTranspose2d(half, 3, 4, 2, 1),
            nn.Sigmoid(),
        )
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.log_scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, images: Tensor, temperature: float) -> Tensor:
        """The loss, nats per image, of (B, 3, H, W) float in [0, 1]."""
        z = self.encoder(images).permute(0, 2, 3, 1).contiguous()
        rows = z.view(-1, z.shape[-1])
        precision = 0.5 / (1.0 + self.log_scale.exp())
        squares = rows.square().sum(dim=1, keepdim=True) + self.codebook.square().sum(dim=1)
        logits = -precision * (squares - 2.0 * rows @ self.codebook.t())
        uniform = torch.rand_like(logits)
        gumbel = -torch.log(-torch.log(uniform + 1e-10) + 1e-10)
        quantized = (F.softmax((logits + gumbel) / temperature, dim=-1) @ self.codebook).view_as(z)
        probabilities, logarithms = F.softmax(logits, dim=-1), F.log_softmax(logits, dim=-1)
        latent = (probabilities * logarithms).sum() + precision * (z - quantized).square().sum()
        reconstruction = self.decoder(quantized.permute(0, 3, 1, 2).contiguous())
        error = F.mse_loss(reconstruction, images, reduction="sum") / len(images)
        return images[0].numel() / 2 * torch.log(error) + latent / len(images)


class PlainLoop:
    """Steps on images in memory.

    Args:
        images: (N, 3, H, W) float in [0, 1].
        batch_size: of a step.
    """

    def __init__(self, images: Tensor, batch_size: int):
        self.images = images
        self.batch_size = batch_size
        self.model = PlainImage().to(images.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def step(self) -> None:
        numbers = torch.randint(len(self.images), (self.batch_size,), device=self.images.device)
        loss = self.model(self.images[numbers], 1.0)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
