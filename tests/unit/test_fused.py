"""The fused operator: gradients, agreement of backends, blocks, choice of backend."""

import pytest
import torch

from sqvae_speech.quantization import GaussianQuantizer, blocks, fused, noise
from sqvae_speech.quantization.fused import stochastic_quantize

SEED = torch.tensor([0x1234_5678_9ABC_DEF0])
FORMS = [
    ("gaussian", (1, 1)),
    ("gaussian", (4, 1)),
    ("gaussian", (4, 2)),
    ("vmf", (1, 1)),
    ("vmf", (4, 1)),
]


def problem(kind, weight_shape, rows=4, dim=2, size=11):
    generator = torch.Generator().manual_seed(0)
    z, codebook = (torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in (rows, size))
    if kind == "vmf":
        z, codebook = (torch.nn.functional.normalize(x, dim=-1) for x in (z, codebook))
    weight = torch.rand(weight_shape, generator=generator, dtype=torch.float64) + 0.3
    return tuple(x.requires_grad_() for x in (z, codebook, weight))


def skip_unless_available(backend):
    reason = fused.unavailable(backend, torch.device("cpu"))
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def small_blocks(monkeypatch):
    """Two blocks, the last of one row."""
    monkeypatch.setattr(blocks, "block_rows", lambda size: 3)


@pytest.mark.parametrize("kept_rows", [0, 3])
@pytest.mark.parametrize(("kind", "weight_shape"), FORMS)
@pytest.mark.usefixtures("small_blocks")
def test_gradients_are_those_of_finite_differences(kind, weight_shape, kept_rows):
    options = {"kind": kind, "temperature": 0.7, "seed": SEED, "backend": "torch"}

    def quantize(z, codebook, weight):
        memory = kept_rows * 2 * 5 * z.element_size()
        out = stochastic_quantize(z, codebook, weight, activation_memory=memory, **options)
        return out.quantized, out.divergence, out.entropy

    torch.autograd.gradcheck(quantize, problem(kind, weight_shape, size=5))


