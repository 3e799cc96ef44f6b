"""Likelihoods of labels against float64, their Bessel functions against SciPy's.

That two processes follow one is in :mod:`test_likelihoods`.
"""

import math

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

from sqvae_speech.models.bessel import log_bessel, vmf_log_normalizer
from sqvae_speech.models.label_likelihoods import build_label_likelihood

CLASSES, SHAPE = 5, (6, 4, 3)  # B, H, W
KAPPA = 7.0


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 9.0, 9.5, 31.0])
def test_log_bessel_equals_scipy(order):
    border = max(100.0, 2 * order**2)
    x = np.concatenate([np.logspace(-1, 6, 80), border * np.array([0.999, 1.0, 1.001])])
    x = x[scipy.special.ive(order + 1, x) > 1e-290]  # where SciPy, which gives no logarithm, does not underflow
    scaled, next_scaled = scipy.special.ive(order, x), scipy.special.ive(order + 1, x)
    argument = torch.tensor(x, requires_grad=True)
    value = log_bessel(order, argument)
    np.testing.assert_allclose(value.detach().numpy(), np.log(scaled), rtol=1e-11, atol=1e-12)
    (gradient,) = torch.autograd.grad(value.sum(), argument)
    expected = next_scaled / scaled + order / x - 1.0
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("order", [0.0, 9.0])
def test_log_bessel_has_the_right_derivatives(order):
    argument = torch.tensor([0.3, 5.0, 99.0, 161.0, 163.0, 400.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: log_bessel(order, x), argument)
    assert torch.autograd.gradgradcheck(lambda x: log_bessel(order, x), argument)


def test_log_bessel_far_out():
    """Where e^x and I_v are beyond float64: series and asymptotics meet, and nothing is NaN."""
    x = torch.tensor([1e-30, 1e-3, 1e9], dtype=torch.float64, requires_grad=True)
    value = log_bessel(9.0, x)
    expected = [9 * math.log(x[i].item() / 2) - math.lgamma(10) for i in range(2)] + [-0.5 * math.log(2e9 * math.pi)]
    torch.testing.assert_close(value[0].item(), expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(value[1].item(), expected[1] - 1e-3, rtol=1e-7, atol=0)
    torch.testing.assert_close(value[2].item(), expected[2], rtol=1e-7, atol=0)
    assert torch.isfinite(torch.autograd.grad(value.sum(), x)[0]).all()
    with pytest.raises(ValueError, match="must not be negative here, got -1"):
        log_bessel(-1.0, x)


def test_the_normaliser_makes_a_density_of_the_circle_and_the_sphere():
    """∫ C exp(κ cos θ) over the sphere is 1, by quadrature."""
    for kappa in (0.1, 3.0, 60.0):
        angle = np.linspace(0.0, math.pi, 200_001)
        density = math.exp(vmf_log_normalizer(2, torch.tensor(kappa)).item()) * np.exp(kappa * (np.cos(angle) - 1))
        assert 2 * np.trapezoid(density, angle) == pytest.approx(1.0, rel=1e-6)
        density = math.exp(vmf_log_normalizer(3, torch.tensor(kappa)).item()) * np.exp(kappa * (np.cos(angle) - 1))
        assert 2 * math.pi * np.trapezoid(density * np.sin(angle), angle) == pytest.approx(1.0, rel=1e-6)


def make_batch(channels: int, masked: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scores, labels and mask; float64 on float32's grid."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(SHAPE[0], channels, *SHAPE[1:], generator=generator).double()
    target = torch.randint(CLASSES, SHAPE, generator=generator)
    mask = torch.rand(SHAPE, generator=generator) < 0.7 if masked else None
    return output, target, mask


def expected_loss(name: str, output: Tensor, target: Tensor, mask: Tensor | None, kappa: Tensor) -> Tensor:
    """Nats per example, pixel by pixel from the densities."""
    total = output.new_zeros(())
    for place in torch.cartesian_prod(*(torch.arange(size) for size in SHAPE)).tolist():
        b, row, column = place
        if mask is not None and not mask[b, row, column]:
            continue
        scores, label = output[b, :, row, column], int(target[b, row, column])
        if name == "categorical":
            total = total - (scores[label] - scores.exp().sum().log())
        else:
            dim = len(scores)
            order = dim / 2 - 1
            log_c = order * kappa.log() - dim / 2 * math.log(2 * math.pi) - log_bessel(order, kappa) - kappa
            total = total - kappa * scores[label] / scores.square().sum().sqrt() - log_c
    return total / SHAPE[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", ["vmf", "categorical"])
def test_loss_and_gradients_are_those_of_the_density(name, masked, dtype):
    likelihood = build_label_likelihood(name, CLASSES, KAPPA).to(dtype)
    assert likelihood.channels == {"vmf": 6, "categorical": 5}[name]
    output, target, mask = make_batch(likelihood.channels, masked)
    kappa = torch.tensor(KAPPA, dtype=torch.float64, requires_grad=True)
    reference = output.clone().requires_grad_()
    expected = expected_loss(name, reference, target, mask, kappa)
    expected.backward()
    if masked:
        output = output.masked_fill(~mask[:, None], torch.nan)
    output = output.to(dtype).requires_grad_()
    score = likelihood(output, target, mask)
    score.loss.backward()
    tolerance = 1e-6 if dtype == torch.float32 or name == "vmf" else 1e-12  # κ is stored in float32 and then cast
    assert score.loss.dtype == dtype
    assert score.loss.item() == pytest.approx(expected.item(), rel=tolerance)
    torch.testing.assert_close(output.grad.double(), reference.grad, rtol=1e-5, atol=tolerance)
    if name == "vmf":
        assert likelihood.log_kappa.grad.item() == pytest.approx((kappa.grad * kappa).item(), rel=1e-5)
    right = output[:, :CLASSES].nan_to_num().argmax(dim=1) == target
    right = right if mask is None else right[mask]
    assert score.metrics["accuracy"].item() == pytest.approx(right.float().mean().item(), abs=1e-6)


def test_the_padding_channel_of_an_odd_number_of_classes_is_never_predicted():
    likelihood = build_label_likelihood("vmf", CLASSES, KAPPA)
    scores = torch.zeros(1, 6, 2, 2)
    scores[:, 5], scores[:, 3] = 9.0, 1.0
    assert (likelihood.predict(scores) == 3).all()


def test_half_precision_outputs_are_lifted():
    output, target, _ = make_batch(6, masked=False)
    likelihood = build_label_likelihood("vmf", CLASSES, KAPPA)
    half = likelihood(output.bfloat16(), target)
    assert half.loss.dtype == torch.float32
    assert torch.equal(half.loss, likelihood(output.bfloat16().float(), target).loss)


def test_bad_settings():
    with pytest.raises(ValueError, match="one of vmf, categorical for label maps, got 'arelbo'"):
        build_label_likelihood("arelbo", 5, 1.0)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        build_label_likelihood("categorical", 1, 1.0)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        build_label_likelihood("vmf", 5, 0.0)
