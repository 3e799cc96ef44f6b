"""Every quantizer against an independent float64 computation: values, gradients, metrics, small variances."""

import functools

import pytest
import quantizer_equations as equations
import torch
from comparison import TOLERANCE, Batch, as_leaf, assert_close, gradients, make_batch
from gumbel_probe import drawn_noise
from scipy import stats
from torch import Tensor

from sqvae_speech.quantization import GaussianQuantizer, VectorQuantizer, VmfQuantizer, fused

SIZE, DIM = 13, 6
LEADING = {"1-D": (3, 7), "2-D": (2, 3, 4)}
GAUSSIAN = {
    f"{covariance}{'-sum' if variance_sum else ''}": functools.partial(
        GaussianQuantizer, covariance=covariance, init_variance=0.6, variance_sum=variance_sum
    )
    for covariance in ("global", "sample", "position", "diagonal")
    for variance_sum in (False, True)
}
VMF = {
    "vmf": functools.partial(VmfQuantizer, init_kappa=7.0),
    "vmf-sum": functools.partial(VmfQuantizer, init_kappa=7.0, variance_sum=True),
}
STOCHASTIC = GAUSSIAN | VMF


def expected_stochastic(
    quantizer: GaussianQuantizer | VmfQuantizer, batch: Batch, noise: Tensor | None, temperature: float
) -> tuple[equations.Expected, dict[str, Tensor]]:
    """The reference's outputs and its gradients of ``loss + Σ cotangent · quantized``."""
    blank = None if batch.mask is None else ~batch.mask[..., None]
    z = as_leaf(batch.z, torch.float64)
    log_var = as_leaf(batch.log_var, torch.float64)
    codebook = as_leaf(quantizer.codebook.detach(), torch.float64)
    scalar = as_leaf(quantizer.log_scale.detach(), torch.float64)
    if isinstance(quantizer, VmfQuantizer):
        kappa = scalar.exp() + quantizer.variance_sum
        expected = equations.von_mises_fisher(z, codebook, kappa, noise, temperature, batch.mask)
    else:
        variance = equations.total_variance(log_var, scalar, z, quantizer.variance_sum)
        expected = equations.gaussian(z, codebook, variance, noise, temperature, batch.mask)
    cotangent = batch.cotangent if blank is None else batch.cotangent.masked_fill(blank, 0.0)
    total = expected.loss + (expected.quantized * cotangent).sum()
    return expected, gradients(total, z=z, log_var=log_var, codebook=codebook, scalar=scalar)


def actual_stochastic(quantizer, batch: Batch, dtype: torch.dtype, temperature: float, seed: int):
    """The package's outputs and gradients, with NaN at masked positions of the inputs."""
    z, log_var = batch.z.to(dtype), None if batch.log_var is None else batch.log_var.to(dtype)
    if batch.mask is not None:
        z = z.masked_fill(~batch.mask[..., None], torch.nan)
        if log_var is not None and not quantizer.log_var_per_example:
            log_var = log_var.masked_fill(~batch.mask[..., None], torch.nan)
    z, log_var = as_leaf(z, dtype), as_leaf(log_var, dtype)
    torch.manual_seed(seed)
    out = quantizer(z, log_var, temperature=temperature, mask=batch.mask)
    total = out.loss + (out.quantized * batch.cotangent.to(dtype)).sum()
    return out, gradients(total, z=z, log_var=log_var, codebook=quantizer.codebook, scalar=quantizer.log_scale)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("leading", LEADING.values(), ids=LEADING)
@pytest.mark.parametrize("kind", STOCHASTIC)
def test_stochastic_quantizer_equals_the_equations(kind, leading, masked, training, dtype):
    torch.manual_seed(1)
    quantizer = STOCHASTIC[kind](SIZE, DIM).to(dtype).train(training)
    batch = make_batch(quantizer, leading, masked)
    temperature, seed = 0.7, 5
    noise = drawn_noise(quantizer, batch.z.to(dtype), batch.mask, seed) if training else None
    expected, expected_grad = expected_stochastic(quantizer, batch, noise, temperature)
    actual, actual_grad = actual_stochastic(quantizer, batch, dtype, temperature, seed)
    tolerance = TOLERANCE[dtype]

    real = torch.ones(leading, dtype=torch.bool) if batch.mask is None else batch.mask
    assert_close(actual.quantized[real], expected.quantized[real], tolerance, "quantized")
    assert (actual.quantized[~real] == 0).all()
    assert torch.equal(actual.indices[real], expected.indices[real])
    assert_close(actual.loss, expected.loss, tolerance, "loss")
    for name, value in expected.metrics.items():
        assert_close(actual.metrics[name].squeeze(), value.squeeze(), tolerance, name)
    assert actual_grad.keys() == expected_grad.keys()
    for name, value in expected_grad.items():
        assert_close(actual_grad[name], value, tolerance, f"gradient of {name}")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("leading", LEADING.values(), ids=LEADING)
