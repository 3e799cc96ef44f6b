"""Residual and grouped quantizers against an independent float64 computation, and what they promise."""

import pytest
import quantizer_equations as equations
import torch
from comparison import Batch, as_leaf, assert_close, gradients, make_batch
from gumbel_probe import drawn_noise, drawn_noises

from sqvae_speech.quantization import (
    CodebookStatistics,
    GaussianQuantizer,
    GroupedQuantizer,
    QuantizerConfig,
    ResidualQuantizer,
    VectorQuantizer,
    VmfQuantizer,
    build_quantizer,
)

SIZE, DIM, STAGES = 9, 6, 3
COVARIANCES = ("global", "sample", "position", "diagonal")
LEADING = {"1-D": (3, 5), "2-D": (2, 2, 3)}
# each stage works on the rounding of those before it
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-4}


def make_residual(covariance: str, shared: bool = False, variance_sum: bool = False, stages: int = STAGES):
    torch.manual_seed(1)
    made = []
    for number in range(stages):
        stage = GaussianQuantizer(SIZE, DIM, covariance, init_variance=0.8 / (number + 1), variance_sum=variance_sum)
        with torch.no_grad():
            stage.codebook.mul_(0.6**number)
        made.append(stage)
    return ResidualQuantizer(made, shared_codebook=shared)


def make_residual_vq(update: str, shared: bool = False) -> ResidualQuantizer:
    torch.manual_seed(1)
    stages = [VectorQuantizer(SIZE, DIM, update, commitment=0.4, ema_decay=0.8) for _ in range(STAGES)]
    return ResidualQuantizer(stages, shared_codebook=shared)


def use_stages(quantizer: ResidualQuantizer, counts: list[int] | None, positions: int, monkeypatch) -> list[int]:
    """Have the quantizer drop the stages that ``counts`` says, whatever it would draw."""
    if counts is None:
        return [STAGES] * 9
    rows = torch.tensor(counts).repeat_interleave(positions)
    monkeypatch.setattr(quantizer, "_draw_stage_counts", lambda _: rows)
    return counts