@pytest.mark.parametrize(("kind", "weight_shape"), FORMS)
@pytest.mark.usefixtures("small_blocks")
def test_equals_the_reference(kind, weight_shape):
    inputs = problem(kind, weight_shape)
    mask = torch.tensor([True, False, True, True])
    results = []
    for backend in ("reference", "torch"):
        out = stochastic_quantize(*inputs, kind=kind, temperature=0.7, seed=SEED, mask=mask, backend=backend)
        loss = (out.quantized * torch.arange(2)).square().sum() + (out.entropy * torch.arange(4)).sum()
        loss = loss + (out.divergence * torch.arange(4)).cos().sum()
        results.append((*(x.detach() for x in out), *torch.autograd.grad(loss, inputs)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def accuracy_problem(form, variance, layout, size=4096, dim=64, rows=64):
    """float32 inputs: latents anywhere, near codes, or codes in clusters no wider than the posterior."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    codebook, spread = normal(size, dim), variance**0.5
    if layout == "clusters":
        codebook = codebook[torch.randint(size // 8, (size,), generator=generator)] + 0.3 * spread * normal(size, dim)
    z = normal(rows, dim)
    if layout != "anywhere":
        z = codebook[torch.randint(size, (rows,), generator=generator)] + 0.5 * spread * z
    weight_shape = {"global": (1, 1), "position": (rows, 1), "diagonal": (rows, dim)}[form]
    return (z, codebook, (0.3 * normal(*weight_shape)).exp() / variance), normal(rows, dim)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize(
    ("layout", "activation_memory"), [("anywhere", None), ("near", None), ("clusters", None), ("clusters", 0)]
)
@pytest.mark.parametrize("variance", [10.0, 0.1, 0.03, 1e-3])
@pytest.mark.parametrize("form", ["global", "position", "diagonal"])
def test_float32_follows_float64_to_the_smallest_variances(form, variance, layout, activation_memory, backend):
    """Values and gradients of the training loss, within 1e-4 of the norm; 2e-2 without the float64 products."""
    skip_unless_available(backend)
    inputs, outer = accuracy_problem(form, variance, layout)

    def results(dtype, backend):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        options = {"seed": SEED, "backend": backend, "activation_memory": activation_memory}
        out = stochastic_quantize(*leaves, kind="gaussian", temperature=0.8, **options)
        loss = (out.quantized * outer.to(dtype)).sum() + (out.divergence - out.entropy).sum()
        # the latent loss has the entropy added to log K = 8.3 nats
        values = (out.quantized, out.divergence, 8.3 - out.entropy, *torch.autograd.grad(loss, leaves))
        return [x.detach().double() for x in values]

    for got, expected in zip(results(torch.float32, backend), results(torch.float64, "reference"), strict=True):
        assert (got - expected).norm() <= 1e-4 * expected.norm()


def test_float64_products_are_not_the_rule():
    """At the variance that training starts from, and well below it, all is float32."""
    for variance, expected in ((10.0, False), (1.0, False), (1e-3, True)):
        (z, codebook, weight), _ = accuracy_problem("diagonal", variance, "anywhere")
        assert blocks.Problem(z, codebook, weight, "gaussian").needs_float64().any() == expected


@pytest.mark.parametrize(("kind", "weight_shape"), FORMS)
def test_native_equals_the_reference(kind, weight_shape):
    skip_unless_available("native")
    mask = torch.tensor([True, False, True, True])
    results = []
    for backend in ("reference", "native"):
        inputs = [x.detach().float().requires_grad_() for x in problem(kind, weight_shape, size=700)]
        out = stochastic_quantize(*inputs, kind=kind, temperature=0.7, seed=SEED, mask=mask, backend=backend)
        loss = out.quantized.square().sum() + (out.entropy * torch.arange(4)).sum() + out.divergence.sum()
        results.append((*(x.detach() for x in out), *torch.autograd.grad(loss, inputs)))
    torch.testing.assert_close(results[0], results[1], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize(("kind", "weight_shape"), [("gaussian", (1, 1)), ("gaussian", (500, 5)), ("vmf", (500, 1))])
def test_what_is_kept_is_what_would_be_computed_again(kind, weight_shape, backend):
    """None, some and all blocks kept, some of them with float64 products; the same again from one graph."""
    skip_unless_available(backend)
    inputs = [x.detach().float() for x in problem(kind, weight_shape, rows=500, dim=5, size=333)]
    if kind == "gaussian" and len(inputs[2]) > 1:
        inputs[2][130:140] *= 1e4
    mask, row_bytes = torch.arange(500) % 3 > 0, 2 * 333 * 4
    results = []
    for memory in (0, 400 * row_bytes, 500 * row_bytes):
        leaves = [x.clone().requires_grad_() for x in inputs]
        options = {"seed": SEED, "mask": mask, "backend": backend, "activation_memory": memory}
        out = stochastic_quantize(*leaves, kind=kind, temperature=0.7, **options)
        loss = out.quantized.square().sum() + out.divergence.mean() + (out.entropy * torch.arange(500)).mean()
        gradients = torch.autograd.grad(loss, leaves, retain_graph=True)
        assert all(map(torch.equal, gradients, torch.autograd.grad(loss, leaves)))
        results.append(([x.detach() for x in out], gradients))
    for values, gradients in results[1:]:
        assert all(map(torch.equal, values, results[0][0]))
        for got, expected in zip(gradients, results[0][1], strict=True):
            assert (got - expected).norm() <= 3e-5 * expected.norm()


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_outputs_without_a_gradient(backend):
    skip_unless_available(backend)
    inputs = [x.detach().float().requires_grad_() for x in problem("gaussian", (4, 2))]
    for name in ("quantized", "divergence", "entropy"):
        gradients = []
        for which in ("reference", backend):
            out = stochastic_quantize(*inputs, kind="gaussian", temperature=0.7, seed=SEED, backend=which)
            gradients.append(torch.autograd.grad(getattr(out, name).sum(), inputs))
        torch.testing.assert_close(*gradients, rtol=2e-5, atol=2e-5)


def test_no_more_is_kept_than_the_budget_allows(monkeypatch):
    kept, operator = [], fused._operator

    def spy(*arguments):
        outputs = operator(*arguments)
        kept.append([tuple(x.shape) for x in outputs[-2:]])
        return outputs

    monkeypatch.setattr(fused, "_operator", spy)
    inputs = [x.detach().float().requires_grad_() for x in problem("gaussian", (4, 2))]
    row_bytes = 2 * 11 * 4

    def quantize(**options):
        stochastic_quantize(*inputs, kind="gaussian", temperature=0.7, **options)
        return kept[-1]

    assert quantize() == [(4, 11)] * 2
    assert quantize(activation_memory=3 * row_bytes - 1) == [(2, 11)] * 2
    assert quantize(activation_memory=0) == [(0, 11)] * 2
    monkeypatch.setenv(fused.ACTIVATION_MEMORY_VARIABLE, str(3 * row_bytes))
    assert quantize() == [(3, 11)] * 2
    assert quantize(activation_memory=row_bytes) == [(1, 11)] * 2
    with torch.no_grad():
        assert quantize() == [(0, 11)] * 2
    monkeypatch.setenv(fused.ACTIVATION_MEMORY_VARIABLE, "1 GB")
    with pytest.raises(ValueError, match=r"ACTIVATION_MEMORY must be a number of bytes, 0 or more, got '1 GB'"):
        quantize()
    with pytest.raises(ValueError, match="activation_memory must be a number of bytes, 0 or more, got -1"):
        quantize(activation_memory=-1)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_nan_latents_give_nan_and_no_illegal_index(backend):
    skip_unless_available(backend)
    z = torch.randn(5, 3)
    z[2] = float("nan")
    out = stochastic_quantize(
        z, torch.randn(7, 3), torch.ones(1, 1), kind="gaussian", temperature=1.0, backend=backend
    )
    assert out.entropy.isnan().tolist() == [False, False, True, False, False]
    assert 0 <= int(out.indices.min()) <= int(out.indices.max()) < 7


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_runs_repeat_to_the_last_bit(backend):
    skip_unless_available(backend)
    inputs = [x.requires_grad_() for x in (torch.randn(900, 8), torch.randn(300, 8), torch.rand(900, 1) + 0.1)]

    def results():
        out = stochastic_quantize(*inputs, kind="gaussian", temperature=0.7, seed=SEED, backend=backend)
        return (out.quantized, out.entropy, *torch.autograd.grad(out.quantized.sum() + out.entropy.sum(), inputs))

    assert all(map(torch.equal, results(), results()))


def test_noise_does_not_depend_on_the_blocks():
    whole = noise.gumbel(SEED, 0, 100, 33)
    parts = [noise.gumbel(SEED, start, min(start + 7, 100), 33) for start in range(0, 100, 7)]
    assert torch.equal(whole, torch.cat(parts))


def test_noise_is_gumbel_noise_without_correlations():
    uniform = noise.uniform(SEED, 0, 1000, 1000, torch.float64)
    # a million numbers: means to four standard deviations
    assert abs(uniform.mean() - 0.5) < 4 * 12**-0.5 * 1e-3
    counts = torch.histc(uniform, 256, 0.0, 1.0)
    chi_square = ((counts - 1e6 / 256).square() / (1e6 / 256)).sum()
    assert 255 - 4 * 510**0.5 < chi_square < 255 + 4 * 510**0.5
    centred = uniform - 0.5
    for rows, codes in ((0, 1), (1, 0), (1, 1), (0, 32), (32, 0)):
        product = 12 * (centred[rows:, codes:] * centred[: 1000 - rows, : 1000 - codes]).mean()
        assert abs(product) < 4.5e-3, (rows, codes)
    other = 12 * (centred * (noise.uniform(SEED + 1, 0, 1000, 1000, torch.float64) - 0.5)).mean()
    assert abs(other) < 4e-3
    # the smallest of a row's exponentials decides what is sampled: its share of codes is even
    chosen = torch.bincount(uniform.argmax(dim=1) // 100, minlength=10)
    assert (chosen - 100).abs().max() < 4 * 90**0.5


def test_noise_follows_its_definition():
    """A few values, hashed with Python's integers."""

    def mix(x):
        x = ((x ^ x >> 16) * noise.M1) % 2**32
        x = ((x ^ x >> 15) * noise.M2) % 2**32
        return x ^ x >> 16

    low, high = int(SEED) % 2**32, int(SEED) >> 32
    uniform = noise.uniform(SEED, 0, 9, 40, torch.float64)
    for row, code in ((0, 0), (3, 17), (8, 39)):
        first = mix(mix((row + low) % 2**32) ^ high)
        second = mix(mix((row + high + noise.WEYL) % 2**32) ^ low)
        x = (code * noise.WEYL + first) % 2**32
        x = ((x ^ x >> 16) * noise.M1) % 2**32 ^ second
        x = ((x ^ x >> 15) * noise.M2) % 2**32
        assert uniform[row, code].item() == ((x >> 9) + 0.5) * 2.0**-23


def test_backend_is_chosen_by_argument_then_environment(monkeypatch):
    assert fused.choose_backend(torch.device("cpu")) in ("native", "torch")
    assert fused.choose_backend(torch.device("cpu"), "torch") == "torch"
    monkeypatch.setenv(fused.ENVIRONMENT_VARIABLE, "reference")
    assert fused.requested_backend() == "reference"
    assert fused.requested_backend("torch") == "torch"
    monkeypatch.setenv(fused.ENVIRONMENT_VARIABLE, "fastest")
    with pytest.raises(ValueError, match=r"SQVAE_SPEECH_QUANTIZER_BACKEND must be auto or one of .*'fastest'"):
        fused.requested_backend()
    with pytest.raises(ValueError, match="backend must be"):
        GaussianQuantizer(4, 2, backend="fastest")
