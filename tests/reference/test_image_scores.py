"""Scores of images against independent computations in float64, written from their definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.image_quality import (
    ConfusionMatrix,
    peak_signal_to_noise,
    squared_errors,
    structural_similarity,
)
from sqvae_speech.evaluation.image_scores import score_images
from sqvae_speech.evaluation.perceptual import SCORES, Fid, open_scores
from sqvae_speech.images.spec import ImageSpec
from sqvae_speech.models.image import ImageModel, ImageModelConfig
from sqvae_speech.models.pretrained_image import ImageBundle
from sqvae_speech.quantization import QuantizerConfig


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(shape, generator=generator)
    return (target + 0.2 * torch.randn(shape, generator=generator)).clamp(0, 1), target


def test_squared_error_and_signal_to_noise():
    one, other = pair(3, 3, 13, 12)
    found = squared_errors(one, other)
    for row, (a, b) in enumerate(zip(one.double().numpy(), other.double().numpy(), strict=True)):
        total = sum((x - y) ** 2 for x, y in zip(a.ravel(), b.ravel(), strict=True))
        assert float(found[row]) == pytest.approx(total / a.size, rel=1e-12)
    assert peak_signal_to_noise(0.01) == pytest.approx(20)
    assert peak_signal_to_noise(0.0) == math.inf


def similarity(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, window by window: weighted means, variances and covariance under a circular Gaussian."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for channel, top, left in itertools.product(range(len(x)), range(x.shape[1] - 10), range(x.shape[2] - 10)):
        a, b = (image[channel, top : top + 11, left : left + 11] for image in (x, y))
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        covariance = (window * (a - mean_a) * (b - mean_b)).sum()
        luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        values.append(luminance * (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4))
    return float(np.mean(values))


@pytest.mark.parametrize("shape", [(2, 1, 11, 14), (2, 3, 15, 12)])
def test_structural_similarity(shape):
    one, other = pair(*shape)
    found = structural_similarity(one, other)
    expected = [similarity(a, b) for a, b in zip(one.double().numpy(), other.double().numpy(), strict=True)]
    assert found.numpy() == pytest.approx(expected, rel=1e-10)
    assert structural_similarity(one, one).numpy() == pytest.approx(np.ones(2))
    with pytest.raises(ValueError, match="needs 11 x 11 pixels"):
        structural_similarity(one[..., :10], other[..., :10])


def test_confusion_matrix():
    rng = np.random.default_rng(0)
    target, predicted = (rng.choice([0, 1, 3], (2, 4, 5, 6)) for _ in range(2))  # class 2 is in neither, 4 too
    target[0, 0, 0, 0] = 4  # a class that is never predicted
    matrix = ConfusionMatrix(5)
    for a, b in zip(predicted, target, strict=True):
        matrix.update(torch.from_numpy(a), torch.from_numpy(b))
    assert matrix.accuracy() == pytest.approx((predicted == target).mean())
    for number, value in enumerate(matrix.intersection_over_union()):
        a, b = predicted == number, target == number
        expected = (a & b).sum() / (a | b).sum() if (a | b).any() else None
        assert value == (expected if expected is None else pytest.approx(expected))
    assert matrix.intersection_over_union()[2] is None
    assert matrix.intersection_over_union()[4] == 0


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Between Gaussians of the means and covariances of two sets of features (Heusel et al., eq. 6)."""
    from scipy.linalg import sqrtm

    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real))