@pytest.mark.parametrize("kind", STOCHASTIC)
def test_posterior_encode_and_decode_equal_the_equations(kind, leading, dtype):
    torch.manual_seed(1)
    quantizer = STOCHASTIC[kind](SIZE, DIM).to(dtype)
    batch = make_batch(quantizer, leading, masked=False)
    expected, _ = expected_stochastic(quantizer, batch, None, 1.0)
    log_var = None if batch.log_var is None else batch.log_var.to(dtype)
    posterior = quantizer.posterior(batch.z.to(dtype), log_var)
    assert_close(posterior.detach(), expected.posterior.detach(), TOLERANCE[dtype], "posterior")
    assert_close(posterior.sum(dim=-1).detach(), torch.ones(leading).double(), TOLERANCE[dtype], "sum")
    indices = quantizer.encode(batch.z.to(dtype), log_var)
    assert torch.equal(indices, expected.indices)
    assert_close(quantizer.decode(indices).detach(), expected.quantized.detach(), TOLERANCE[dtype], "decode")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("leading", LEADING.values(), ids=LEADING)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_vector_quantizer_equals_the_equations(update, training, leading, masked, dtype):
    torch.manual_seed(1)
    quantizer = VectorQuantizer(SIZE, DIM, update, commitment=0.4).to(dtype).train(training)
    batch = make_batch(quantizer, leading, masked)
    codebook = quantizer.codebook.detach().double().clone()
    expected = equations.vector(batch.z, codebook, batch.cotangent, 0.4, update == "gradient", batch.mask)
    z = batch.z.to(dtype)
    if masked:
        z = z.masked_fill(~batch.mask[..., None], torch.nan)
    z = as_leaf(z, dtype)
    assert torch.equal(
        quantizer.encode(batch.z.to(dtype)), (batch.z[..., None, :] - codebook).norm(dim=-1).argmin(dim=-1)
    )
    assert torch.equal(quantizer.posterior(batch.z.to(dtype)).double(), expected.posterior)
    actual = quantizer(z, mask=batch.mask)
    tolerance = TOLERANCE[dtype]

    real = torch.ones(leading, dtype=torch.bool) if batch.mask is None else batch.mask
    assert_close(actual.quantized[real].detach(), expected.quantized[real], tolerance, "quantized")
    assert (actual.quantized[~real] == 0).all()
    assert torch.equal(actual.indices[real], expected.indices[real])
    assert_close(actual.loss.detach(), expected.loss, tolerance, "loss")
    for name, value in expected.metrics.items():
        assert_close(actual.metrics[name], value, tolerance, name)
    total = actual.loss + (actual.quantized * batch.cotangent.to(dtype)).sum()
    (grad_z,) = torch.autograd.grad(total, z, retain_graph=True)
    assert_close(grad_z, expected.grad_z, tolerance, "gradient of z")
    if update == "gradient":
        (grad_codebook,) = torch.autograd.grad(total, quantizer.codebook)
        assert_close(grad_codebook, expected.grad_codebook, tolerance, "gradient of the codebook")
    else:
        assert not quantizer.codebook.requires_grad


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_moving_average_codebook_follows_the_equations(masked, dtype):
    torch.manual_seed(2)
    quantizer = VectorQuantizer(SIZE, DIM, "ema", ema_decay=0.8).to(dtype)
    averages = equations.MovingAverages(quantizer.codebook.detach(), decay=0.8)
    for step in range(4):
        batch = make_batch(quantizer, (4, 9), masked, seed=step)
        z = batch.z.to(dtype)
        real = torch.ones(4, 9, dtype=torch.bool)
        if masked:
            real = batch.mask
            z = z.masked_fill(~real[..., None], torch.nan)
        indices = quantizer.train()(z, mask=batch.mask).indices
        averages.update(batch.z[real], indices[real])
        assert_close(quantizer.codebook.detach(), averages.codebook, TOLERANCE[dtype], f"codebook after step {step}")
        assert_close(quantizer.counts_ema, torch.tensor(averages.count).double(), 1e-6, "counts")
    before = quantizer.codebook.detach().clone()
    quantizer.eval()(batch.z.to(dtype))
    assert torch.equal(quantizer.codebook, before), "evaluation moved the codebook"


