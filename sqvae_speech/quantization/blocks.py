"""The fused operator in eager PyTorch: row by row block, with a backward written by hand.

With logits L, posterior p, noise g, relaxed sample w = softmax((L + g) / τ), output q = w B and entropy H, and with G
the gradient of q and h that of H, a row's backward is

    dL = w ∘ (G Bᵀ - Σ_k w_k (G Bᵀ)_k) / τ  -  h p ∘ (log p + H)

The rest is matrix products: dB = wᵀ G + (∂L/∂B)ᵀ dL, dz = (∂L/∂z)ᵀ dL. Kept from the forward pass are z, the
codebook, the weight, q, H and two log-normalisers a row, and of the first rows log p and w: those of the others are
computed again.

The squared distance as a product is large where distances that matter are small: its rounding, times the precision,
is an error of the logits. Rows for which that could be felt get their products, and the subtraction of the largest
logit, in float64; what follows is float32 again.
"""

import functools

import torch
from torch import Tensor

from sqvae_speech.quantization import divergence, functional
from sqvae_speech.quantization.noise import Noise

# logits alive at once: fewer, and calling the operators costs more than they do; many more, and they leave the caches
BLOCK_ELEMENTS = 1 << 17
# the largest magnitude of the terms of a logit at which float32 products are good enough
MAX_MAGNITUDE = 2e3


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on ``device``: it can, everywhere."""
    return None


def block_rows(codebook_size: int) -> int:
    return max(8, BLOCK_ELEMENTS // codebook_size)


class Problem:
    """Logits as ``scale ∘ (rows @ columnsᵀ + bias)``; latents and codes are centred on the mean code.

    Attributes:
        latents: (N, D), as they come.
        centre: (D,), the mean code, or zeros for ``vmf``.
        codebook: (K, D), centred.
        columns: (K, E), the codebook itself, or for a diagonal covariance ``[b, -½ b²]``.
        bias: (K,), ``-½ |b|²``, or 0.
    """

    def __init__(self, z: Tensor, codebook: Tensor, weight: Tensor, kind: str):
        self.inputs = (z, codebook, weight)
        self.kind, self.latents, self.weight = kind, z, weight
        self.diagonal = weight.shape[-1] > 1
        gaussian = kind == "gaussian"
        self.centre = functional.centre(codebook) if gaussian else codebook.new_zeros(codebook.shape[-1])
        self.codebook = codebook - self.centre if gaussian else codebook
        if gaussian and not self.diagonal:
            self.bias = -0.5 * self.codebook.square().sum(dim=-1)
        else:
            self.bias = codebook.new_zeros(len(codebook))
        self.columns = self.columns_at(self.codebook)

    @functools.cached_property
    def z(self) -> Tensor:
        """(N, D), centred."""
        return self.latents - self.centre if self.kind == "gaussian" else self.latents

    @functools.cached_property
    def rows(self) -> Tensor:
        """(N, E), ``z`` itself, or for a diagonal covariance ``[w∘z, w]``."""
        return torch.cat((self.weight * self.z, self.weight), dim=-1) if self.diagonal else self.z

    @property
    def scale(self) -> Tensor:
        """(N or 1, 1), the weight, or 1."""
        return self.weight.new_ones(1, 1) if self.diagonal else self.weight

    def columns_at(self, codes: Tensor) -> Tensor:
        """What ``columns`` would hold of the (centred) vectors ``codes`` (*, D)."""
        return torch.cat((codes, -0.5 * codes.square()), dim=-1) if self.diagonal else codes

    def needs_float64(self) -> Tensor:
        """(N,) bool: the rows whose float32 logits could be wrong by more than the posterior may feel."""
        if self.latents.dtype == torch.float64:
            return torch.zeros(len(self.latents), dtype=torch.bool, device=self.latents.device)
        magnitude = self.rows.abs() @ self.columns.abs().amax(dim=0) + self.bias.abs().amax()
        return magnitude * self.scale[:, 0] > MAX_MAGNITUDE

    def in_float64(self) -> "Problem":
        """The same problem without the rounding of float32, that of the centring included."""
        z, codebook, weight = (tensor.double() for tensor in self.inputs)
        return Problem(z, codebook, weight, self.kind)

    def gradients(
        self,
        exact: "Problem | None",
        grad_rows: Tensor,
        grad_scale: Tensor,
        grad_codebook: Tensor,
        grad_columns: Tensor,
        grad_bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of z, codebook and weight from those of the parts; ``grad_rows`` is of ``exact``, if any."""
        dtype, dim = self.z.dtype, self.z.shape[-1]
        grad_codebook = self.codebook_gradient(grad_codebook, grad_columns, grad_bias)
        if self.diagonal:
            z = self.z if exact is None else exact.z
            grad_weight = torch.addcmul(grad_rows[:, dim:], grad_rows[:, :dim], z).to(dtype)
            return (grad_rows[:, :dim] * self.weight).to(dtype), grad_codebook, grad_weight
        return grad_rows.to(dtype), grad_codebook, grad_scale.sum_to_size(self.weight.shape)

    def codebook_gradient(self, grad_codebook: Tensor, grad_columns: Tensor, grad_bias: Tensor) -> Tensor:
        """(K, D), from the gradients of the codebook, columns and bias; the first two may be one tensor."""
        if self.diagonal:
            grad_squares = grad_columns[:, self.codebook.shape[-1] :]
            return grad_codebook + grad_columns[:, : self.codebook.shape[-1]] - self.codebook * grad_squares
        if grad_columns is not grad_codebook:
            grad_codebook = grad_codebook + grad_columns
        return grad_codebook - self.codebook * grad_bias[:, None] if self.kind == "gaussian" else grad_codebook


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
    problem, size = Problem(z, codebook, weight, kind), len(codebook)
    logits_of, drawn = _Logits(problem), Noise(seed, len(z), size)
    quantized, entropy = torch.empty_like(problem.z), z.new_empty(len(z))
    indices, statistics = entropy.to(torch.int64), z.new_empty(2, len(z), dtype=torch.float64)
    posterior_sum = z.new_zeros(size)
    for start in range(0, len(z), block_rows(size)):
        block = slice(start, min(start + block_rows(size), len(z)))
        logits = logits_of(block)
        top, best = logits.max(dim=-1)  # far faster than argmax
        logits = logits.sub_(top[:, None]).to(z.dtype)
        noisy = torch.sub(logits, drawn.log_exponential(block, z.dtype)).div_(temperature)
        # the sum less its largest term, which is 1: of a posterior all but certain nothing else would be left
        posterior = logits.exp().scatter_(1, best[:, None], 0.0)
        others = posterior.sum(dim=-1)
        total, log_total = others + 1.0, others.log1p()
        posterior.scatter_(1, best[:, None], 1.0)
        indices[block] = best
        entropy[block] = log_total - torch.linalg.vecdot(posterior, logits) / total
        share = total.reciprocal() if mask is None else total.reciprocal().masked_fill(~mask[block], 0.0)
        posterior_sum.addmv_(posterior.T, share)
        noisy_top = noisy.amax(dim=-1)
        sample = noisy.sub_(noisy_top[:, None]).exp_()
        sample_total = sample.sum(dim=-1)
        sample /= sample_total[:, None]
        torch.mm(sample, problem.codebook, out=quantized[block])
        if block.stop <= len(kept_sample):
            torch.sub(logits, log_total[:, None], out=kept_log_posterior[block])
            kept_sample[block] = sample
        statistics[0, block] = top.double() + log_total
        # of the noisy logits less log p: small, whatever the logits are
        statistics[1, block] = noisy_top + sample_total.log() - log_total / temperature
    distances = divergence.forward(z, codebook, weight, kind, quantized)
    return quantized, distances, entropy, indices, posterior_sum, statistics


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
    to_quantized, to_z, to_weight = divergence.backward(grad_divergence, z, codebook, weight, kind, quantized)
    grad_quantized = to_quantized.add_(grad_quantized)
    problem, size = Problem(z, codebook, weight, kind), len(codebook)
    logits_of, drawn = _Logits(problem), Noise(seed, len(z), size)
    exact = logits_of.exact
    mixtures = None if exact is None else exact.columns_at(quantized.double())
    grad_rows = torch.empty_like(problem.rows if exact is None else exact.rows)
    grad_scale = z.new_empty(len(z), 1)
    grad_codebook, grad_bias = torch.zeros_like(problem.codebook), z.new_zeros(size)
    grad_columns = torch.zeros_like(problem.columns) if problem.diagonal else grad_codebook
    sample_normaliser = statistics[1].to(z.dtype)[:, None]
    for start in range(0, len(z), block_rows(size)):
        block = slice(start, min(start + block_rows(size), len(z)))
        if block.stop <= len(kept_sample):
            log_posterior, sample = kept_log_posterior[block], kept_sample[block]
        else:
            log_posterior = logits_of.less_normaliser(block, statistics[0, block])
            sample = torch.sub(log_posterior, drawn.log_exponential(block, z.dtype)).div_(temperature)
            sample = sample.sub_(sample_normaliser[block]).exp_()
        chosen = sample.max(dim=-1, keepdim=True).indices
        grad_codebook.addmm_(sample.T, grad_quantized[block])
        grad_logits = grad_quantized[block] @ problem.codebook.T
        # less the gradient of the chosen code: of a sample all but one-hot, what is left is small and has its digits
        grad_logits -= grad_logits.gather(1, chosen)
        grad_logits -= torch.linalg.vecdot(sample, grad_logits)[:, None]
        grad_logits.mul_(sample).div_(temperature)
        information = (log_posterior + entropy[block, None]).mul_(log_posterior.exp())
        grad_logits.addcmul_(information, grad_entropy[block, None], value=-1.0)
        # the gradients of one row's logits sum to zero, so any offset of the logits will do
        grad_scale[block, 0] = torch.linalg.vecdot(grad_logits, log_posterior)
        if not problem.diagonal:
            grad_logits *= problem.scale if len(problem.scale) == 1 else problem.scale[block]
        if exact is not None and mixtures is not None:
            # A row of grad_logits sums to zero but for its rounding. Codes that compete are near each other and to
            # their mixture, so that rounding is felt unless it is taken at the mixture.
            wide = grad_logits.double()
            torch.mm(wide, exact.columns, out=grad_rows[block])
            grad_rows[block] -= wide.sum(dim=-1, keepdim=True) * mixtures[block]
        else:
            torch.mm(grad_logits, problem.columns, out=grad_rows[block])
        grad_columns.addmm_(grad_logits.T, problem.rows[block])
        grad_bias += grad_logits.sum(dim=0)
    grad_scale /= problem.scale
    grads = problem.gradients(exact, grad_rows, grad_scale, grad_codebook, grad_columns, grad_bias)
    return grads[0].add_(to_z), grads[1], grads[2].add_(to_weight)


class _Logits:
    """Makes the logits of a block of rows."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.precise = problem.needs_float64()
        self.exact = problem.in_float64() if self.precise.any() else None

    def __call__(self, block: slice) -> Tensor:
        """(n, K) logits, float64 where needed."""
        problem = self.exact if self.exact is not None and self.precise[block].any() else self.problem
        logits = torch.addmm(problem.bias, problem.rows[block], problem.columns.T)
        if not problem.diagonal:
            logits *= problem.scale if len(problem.scale) == 1 else problem.scale[block]
        return logits

    def less_normaliser(self, block: slice, normaliser: Tensor) -> Tensor:
        """(n, K) log-posterior, of the dtype of z, ``normaliser`` (n,) being float64."""
        logits = self(block)
        high = normaliser.to(logits.dtype)
        logits -= high[:, None]
        if logits.dtype != normaliser.dtype:
            # what float32 loses of the normaliser would be lost in every posterior of the row
            logits -= (normaliser - high).to(logits.dtype)[:, None]
        return logits.to(self.problem.z.dtype)
