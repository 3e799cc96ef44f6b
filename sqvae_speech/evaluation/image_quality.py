"""How far a decoded image is from the real one: error, peak signal-to-noise ratio, structural similarity."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Of structural similarity, as its paper gives them: window, its standard deviation, and the two constants.
WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def squared_errors(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each image over all its values, in float64.

    Args:
        reconstruction: (B, C, H, W) in [0, 1].
        target: (B, C, H, W) in [0, 1].

    Returns:
        (B,) float64.
    """
    return (reconstruction.double() - target.double()).square().flatten(1).mean(dim=1)


def peak_signal_to_noise(mean_squared_error: float) -> float:
    """Return ``10 log10(1 / mse)`` in dB, of images in [0, 1]; infinite without error."""
    return math.inf if mean_squared_error == 0 else -10 * math.log10(mean_squared_error)


def structural_similarity(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image, in float64 (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004, eq. 13).

    Means, variances and covariance are taken under a Gaussian window of 11 x 11 pixels (standard deviation 1.5), as
    in the paper, at all places where it lies within the image, in each channel; the similarity is the mean over all.

    Args:
        reconstruction: (B, C, H, W) in [0, 1].
        target: (B, C, H, W) in [0, 1].

    Returns:
        (B,) float64, at most 1.

    Raises:
        ValueError: images smaller than the window.
    """
    if min(target.shape[-2:]) < WINDOW:
        raise ValueError(f"structural similarity needs {WINDOW} x {WINDOW} pixels, got {tuple(target.shape[-2:])}")
    x, y = reconstruction.double(), target.double()
    mean_x, mean_y = _smooth(x), _smooth(y)
    variance_x, variance_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return similarity.flatten(1).mean(dim=1)


def _smooth(images: Tensor) -> Tensor:
    """Weighted means under the window, (B, C, H - 10, W - 10)."""
    offsets = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    flat = images.flatten(0, 1)[:, None]
    flat = F.conv2d(F.conv2d(flat, weights[None, None, :, None]), weights[None, None, None, :])
    return flat.reshape(*images.shape[:2], *flat.shape[-2:])


class ConfusionMatrix:
    """How often the pixels of each class are taken for which, over batches.

    Args:
        num_classes: C.

    Attributes:
        counts: (C, C) int64, rows are the real classes.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add label maps of any shape, int64."""
        pairs = (target * self.num_classes + predicted).flatten()
        self.counts += torch.bincount(pairs, minlength=self.num_classes**2).view_as(self.counts).cpu()

    def accuracy(self) -> float:
        """Share of the pixels whose class is right."""
        return float(self.counts.diagonal().sum() / self.counts.sum())

    def intersection_over_union(self) -> list[float | None]:
        """Of each class: pixels that are of it and taken for it, over those that are either; None where there are
        none of either.
        """
        both = self.counts.diagonal().double()
        either = self.counts.sum(dim=0) + self.counts.sum(dim=1) - both
        return [float(b / e) if e > 0 else None for b, e in zip(both, either, strict=True)]
