"""What every quantizer promises, whatever its kind (shared design, section 3)."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sqvae_speech.quantization import (
    CodebookStatistics,
    GaussianQuantizer,
    QuantizerConfig,
    ResidualQuantizer,
    VectorQuantizer,
    VmfQuantizer,
    build_quantizer,
)

SIZE, DIM = 11, 5
CONFIGS = {
    **{name: QuantizerConfig("gaussian", covariance=name) for name in ("global", "sample", "position", "diagonal")},
    "vmf": QuantizerConfig("vmf"),
    "ema": QuantizerConfig("vq", codebook_update="ema"),
    "gradient": QuantizerConfig("vq", codebook_update="gradient"),
}
STOCHASTIC = ["global", "sample", "position", "diagonal", "vmf"]


def make(kind: str, size: int = SIZE, dim: int = DIM):
    torch.manual_seed(0)
    config = CONFIGS[kind]
    return build_quantizer(
        QuantizerConfig(config.kind, size, dim, config.covariance, 0.5, codebook_update=config.codebook_update)
    )


def inputs(quantizer, *leading: int, seed: int = 1) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(*leading, quantizer.dim, generator=generator)
    if quantizer.log_var_channels == 0:
        return z, None
    shape = (leading[0], *(1,) * (len(leading) - 1)) if quantizer.log_var_per_example else leading
    return z, torch.randn(*shape, quantizer.log_var_channels, generator=generator)


def run(quantizer, z, log_var, seed: int = 2, **options):
    torch.manual_seed(seed)
    return quantizer(z, log_var, **options)


@pytest.mark.parametrize("leading", [(4,), (2, 6), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("kind", CONFIGS)
def test_shapes_dtypes_and_the_short_form(kind, leading):
    quantizer = make(kind)
    z, log_var = inputs(quantizer, *leading)
    out = quantizer(z.requires_grad_(), log_var)
    quantized, indices, loss = out[:3]
    assert quantized.shape == z.shape
    assert quantized.dtype == z.dtype
    assert indices.shape == leading
    assert indices.dtype == torch.int64
    assert loss.shape == ()
    assert loss.requires_grad
    assert {"perplexity", "perplexity_posterior", "usage", "entropy"} <= out.metrics.keys()
    for name, value in out.metrics.items():
        assert value.shape == (), name
        assert not value.requires_grad, name
    assert quantizer.posterior(z, log_var).shape == (*leading, SIZE)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", CONFIGS)
def test_masked_positions_change_nothing(kind, training):
    """Whatever padding holds, NaN too: values, gradients, metrics and the moving averages are those of any other."""
    mask = torch.rand(3, 8, generator=torch.Generator().manual_seed(3)) < 0.6
    mask[2] = False  # an example of padding only
    results = []
    for filler in (torch.nan, torch.inf, 1e6):
        quantizer = make(kind).train(training)
        z, log_var = inputs(quantizer, 3, 8)
        z = z.masked_fill(~mask[..., None], filler).requires_grad_()
        leaves = [z, *(p for p in quantizer.parameters() if p.requires_grad)]
        if log_var is not None:
            empty = ~mask.any(dim=1)[:, None, None] if quantizer.log_var_per_example else ~mask[..., None]
            log_var = log_var.masked_fill(empty, filler).requires_grad_()
            leaves.append(log_var)
        out = run(quantizer, z, log_var, mask=mask)
        assert (out.quantized[~mask] == 0).all()
        assert (out.indices[~mask] == 0).all()
        grads = torch.autograd.grad(out.loss + out.quantized.sin().sum(), leaves, allow_unused=True)
        assert (grads[0][~mask] == 0).all()
        codebook = quantizer.codebook.detach().clone()
        results.append([out.quantized, out.indices, out.loss, *out.metrics.values(), *grads, codebook])
    for other in results[1:]:
        for left, right in zip(results[0], other, strict=True):
            if left is not None:
                assert torch.isfinite(left).all()
                torch.testing.assert_close(left, right, rtol=0, atol=0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_mask_is_the_same_as_leaving_out(kind):
    """In evaluation, one example with its tail masked gives what the shorter example gives."""
    quantizer = make(kind).eval()
    z, log_var = inputs(quantizer, 1, 9)
    mask = torch.arange(9)[None] < 6
    short = log_var if log_var is None or quantizer.log_var_per_example else log_var[:, :6]
    masked, alone = quantizer(z, log_var, mask=mask), quantizer(z[:, :6], short)
    torch.testing.assert_close(masked.quantized[:, :6], alone.quantized, rtol=0, atol=0)
    assert torch.equal(masked.indices[:, :6], alone.indices)
    torch.testing.assert_close(masked.loss, alone.loss)
    for name, value in alone.metrics.items():
        torch.testing.assert_close(masked.metrics[name], value)


@pytest.mark.parametrize("kind", CONFIGS)
def test_loss_sums_over_positions_and_averages_over_the_first_axis(kind):
    quantizer = make(kind).eval()
    z, log_var = inputs(quantizer, 2, 3)
    one = quantizer(z, log_var).loss
    repeat = (4, 1, 1)
    torch.testing.assert_close(quantizer(z.repeat(repeat), _map(log_var, lambda v: v.repeat(repeat))).loss, one)
    wider = _map(log_var, lambda v: v if quantizer.log_var_per_example else v.repeat(1, 5, 1))
    torch.testing.assert_close(quantizer(z.repeat(1, 5, 1), wider).loss, 5 * one)


def _map(value, function):
    return None if value is None else function(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", CONFIGS)
def test_decoding_the_indices_gives_the_quantized_vectors(kind, dtype):
    quantizer = make(kind).eval()
    z, log_var = inputs(quantizer, 3, 7)
    z, log_var = z.to(dtype), _map(log_var, lambda v: v.to(dtype))
    out = quantizer(z, log_var)
    assert torch.equal(out.indices, quantizer.encode(z, log_var))
    decoded = quantizer.decode(out.indices)
    # VQ goes through z + (b - z), which rounds; the others are to the last bit
    tolerance = 1e-6 if isinstance(quantizer, VectorQuantizer) and dtype == torch.float32 else 0
    if not (isinstance(quantizer, VectorQuantizer) and dtype == torch.bfloat16):
        torch.testing.assert_close(out.quantized, decoded.to(dtype), rtol=0, atol=tolerance)
    # a code decodes to a vector that encodes to it
    again = quantizer.encode(decoded, _map(log_var, lambda v: torch.zeros_like(v, dtype=torch.float32)))
    assert torch.equal(again, out.indices)


@pytest.mark.parametrize("kind", CONFIGS)
def test_indices_are_the_mode_of_the_posterior(kind):
    quantizer = make(kind)
    z, log_var = inputs(quantizer, 3, 7)
    posterior = quantizer.posterior(z, log_var)
    assert torch.equal(posterior.argmax(dim=-1), quantizer.encode(z, log_var))
    assert torch.equal(posterior.argmax(dim=-1), quantizer.train()(z, log_var).indices)
    torch.testing.assert_close(posterior.sum(dim=-1), torch.ones(3, 7))


@pytest.mark.parametrize("kind", CONFIGS)
def test_evaluation_is_deterministic_and_training_follows_the_seed(kind):
    quantizer = make(kind)
    z, log_var = inputs(quantizer, 2, 6)
    quantizer.eval()
    assert torch.equal(run(quantizer, z, log_var, 1).quantized, run(quantizer, z, log_var, 2).quantized)
    if kind in STOCHASTIC:
        drawn = [run(quantizer, z, log_var, seed, sample=True).quantized for seed in (1, 1, 2)]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        quantizer.train()
        relaxed = [run(quantizer, z, log_var, seed).quantized for seed in (1, 1, 2)]
        assert torch.equal(relaxed[0], relaxed[1])
        assert not torch.equal(relaxed[0], relaxed[2])
        fixed = [run(quantizer, z, log_var, seed, sample=False).quantized for seed in (1, 2)]
        assert torch.equal(fixed[0], fixed[1])


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_temperature_sharpens_the_relaxed_sample(kind):
    quantizer = make(kind).train()
    z, log_var = inputs(quantizer, 2, 6)
    codebook = quantizer.decoding_codebook()
    cold = run(quantizer, z, log_var, temperature=1e-4).quantized
    assert torch.cdist(cold, codebook).amin(dim=-1).max() < 1e-3
    hot = run(quantizer, z, log_var, temperature=1e6).quantized
    torch.testing.assert_close(hot, codebook.mean(dim=0).expand_as(hot), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", CONFIGS)
def test_autocast_computes_in_float32(kind):
    z, log_var = inputs(make(kind), 2, 6)
    outs = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            outs.append(run(make(kind).train(), z, log_var))
    for left, right in zip(outs[0][:3], outs[1][:3], strict=True):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)


@pytest.mark.parametrize("kind", CONFIGS)
def test_half_precision_latents_are_lifted(kind):
    quantizer = make(kind).train()
    z, log_var = inputs(quantizer, 2, 6)
    half, half_var = z.bfloat16(), _map(log_var, lambda v: v.bfloat16())
    out = run(make(kind).train(), half, half_var)
    lifted = run(make(kind).train(), half.float(), _map(half_var, lambda v: v.float()))
    assert out.quantized.dtype == torch.bfloat16
    assert out.loss.dtype == torch.float32
    assert torch.equal(out.loss, lifted.loss)
    assert torch.equal(out.indices, lifted.indices)
    assert torch.equal(out.quantized, lifted.quantized.bfloat16())


@pytest.mark.parametrize("kind", CONFIGS)
def test_state_dict_round_trip(kind):
    trained = make(kind).train()
    z, log_var = inputs(trained, 2, 6)
    trained(z, log_var)  # moves the averages of the EMA kind
    torch.manual_seed(99)
    fresh = build_quantizer(QuantizerConfig(**{**vars(CONFIGS[kind]), "codebook_size": SIZE, "dim": DIM}))
    assert not torch.equal(fresh.codebook, trained.codebook)
    fresh.load_state_dict(trained.state_dict())
    for left, right in zip(run(trained.eval(), z, log_var)[:3], run(fresh.eval(), z, log_var)[:3], strict=True):
        assert torch.equal(left, right)


def test_the_scalar_is_the_only_parameter_of_one_element():
    for kind in STOCHASTIC:
        sizes = {name: parameter.numel() for name, parameter in make(kind).named_parameters()}
        assert [name for name, size in sizes.items() if size == 1] == ["log_scale"], kind
        expected = 20.0 if kind == "vmf" else 0.5
        assert make(kind).log_scale.item() == pytest.approx(math.log(expected)), kind


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any operator returned, forward and backward."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            # an expanded view holds no memory of its own
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("kind", CONFIGS)
def test_no_tensor_of_positions_by_dim_by_codes(kind):
    rows, size, dim = 96, 64, 32
    quantizer = make(kind, size, dim).train()
    z, log_var = inputs(quantizer, 2, rows // 2)
    with LargestTensor() as record:
        out = quantizer(z.requires_grad_(), log_var)
        (out.loss + out.quantized.sum()).backward()
        quantizer.posterior(z, log_var)
        quantizer.encode(z, log_var)
    assert record.elements >= rows * dim, "nothing was recorded"
    assert record.elements <= max(rows * (size + dim), 2 * size * dim, 2 * rows * dim)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "nothing"}, "gaussian, vmf, vq"),
        ({"codebook_size": 0}, "codebook_size must be a positive integer, got 0"),
        ({"dim": -1}, "dim must be a positive integer, got -1"),
        ({"covariance": "full"}, "global, sample, position, diagonal"),
        ({"init_variance": 0.0}, "init_variance must be positive"),
        ({"kind": "vmf", "dim": 1}, "dim must be at least 2"),
        ({"kind": "vmf", "init_kappa": -1.0}, "init_kappa must be positive"),
        ({"kind": "vq", "codebook_update": "adam"}, "ema, gradient"),
        ({"kind": "vq", "commitment": 0.0}, "commitment must be positive"),
        ({"kind": "vq", "ema_decay": 1.0}, r"ema_decay must be in \(0, 1\)"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_quantizer(QuantizerConfig(**arguments))


def test_bad_inputs():
    quantizer = GaussianQuantizer(SIZE, DIM, "diagonal")
    z = torch.zeros(2, 3, DIM)
    with pytest.raises(ValueError, match="channels last"):
        quantizer(z.transpose(1, 2), z)
    with pytest.raises(ValueError, match=r"needs log_var \(2, 3, 5\)"):
        quantizer(z)
    with pytest.raises(ValueError, match="needs log_var"):
        quantizer(z, z[..., :1])
    with pytest.raises(ValueError, match="mask must be bool"):
        quantizer(z, z, mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="mask must be bool"):
        quantizer(z, z, mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="temperature must be positive"):
        quantizer(z, z, temperature=0.0)
    with pytest.raises(ValueError, match=r"needs log_var \(2, 1, 1\)"):
        GaussianQuantizer(SIZE, DIM, "sample")(z, torch.zeros(2, 3, 1))
    with pytest.raises(ValueError, match="takes no log_var"):
        VmfQuantizer(SIZE, DIM)(z, z)
    with pytest.raises(ValueError, match=r"index 11 .* \(legal: 0 to 10\)"):
        quantizer.decode(torch.tensor([[0, 11]]))
    with pytest.raises(ValueError, match="index -1"):
        quantizer.decode(torch.tensor([[-1, 0]]))


def test_codebook_statistics_add_up_over_batches():
    statistics = CodebookStatistics(4)
    statistics.update(torch.tensor([[0, 1], [1, 3]]), torch.tensor([[True, True], [True, False]]))
    statistics.update(torch.tensor([2]))
    assert statistics.counts.tolist() == [1, 2, 1, 0]
    assert statistics.usage == 0.75
    assert statistics.perplexity == pytest.approx(math.exp(-2 * 0.25 * math.log(0.25) - 0.5 * math.log(0.5)))
    statistics.reset()
    assert statistics.usage == 0
    assert statistics.perplexity == 1


def test_variances_over_real_rows():
    quantizer = GaussianQuantizer(50, 6, "diagonal", init_variance=0.7)
    log_var, mask = torch.randn(3, 5, 6), torch.rand(3, 5) < 0.7
    metrics = quantizer(torch.randn(3, 5, 6), log_var, mask=mask).metrics
    variance = 0.7 * np.exp(log_var.double().numpy()[mask.numpy()])
    spread = quantizer.codebook.detach().double().numpy().var(axis=0)
    assert metrics["variance"].item() == pytest.approx(stats.gmean(variance, axis=None), rel=1e-5)
    assert metrics["relative_variance"].item() == pytest.approx(stats.hmean(variance / spread, axis=None), rel=1e-5)


def test_relative_variance_of_residual_stages_adds():
    stages = [GaussianQuantizer(50, 6, "global", init_variance=variance) for variance in (0.7, 0.2)]
    metrics = ResidualQuantizer(stages)(torch.randn(3, 5, 6)).metrics
    spread = sum(stage.codebook.detach().double().numpy().var(axis=0) for stage in stages)
    assert metrics["variance"].item() == pytest.approx(0.9, rel=1e-5)
    assert metrics["relative_variance"].item() == pytest.approx(stats.hmean(0.9 / spread), rel=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_draws_are_of_the_posterior_and_of_their_seed(kind):
    quantizer = make(kind).eval()
    z, log_var = inputs(quantizer, 1, 1)
    z = z.expand(1, 3000, -1)
    if log_var is not None:  # a wide posterior
        shape = (1, 1, 1) if quantizer.log_var_per_example else (1, 3000, quantizer.log_var_channels)
        log_var = torch.full(shape, -2.0 if kind == "vmf" else 2.0)
    state = torch.random.get_rng_state()
    drawn = quantizer.sample(z, log_var, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert drawn.shape == (1, 3000)
    assert torch.equal(drawn, quantizer.sample(z, log_var, seed=5))
    posterior = quantizer.posterior(z, log_var)[0, 0].detach().double().numpy()
    if kind not in STOCHASTIC:
        assert torch.equal(drawn, quantizer.encode(z, log_var))
        return
    assert not torch.equal(drawn, quantizer.sample(z, log_var, seed=6))
    observed = np.bincount(drawn[0].numpy(), minlength=SIZE)
    rare = posterior * 3000 < 5
    counts = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(posterior[~rare], posterior[rare].sum()) * 3000
    keep = expected > 1e-9
    assert counts[~keep].sum() == 0
    assert keep.sum() >= 2
    assert stats.chisquare(counts[keep], expected[keep] / expected.sum() * 3000).pvalue > 1e-3


def test_later_stages_are_drawn_given_the_codes_drawn_before():
    """Of a residual quantizer, by hand: stage 1 of every first code that was drawn follows its own posterior."""
    torch.manual_seed(0)
    quantizer = ResidualQuantizer([GaussianQuantizer(4, 2, covariance="global") for _ in range(2)]).eval()
    z = torch.tensor([0.3, -0.2]).expand(1, 20_000, 2)
    drawn = quantizer.sample(z, seed=3)[0].numpy()
    assert drawn.shape == (20_000, 2)
    books = [stage.codebook.detach().double().numpy() for stage in quantizer.stages]
    precision = [np.exp(-stage.log_scale.item()) for stage in quantizer.stages]

    def posterior(point, stage):
        logits = -0.5 * precision[stage] * ((books[stage] - point) ** 2).sum(axis=1)
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    first = posterior(z[0, 0].double().numpy(), 0)
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=4) / 20_000, first, atol=0.015)
    for code in range(4):
        chosen = drawn[drawn[:, 0] == code, 1]
        if len(chosen) > 500:
            second = posterior(z[0, 0].double().numpy() - books[0][code], 1)
            observed = np.bincount(chosen, minlength=4) / len(chosen)
            np.testing.assert_allclose(observed, second, atol=4 * np.sqrt(0.25 / len(chosen)))
