"""The Triton kernels against functional.py in float64, with the same noise: in Triton's interpreter, and on a GPU.

Whether kernels are interpreted is settled when they are defined, so a process cannot do both, and the setting must
not leak into other tests: this file runs itself in a process of its own, where its tests are collected.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sqvae_speech.quantization import GaussianQuantizer, VmfQuantizer, fused, kernels, noise

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SEED = 81985529216486895  # both halves of its 64 bits matter to the noise
KINDS = [
    ("gaussian", "global"),
    ("gaussian", "position"),
    ("gaussian", "diagonal"),
    ("vmf", "global"),
    ("vmf", "position"),
]

interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that test_in_the_interpreter starts")


@pytest.mark.skipif(INTERPRETED, reason="already there")
def test_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def problem(
    kind: str, covariance: str, *, rows: int, codes: int, dim: int, variance: float = 1.0, offset: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 latents, codebook and weight whose values float32 holds; some latents lie between two codes."""
    generator = torch.Generator().manual_seed(rows + codes + dim)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    codebook, z = draw(codes, dim), draw(rows, dim)
    pairs = torch.randint(codes, (2, rows // 2), generator=generator)
    z[: rows // 2] = 0.5 * (codebook[pairs[0]] + codebook[pairs[1]]) + variance**0.5 * z[: rows // 2]
    codebook, z = codebook + offset, z + offset
    shape = {"global": (1, 1), "position": (rows, 1), "diagonal": (rows, dim)}[covariance]
    weight = (0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)) / variance
    if kind == "vmf":
        z, codebook = F.normalize(z, dim=-1), F.normalize(codebook, dim=-1)
    return z.float().double(), codebook.float().double(), weight.float().double()


def evaluate(
    inputs: tuple[Tensor, ...],
    kind: str,
    backend: str,
    dtype: torch.dtype,
    device: str = "cpu",
    temperature: float = 0.7,
) -> dict[str, Tensor]:
    """Every output, and every gradient of a loss in which all differentiable outputs take part."""
    leaves = [x.to(device, dtype).requires_grad_() for x in inputs]
    z = leaves[0]
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(device, dtype)
    share = torch.randn(len(z), generator=generator, dtype=torch.float64).to(device, dtype)
    mask = (torch.rand(len(z), generator=generator) > 0.3).to(device)
    out = fused.stochastic_quantize(
        *leaves,
        kind=kind,
        temperature=temperature,
        seed=torch.tensor([SEED], device=device),
        mask=mask,
        backend=backend,
    )
    loss = (out.quantized * target).sum() + (out.entropy * share).sum() + out.divergence.sum()
    gradients = torch.autograd.grad(loss, leaves)
    named = dict(zip(("grad_z", "grad_codebook", "grad_weight"), gradients, strict=True))
    return {name: x.detach().cpu() for name, x in (out._asdict() | named).items()}


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, **others: float) -> None:
    assert torch.equal(actual["indices"], expected["indices"])
    for name, value in expected.items():
        error = (actual[name].double() - value.double()).norm() / value.double().norm().clamp(min=1e-6)
        assert error < others.get(name, tolerance), f"{name}: relative error {error:.1e}"


if INTERPRETED:
    import triton
    import triton.language as tl

    from sqvae_speech.quantization.kernels import launch, tiles

    @triton.jit
    def noise_kernel(seed_ptr, uniform_ptr, gumbel_ptr, start, T: tl.constexpr):
        first, second = tiles.row_keys(seed_ptr, start + tl.arange(0, 16))
        codes = tl.arange(0, 64)[None, :]
        at = tl.arange(0, 16)[:, None] * 64 + codes
        tl.store(uniform_ptr + at, tiles.uniform(first[:, None], second[:, None], codes, T))
        tl.store(gumbel_ptr + at, tiles.gumbel(first[:, None], second[:, None], codes, T))


@interpreted
def test_noise_is_that_of_the_other_backends() -> None:
    for seed in (0, SEED, 2**63 - 1):
        seeds, drawn, gumbel = torch.tensor([seed]), torch.empty(16, 64), torch.empty(16, 64)
        noise_kernel[(1,)](seeds, drawn, gumbel, 5, T=tl.float32)
        assert torch.equal(drawn, noise.uniform(seeds, 5, 21, 64))
        torch.testing.assert_close(gumbel, noise.gumbel(seeds, 5, 21, 64), rtol=1e-6, atol=1e-6)


@interpreted
@pytest.mark.parametrize(("kind", "covariance"), KINDS)
def test_float32_equals_float64(kind: str, covariance: str) -> None:
    inputs = problem(kind, covariance, rows=61, codes=93, dim=37)
    expected = evaluate(inputs, kind, "reference", torch.float64)
    assert_close(evaluate(inputs, kind, "triton", torch.float32), expected, 1e-5, grad_weight=3e-5)


@interpreted
@pytest.mark.parametrize(("kind", "covariance"), KINDS)
def test_the_formulas_are_exact_in_float64(kind: str, covariance: str) -> None:
    inputs = problem(kind, covariance, rows=33, codes=70, dim=9)
    expected = evaluate(inputs, kind, "reference", torch.float64)
    assert_close(evaluate(inputs, kind, "triton", torch.float64), expected, 1e-12)


@interpreted
@pytest.mark.parametrize("covariance", ["global", "position", "diagonal"])
def test_tiny_variances_far_from_the_origin(covariance: str) -> None:
    inputs = problem("gaussian", covariance, rows=40, codes=90, dim=32, variance=1e-3, offset=3.0)
    expected = evaluate(inputs, "gaussian", "reference", torch.float64)
    # entropies are nearly zero here, so their relative error says little
    assert_close(evaluate(inputs, "gaussian", "triton", torch.float32), expected, 3e-6, entropy=1e-2)


@interpreted
@pytest.mark.parametrize("covariance", ["position", "diagonal"])
def test_rows_of_either_logit_dtype_in_one_batch(covariance: str) -> None:
    z, codebook, weight = problem("gaussian", covariance, rows=150, codes=40, dim=20)
    weight[64:96] *= 1000  # with blocks of 32 and splits of 64 rows: some of either kind, none mixed
    weight[140] *= 1000
    inputs = (z, codebook, weight.float().double())
    expected = evaluate(inputs, "gaussian", "reference", torch.float64)
    assert_close(evaluate(inputs, "gaussian", "triton", torch.float32), expected, 1e-5)
    flags = launch.Problem(*(x.float() for x in inputs), torch.tensor([SEED]), 0.7, "gaussian").wide
    assert flags.nonzero().flatten().tolist() == [*range(64, 96), 140]


@interpreted
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in problem("gaussian", "diagonal", rows=20, codes=30, dim=12)]
    lifted = [x.float() for x in inputs]
    # none for the divergence, whose part would be rounded to half precision by itself
    grads = torch.randn(20, 12), torch.zeros(20), torch.randn(20)
    seed, nothing_kept = torch.tensor([SEED]), torch.empty(2, 0, 30)
    outs, backs = [], []
    for case in (inputs, lifted):
        outs.append(kernels.forward(*case, seed, None, 0.7, "gaussian", *nothing_kept))
        saved = (*(outs[-1][place] for place in (0, 2, 5)), *nothing_kept)
        backs.append(kernels.backward(*grads, *case, seed, 0.7, "gaussian", *saved))
    # the codebook mean is the one thing that depends on the dtype, and it cancels
    for half, full in zip(*outs, strict=True):
        torch.testing.assert_close(half, full, rtol=1e-5, atol=1e-5)
    for half, full in zip(*backs, strict=True):
        assert half.dtype == dtype
        torch.testing.assert_close(half.float(), full, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@interpreted
@pytest.mark.parametrize(
    ("covariance", "shape"),
    [
        ("diagonal", (1, 1, 1)),
        ("diagonal", (1, 5, 1)),
        ("diagonal", (3, 1, 2)),
        ("diagonal", (17, 33, 65)),  # above 64 dimensions, piece by piece
        ("position", (17, 33, 130)),
    ],
)
def test_odd_sizes(covariance: str, shape: tuple[int, int, int]) -> None:
    rows, codes, dim = shape
    inputs = problem("gaussian", covariance, rows=rows, codes=codes, dim=dim)
    expected = evaluate(inputs, "gaussian", "reference", torch.float64)
    assert_close(evaluate(inputs, "gaussian", "triton", torch.float32), expected, 2e-5)


@interpreted
def test_the_operator_is_what_compilers_are_told() -> None:
    z, codebook, weight = (x.float() for x in problem("gaussian", "position", rows=5, codes=7, dim=3))
    temperature = torch.tensor([0.7], dtype=torch.float64)
    arguments = (z, codebook, weight, torch.tensor([SEED]), None, temperature, "gaussian", "triton", 0)
    torch.library.opcheck(fused._operator, arguments, test_utils=("test_schema", "test_faketensor"))


@interpreted
def test_no_rows() -> None:
    inputs = (torch.zeros(0, 4), torch.randn(6, 4), torch.ones(1, 1))
    out = evaluate(inputs, "gaussian", "triton", torch.float32)
    assert out["quantized"].shape == (0, 4)
    assert not out["grad_codebook"].any()
    assert not out["posterior_sum"].any()


@interpreted
def test_results_do_not_depend_on_block_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = problem("gaussian", "position", rows=70, codes=40, dim=16)
    expected = evaluate(inputs, "gaussian", "triton", torch.float32)
    for block_n, block_k in ((16, 128), (64, 16)):
        monkeypatch.setattr(launch, "default_config", lambda *_, n=block_n, k=block_k: launch.Config(n, k, 4, 2))
        assert_close(evaluate(inputs, "gaussian", "triton", torch.float32), expected, 5e-6)


@interpreted
def test_blocks_shrink_until_they_fit() -> None:
    tried = []

    def launch_with(config: launch.Config, dtype: torch.dtype) -> None:
        tried.append(config)
        if config.block_n * config.block_k > 512:
            raise triton.runtime.errors.OutOfResources(300_000, 232_448, "shared memory")

    assert launch.first_that_fits(launch.Config(64, 32, 8, 2), launch_with, torch.float32) == (16, 32, 8, 1)
    assert tried == [(64, 32, 8, 2), (64, 32, 8, 1), (32, 32, 8, 1), (16, 32, 8, 1)]
    times = {launch.Config(16, 16, 4, 1): 2.0, launch.Config(16, 32, 4, 1): 1.0, launch.Config(64, 64, 4, 1): 0.1}

    def time(function):
        function()
        return times[tried[-1]]

    assert launch.fastest(list(times), launch_with, torch.float32, time) == (16, 32, 4, 1)
    with pytest.raises(RuntimeError, match="none of 1 block sizes"):
        launch.fastest([launch.Config(64, 64, 4, 1)], launch_with, torch.float32, time)


@interpreted
def test_more_dimensions_than_the_kernels_hold() -> None:
    inputs = problem("gaussian", "diagonal", rows=4, codes=6, dim=kernels.MAX_DIM + 1)
    expected = evaluate(inputs, "gaussian", "reference", torch.float64)
    assert_close(evaluate(inputs, "gaussian", "triton", torch.float32), expected, 1e-4)


@interpreted
def test_unknown_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.PRECISION_VARIABLE, "tf32")
    with pytest.raises(ValueError, match="must be one of auto, tf32x3, ieee, float64, got 'tf32'"):
        evaluate(problem("vmf", "global", rows=2, codes=2, dim=2), "vmf", "triton", torch.float32)


