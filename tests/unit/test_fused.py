"""The fused operator: gradients, agreement of backends, blocks, choice of backend."""

import pytest
import torch

from sqvae_speech.quantization import GaussianQuantizer, blocks, fused, noise
from sqvae_speech.quantization.fused import stochastic_quantize

SEED = torch.tensor([0x1234_5678_9ABC_DEF0])
FORMS = [
    ("gaussian", (1, 1)),
    ("gaussian", (7, 1)),
    ("gaussian", (7, 3)),
    ("vmf", (1, 1)),
    ("vmf", (7, 1)),
]


def problem(kind, weight_shape, rows=7, dim=3, size=11):
    generator = torch.Generator().manual_seed(0)
    z, codebook = (torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in (rows, size))
    if kind == "vmf":
        z, codebook = (torch.nn.functional.normalize(x, dim=-1) for x in (z, codebook))
    weight = torch.rand(weight_shape, generator=generator, dtype=torch.float64) + 0.3
    return tuple(x.requires_grad_() for x in (z, codebook, weight))


@pytest.fixture
def small_blocks(monkeypatch):
    """Three blocks, the last of one row."""
    monkeypatch.setattr(blocks, "block_rows", lambda size: 3)


@pytest.mark.parametrize(("kind", "weight_shape"), FORMS)
@pytest.mark.usefixtures("small_blocks")
def test_gradients_are_those_of_finite_differences(kind, weight_shape):
    def quantize(z, codebook, weight):
        out = stochastic_quantize(z, codebook, weight, kind=kind, temperature=0.7, seed=SEED, backend="torch")
        return out.quantized, out.entropy

    torch.autograd.gradcheck(quantize, problem(kind, weight_shape))


@pytest.mark.parametrize(("kind", "weight_shape"), FORMS)
@pytest.mark.usefixtures("small_blocks")
def test_equals_the_reference(kind, weight_shape):
    inputs = problem(kind, weight_shape)
    mask = torch.tensor([True, True, False, True, True, True, False])
    results = []
    for backend in ("reference", "torch"):
        out = stochastic_quantize(*inputs, kind=kind, temperature=0.7, seed=SEED, mask=mask, backend=backend)
        loss = (out.quantized * torch.arange(3)).square().sum() + (out.entropy * torch.arange(7)).sum()
        results.append((*(x.detach() for x in out), *torch.autograd.grad(loss, inputs)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_noise_does_not_depend_on_the_blocks():
    whole = noise.gumbel(SEED, 0, 100, 33)
    parts = [noise.gumbel(SEED, start, min(start + 7, 100), 33) for start in range(0, 100, 7)]
    assert torch.equal(whole, torch.cat(parts))


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
    z = torch.zeros(1, 1)
    monkeypatch.setenv(fused.ENVIRONMENT_VARIABLE, "reference")
    assert fused.choose_backend(z) == "reference"
    assert fused.choose_backend(z, "torch") == "torch"
    monkeypatch.setenv(fused.ENVIRONMENT_VARIABLE, "fastest")
    with pytest.raises(ValueError, match=r"SQVAE_SPEECH_QUANTIZER_BACKEND must be auto or one of .*'fastest'"):
        fused.choose_backend(z)
    with pytest.raises(ValueError, match="backend must be"):
        GaussianQuantizer(4, 2, backend="fastest")
