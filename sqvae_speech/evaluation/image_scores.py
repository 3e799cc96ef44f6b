"""Scores of an image model on a set: reconstruction, codebook, bits."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sqvae_speech.data.image_index import ImageIndex
from sqvae_speech.data.image_loader import image_batches
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.codebook import CodebookAccumulator, CodebookScores
from sqvae_speech.evaluation.image_quality import (
    WINDOW,
    ConfusionMatrix,
    peak_signal_to_noise,
    squared_errors,
    structural_similarity,
)
from sqvae_speech.evaluation.perceptual import Perceptual, open_scores

if TYPE_CHECKING:
    from sqvae_speech.models.pretrained_image import ImageBundle

BATCH_SIZE = 100


@dataclass(frozen=True)
class PixelScores:
    """How far reconstructions of images are, with the most probable codes.

    Attributes:
        mse: mean squared error of the values in [0, 1], over all of the set: the published score, printed x 1e-3.
        psnr: peak signal-to-noise ratio of that error, dB.
        psnr_mean: mean of the images' own ratios, dB; None where an image has no error.
        ssim: mean structural similarity of the images; None of images smaller than its window of 11 pixels.
        lpips, fid: where they were asked for and their weights could be had, else None.
    """

    mse: float
    psnr: float
    psnr_mean: float | None
    ssim: float | None
    lpips: float | None = None
    fid: float | None = None


@dataclass(frozen=True)
class LabelScores:
    """How far reconstructions of label maps are, with the most probable codes.

    Attributes:
        accuracy: share of the pixels of all label maps whose class is right.
        miou: mean of ``iou`` over the classes that there are.
        iou: intersection over union of each class' pixels over the whole set; None where neither the label maps nor
            their reconstructions have the class.
    """

    accuracy: float
    miou: float
    iou: dict[str, float | None]


@dataclass(frozen=True)
class ImageScores:
    """Scores of one split.

    Attributes:
        split: its name.
        images: how many were scored.
        pixels: of images, None of label maps.
        labels: of label maps, None of images.
        codebook: of the codes chosen.
        codes_per_image: positions times codebooks.
        bits_per_image: at ``log2 K`` a code, what a uniform prior takes.
        entropy_bits_per_image: at the entropy of the codes chosen, what the best prior takes that knows no context.
        bits_per_dim: ``bits_per_image`` over the image's values.
        counts: (N, K) uses of each code, for plots.
        position_perplexity: (N, H', W') perplexity of the codes chosen at each position, for plots.
    """

    split: str
    images: int
    pixels: PixelScores | None
    labels: LabelScores | None
    codebook: CodebookScores
    codes_per_image: int
    bits_per_image: float
    entropy_bits_per_image: float
    bits_per_dim: float
    counts: np.ndarray = field(repr=False)
    position_perplexity: np.ndarray = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the arrays."""
        values = asdict(self)
        del values["counts"], values["position_perplexity"]
        return values


def score_images(
    bundle: "ImageBundle",
    batches: Iterable[Mapping[str, Any]],
    *,
    split: str = "",
    classes: Sequence[str] = (),
    perceptual: Mapping[str, Perceptual] | None = None,
    device: torch.device | str = "cpu",
) -> ImageScores:
    """Score a stream of images in one pass.

    Args:
        bundle: a model in evaluation mode, on ``device``.
        batches: dicts with ``image``, what :func:`sqvae_speech.data.image_loader.image_batches` yields.
        split: its name, for the report.
        classes: names of the classes of label maps, for the report.
        perceptual: further scores of images by name.
        device: where the model is.

    Raises:
        UserError: no images.
    """
    model = bundle.model
    spec = model.spec
    score = _LabelSums(spec.num_classes, classes) if spec.is_labels else _PixelSums(perceptual or {})
    codebook = CodebookAccumulator(model.codebook_size, model.num_codebooks)
    positions: _PositionCounts | None = None
    images = 0
    with torch.no_grad():
        for batch in batches:
            target = model.target(batch["image"].to(device))
            codes = model.encode(target)
            score.update(model.decode(codes), target)
            flat = codes.flatten(1, 2)
            mask = torch.ones(flat.shape[:2], dtype=torch.bool, device=flat.device)
            codebook.update(flat, mask, model.posterior(target).flatten(1, 2))
            positions = positions or _PositionCounts(codes, model.codebook_size, model.num_codebooks)
            positions.update(codes)
            images += len(target)
    if positions is None:
        raise UserError(f"{split or 'the set'}: no images; nothing to score")
    codes_per_image = positions.positions * model.num_codebooks
    entropies = np.log2(positions.perplexities(whole=True))
    bits = codes_per_image * math.log2(model.codebook_size)
    return ImageScores(
        split=split,
        images=images,
        pixels=score.scores() if isinstance(score, _PixelSums) else None,
        labels=score.scores() if isinstance(score, _LabelSums) else None,
        codebook=codebook.scores(),
        codes_per_image=codes_per_image,
        bits_per_image=bits,
        entropy_bits_per_image=float(positions.positions * entropies.sum()),
        bits_per_dim=bits / math.prod(spec.shape),
        counts=codebook.counts.numpy(),
        position_perplexity=positions.perplexities(),
    )