class Features(nn.Module):
    """Three numbers of an image of bytes, in place of the network whose weights are not here."""

    num_features = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        values = images.double() / 255
        return torch.stack([values.mean((1, 2, 3)), values[:, 0, ::2].mean((1, 2)), values.var((1, 2, 3))], dim=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_frechet_distance(channels):
    pytest.importorskip("torchmetrics")
    one, other = pair(40, channels, 8, 8)
    fid = Fid(torch.device("cpu"), Features())
    for start in range(0, 40, 16):
        fid.update(one[start : start + 16], other[start : start + 16])
    a, b = (Features()((x * 255).round().byte().expand(-1, 3, -1, -1)).numpy() for x in (one, other))
    assert fid.score() == pytest.approx(frechet(a, b), rel=1e-4)


def test_what_cannot_be_had_is_skipped_and_said(monkeypatch, caplog):
    def no_network(_):
        raise OSError("Name or service not known")

    monkeypatch.setitem(SCORES, "fid", no_network)
    assert open_scores(["fid"], torch.device("cpu")) == {}
    assert "fid is skipped: Name or service not known (pip install" in caplog.text
    with pytest.raises(UserError, match=r"unknown score 'lpip', did you mean 'lpips'\?; legal are lpips, fid"):
        open_scores(["lpip"], torch.device("cpu"))


def bundle(spec: ImageSpec, likelihood: str, **quantizer) -> ImageBundle:
    torch.manual_seed(0)
    settings = QuantizerConfig(codebook_size=8, dim=4, **quantizer)
    network = "label_map" if spec.is_labels else "28x28"
    activation = "softplus" if likelihood == "vmf" else "sigmoid"
    config = ImageModelConfig(network, 1, activation, likelihood, quantizer=settings)
    return ImageBundle(ImageModel(config, spec).eval())


def entropy(codes: np.ndarray) -> float:
    share = np.bincount(codes.ravel()) / codes.size
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


@pytest.mark.parametrize("stages", [1, 2])
def test_scores_of_images(stages):
    spec = ImageSpec(12, 16, 1)
    model = bundle(spec, "arelbo", num_quantizers=stages)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(7, 1, 12, 16, generator=generator)
    found = score_images(model, [{"image": images[:4]}, {"image": images[4:]}], split="x")
    with torch.no_grad():
        codes = model.model.encode(images)
        decoded = model.model.decode(codes).double().numpy()
    x = images.double().numpy()
    error = ((decoded - x) ** 2).mean()
    assert found.images == 7
    assert found.labels is None
    assert found.pixels.mse == pytest.approx(error, rel=1e-9)
    assert found.pixels.psnr == pytest.approx(-10 * np.log10(error), rel=1e-9)
    each = [-10 * np.log10(((a - b) ** 2).mean()) for a, b in zip(decoded, x, strict=True)]
    assert found.pixels.psnr_mean == pytest.approx(np.mean(each), rel=1e-9)
    expected = np.mean([similarity(a, b) for a, b in zip(decoded, x, strict=True)])
    assert found.pixels.ssim == pytest.approx(expected, rel=1e-9)
    assert (found.pixels.lpips, found.pixels.fid) == (None, None)
    books = codes.numpy().reshape(7, 3, 4, stages)
    assert found.codebook.perplexity == pytest.approx(
        np.mean([np.exp(entropy(books[..., n])) for n in range(stages)])
    )
    assert found.codes_per_image == 12 * stages
    assert found.bits_per_image == pytest.approx(12 * stages * 3)  # log2 of 8
    bits = sum(12 * entropy(books[..., n]) / np.log(2) for n in range(stages))
    assert found.entropy_bits_per_image == pytest.approx(bits)
    assert found.bits_per_dim == pytest.approx(12 * stages * 3 / 192)
    assert found.position_perplexity.shape == (stages, 3, 4)
    for book, row, column in itertools.product(range(stages), range(3), range(4)):
        there = np.exp(entropy(books[:, row, column, book]))
        assert found.position_perplexity[book, row, column] == pytest.approx(there)


def test_scores_of_label_maps():
    spec = ImageSpec(16, 16, 1, 5)
    model = bundle(spec, "vmf", kind="vmf")
    maps = torch.randint(0, 4, (6, 16, 16), generator=torch.Generator().manual_seed(1))
    found = score_images(model, [{"image": maps[:4]}, {"image": maps[4:]}], classes=tuple("abcde"))
    with torch.no_grad():
        decoded = model.model.reconstruct(maps).numpy()
    assert found.pixels is None
    assert found.labels.accuracy == pytest.approx((decoded == maps.numpy()).mean())
    expected = {}
    for number, name in enumerate("abcde"):
        a, b = decoded == number, maps.numpy() == number
        expected[name] = (a & b).sum() / (a | b).sum() if (a | b).any() else None
    assert found.labels.iou == pytest.approx(expected)
    assert found.labels.miou == pytest.approx(np.mean([value for value in expected.values() if value is not None]))
    with pytest.raises(UserError, match="the set: no images; nothing to score"):
        score_images(model, [])
