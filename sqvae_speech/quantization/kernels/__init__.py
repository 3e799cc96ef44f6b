"""Fused Triton kernels for stochastic quantization on GPUs, a backend of :mod:`sqvae_speech.quantization.fused`.

In the manner of flash attention: a block of rows goes past the codebook block by block, with the posterior and its
entropy, the Gumbel-softmax mixture and the most probable code carried along by online softmaxes, so that nothing of
size N x K is ever written. The backward pass draws logits and noise again. Memory beyond inputs and outputs is four
numbers a row and, for the codebook's gradient, a few copies of the codebook.

Arithmetic: inputs of 16, 32 or 64 bits; everything is accumulated in float32 at least (float64 for float64 inputs).
Matrix products of float32 are never taken in plain TF32; :data:`PRECISION_VARIABLE` chooses between

- ``tf32x3`` (the default): three TF32 products, about the accuracy of float32, on tensor cores;
- ``ieee``: float32 fused multiply-adds;
- ``float64``: the logits in float64, the rest in float32; for variances so small that float32 logits lose digits.

Gradients are summed in a fixed order, without atomic additions. Block sizes come from a table, so results do not change
from run to run; with :data:`AUTOTUNE_VARIABLE` set to 1 they are timed instead, once for each kind of problem.

The kernels are checked in Triton's interpreter, and compile for Hopper; their speed there has not been measured yet.
Triton is imported on first use: without it this module can be imported and says why it cannot run.
"""

import importlib.util
import os

import torch
from torch import Tensor

PRECISION_VARIABLE = "SQVAE_SPEECH_TRITON_PRECISION"
AUTOTUNE_VARIABLE = "SQVAE_SPEECH_TRITON_AUTOTUNE"
MAX_DIM = 256


def unavailable(device: torch.device, dim: int = 1) -> str | None:
    """Why the kernels cannot run on ``device`` for latents of ``dim`` dimensions, or None.

    On a CPU they run in Triton's interpreter alone, for tests.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if dim > MAX_DIM:
        return f"the kernels are written for at most {MAX_DIM} dimensions, got {dim}"
    if device.type == "cpu":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return None if interpreted else "on a CPU the kernels run only under TRITON_INTERPRET=1"
    if device.type != "cuda":
        return f"the kernels run on CUDA devices, not on {device.type!r}"
    if torch.version.hip is not None:
        return "the kernels are written for CUDA, not for ROCm"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the kernels need a GPU of compute capability 8.0 (Ampere) or newer"
    return None


def forward(
    z: Tensor, codebook: Tensor, weight: Tensor, seed: Tensor, mask: Tensor | None, temperature: float, kind: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :mod:`sqvae_speech.quantization.fused`.

    Inputs may also be float16 or bfloat16; the outputs of floats are then float32.

    Returns:
        quantized (N, D), entropy (N,), indices (N,) int64, posterior_sum (K,), and statistics (4, N): maximum and
        logarithm of the sum of both softmaxes.
    """
    from sqvae_speech.quantization.kernels import launch

    return launch.forward(z, codebook, weight, seed, mask, temperature, kind)


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
    """See :mod:`sqvae_speech.quantization.fused`. Gradients have the dtypes of z, codebook and weight."""
    from sqvae_speech.quantization.kernels import launch

    return launch.backward(
        grad_quantized, grad_entropy, z, codebook, weight, seed, temperature, kind, quantized, entropy, statistics
    )