@interpreted
@pytest.mark.parametrize("kind", ["diagonal", "vmf"])
def test_quantizers_give_the_same_with_either_backend(kind: str) -> None:
    results = []
    mask = torch.tensor([[True] * 9, [True] * 4 + [False] * 5])
    for backend in ("torch", "triton"):
        torch.manual_seed(3)
        quantizer = VmfQuantizer(20, 8) if kind == "vmf" else GaussianQuantizer(20, 8, kind)
        z = torch.randn(2, 9, 8, requires_grad=True)
        log_var = None if kind == "vmf" else torch.randn(2, 9, 8, requires_grad=True)
        quantizer.backend = backend
        out = quantizer(z, log_var, temperature=0.5, mask=mask)
        (out.loss + out.quantized.square().sum()).backward()
        leaves = [x for x in (z, log_var, *quantizer.parameters()) if x is not None]
        results.append([out.quantized, out.indices, out.loss, *out.metrics.values(), *(x.grad for x in leaves)])
    for torch_value, triton_value in zip(*results, strict=True):
        torch.testing.assert_close(triton_value, torch_value, rtol=2e-5, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("variance", [1.0, 1e-3])
@pytest.mark.parametrize(("kind", "covariance"), KINDS)
@pytest.mark.parametrize("dim", [24, 64, 256])
def test_on_a_gpu(kind: str, covariance: str, dim: int, variance: float) -> None:
    if kind == "vmf" and variance < 1:
        pytest.skip("one concentration is enough")
    inputs = problem(kind, covariance, rows=777, codes=1030, dim=dim, variance=variance)
    assert fused.choose_backend(torch.device("cuda")) == "triton"
    expected = evaluate(inputs, kind, "reference", torch.float64)
    actual = evaluate(inputs, kind, "triton", torch.float32, "cuda")
    assert_close(actual, expected, 1e-4, entropy=1e-2 if variance < 1 else 1e-4)
    again = evaluate(inputs, kind, "triton", torch.float32, "cuda")
    assert all(torch.equal(again[name], value) for name, value in actual.items())


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_memory_does_not_grow_with_rows_times_codes() -> None:
    rows, codes, dim = 32768, 65536, 64
    z = torch.randn(rows, dim, device="cuda", requires_grad=True)
    codebook = torch.randn(codes, dim, device="cuda", requires_grad=True)
    weight = torch.full((1, 1), 0.1, device="cuda", requires_grad=True)
    torch.cuda.reset_peak_memory_stats()
    out = fused.stochastic_quantize(z, codebook, weight, kind="gaussian", temperature=1.0, backend="triton")
    (out.quantized.square().sum() + out.entropy.sum()).backward()
    assert torch.cuda.max_memory_allocated() < 2 * 2**30  # the logits alone would be 8 GiB
