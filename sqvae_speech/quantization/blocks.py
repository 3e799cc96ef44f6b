"""The fused operator in eager PyTorch: row by row block, with a backward written by hand that recomputes.

With logits L, posterior p, noise g, relaxed sample w = softmax((L + g) / τ), output q = w B and entropy H, and with G
the gradient of q and h that of H, a row's backward is

    dL = w ∘ (G Bᵀ - <G, q>) / τ  -  h p ∘ (log p + H)

since Σ_k w_k (G Bᵀ)_k = <G, q>. The rest is matrix products: dB = wᵀ G + (∂L/∂B)ᵀ dL, dz = (∂L/∂z)ᵀ dL. Only z, the
codebook, the weight, q, H, the highest logit and two log-normalisers a row are kept from the forward pass.
"""

import torch
from torch import Tensor

from sqvae_speech.quantization import noise

BLOCK_ELEMENTS = 1 << 16  # logits alive at once: a few such arrays fit in the second-level cache of one core


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on ``device``: it can, everywhere."""
    return None


def block_rows(codebook_size: int) -> int:
    return max(8, BLOCK_ELEMENTS // codebook_size)


class _Problem:
    """Logits as one product ``rows @ columnsᵀ``, times a number a row; both sides centred on the codebook mean."""

    def __init__(self, z: Tensor, codebook: Tensor, weight: Tensor, kind: str):
        self.kind, self.weight = kind, weight
        self.diagonal = weight.shape[-1] > 1
        self.centre = codebook.mean(dim=0) if kind == "gaussian" else torch.zeros_like(codebook[0])
        self.z, self.codebook = z - self.centre, codebook - self.centre
        half_square = -0.5 * self.codebook.square()
        if self.diagonal:
            self.columns = torch.cat((self.codebook, half_square), dim=-1)
        elif kind == "gaussian":
            self.columns = self.codebook
            self.bias = half_square.sum(dim=-1)
        else:
            self.columns = self.codebook

    def rows(self, block: slice) -> Tensor:
        z = self.z[block]
        return torch.cat((self.weight[block] * z, self.weight[block]), dim=-1) if self.diagonal else z

    def scale(self, block: slice) -> Tensor:
        return self.weight if len(self.weight) == 1 else self.weight[block]

    def logits(self, block: slice) -> Tensor:
        if self.diagonal:
            return self.rows(block) @ self.columns.T
        if self.kind == "gaussian":
            return torch.addmm(self.bias, self.z[block], self.columns.T).mul_(self.scale(block))
        return (self.z[block] @ self.columns.T).mul_(self.scale(block))


def forward(
    z: Tensor, codebook: Tensor, weight: Tensor, seed: Tensor, mask: Tensor | None, temperature: float, kind: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :mod:`sqvae_speech.quantization.fused`."""
    problem, size = _Problem(z, codebook, weight, kind), len(codebook)
    quantized, entropy = torch.empty_like(z), z.new_empty(len(z))
    indices, statistics = entropy.to(torch.int64), z.new_empty(3, len(z))
    posterior_sum = z.new_zeros(size)
    for start in range(0, len(z), block_rows(size)):
        block = slice(start, min(start + block_rows(size), len(z)))
        logits = problem.logits(block)
        top, indices[block] = logits.max(dim=-1)
        logits -= top[:, None]
        noisy = noise.gumbel(seed, block.start, block.stop, size, z.dtype).add_(logits).div_(temperature)
        posterior = logits.exp()
        total = posterior.sum(dim=-1)
        entropy[block] = total.log() - (posterior * logits).sum(dim=-1) / total
        share = total.reciprocal() if mask is None else total.reciprocal().masked_fill(~mask[block], 0.0)
        posterior_sum += share @ posterior
        noisy_top = noisy.amax(dim=-1)
        sample = noisy.sub_(noisy_top[:, None]).exp_()
        sample_total = sample.sum(dim=-1)
        quantized[block] = (sample @ codebook) / sample_total[:, None]
        # the normalisers stay apart from the highest logit: at small variances that is large, and would take their
        # digits; the backward's weights would then not sum to one
        statistics[0, block] = top
        statistics[1, block] = total.log()
        statistics[2, block] = noisy_top + sample_total.log()
    return quantized, entropy, indices, posterior_sum, statistics


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
    problem, size, dim = _Problem(z, codebook, weight, kind), len(codebook), z.shape[-1]
    grad_z, grad_codebook = torch.empty_like(z), torch.zeros_like(codebook)
    grad_columns = torch.zeros_like(problem.columns)
    grad_bias = z.new_zeros(size)
    grad_weight = z.new_empty(len(z), weight.shape[-1])
    for start in range(0, len(z), block_rows(size)):
        block = slice(start, min(start + block_rows(size), len(z)))
        logits, rows, outer = problem.logits(block), problem.rows(block), grad_quantized[block]
        logits -= statistics[0, block, None]
        log_posterior = logits - statistics[1, block, None]
        noisy = noise.gumbel(seed, block.start, block.stop, size, z.dtype).add_(logits).div_(temperature)
        sample = noisy.sub_(statistics[2, block, None]).exp_()
        grad_codebook.addmm_(sample.T, outer)
        grad_logits = outer @ codebook.T
        grad_logits -= (outer * quantized[block]).sum(dim=-1, keepdim=True)
        grad_logits.mul_(sample).div_(temperature)
        information = log_posterior.exp().mul_(log_posterior + entropy[block, None])
        grad_logits -= information.mul_(grad_entropy[block, None])
        if problem.diagonal:
            grad_rows = grad_logits @ problem.columns
            grad_z[block] = grad_rows[:, :dim] * weight[block]
            grad_weight[block] = grad_rows[:, :dim] * problem.z[block] + grad_rows[:, dim:]
        else:
            # the gradients of one row's logits sum to zero, so any offset of the logits will do
            scale = problem.scale(block)
            grad_weight[block] = (grad_logits * log_posterior).sum(dim=-1, keepdim=True) / scale
            grad_logits *= scale
            grad_z[block] = grad_logits @ problem.columns
        grad_columns.addmm_(grad_logits.T, rows)
        grad_bias += grad_logits.sum(dim=0)
    if problem.diagonal:
        grad_codebook += grad_columns[:, :dim] - problem.codebook * grad_columns[:, dim:]
    else:
        grad_codebook += grad_columns
        if kind == "gaussian":
            grad_codebook -= problem.codebook * grad_bias[:, None]
    return grad_z, grad_codebook, grad_weight.sum_to_size(weight.shape)
