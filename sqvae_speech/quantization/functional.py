"""The maths of stochastic quantization as pure functions: the reference that every faster path is held against.

Rows are flattened latents: ``z`` (N, D), ``codebook`` (K, D), ``precision`` broadcastable to (N, D). Everything is
computed in the dtype of its inputs; callers hand in float32 or float64 (see :func:`at_least_float32`).
Equations: Takida et al., ICML 2022, arXiv 2205.07547.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32 where it is half precision, unchanged otherwise. bf16 logits lose codes."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def row_blocks(rows: Tensor, codebook_size: int) -> list[slice]:
    """Blocks of ``rows`` (N, *) whose logits take 16 MB; while compiling, when N may be a symbol, one of them all."""
    if torch.compiler.is_compiling():
        return [slice(None)]
    step = max(1, (1 << 22) // codebook_size)
    return [slice(start, start + step) for start in range(0, max(len(rows), 1), step)]


def centre(codebook: Tensor) -> Tensor:
    """The mean code (D,), detached. Both sides of a distance are reduced by it: a common offset would cost digits."""
    return codebook.detach().mean(dim=0)


def gaussian_logits(z: Tensor, codebook: Tensor, precision: Tensor) -> Tensor:
    """Unnormalised log-posterior of each code, ``-½ (b_k - z)ᵀ Σ⁻¹ (b_k - z)`` less what is constant over k.

    Expanded into matrix products, since ``Σ_d w_d z_d²`` cancels in the softmax: no (N, K, D) tensor is made. Both
    sides are first centred on the detached codebook mean, which takes away the digits that a common offset would
    cost; it changes neither value nor gradient of the posterior.

    Args:
        z: (N, D) latents.
        codebook: (K, D).
        precision: 1/σ², (1, 1) or (N, 1) for spherical covariances, (N, D) for a diagonal one.

    Returns:
        (N, K) logits.
    """
    middle = centre(codebook)
    z, codebook = z - middle, codebook - middle
    if precision.shape[-1] == 1:
        return precision * torch.addmm(-0.5 * codebook.square().sum(dim=-1), z, codebook.T)
    # the two products of the diagonal case as one: [w∘z, w] · [b, -½ b²]ᵀ
    rows = torch.cat((precision * z, precision), dim=-1)
    columns = torch.cat((codebook, -0.5 * codebook.square()), dim=-1)
    return rows @ columns.T


def vmf_logits(z: Tensor, codebook: Tensor, kappa: Tensor) -> Tensor:
    """Unnormalised log-posterior ``κ b_kᵀ z`` of von Mises-Fisher quantization.

    Args:
        z: (N, D) unit vectors.
        codebook: (K, D) unit vectors.
        kappa: concentration, (1, 1) or (N, 1).

    Returns:
        (N, K) logits.
    """
    return kappa * (z @ codebook.T)


def squared_distances(z: Tensor, codebook: Tensor) -> Tensor:
    """Squared Euclidean distances (N, K) less ``|z|²``, which does not change their order: a matrix product."""
    middle = centre(codebook)
    codebook = codebook - middle
    return torch.addmm(codebook.square().sum(dim=-1), z - middle, codebook.T, alpha=-2.0)


def gaussian_divergence(z: Tensor, quantized: Tensor, precision: Tensor) -> Tensor:
    """``½ (z - z̃)ᵀ Σ⁻¹ (z - z̃)`` of each row, (N,): the KL divergence of the continuous latents."""
    return 0.5 * (precision * (z - quantized).square()).sum(dim=-1)


def vmf_divergence(z: Tensor, quantized: Tensor, kappa: Tensor) -> Tensor:
    """``κ (1 - z̃ᵀ z)`` of each row, (N,)."""
    return (kappa * (z * (z - quantized))).sum(dim=-1)


def gumbel_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Gumbel(0, 1) noise in the shape, dtype and device of ``like``.

    Drawn as ``-log(-log(u))`` from uniform numbers: on a CPU, ``Tensor.exponential_`` is serial and 7 times slower.
    """
    uniform = torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)
    tiny = torch.finfo(like.dtype).tiny
    # torch.rand gives 0 (the inner log would be -inf) but never 1; in float32 the log of the largest u is -6e-8
    return uniform.clamp_(min=tiny).log_().neg_().clamp_(min=tiny).log_().neg_()


def gumbel_softmax(logits: Tensor, gumbel: Tensor, temperature: float) -> Tensor:
    """A relaxed one-hot sample of ``softmax(logits)``, (N, K), rows sum to one (Jang et al., arXiv 1611.01144).

    Args:
        logits: (N, K).
        gumbel: (N, K) Gumbel(0, 1) noise.
        temperature: > 0; the sample tends to one-hot as it goes to 0.
    """
    return F.softmax((logits + gumbel) / temperature, dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of ``softmax(logits)`` along the last axis, finite also where probabilities underflow."""
    log_probabilities = F.log_softmax(logits, dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


# kind of posterior -> its logits, its divergence
LOGITS = {"gaussian": gaussian_logits, "vmf": vmf_logits}
DIVERGENCES = {"gaussian": gaussian_divergence, "vmf": vmf_divergence}
