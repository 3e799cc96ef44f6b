"""Reconstruction losses against float64, and two processes against one on the global batch."""

import gc
import math
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

from sqvae_speech.models.label_likelihoods import build_label_likelihood
from sqvae_speech.models.likelihoods import ArelboLikelihood, GaussianLikelihood, build_likelihood
from sqvae_speech.quantization import VectorQuantizer

SHAPE = (6, 5, 8)  # B, n_mels, frames
LENGTHS = (8, 2, 5, 8, 1, 3)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def make_batch(masked: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output, target and mask; float64 on float32's grid."""
    generator = torch.Generator().manual_seed(0)
    output, target = (torch.randn(*SHAPE, generator=generator).double() for _ in range(2))
    mask = torch.arange(SHAPE[-1]) < torch.tensor(LENGTHS)[:, None, None] if masked else None
    return output, target, mask


def real_errors(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Differences of the real values in one vector."""
    real = torch.ones(SHAPE, dtype=torch.bool) if mask is None else mask.expand(SHAPE)
    return output[real] - target[real]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_arelbo_is_half_d_log_mse(masked, dtype):
    output, target, mask = make_batch(masked)
    errors = real_errors(output, target, mask)
    dim, mse = len(errors) / SHAPE[0], errors.square().mean()
    expected_loss = dim / 2 * mse.log()
    # ∂/∂x̂ of (D/2) log MSE: (D/2) · 2 (x̂ - x) / (V · MSE), V the number of real values
    expected_grad = dim * (output - target) / (len(errors) * mse)
    if masked:
        expected_grad = expected_grad * mask
        output, target = (value.masked_fill(~mask, torch.nan) for value in (output, target))
    output = output.to(dtype).requires_grad_()
    actual = ArelboLikelihood()(output, target.to(dtype), mask)
    actual.loss.backward()
    assert actual.loss.dtype == dtype
    assert relative_error(actual.loss.detach(), expected_loss) < TOLERANCE[dtype]
    assert relative_error(actual.metrics["mse"], mse) < 1e-6
    assert relative_error(output.grad, expected_grad) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("trainable", [True, False])
def test_gaussian_likelihood_equals_the_density(trainable, masked, dtype):
    """Equal to -log N(x; x̂, σ²) less the constant D/2 log 2π, and so is its gradient in x̂ and log σ²."""
    output, target, mask = make_batch(masked)
    variance = 0.3
    errors = real_errors(output, target, mask)
    density = torch.distributions.Normal(0.0, math.sqrt(variance))
    constant = 0.5 * math.log(2 * math.pi) * len(errors)
    expected_loss = (-density.log_prob(errors).sum() - constant) / SHAPE[0]
    expected_grad = (output - target) / variance / SHAPE[0] * (1 if mask is None else mask)
    expected_scalar = 0.5 * (len(errors) - errors.square().sum() / variance) / SHAPE[0]
    likelihood = build_likelihood("gaussian" if trainable else "fixed", variance).to(dtype)
    if masked:
        output, target = (value.masked_fill(~mask, torch.nan) for value in (output, target))
    output = output.to(dtype).requires_grad_()
    loss = likelihood(output, target.to(dtype), mask).loss
    loss.backward()
    # the variance itself is stored in float32
    assert relative_error(loss.detach(), expected_loss) < 1e-6
    assert relative_error(output.grad, expected_grad) < 1e-6
    assert likelihood.log_variance.requires_grad == trainable
    if trainable:
        assert relative_error(likelihood.log_variance.grad, expected_scalar) < 1e-6
    else:
        assert likelihood.log_variance.grad is None


def test_half_precision_outputs_are_lifted():
    output, target, mask = make_batch(masked=True)
    half = ArelboLikelihood()(output.bfloat16(), target.float(), mask)
    assert half.loss.dtype == torch.float32
    assert torch.equal(half.loss, ArelboLikelihood()(output.bfloat16().float(), target.float(), mask).loss)


def test_a_perfect_reconstruction_has_a_finite_loss():
    output, _, _ = make_batch(masked=False)
    output.requires_grad_()
    loss = ArelboLikelihood()(output, output.detach()).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(output.grad).all()


def test_bad_settings():
    with pytest.raises(ValueError, match="arelbo, gaussian, fixed"):
        build_likelihood("laplace", 1.0)
    with pytest.raises(ValueError, match="must be positive"):
        GaussianLikelihood(0.0)


# ---- two processes -------------------------------------------------------------------------------------------------

# Rank 0 has the first two examples and rank 1 the other four: unequal counts of examples and of real values.
PARTS = (slice(0, 2), slice(2, 6))


class Scale(nn.Module):
    """The least decoder that has parameters to compare."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, SHAPE[1])[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


def step(rank_part: slice, wrap=lambda module: module) -> dict[str, Tensor]:
    """Losses and gradients of one part of the batch, and the codebook of an EMA quantizer after two updates."""
    x, target, mask = make_batch(masked=True)
    x, target, mask = x[rank_part].float(), target[rank_part].float(), mask[rank_part]
    # of labels: each frame's largest band, as far as that has an even number of them
    bands = SHAPE[1] - SHAPE[1] % 2
    labels, frames = target[:, :bands].argmax(dim=1), slice(None, bands)
    results = {}
    for name in ("arelbo", "gaussian", "vmf", "categorical"):
        model = wrap(Scale())
        if name in ("arelbo", "gaussian"):
            likelihood = build_likelihood(name, 0.3).train()
        else:
            likelihood = build_label_likelihood(name, bands, 7.0).train()
        if name in ("gaussian", "vmf"):  # which have a parameter
            likelihood = wrap(likelihood)
        if name in ("arelbo", "gaussian"):
            score = likelihood(model(x), target, mask)
        else:
            score = likelihood(model(x)[:, frames], labels, mask[:, 0])
        score.loss.backward()
        results[f"{name} loss"] = score.loss.detach()
        results.update({f"{name} {metric}": value for metric, value in score.metrics.items()})
        for number, parameter in enumerate([*model.parameters(), *likelihood.parameters()]):
            results[f"{name} gradient {number}"] = parameter.grad
    torch.manual_seed(0)
    quantizer = VectorQuantizer(7, SHAPE[1]).train()
    for _ in range(2):
        quantizer(x.transpose(1, 2), mask=mask[:, 0])
    results["codebook"] = quantizer.codebook.detach()
    return results


def two_process_step(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        results = step(PARTS[rank], nn.parallel.DistributedDataParallel)
        # in evaluation a process may be alone with its batch: nothing waits for the others
        x, target, mask = (value[PARTS[rank]] for value in make_batch(masked=True))
        if rank == 0:
            results["alone"] = ArelboLikelihood().eval()(x, target, mask).metrics["mse"]
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        # what wraps a model holds the group: left to the interpreter's end, its threads would meet one that is gone
        gc.collect()
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_follow_one_on_the_global_batch(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(two_process_step, args=(port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    x, target, mask = (value[PARTS[0]] for value in make_batch(masked=True))
    torch.testing.assert_close(ranks[0].pop("alone"), ArelboLikelihood().eval()(x, target, mask).metrics["mse"])
    expected = step(slice(None))
    # the mean over ranks is what a data-parallel wrapper makes of losses; the ARELBO is global already
    for name in ("gaussian loss", "vmf loss", "categorical loss"):
        mean = (ranks[0][name] + ranks[1][name]) / 2
        assert relative_error(mean, expected.pop(name)) < 1e-6, name
    assert torch.equal(ranks[0]["codebook"], ranks[1]["codebook"])
    for name, value in expected.items():
        for rank in ranks:
            assert relative_error(rank[name], value.double()) < 1e-6, name
