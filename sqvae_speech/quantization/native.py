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
_INTEGERS = ("num_rows", "size", "dim", "width", "block", "threads", "weight_stride", "kept_rows", "gaussian")
_POINTERS = (
    *("z", "centre", "weight", "columns", "bias", "codebook", "column_peaks", "bias_peak", "precise"),
    *("centre64", "columns64", "bias64", "mask", "quantized", "divergence", "entropy", "indices", "statistics"),
    *("posterior_sum", "kept_log_posterior", "kept_sample", "grad_quantized", "grad_divergence", "grad_entropy"),
    *("grad_z", "grad_weight", "grad_codebook", "grad_columns", "grad_bias", "sgemm", "dgemm"),
)


class _Arguments(ctypes.Structure):
    """``struct Problem`` of native.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _INTEGERS),
        ("seed", ctypes.c_uint64),
        ("inverse_temperature", ctypes.c_float),
        ("max_magnitude", ctypes.c_float),
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
    z: Tensor,
    codebook: Tensor,
    weight: Tensor,
    seed: Tensor,
    mask: Tensor | None,
    temperature: float,
    kind: str,
    kept_log_posterior: Tensor,
    kept_sample: Tensor,
) -> tuple[Tensor, ...]:
    """See :mod:`sqvae_speech.quantization.fused`."""
    kept = (kept_log_posterior, kept_sample)
    if z.dtype != torch.float32:
        return blocks.forward(z, codebook, weight, seed, mask, temperature, kind, *kept)
    divergence, entropy = z.new_empty(len(z)), z.new_empty(len(z))
    outputs = {
        "quantized": torch.empty_like(z, memory_format=torch.contiguous_format),
        "divergence": divergence,
        "entropy": entropy,
        "indices": entropy.new_empty(len(z), dtype=torch.int64),
        "posterior_sum": z.new_zeros(len(codebook)),
        "statistics": entropy.new_empty(2, len(z), dtype=torch.float64),
    }
    call = _Call(Problem(z, codebook, weight, kind), seed, temperature, kept)
    call("stochastic_forward", mask=mask, **outputs)
    return tuple(outputs.values())


def backward(
    grad_quantized: Tensor,
    grad_divergence: Tensor,
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
    kept_log_posterior: Tensor,
    kept_sample: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :mod:`sqvae_speech.quantization.fused`."""
    kept = (kept_log_posterior, kept_sample)
    if z.dtype != torch.float32:
        inputs = (z, codebook, weight, seed, temperature, kind, quantized, entropy, statistics, *kept)
        return blocks.backward(grad_quantized, grad_divergence, grad_entropy, *inputs)
    problem = Problem(z, codebook, weight, kind)
    grad_codebook, grad_bias = z.new_zeros(codebook.shape), z.new_zeros(len(codebook))
    grad_columns = torch.zeros_like(problem.columns) if problem.diagonal else grad_codebook
    grad_z = torch.empty_like(z, memory_format=torch.contiguous_format)
    grad_weight = z.new_empty(len(z), weight.shape[-1])
    _Call(problem, seed, temperature, kept)(
        "stochastic_backward",
        quantized=quantized,
        entropy=entropy,
        statistics=statistics,
        grad_quantized=grad_quantized,
        grad_divergence=grad_divergence,
        grad_entropy=grad_entropy,
        grad_z=grad_z,
        grad_weight=grad_weight,
        grad_codebook=grad_codebook,
        grad_columns=grad_columns,
        grad_bias=grad_bias,
    )
    grad_codebook = problem.codebook_gradient(grad_codebook, grad_columns, grad_bias)
    return grad_z, grad_codebook, grad_weight.sum_to_size(weight.shape)


class _Call:
    """Calls functions of the library for one problem."""

    def __init__(self, problem: Problem, seed: Tensor, temperature: float, kept: tuple[Tensor, Tensor]):
        size, dim = problem.codebook.shape
        num_rows = len(problem.latents)
        block = min(block_rows(size), max(num_rows, 1))
        self.numbers = {
            "num_rows": num_rows,
            "size": size,
            "dim": dim,
            "width": problem.columns.shape[-1],
            "block": block,
            "threads": max(min(torch.get_num_threads(), -(-num_rows // block)), 1),
            "weight_stride": 0 if len(problem.weight) == 1 else problem.weight.shape[-1],
            "kept_rows": len(kept[0]),
            "gaussian": problem.kind == "gaussian",
            "seed": int(seed) & (2**64 - 1),
            "inverse_temperature": 1.0 / temperature,
            "max_magnitude": blocks.MAX_MAGNITUDE,
            "sgemm": blas("sgemm"),
            "dgemm": blas("dgemm"),
        }
        self.tensors = {
            "z": problem.latents,
            "centre": problem.centre,
            "weight": problem.weight,
            "columns": problem.columns,
            "bias": problem.bias,
            "codebook": problem.codebook,
            "column_peaks": problem.columns.abs().amax(dim=0),
            "bias_peak": problem.bias.abs().amax(),
            "precise": torch.empty(num_rows, dtype=torch.bool),
            "kept_log_posterior": kept[0],
            "kept_sample": kept[1],
        }
        self.tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        self("stochastic_precise")
        if self.tensors["precise"].any():
            exact = problem.in_float64()
            self.tensors |= {"centre64": exact.centre, "columns64": exact.columns, "bias64": exact.bias}

    def __call__(self, function: str, **tensors: Tensor | None) -> None:
        found = library(SOURCE)
        assert not isinstance(found, str), found
        given = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
        pointers = {name: tensor.data_ptr() for name, tensor in (self.tensors | given).items()}
        getattr(found, function)(ctypes.byref(_Arguments(**self.numbers, **pointers)))
