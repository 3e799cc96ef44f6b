"""Stochastic quantization in bounded memory, for any N and K: one differentiable operator, several backends.

A backend is a module with two functions on plain tensors, no autograd inside, and one question::

    forward(z, codebook, weight, seed, mask, temperature, kind, log_posterior, sample)
        -> quantized (N, D), divergence (N,), entropy (N,), indices (N,) int64, posterior_sum (K,),
           statistics (2, N) float64
    backward(grad_quantized, grad_divergence, grad_entropy, z, codebook, weight, seed, temperature, kind,
             quantized, entropy, statistics, log_posterior, sample)
        -> grad_z, grad_codebook, grad_weight, in the shapes of z, codebook and weight
    unavailable(device) -> why it cannot run there, or None

For ``gaussian``, ``quantized`` is less the mean code, a common offset that would cost digits. ``statistics`` is
whatever a row needs in the backward pass, commonly the log-normalisers of the posterior and of the relaxed sample.

``log_posterior`` and ``sample``, (R, K), are for the forward pass to fill: with the log-posterior and the relaxed
sample of the first R rows. For the others the backward pass computes them again, with the noise drawn again from the
seed (:mod:`.noise`). R is as large as the budget for activations allows: small problems are fast, and memory stays
bounded for any N and K. The Triton kernels keep nothing, their R is 0.
"""

import importlib
import os
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from sqvae_speech.quantization import functional, noise

ENVIRONMENT_VARIABLE = "SQVAE_SPEECH_QUANTIZER_BACKEND"
# name -> module; "reference" is functional.py under autograd, the formulation that the others are held against
BACKENDS = {
    "reference": None,
    "torch": "sqvae_speech.quantization.blocks",
    "native": "sqvae_speech.quantization.native",
    "triton": "sqvae_speech.quantization.kernels",
}
KINDS = ("gaussian", "vmf")
# bytes that one call may keep for its backward pass beyond vectors and statistics of its rows
ACTIVATION_MEMORY = 128 << 20
ACTIVATION_MEMORY_VARIABLE = "SQVAE_SPEECH_QUANTIZER_ACTIVATION_MEMORY"


class FusedOutput(NamedTuple):
    """What :func:`stochastic_quantize` returns.

    Attributes:
        quantized: (N, D) the Gumbel-softmax mixture of codes.
        centred: (N, D) the same less the mean code for ``gaussian``; with the digits that a common offset would cost.
        divergence: (N,) of z from ``quantized``, the KL divergence of the continuous latents, in nats.
        entropy: (N,) of the posterior, in nats.
        indices: (N,) int64, the most probable code.
        posterior_sum: (K,) the posterior summed over the real rows; carries no gradient.
    """

    quantized: Tensor
    centred: Tensor
    divergence: Tensor
    entropy: Tensor
    indices: Tensor
    posterior_sum: Tensor


