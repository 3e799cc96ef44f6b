"""The Triton kernels compile for Hopper, which needs no GPU; the interpreter checks types less than a compiler."""

import os
import re

import pytest
import torch

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)
from triton._C.libtriton import ir  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource, make_backend  # noqa: E402

from sqvae_speech.quantization.kernels import launch  # noqa: E402

HOPPER = GPUTarget("cuda", 90, 32)
SHARED_MEMORY = 227 * 1024  # bytes that a block of threads can have there
KERNELS = {
    "forward": launch.forward_kernel,
    "posterior_sum": launch.posterior_sum_kernel,
    "backward_rows": launch.backward_rows_kernel,
    "backward_codes": launch.backward_codes_kernel,
}
NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}
FORMS = [("gaussian", "row"), ("gaussian", "diagonal"), ("vmf", "row")]


@pytest.fixture(autouse=True)
def on_a_gpu_of_132_processors(monkeypatch):
    monkeypatch.setattr(launch, "_num_processors", lambda device: 132)
    monkeypatch.setattr(launch.Problem, "_wide_rows", lambda self: torch.zeros(1, dtype=torch.int8))


def source(name, kind, form, dim, logit_dtype, dtype=torch.float32):
    """What the compiler is given when the kernel is launched on a problem, and its options."""
    z, codebook = torch.zeros(20_000, dim, dtype=dtype), torch.zeros(512, dim, dtype=dtype)
    weight = torch.ones(20_000, dim if form == "diagonal" else 1, dtype=dtype)
    problem = launch.Problem(z, codebook, weight, torch.zeros(1, dtype=torch.int64), 1.0, kind)
    constants = problem.options(launch.default_config(name, problem, logit_dtype), logit_dtype)
    if name == "posterior_sum":
        constants["MASKED"] = True
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages")}
    inputs, wide_types = NAMES[dtype], {"seed": "i64", "indices": "i64", "mask": "i8", "wide": "i8"}
    wide_types |= dict.fromkeys(("z", "codebook", "weight", "grad_z"), inputs)
    wide_types |= dict.fromkeys(("statistics", "delta"), "fp64")
    wide_types |= dict.fromkeys(("centre", "bias"), NAMES[problem.logit_dtypes[-1]])
    kernel, signature = KERNELS[name], {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument.endswith("_ptr"):
            signature[argument] = "*" + wide_types.get(argument.removesuffix("_ptr"), NAMES[problem.dtype])
        else:
            signature[argument] = "fp64" if argument == "temperature" else "i32"
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if signature[name][0] == "*"
    }
    constexprs = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
    return ASTSource(kernel, signature, constexprs, aligned), options


@pytest.mark.parametrize("logit_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "form"), FORMS)
@pytest.mark.parametrize("name", KERNELS)
def test_types_agree(name, kind, form, logit_dtype):
    ast, options = source(name, kind, form, 64, logit_dtype)
    backend, context = make_backend(HOPPER), ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    parsed = backend.parse_options(options)
    module = ast.make_ir(
        HOPPER, parsed, backend.get_codegen_implementation(parsed), backend.get_module_map(), context
    )
    text = str(module)
    products = re.findall(r"tt\.dot .*", text)
    # a product of float32 that names no precision would be of full precision; none is a plain TF32 one
    assert products
    for line in products:
        assert "xf64>" in line or "inputPrecision = tf32x3" in line
    if logit_dtype == torch.float32:
        # float64 is for single numbers of a row or code, never for a tile
        assert not re.search(r"tensor<\d\d+x\d+xf64>", text)


@pytest.mark.slow
@pytest.mark.parametrize("logit_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [64, 256])
@pytest.mark.parametrize("form", ["row", "diagonal"])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_for_hopper(name, form, dim, logit_dtype):
    ast, options = source(name, "gaussian", form, dim, logit_dtype)
    compiled = triton.compile(ast, target=HOPPER, options=options)
    assert "cubin" in compiled.asm
    # where this fails, the launch would fall back to smaller blocks
    assert compiled.metadata.shared <= SHARED_MEMORY
