"""Fused Triton kernels for stochastic quantization on GPUs, a backend of :mod:`sqvae_speech.quantization.fused`.

In the manner of flash attention: a block of rows goes past the codebook block by block, with the posterior and its
entropy, the Gumbel-softmax mixture and the most probable code carried along by online softmaxes, so that nothing of
size N x K is ever written. The backward pass draws logits and noise again. Memory beyond inputs and outputs is four
numbers a row and, for the codebook's gradient, a few copies of the codebook.

Arithmetic: inputs of 16, 32 or 64 bits; everything is accumulated in float32 at least, in float64 for float64 inputs.
Float32 products are three TF32 products (``tf32x3``, about the accuracy of float32), never a plain one. Where a high
precision 1/σ² makes the terms of a logit large, their rounding is felt in the posterior: a block with such a row gets
its logits in float64, from a second launch that leaves the other blocks alone (the first leaves these).
:data:`PRECISION_VARIABLE` can be set to do without: ``tf32x3``, ``ieee`` (float32 multiply-adds) or ``float64`` (its
logits for all rows) instead of ``auto``.

Gradients are summed in a fixed order, without atomic additions. Block sizes come from a table, so results do not
change from run to run; with :data:`AUTOTUNE_VARIABLE` set to 1 they are timed instead, once for each kind of problem.

The kernels are checked in Triton's interpreter, and compile for Hopper; their speed there has not been measured yet.
Above :data:`MAX_DIM` dimensions :mod:`sqvae_speech.quantization.blocks` computes in their place.
Triton is imported on first use: without it this module can be imported and says why it cannot run.
"""

import importlib.util
import os

import torch
from torch import Tensor

from sqvae_speech.quantization import blocks, divergence

PRECISION_VARIABLE = "SQVAE_SPEECH_TRITON_PRECISION"
AUTOTUNE_VARIABLE = "SQVAE_SPEECH_TRITON_AUTOTUNE"
MAX_DIM = 256  # of more dimensions, a block of rows does not fit in registers: :mod:`.blocks` takes those


def unavailable(device: torch.device) -> str | None:
    """Why the kernels cannot run on ``device``, or None.

    On a CPU they run in Triton's interpreter alone, for tests.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
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
    """See :mod:`sqvae_speech.quantization.fused`.

    Inputs may also be float16 or bfloat16; the outputs of floats are then float32.

    Returns:
        quantized (N, D), less the mean code for ``gaussian``; divergence (N,); entropy (N,); indices (N,) int64;
        posterior_sum (K,); and statistics (2, N) float64, the log-normalisers of the posterior and of the sample.
    """
    if z.shape[-1] > MAX_DIM:
        return blocks.forward(z, codebook, weight, seed, mask, temperature, kind, kept_log_posterior, kept_sample)
    from sqvae_speech.quantization.kernels import launch

    quantized, *outputs = launch.forward(z, codebook, weight, seed, mask, temperature, kind)
    return quantized, divergence.forward(z, codebook, weight, kind, quantized), *outputs


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
    """See :mod:`sqvae_speech.quantization.fused`. Gradients have the dtypes of z, codebook and weight."""
    arguments = (z, codebook, weight, seed, temperature, kind, quantized, entropy, statistics)
    if z.shape[-1] > MAX_DIM:
        kept = (kept_log_posterior, kept_sample)
        return blocks.backward(grad_quantized, grad_divergence, grad_entropy, *arguments, *kept)
    from sqvae_speech.quantization.kernels import launch

    to_quantized, to_z, to_weight = divergence.backward(grad_divergence, z, codebook, weight, kind, quantized)
    grad_quantized = to_quantized.add_(grad_quantized)
    grad_z, grad_codebook, grad_weight = launch.backward(grad_quantized, grad_entropy, *arguments)
    return grad_z.add_(to_z), grad_codebook, grad_weight.add_(to_weight)