def stochastic_quantize(
    z: Tensor,
    codebook: Tensor,
    weight: Tensor,
    *,
    kind: str,
    temperature: float,
    seed: Tensor | None = None,
    mask: Tensor | None = None,
    backend: str | None = None,
    activation_memory: int | None = None,
) -> FusedOutput:
    """Posterior, its entropy and a relaxed sample of it, differentiable in ``z``, ``codebook`` and ``weight``.

    Args:
        z: (N, D) latents, float32 or float64; unit vectors for ``vmf``.
        codebook: (K, D), of the dtype of z; unit vectors for ``vmf``.
        weight: precision 1/σ², (1, 1), (N, 1) or (N, D), for ``gaussian``; concentration κ, (1, 1) or (N, 1), for
            ``vmf``.
        kind: ``gaussian`` or ``vmf``.
        temperature: of the relaxation, > 0.
        seed: (1,) int64 on the device of z, of the noise; drawn from the default generator when None.
        mask: (N,) bool, True = real; only ``posterior_sum`` depends on it.
        backend: one of :data:`BACKENDS`, or None for what the environment variable asks for, else the fastest.
        activation_memory: bytes of posteriors and samples that may be kept for the backward pass, which computes
            again what does not fit; 0 keeps nothing. None for what :data:`ACTIVATION_MEMORY_VARIABLE` says, else
            :data:`ACTIVATION_MEMORY`. For the backends ``native`` and ``torch`` on a CPU.

    Raises:
        ValueError: an unknown kind or backend, a backend that cannot run here, or a budget that is negative.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    seed = noise.draw_seed(z.device) if seed is None else seed
    backend = requested_backend(backend)
    if backend == "reference":
        return _reference(z, codebook, weight, seed, mask, temperature, kind)
    # A graph is compiled anew for another number, and this one changes with every step. As a factor of a tensor (and
    # not as what torch.full fills in) it becomes an input of the graph.
    temperature_ = torch.ones(1, dtype=torch.float64) * temperature
    budget = requested_activation_memory(activation_memory)
    differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in (z, codebook, weight))
    kept_rows = 0
    if differentiable and z.device.type == "cpu" and backend != "triton":
        kept_rows = min(len(z), budget // (2 * len(codebook) * z.dtype.itemsize))
    centred, *rest = _operator(z, codebook, weight, seed, mask, temperature_, kind, backend, kept_rows)[:5]
    return FusedOutput(_uncentred(centred, codebook, kind), centred, *rest)


def requested_backend(name: str | None = None) -> str | None:
    """The backend that ``name``, or else the environment variable, asks for; None for the fastest."""
    return check_backend(name) or check_backend(os.environ.get(ENVIRONMENT_VARIABLE), ENVIRONMENT_VARIABLE)


def requested_activation_memory(budget: int | None = None) -> int:
    """``budget`` in bytes, or else that of the environment variable, or else :data:`ACTIVATION_MEMORY`.

    Raises:
        ValueError: it is not a number of bytes.
    """
    if budget is None:
        text = os.environ.get(ACTIVATION_MEMORY_VARIABLE) or str(ACTIVATION_MEMORY)
        if not text.isdecimal():
            raise ValueError(f"{ACTIVATION_MEMORY_VARIABLE} must be a number of bytes, 0 or more, got {text!r}")
        return int(text)
    if budget < 0:
        raise ValueError(f"activation_memory must be a number of bytes, 0 or more, got {budget}")
    return budget


def choose_backend(device: torch.device, name: str | None = None) -> str:
    """``name`` if it can run on ``device``; if it is None, the fastest that can.

    Raises:
        ValueError: it cannot run there.
    """
    if name is None:
        candidates = ("triton", "torch") if device.type == "cuda" else ("native", "torch")
        return next(name for name in candidates if unavailable(name, device) is None)
    reason = unavailable(name, device)
    if reason is not None:
        raise ValueError(f"quantizer backend {name!r} cannot run on {device}: {reason}; use backend='auto'")
    return name


def check_backend(name: str | None, source: str = "backend") -> str | None:
    """``name`` if it is a backend's, None for one to be chosen (None, "" or ``auto``).

    Raises:
        ValueError: no such backend; ``source`` says where the name came from.
    """
    if name in (None, "", "auto"):
        return None
    if name not in BACKENDS:
        raise ValueError(f"{source} must be auto or one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def _module(backend: str) -> ModuleType:
    path = BACKENDS[backend]
    assert path is not None, "the reference is not an operator"
    return importlib.import_module(path)


def unavailable(backend: str, device: torch.device) -> str | None:
    """Why ``backend`` cannot run on ``device``, or None when it can."""
    if backend == "reference":
        return None
    try:
        return _module(backend).unavailable(device)
    except ImportError as error:
        return str(error)


def _reference(
    z: Tensor, codebook: Tensor, weight: Tensor, seed: Tensor, mask: Tensor | None, temperature: float, kind: str
) -> FusedOutput:
    """The formulation of functional.py, with the noise of the other backends."""
    logits = functional.LOGITS[kind](z, codebook, weight)
    gumbel = noise.gumbel(seed, 0, len(z), len(codebook), logits.dtype)
    posterior = logits.detach().softmax(dim=-1)
    if mask is not None:
        posterior = posterior.masked_fill(~mask[:, None], 0.0)
    original = codebook
    if kind == "gaussian":
        middle = functional.centre(codebook)
        z, codebook = z - middle, codebook - middle
    centred = functional.gumbel_softmax(logits, gumbel, temperature) @ codebook
    return FusedOutput(
        quantized=_uncentred(centred, original, kind),
        centred=centred,
        divergence=functional.DIVERGENCES[kind](z, centred, weight),
        entropy=functional.entropy(logits),
        indices=logits.argmax(dim=-1),
        posterior_sum=posterior.sum(dim=0),
    )


def _uncentred(centred: Tensor, codebook: Tensor, kind: str) -> Tensor:
    return centred + functional.centre(codebook) if kind == "gaussian" else centred


# Operators rather than an autograd.Function: torch.compile and torch.export take them whole, without a graph break.
# The divergence is among their outputs: under autograd its (N, D) steps would cost as much again.


@torch.library.custom_op("sqvae_speech::stochastic_quantize", mutates_args=())
def _operator(
    z: Tensor,
    codebook: Tensor,
    weight: Tensor,
    seed: Tensor,
    mask: Tensor | None,
    temperature: Tensor,
    kind: str,
    backend: str | None,
    kept_rows: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    # chosen in here, not by the caller: a compiled graph cannot look for compilers
    module = _module(choose_backend(z.device, backend))
    kept = (z.new_empty(kept_rows, len(codebook)), z.new_empty(kept_rows, len(codebook)))
    *outputs, statistics = module.forward(z, codebook, weight, seed, mask, float(temperature), kind, *kept)
    return *outputs, statistics.double(), *kept


@_operator.register_fake
def _(z, codebook, weight, seed, mask, temperature, kind, backend, kept_rows):
    rows, statistics = z.new_empty(z.shape[0]), z.new_empty(2, z.shape[0], dtype=torch.float64)
    indices, posterior_sum = torch.empty_like(rows, dtype=torch.int64), z.new_empty(codebook.shape[0])
    kept = (z.new_empty(kept_rows, codebook.shape[0]), z.new_empty(kept_rows, codebook.shape[0]))
    return torch.empty_like(z), rows, torch.empty_like(rows), indices, posterior_sum, statistics, *kept


@torch.library.custom_op("sqvae_speech::stochastic_quantize_backward", mutates_args=())
def _backward_operator(
    grad_quantized: Tensor,
    grad_divergence: Tensor,
    grad_entropy: Tensor,
    z: Tensor,
    codebook: Tensor,
    weight: Tensor,
    seed: Tensor,
    temperature: Tensor,
    kind: str,
    backend: str | None,
    quantized: Tensor,
    entropy: Tensor,
    statistics: Tensor,
    log_posterior: Tensor,
    sample: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grads, outputs = (grad_quantized, grad_divergence, grad_entropy), (quantized, entropy, statistics)
    module = _module(choose_backend(z.device, backend))
    inputs = (z, codebook, weight, seed, float(temperature), kind)
    return module.backward(*grads, *inputs, *outputs, log_posterior, sample)


@_backward_operator.register_fake
def _(grad_quantized, grad_divergence, grad_entropy, z, codebook, weight, *_):
    return torch.empty_like(z), torch.empty_like(codebook), torch.empty_like(weight)


def _save_for_backward(ctx, inputs, output) -> None:
    z, codebook, weight, seed, _, temperature, ctx.kind, ctx.backend, _ = inputs
    quantized, _, entropy, indices, posterior_sum, statistics, *kept = output
    ctx.set_materialize_grads(False)  # zeros in the shape of what is kept would cost as much again
    ctx.mark_non_differentiable(indices, posterior_sum, statistics, *kept)
    ctx.save_for_backward(z, codebook, weight, seed, temperature, quantized, entropy, statistics, *kept)


def _differentiate(ctx, grad_quantized, grad_divergence, grad_entropy, *_):
    z, codebook, weight, seed, temperature, *outputs = ctx.saved_tensors
    options = (seed, temperature, ctx.kind, ctx.backend)
    quantized, entropy = outputs[:2]
    grads = (
        torch.zeros_like(output) if grad is None else grad.contiguous()
        for grad, output in ((grad_quantized, quantized), (grad_divergence, entropy), (grad_entropy, entropy))
    )
    return *_backward_operator(*grads, z, codebook, weight, *options, *outputs), *(None,) * 6


_operator.register_autograd(_differentiate, setup_context=_save_for_backward)