def score_image_shards(
    bundle: "ImageBundle",
    shards: str | Path,
    *,
    perceptual: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> ImageScores:
    """Score a folder of shards; see :func:`score_images`.

    Args:
        bundle: a model in evaluation mode, on ``device``.
        shards: the folder.
        perceptual: names of :data:`sqvae_speech.evaluation.perceptual.SCORES`; those that cannot be had are skipped
            with a message.
        batch_size: images of a batch.
        device: where the model is.
        progress: show a progress bar.

    Raises:
        UserError: also for shards of other images than the model's, or damaged ones, or an unknown score.
    """
    index = ImageIndex.load(shards)
    bundle.image_spec.require_same(index.image_spec, "the checkpoint", f"the shards of {shards}")
    extra = {} if index.image_spec.is_labels else open_scores(perceptual, torch.device(device))
    batches = image_batches(index, batch_size)
    total = -(-index.num_images // batch_size)
    with tqdm(batches, total=total, desc=f"score {index.split}", disable=not progress) as bar:
        return score_images(bundle, bar, split=index.split, classes=index.classes, perceptual=extra, device=device)


class _PixelSums:
    """Errors of images, gathered over batches."""

    def __init__(self, perceptual: Mapping[str, Perceptual]):
        self.perceptual = perceptual
        self.errors: list[Tensor] = []
        self.similarities: list[Tensor] = []

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        self.errors.append(squared_errors(reconstruction, target).cpu())
        if min(target.shape[-2:]) >= WINDOW:
            self.similarities.append(structural_similarity(reconstruction, target).cpu())
        for score in self.perceptual.values():
            score.update(reconstruction, target)

    def scores(self) -> PixelScores:
        errors = torch.cat(self.errors)
        ratios = [peak_signal_to_noise(error) for error in errors.tolist()]
        mse = float(errors.mean())
        return PixelScores(
            mse=mse,
            psnr=peak_signal_to_noise(mse),
            psnr_mean=float(np.mean(ratios)) if math.isfinite(max(ratios)) else None,
            ssim=float(torch.cat(self.similarities).mean()) if self.similarities else None,
            **{name: score.score() for name, score in self.perceptual.items()},
        )


class _LabelSums:
    """Confusions of label maps, gathered over batches."""

    def __init__(self, num_classes: int, classes: Sequence[str]):
        self.classes = tuple(classes) or tuple(map(str, range(num_classes)))
        self.confusion = ConfusionMatrix(num_classes)

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        self.confusion.update(reconstruction, target)

    def scores(self) -> LabelScores:
        iou = self.confusion.intersection_over_union()
        there = [value for value in iou if value is not None]
        return LabelScores(
            accuracy=self.confusion.accuracy(),
            miou=float(np.mean(there)),
            iou=dict(zip(self.classes, iou, strict=True)),
        )


class _PositionCounts:
    """Uses of each code at each position, gathered over batches."""

    def __init__(self, codes: Tensor, codebook_size: int, num_codebooks: int):
        self.shape = (num_codebooks, *codes.shape[1:3])
        self.codebook_size = codebook_size
        self.counts = torch.zeros(math.prod(self.shape), codebook_size, dtype=torch.int64)

    @property
    def positions(self) -> int:
        """Of one codebook."""
        return math.prod(self.shape[1:])

    def update(self, codes: Tensor) -> None:
        """Add codes (B, H', W') or (B, H', W', N)."""
        rows = codes.reshape(len(codes), self.positions, -1).transpose(1, 2).flatten(1).cpu()  # (B, N * H' * W')
        self.counts.scatter_add_(1, rows.T, torch.ones_like(rows.T))

    def perplexities(self, whole: bool = False) -> np.ndarray:
        """Of the codes at each position, (N, H', W'); with ``whole`` of all positions together, (N,)."""
        counts = self.counts.double().view(*self.shape, self.codebook_size)
        if whole:
            counts = counts.sum(dim=(1, 2))
        shares = counts / counts.sum(dim=-1, keepdim=True)
        return torch.exp(torch.special.entr(shares).sum(dim=-1)).numpy()