def nan_where_masked(batch: Batch, dtype: torch.dtype, per_example: bool):
    z, log_var = batch.z.to(dtype), None if batch.log_var is None else batch.log_var.to(dtype)
    if batch.mask is not None:
        z = z.masked_fill(~batch.mask[..., None], torch.nan)
        if log_var is not None and not per_example:
            log_var = log_var.masked_fill(~batch.mask[..., None], torch.nan)
    return as_leaf(z, dtype), as_leaf(log_var, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("leading", "masked", "training", "shared", "variance_sum", "counts"),
    [
        ("1-D", False, True, False, False, None),
        ("2-D", True, True, False, False, None),
        ("1-D", True, True, True, True, None),
        ("1-D", True, True, False, True, [2, 1, 3]),
        ("1-D", False, True, True, False, [1, 3, 2]),
        ("2-D", True, False, True, False, None),
        ("1-D", False, False, False, True, None),
    ],
)
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_residual_gaussian_equals_the_equations(
    covariance, leading, masked, training, shared, variance_sum, counts, dtype, monkeypatch
):
    quantizer = make_residual(covariance, shared, variance_sum).to(dtype).train(training)
    shape = LEADING[leading]
    batch = make_batch(quantizer, shape, masked)
    used = use_stages(quantizer, counts, batch.z[0, ..., 0].numel(), monkeypatch)
    noises = drawn_noises(quantizer, batch.z.to(dtype), batch.mask, 5, STAGES) if training else None

    real = torch.ones(shape, dtype=torch.bool) if batch.mask is None else batch.mask
    cotangent = batch.cotangent * real[..., None]
    z, log_var = as_leaf(batch.z, torch.float64), as_leaf(batch.log_var, torch.float64)
    books = [quantizer._codebook(n) for n in range(1 if shared else STAGES)]
    codebooks = [as_leaf(book.detach(), torch.float64) for book in books]
    scalars = [as_leaf(stage.log_scale.detach(), torch.float64) for stage in quantizer.stages]
    variances = [equations.total_variance(log_var, scalar, z, variance_sum) for scalar in scalars]
    all_books = codebooks * STAGES if shared else codebooks
    expected = equations.residual_gaussian(z, all_books, variances, noises, 0.7, batch.mask, used)
    leaves = {f"codebook {n}": book for n, book in enumerate(codebooks)}
    leaves |= {f"scalar {n}": scalar for n, scalar in enumerate(scalars)}
    expected_grad = gradients(expected.loss + (expected.quantized * cotangent).sum(), z=z, log_var=log_var, **leaves)

    z, log_var = nan_where_masked(batch, dtype, quantizer.log_var_per_example)
    torch.manual_seed(5)
    actual = quantizer(z, log_var, temperature=0.7, mask=batch.mask)
    leaves = {f"codebook {n}": book for n, book in enumerate(books)}
    leaves |= {f"scalar {n}": stage.log_scale for n, stage in enumerate(quantizer.stages)}
    total = actual.loss + (actual.quantized * batch.cotangent.to(dtype)).sum()
    actual_grad = gradients(total, z=z, log_var=log_var, **leaves)

    tolerance = TOLERANCE[dtype]
    assert torch.equal(actual.indices[real], expected.indices[real])
    assert (actual.indices[~real] == 0).all()
    assert_close(actual.quantized[real], expected.quantized[real], tolerance, "quantized")
    assert (actual.quantized[~real] == 0).all()
    assert_close(actual.loss, expected.loss, tolerance, "loss")
    for name, value in expected.metrics.items():
        assert_close(actual.metrics[name], value, tolerance, name)
    for name, value in expected_grad.items():
        assert_close(actual_grad[name], value, tolerance, f"gradient of {name}")
    if not training and not masked:
        posterior = quantizer.posterior(z.detach(), None if log_var is None else log_var.detach())
        assert_close(posterior.detach(), expected.posterior, tolerance, "posterior")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("counts", [None, [2, 1, 3]], ids=["whole", "dropout"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_residual_vq_equals_the_equations(update, shared, counts, dtype, monkeypatch):
    quantizer = make_residual_vq(update, shared).to(dtype).train()
    batch = make_batch(quantizer, LEADING["1-D"], masked=True)
    used = use_stages(quantizer, counts, 5, monkeypatch)
    books = [quantizer._codebook(n).detach().double().clone() for n in range(STAGES)]
    averages = [equations.MovingAverages(book, decay=0.8) for book in books[: 1 if shared else STAGES]]
    quantized, indices, loss, grad_z, grad_books, residuals = equations.residual_vector(
        batch.z, books, batch.cotangent, 0.4, update == "gradient", batch.mask, used
    )
    z, _ = nan_where_masked(batch, dtype, False)
    actual = quantizer(z, mask=batch.mask)
    total = actual.loss + (actual.quantized * batch.cotangent.to(dtype)).sum()

    real, tolerance = batch.mask, TOLERANCE[dtype]
    assert torch.equal(actual.indices[real], indices[real])
    assert_close(actual.quantized[real].detach(), quantized[real], tolerance, "quantized")
    assert_close(actual.loss.detach(), loss, tolerance, "loss")
    assert_close(torch.autograd.grad(total, z, retain_graph=True)[0], grad_z, tolerance, "gradient of z")
    own = quantizer.stages
    assert len(own) == (1 if shared else STAGES)
    if update == "gradient":
        expected = [sum(grad_books)] if shared else grad_books
        actual_grads = torch.autograd.grad(total, [stage.codebook for stage in own])
        for number, (left, right) in enumerate(zip(actual_grads, expected, strict=True)):
            assert_close(left, right, tolerance, f"gradient of codebook {number}")
        return
    in_use = [real & (torch.tensor(used)[:3, None] > n) for n in range(STAGES)]
    given = [(residuals[n][in_use[n]], indices[..., n][in_use[n]]) for n in range(STAGES)]
    if shared:
        given = [(torch.cat([latents for latents, _ in given]), torch.cat([codes for _, codes in given]))]
    for number, (average, (latents, codes)) in enumerate(zip(averages, given, strict=True)):
        average.update(latents, codes)
        assert_close(own[number].codebook.detach(), average.codebook, tolerance, f"codebook {number}")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_stage_is_the_quantizer_itself(covariance, training):
    residual = make_residual(covariance, stages=1).train(training)
    single = make_residual(covariance, stages=1).train(training).stages[0]
    batch = make_batch(single, (3, 5), masked=True)
    z, log_var = batch.z.float(), None if batch.log_var is None else batch.log_var.float()
    outs = []
    for quantizer in (residual, single):
        torch.manual_seed(3)
        outs.append(quantizer(z, log_var, mask=batch.mask))
    assert torch.equal(outs[0].indices[..., 0], outs[1].indices)
    torch.testing.assert_close(outs[0].quantized, outs[1].quantized, rtol=0, atol=0)
    torch.testing.assert_close(outs[0].loss, outs[1].loss)
    for name, value in outs[1].metrics.items():
        torch.testing.assert_close(outs[0].metrics[name], value)


def build(kind: str, **settings):
    torch.manual_seed(1)
    covariance = kind if kind in COVARIANCES else "global"
    family = {"vmf": "vmf", "ema": "vq", "gradient": "vq"}.get(kind, "gaussian")
    update = kind if family == "vq" else "ema"
    config = QuantizerConfig(family, SIZE, DIM, covariance, 0.5, codebook_update=update, **settings)
    return build_quantizer(config)


COMPOSED = {
    "residual": {"num_quantizers": 3},
    "residual shared": {"num_quantizers": 3, "shared_codebook": True},
    "grouped": {"num_groups": 2},
    "grouped residual": {"num_groups": 2, "num_quantizers": 3},
}
CASES = [
    (name, kind)
    for name in COMPOSED
    for kind in (*COVARIANCES, "vmf", "ema", "gradient")
    if kind != "vmf" or name == "grouped"
]


def inputs(quantizer, leading=(2, 7)):
    batch = make_batch(quantizer, leading, masked=True)
    return batch.z.float(), None if batch.log_var is None else batch.log_var.float(), batch.mask


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_contract_of_composed_quantizers(name, kind):
    quantizer = build(kind, **COMPOSED[name]).eval()
    z, log_var, mask = inputs(quantizer)
    codes = quantizer.num_codebooks
    assert codes == {"residual": 3, "residual shared": 3, "grouped": 2, "grouped residual": 6}[name]
    out = quantizer(z, log_var)
    assert out.indices.shape == (2, 7, codes)
    assert out.quantized.shape == z.shape
    assert torch.equal(out.indices, quantizer.encode(z, log_var))
    posterior = quantizer.posterior(z, log_var)
    assert posterior.shape == (2, 7, codes, SIZE)
    assert torch.equal(posterior.argmax(dim=-1), out.indices)
    torch.testing.assert_close(posterior.sum(dim=-1), torch.ones(2, 7, codes))
    tolerance = 1e-6 if kind in ("ema", "gradient") else 0  # VQ goes through z + (b - z)
    torch.testing.assert_close(quantizer.decode(out.indices), out.quantized, rtol=0, atol=tolerance)
    assert {"perplexity", "perplexity_posterior", "usage", "entropy", f"perplexity_{codes - 1}"} <= out.metrics.keys()
    assert f"perplexity_{codes}" not in out.metrics
    for metric, value in out.metrics.items():
        assert value.shape == (), metric
    each = torch.stack([out.metrics[f"perplexity_{n}"] for n in range(codes)])
    torch.testing.assert_close(out.metrics["perplexity"], each.mean())
    statistics = CodebookStatistics(SIZE, codes)
    masked = quantizer(z, log_var, mask=mask)
    assert (masked.indices[~mask] == 0).all()
    statistics.update(masked.indices, mask)
    assert statistics.counts.sum(dim=1).tolist() == [mask.sum()] * codes
    assert statistics.perplexity == pytest.approx(masked.metrics["perplexity"].item())
    assert statistics.usage == pytest.approx(masked.metrics["usage"].item())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_state_dict_round_trip_and_gradients_of_every_parameter(name, kind):
    quantizer = build(kind, **COMPOSED[name]).train()
    z, log_var, mask = inputs(quantizer)
    z.requires_grad_()
    out = quantizer(z, log_var, mask=mask)
    (out.loss + out.quantized.sin().sum()).backward()
    assert torch.isfinite(z.grad).all()
    assert (z.grad[~mask] == 0).all()
    for parameter_name, parameter in quantizer.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
    state = quantizer.state_dict()
    pointers = [tensor.data_ptr() for tensor in state.values()]
    assert len(set(pointers)) == len(pointers), "shared storage cannot be saved as safetensors"
    fresh = build(kind, **COMPOSED[name])
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1.0)
    fresh.load_state_dict(state)
    z = z.detach()
    for left, right in zip(quantizer.eval()(z, log_var)[:3], fresh.eval()(z, log_var)[:3], strict=True):
        assert torch.equal(left, right)


def test_sharing_leaves_one_codebook():
    shared = build("diagonal", num_quantizers=3, shared_codebook=True)
    names = [name for name, _ in shared.named_parameters()]
    assert [name for name in names if name.endswith("codebook")] == ["stages.0.codebook"]
    assert sum(name.endswith("log_scale") for name in names) == 3
    assert torch.equal(shared.decoding_codebook()[0], shared.decoding_codebook()[2])
    separate = build("diagonal", num_quantizers=3)
    assert sum(name.endswith("codebook") for name, _ in separate.named_parameters()) == 3


@pytest.mark.parametrize("kind", ["diagonal", "ema"])
def test_first_stages_decode_to_an_approximation_that_improves(kind):
    """Stages that hold the data at hand: each leaves less of it over, and n stages decode to the sum of n codes."""
    torch.manual_seed(0)
    quantizer = build(kind, num_quantizers=3).eval()
    z, log_var, _ = inputs(quantizer, (2, 40))
    log_var = None if log_var is None else torch.full_like(log_var, -6.0)
    residual = z.reshape(-1, DIM)
    for stage in quantizer.stages:
        chosen = residual[torch.randperm(len(residual))[:SIZE]]
        stage.set_codebook(chosen)
        residual = residual - chosen[torch.cdist(residual, chosen).argmin(dim=-1)]
    indices = quantizer.encode(z, log_var)
    errors = [(quantizer.decode(indices[..., :n]) - z).square().mean().item() for n in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    parts = [quantizer.stages[n].decode(indices[..., n]) for n in range(3)]
    torch.testing.assert_close(quantizer.decode(indices[..., :2]), parts[0] + parts[1])


def test_stage_dropout_uses_the_first_stages_of_some_examples():
    quantizer = build("diagonal", num_quantizers=3, stage_dropout=0.6).train()
    z, log_var = torch.randn(3000, 2, DIM), torch.full((3000, 2, DIM), -4.0)
    whole = build("diagonal", num_quantizers=3).train()
    with torch.no_grad():
        quantized = quantizer(z, log_var, temperature=1e-4).quantized
        codes = quantizer.decoding_codebook()
        # which sum of codes is it? all combinations of 1, 2 and 3 stages
        sums = codes[0]
        candidates, lengths = [sums], [torch.full((SIZE,), 1)]
        for stage in (1, 2):
            sums = (sums[:, None] + codes[stage]).reshape(-1, DIM)
            candidates.append(sums)
            lengths.append(torch.full((len(sums),), stage + 1))
        distances, nearest = torch.cdist(quantized.reshape(-1, DIM), torch.cat(candidates)).min(dim=-1)
        used = torch.cat(lengths)[nearest].reshape(3000, 2)
    assert distances.max() < 1e-2
    assert torch.equal(used[:, 0], used[:, 1]), "an example keeps its number of stages"
    shares = torch.bincount(used[:, 0], minlength=4)[1:] / 3000
    expected = torch.tensor([0.2, 0.2, 0.6])  # 0.4 keep all, 0.6 draw uniformly
    assert (shares - expected).abs().max() < 4 * (0.24 / 3000) ** 0.5
    assert torch.equal(quantizer.eval()(z[:9], log_var[:9]).loss, whole.eval()(z[:9], log_var[:9]).loss)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", [*COVARIANCES, "vmf", "ema"])
def test_groups_are_quantizers_side_by_side(kind, training):
    """Outputs, loss and gradients are those of the groups on their own channels, with the noise each would draw."""
    quantizer = build(kind, num_groups=2).train(training)
    batch = make_batch(quantizer, (3, 5), masked=True)
    z, log_var = as_leaf(batch.z, torch.float32), as_leaf(batch.log_var, torch.float32)
    alone = build(kind, num_groups=2).train(training)
    torch.manual_seed(4)
    out = quantizer(z, log_var, mask=batch.mask)
    grads = torch.autograd.grad(out.loss + (out.quantized * batch.cotangent).sum(), [z, *quantizer.parameters()][:1])
    split = log_var is not None and kind == "diagonal"
    parts_z = [as_leaf(part, torch.float32) for part in z.detach().chunk(2, dim=-1)]
    torch.manual_seed(4)
    parts = [
        group(part, log_var.chunk(2, dim=-1)[n].detach() if split else log_var, mask=batch.mask)
        for n, (group, part) in enumerate(zip(alone.groups, parts_z, strict=True))
    ]
    torch.testing.assert_close(out.quantized, torch.cat([part.quantized for part in parts], dim=-1))
    assert torch.equal(out.indices, torch.stack([part.indices for part in parts], dim=-1))
    torch.testing.assert_close(out.loss, parts[0].loss + parts[1].loss)
    total = sum(
        part.loss + (part.quantized * cotangent).sum()
        for part, cotangent in zip(parts, batch.cotangent.chunk(2, dim=-1), strict=True)
    )
    torch.testing.assert_close(grads[0], torch.cat(torch.autograd.grad(total, parts_z), dim=-1))
    for name in ("entropy", "kl_discrete", "distance"):
        if name in parts[0].metrics:
            torch.testing.assert_close(out.metrics[name], parts[0].metrics[name] + parts[1].metrics[name])


def test_codes_of_residual_groups_lie_stage_by_stage():
    quantizer = build("ema", num_groups=2, num_quantizers=3).eval()
    z, _, _ = inputs(quantizer)
    indices = quantizer.encode(z)
    groups = [group.encode(part) for group, part in zip(quantizer.groups, z.chunk(2, dim=-1), strict=True)]
    expected = torch.stack([groups[n % 2][..., n // 2] for n in range(6)], dim=-1)
    assert torch.equal(indices, expected)
    first = [group.decode(codes[..., :2]) for group, codes in zip(quantizer.groups, groups, strict=True)]
    assert torch.equal(quantizer.decode(indices[..., :4]), torch.cat(first, dim=-1))


def test_codebooks_that_start_from_latents():
    latents, generator = torch.randn(200, DIM), torch.Generator().manual_seed(0)
    residual = build("global", num_quantizers=3)
    residual.start_from(latents, generator)
    books = residual.decoding_codebook().detach()
    assert all((latents == code).all(dim=1).any() for code in books[0]), "codes of the first stage are latents"
    left = latents - books[0][torch.cdist(latents, books[0]).argmin(dim=-1)]
    assert (books[1][:, None] - left).norm(dim=-1).amin(dim=-1).max() < 1e-6, "codes of the second are left over"
    errors = []
    for n in (1, 2, 3):
        errors.append((residual.decode(residual.encode(latents)[:, :n]) - latents).square().mean().item())
    assert errors[0] > errors[1] > errors[2]
    grouped = build("ema", num_groups=2, num_quantizers=2)
    grouped.start_from(latents, generator)
    first = grouped.groups[1].stages[0]
    assert (first.codebook[:, None] - latents[:, DIM // 2 :]).norm(dim=-1).amin(dim=-1).max() == 0
    assert torch.equal(first.sums_ema, first.codebook), "the averages start there too"
    shared = build("diagonal", num_quantizers=3, shared_codebook=True)
    shared.start_from(latents, generator)
    assert (shared.stages[0].codebook[:, None] - latents).norm(dim=-1).amin(dim=-1).max() == 0
    with pytest.raises(ValueError, match="9 codes cannot start from 8 latents"):
        residual.start_from(latents[:8], generator)


@pytest.mark.parametrize("name", COMPOSED)
def test_set_codebook(name):
    quantizer = build("ema", **COMPOSED[name])
    vectors = torch.randn_like(quantizer.decoding_codebook())
    if name == "residual shared":
        quantizer.set_codebook(vectors[0])
        vectors = vectors[:1].expand(3, -1, -1)
    elif name == "grouped residual":
        assert vectors.shape == (2, 3, SIZE, DIM // 2)
        quantizer.set_codebook(vectors)
    else:
        quantizer.set_codebook(vectors)
    assert torch.equal(quantizer.decoding_codebook(), vectors)
    with pytest.raises(ValueError, match="codebook"):
        quantizer.set_codebook(vectors[:1])


def test_probe_of_successive_draws():
    """The tests above rest on it: later quantizers draw other noise, the first the same as one alone."""
    z = torch.zeros(2, 5, DIM)
    quantizer = GaussianQuantizer(SIZE, DIM, "global")
    first, second = drawn_noises(quantizer, z, None, 3, 2)
    assert torch.equal(first, drawn_noise(quantizer, z, None, 3))
    assert not torch.equal(first, second)


def test_bad_settings():
    with pytest.raises(ValueError, match="at least one stage"):
        ResidualQuantizer([])
    with pytest.raises(ValueError, match="got VmfQuantizer"):
        ResidualQuantizer([VmfQuantizer(SIZE, DIM)])
    with pytest.raises(ValueError, match="stages must be alike: stage 1"):
        ResidualQuantizer([VectorQuantizer(SIZE, DIM), VectorQuantizer(SIZE, DIM + 1)])
    with pytest.raises(ValueError, match="stages must be alike: stage 1"):
        ResidualQuantizer([GaussianQuantizer(SIZE, DIM, "global"), GaussianQuantizer(SIZE, DIM, "diagonal")])
    with pytest.raises(ValueError, match=r"stage_dropout must be a probability in \[0, 1\], got 1.5"):
        build("ema", num_quantizers=2, stage_dropout=1.5)
    with pytest.raises(ValueError, match="at least one group"):
        GroupedQuantizer([])
    with pytest.raises(ValueError, match="groups must be alike"):
        GroupedQuantizer([VectorQuantizer(SIZE, DIM), VectorQuantizer(SIZE + 1, DIM)])
    with pytest.raises(ValueError, match=r"dim \(6\) must be a multiple of num_groups \(4\)"):
        build("ema", num_groups=4)
    with pytest.raises(ValueError, match="num_quantizers must be at least 1, got 0"):
        build("ema", num_quantizers=0)
    with pytest.raises(ValueError, match="for num_quantizers > 1"):
        build("ema", shared_codebook=True)
    residual, grouped = build("ema", num_quantizers=3), build("ema", num_groups=2)
    with pytest.raises(ValueError, match="n from 1 to 3 stages"):
        residual.decode(torch.zeros(2, 5, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="index 9 is outside"):
        residual.decode(torch.full((2, 5, 3), 9))
    with pytest.raises(ValueError, match="n one of 2"):
        grouped.decode(torch.zeros(2, 5, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="takes no log_var"):
        residual(torch.zeros(2, 5, DIM), torch.zeros(2, 5, DIM))