@pytest.mark.parametrize("kind", ["global", "diagonal", "vmf"])
def test_noise_is_gumbel(kind):
    """Differences of Gumbel variables are logistic: 30,000 of them, and rows and columns do not share draws."""
    quantizer = STOCHASTIC[kind](31, DIM)
    noise = drawn_noise(quantizer, torch.zeros(20, 100, DIM), None, seed=3).reshape(-1, 31)
    differences = noise[:, 0::2][:, :15] - noise[:, 1::2]
    assert stats.kstest(differences.flatten().numpy(), "logistic").pvalue > 1e-3
    assert noise.unique(dim=0).shape == noise.shape
    between = stats.pearsonr(differences[:-1].flatten().numpy(), differences[1:].flatten().numpy())
    assert between.pvalue > 1e-3
    again = drawn_noise(quantizer, torch.zeros(20, 100, DIM), None, seed=4).reshape(-1, 31)
    assert not torch.equal(noise, again)


@pytest.mark.parametrize("training", [True, False], ids=["relaxed at low temperature", "evaluation"])
@pytest.mark.parametrize("kind", ["global", "diagonal", "vmf"])
def test_samples_follow_the_posterior(kind, training):
    torch.manual_seed(0)
    quantizer = STOCHASTIC[kind](5, DIM).train(training)
    draws = 8000
    z = torch.randn(1, 1, DIM).expand(1, draws, DIM)
    log_var = torch.zeros(1, draws, DIM) if kind == "diagonal" else None
    quantized = quantizer(z, log_var, temperature=1e-3, sample=True).quantized[0].detach()
    codes = torch.cdist(quantized, quantizer.decoding_codebook().detach()).argmin(dim=-1)
    counts = torch.bincount(codes, minlength=5).numpy()
    posterior = quantizer.posterior(z[:, :1], None if log_var is None else log_var[:, :1])[0, 0].detach().double()
    assert (counts > 0).sum() >= 3, "the posterior is too peaked to test sampling"
    expected = posterior.numpy() / posterior.sum().item() * draws
    assert stats.chisquare(counts, expected).pvalue > 1e-3


# Variance, and the relative error that float32 may have in values and in gradients. Latents lie σ away from a code
# that has neighbours within σ, so that the posterior is shared by several codes. With the square expanded in float32,
# a logit would be rounded by about 6e-8 · |b|²/2σ², here 2e-3 at the smallest variance.
SMALL_VARIANCES = [(10.0, 1e-5), (0.1, 1e-4), (1e-2, 1e-4), (1e-3, 1e-4)]


@pytest.mark.parametrize(("variance", "tolerance"), SMALL_VARIANCES)
@pytest.mark.parametrize("offset", [0.0, 10.0], ids=["centred", "off-centre"])
@pytest.mark.parametrize("kind", ["global", "sample", "position", "diagonal"])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_float32_at_small_variances(kind, offset, variance, tolerance, backend):
    reason = fused.unavailable(backend, torch.device("cpu"))
    if reason is not None:
        pytest.skip(reason)
    size, dim, leading = 128, 64, (2, 40)
    torch.manual_seed(0)
    quantizer = GaussianQuantizer(size, dim, kind, init_variance=variance, backend=backend)
    with torch.no_grad():
        clusters = torch.randn(size // 4, 1, dim) + torch.randn(size // 4, 4, dim) * variance**0.5 * 0.3
        quantizer.codebook.copy_(clusters.reshape(size, dim) + offset)
    batch = make_batch(quantizer, leading, masked=False)
    nearby = quantizer.codebook.detach()[torch.randint(size, leading)]
    z = (nearby + torch.randn(*leading, dim) * variance**0.5).double()
    log_var = None if batch.log_var is None else batch.log_var * 0.3
    batch = batch._replace(z=z, log_var=None if log_var is None else log_var.float().double())
    noise = drawn_noise(quantizer, batch.z.float(), None, seed=9)
    expected, expected_grad = expected_stochastic(quantizer, batch, noise, 1.0)
    actual, actual_grad = actual_stochastic(quantizer, batch, torch.float32, 1.0, seed=9)
    assert expected.metrics["entropy"] > 0.1, "the posterior is one-hot: nothing is tested"
    assert_close(actual.quantized, expected.quantized, tolerance, "quantized")
    assert_close(actual.loss, expected.loss, tolerance, "loss")
    for name, value in expected_grad.items():
        assert_close(actual_grad[name], value, tolerance, f"gradient of {name}")
