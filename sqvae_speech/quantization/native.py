"""The fused operator on a CPU, compiled from ``native.cpp`` when it is first used: faster than eager PyTorch.

Where :mod:`.compiler` cannot compile it, :func:`unavailable` says what is missing, and :mod:`.blocks` is used;
float64 inputs go there too.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from sqvae_speech.quantization import blocks
from sqvae_speech.quantization.blocks import Problem
from sqvae_speech.quantization.compiler import blas, library

SOURCE = Path(__file__).with_name("native.cpp")
_INTEGERS = ("num_rows", "size", "dim", "width", "block", "threads", "scale_stride")
_POINTERS = (
    *("rows", "columns", "bias", "scale", "codebook", "rows64", "columns64", "bias64", "mixtures64", "precise"),
    *("mask", "quantized", "entropy", "indices", "statistics", "posterior_sum", "grad_quantized", "grad_entropy"),
    *("grad_rows", "grad_scale", "grad_codebook", "grad_columns", "grad_bias", "grad_rows64", "sgemm", "dgemm"),
)


class _Arguments(ctypes.Structure):
    """``struct Problem`` of native.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _INTEGERS),
        ("seed", ctypes.c_uint64),
        ("inverse_temperature", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    )


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on ``device``, or None. Compiles at the first call."""
    if device.type != "cpu":
        return "it runs on a CPU only"
    found = library(SOURCE)
    return found if isinstance(found, str) else None


def block_rows(codebook_size: int) -> int:
    """So many that two arrays of logits fit in a second-level cache of 1 MB, within what products run well at."""
    return min(max((1 << 16) // codebook_size, 64), 256)


def forward(
    z: Tensor, codebook: Tensor, weight: Tensor, seed: Tensor, mask: Tensor | None, temperature: float, kind: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :mod:`sqvae_speech.quantization.fused`."""
    if z.dtype != torch.float32:
        return blocks.forward(z, codebook, weight, seed, mask, temperature, kind)
    problem = Problem(z, codebook, weight, kind)
    quantized, entropy = torch.empty_like(problem.z), z.new_empty(len(z))
    outputs = {
        "quantized": quantized,
        "entropy": entropy,
        "indices": entropy.new_empty(len(z), dtype=torch.int64),
        "statistics": entropy.new_empty(2, len(z), dtype=torch.float64),
        "posterior_sum": z.new_zeros(len(codebook)),
    }
    _, inputs64 = _float64(problem)
    _call("stochastic_forward", problem, seed, temperature, mask=mask, **outputs, **inputs64)
    return quantized, entropy, outputs["indices"], outputs["posterior_sum"], outputs["statistics"]


def backward(
    grad_quantized: Tensor,
    grad_entropy: Tensor,
    z: Tensor,
    codebook: Tensor,
    weight: Tensor,
    seed: Tensor,
    temperature: float,
    kind: str,
    quantized: Tensor,
    entropy: Tensor,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :mod:`sqvae_speech.quantization.fused`."""
    inputs = (z, codebook, weight, seed, temperature, kind, quantized, entropy, statistics)
    if z.dtype != torch.float32:
        return blocks.backward(grad_quantized, grad_entropy, *inputs)
    problem = Problem(z, codebook, weight, kind)
    grads = {
        "grad_rows": torch.empty_like(problem.rows),
        "grad_scale": z.new_empty(len(z), 1),
        "grad_codebook": z.new_zeros(codebook.shape),
        "grad_bias": z.new_zeros(len(codebook)),
    }
    grads["grad_columns"] = torch.zeros_like(problem.columns) if problem.diagonal else grads["grad_codebook"]
    exact, inputs64 = _float64(problem)
    if exact is not None:
        inputs64["mixtures64"] = exact.columns_at(quantized.double())
        inputs64["grad_rows64"] = torch.empty_like(exact.rows)
    _call(
        "stochastic_backward",
        problem,
        seed,
        temperature,
        entropy=entropy,
        statistics=statistics,
        grad_quantized=grad_quantized,
        grad_entropy=grad_entropy,
        **grads,
        **inputs64,
    )
    grads["grad_rows"] = inputs64.get("grad_rows64", grads["grad_rows"])
    return problem.gradients(exact, **grads)


def _float64(problem: Problem) -> tuple[Problem | None, dict[str, Tensor]]:
    """What the rows that need float64 are computed from; nothing when there are none."""
    precise = problem.needs_float64()
    if not precise.any():
        return None, {}
    exact = problem.in_float64()
    return exact, {"precise": precise, "rows64": exact.rows, "columns64": exact.columns, "bias64": exact.bias}


def _call(function: str, problem: Problem, seed: Tensor, temperature: float, **tensors: Tensor | None) -> None:
    found = library(SOURCE)
    assert not isinstance(found, str), found
    tensors |= {
        "rows": problem.rows,
        "columns": problem.columns,
        "bias": problem.bias,
        "scale": problem.scale,
        "codebook": problem.codebook,
    }
    held = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    size, dim = problem.codebook.shape
    num_rows, width = problem.rows.shape
    block = min(block_rows(size), max(num_rows, 1))
    arguments = _Arguments(
        num_rows=num_rows,
        size=size,
        dim=dim,
        width=width,
        block=block,
        threads=max(min(torch.get_num_threads(), -(-num_rows // block)), 1),
        scale_stride=0 if len(problem.scale) == 1 else 1,
        seed=int(seed) & (2**64 - 1),
        inverse_temperature=1.0 / temperature,
        sgemm=blas("sgemm"),
        dgemm=blas("dgemm"),
        **{name: tensor.data_ptr() for name, tensor in held.items()},
    )
    getattr(found, function)(ctypes.byref(arguments))
