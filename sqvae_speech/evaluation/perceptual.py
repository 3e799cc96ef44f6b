"""Scores that need a trained network: LPIPS and FID, through torchmetrics, where their weights can be had."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sqvae_speech.errors import UserError, nearest

logger = logging.getLogger(__name__)
REMEDY = 'pip install "sqvae_speech[image]", and let the weights be fetched once, with a network'


class Perceptual(Protocol):
    """A score of a whole set, gathered over batches."""

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Add a batch: (B, C, H, W) float32 in [0, 1], C 1 or 3."""
        ...

    def score(self) -> float:
        """The score of all that was added."""
        ...


class Lpips:
    """Learned perceptual similarity, with AlexNet (Zhang et al., CVPR 2018): smaller is nearer."""

    def __init__(self, device: torch.device):
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        self._metric: Any = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device)

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        self._metric.update(in_colours(reconstruction), in_colours(target))

    def score(self) -> float:
        return float(self._metric.compute())


class Fid:
    """Fréchet distance of Inception features between reconstructions and images (Heusel et al., NeurIPS 2017).

    Args:
        device: where it is computed.
        features: a network (B, 3, H, W) uint8 -> (B, F); by default the published Inception, F = 2048.
    """

    def __init__(self, device: torch.device, features: torch.nn.Module | int = 2048):
        from torchmetrics.image.fid import FrechetInceptionDistance

        self._metric: Any = FrechetInceptionDistance(feature=features).to(device)
        self._metric.set_dtype(torch.float64)

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        for images, real in ((target, True), (reconstruction, False)):
            # bytes, as an image file has them: torchmetrics itself would round down
            self._metric.update(in_colours(images).mul(255).round().to(torch.uint8), real=real)

    def score(self) -> float:
        return float(self._metric.compute())


SCORES: dict[str, Callable[[torch.device], Perceptual]] = {"lpips": Lpips, "fid": Fid}


def in_colours(images: Tensor) -> Tensor:
    """Return images with three channels, values cut to [0, 1]: what the networks take."""
    return images.clamp(0, 1).expand(-1, 3, -1, -1)


def open_scores(names: Sequence[str], device: torch.device) -> dict[str, Perceptual]:
    """Return those of the scores that can be had here; of the others it is said why not.

    Args:
        names: of :data:`SCORES`.
        device: where they are computed.

    Raises:
        UserError: an unknown name.
    """
    found = {}
    for name in names:
        if name not in SCORES:
            raise UserError(f"unknown score {name!r}{nearest(name, SCORES)}; legal are {', '.join(SCORES)}")
        try:
            found[name] = SCORES[name](device)
        # a package that is missing or does not suit another, no network, a proxy's refusal, a damaged download
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            logger.warning("%s is skipped: %s (%s)", name, error, REMEDY)
    return found
