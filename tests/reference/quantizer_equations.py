"""The equations of the quantizers, written out in float64 from the papers, to hold the package against.

Nothing of the package is used. Differences ``z - b`` are formed directly, one (N, K, D) tensor and all, where the
package expands the square into matrix products; probabilities are exponentiated and normalised by hand. Sources:
Takida et al., arXiv 2205.07547 (Gaussian types I to IV, von Mises-Fisher), van den Oord et al., arXiv 1711.00937
(vector quantization, exponential moving averages in its Appendix A.1).
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor


class Expected(NamedTuple):
    """What a quantizer should return for a batch.

    Attributes:
        quantized: (B, *, D).
        indices: (B, *) int64.
        posterior: (B, *, K).
        loss: scalar.
        metrics: scalars by name.
    """

    quantized: Tensor
    indices: Tensor
    posterior: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]


def total_variance(log_var: Tensor | None, s: Tensor, z: Tensor, variance_sum: bool) -> Tensor:
    """σ² of every latent value, in the shape of ``z``.

    The speech form multiplies the head's variance by exp(s); the vision form adds them, with a head of 1 in type I.
    """
    head = torch.ones_like(z) if log_var is None else log_var.exp() * torch.ones_like(z)
    return head + s.exp() if variance_sum else head * s.exp()


def gaussian(
    z: Tensor,
    codebook: Tensor,
    variance: Tensor,
    noise: Tensor | None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Expected:
    """Gaussian SQ with the diagonal covariance ``variance`` (B, *, D), which spherical types repeat.

    Args:
        z: (B, *, D).
        codebook: (K, D).
        variance: (B, *, D).
        noise: (B, *, K) Gumbel noise of a training pass, or None for the deterministic one.
        temperature: of the Gumbel-softmax.
        mask: (B, *) bool, True = real.
    """
    difference = z[..., None, :] - codebook  # (B, *, K, D)
    log_weight = -(difference.square() / (2 * variance[..., None, :])).sum(dim=-1)

    def divergence(quantized: Tensor) -> Tensor:
        return ((z - quantized).square() / (2 * variance)).sum(dim=-1)

    expected = _stochastic(z, codebook, log_weight, divergence, noise, temperature, mask)
    weights = torch.ones_like(z[..., 0]) if mask is None else mask.to(z.dtype)
    log_mean = (variance.log().mean(dim=-1) * weights).sum() / weights.sum()
    expected.metrics["variance"] = log_mean.exp()
    return expected


def von_mises_fisher(
    z: Tensor,
    codebook: Tensor,
    kappa: Tensor,
    noise: Tensor | None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Expected:
    """Von Mises-Fisher SQ; latents and codes are brought to unit length here; arguments as in :func:`gaussian`."""
    z = z / z.square().sum(dim=-1, keepdim=True).sqrt()
    codebook = codebook / codebook.square().sum(dim=-1, keepdim=True).sqrt()
    log_weight = kappa * (z[..., None, :] * codebook).sum(dim=-1)

    def divergence(quantized: Tensor) -> Tensor:
        return kappa * (1 - (z * quantized).sum(dim=-1))

    expected = _stochastic(z, codebook, log_weight, divergence, noise, temperature, mask)
    expected.metrics["kappa"] = kappa.reshape(())
    return expected


def _stochastic(z, codebook, log_weight, divergence, noise, temperature, mask) -> Expected:
    size = len(codebook)
    posterior = _normalise(log_weight)
    indices = posterior.argmax(dim=-1)
    # log q by hand: a probability that underflows adds nothing to the entropy
    log_posterior = log_weight - _log_sum_exp(log_weight)
    entropy = -(posterior * log_posterior).sum(dim=-1)
    if noise is None:
        quantized = codebook[indices]
    else:
        quantized = (_normalise((log_weight + noise) / temperature)[..., None] * codebook).sum(dim=-2)
    real = torch.ones_like(indices, dtype=torch.bool) if mask is None else mask
    continuous = divergence(quantized)[real].sum() / len(z)
    discrete = (math.log(size) - entropy)[real].sum() / len(z)
    metrics = {
        "perplexity": _perplexity(_histogram(indices[real], size)),
        "perplexity_posterior": _perplexity(posterior[real].mean(dim=0)),
        "usage": _usage(indices[real], size),
        "entropy": entropy[real].mean(),
        "kl_discrete": discrete,
        "kl_continuous": continuous,
    }
    return Expected(quantized, indices, posterior, continuous + discrete, metrics)


class VectorExpected(NamedTuple):
    """Of vector quantization: as :class:`Expected`, with the gradients in closed form.

    ``grad_z`` (B, *, D) and ``grad_codebook`` (K, D) are of ``loss + Σ cotangent · quantized``.
    """

    quantized: Tensor
    indices: Tensor
    posterior: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]
    grad_z: Tensor
    grad_codebook: Tensor


def vector(
    z: Tensor, codebook: Tensor, cotangent: Tensor, commitment: float, gradient: bool, mask: Tensor | None = None
) -> VectorExpected:
    """VQ-VAE: nearest code, straight-through, commitment; ``gradient`` adds the codebook's own loss."""
    real = torch.ones_like(z[..., 0], dtype=torch.bool) if mask is None else mask
    distances = (z[..., None, :] - codebook).square().sum(dim=-1)
    indices = distances.argmin(dim=-1)
    quantized = codebook[indices]
    error = (z - quantized)[real]
    loss = (commitment + gradient) * error.square().sum() / len(z)
    grad_z = torch.zeros_like(z)
    grad_z[real] = cotangent[real] + 2 * commitment * error / len(z)
    grad_codebook = torch.zeros_like(codebook)
    if gradient:
        for code, row in zip(indices[real].tolist(), error, strict=True):
            grad_codebook[code] -= 2 * row / len(z)
    frequency = _perplexity(_histogram(indices[real], len(codebook)))
    metrics = {
        "perplexity": frequency,
        "perplexity_posterior": frequency,
        "usage": _usage(indices[real], len(codebook)),
        "entropy": torch.zeros(()).double(),
        "distance": error.square().sum() / len(z),
    }
    posterior = torch.eye(len(codebook)).double()[indices]
    return VectorExpected(quantized, indices, posterior, loss, metrics, grad_z, grad_codebook)


def residual_gaussian(
    z: Tensor,
    codebooks: list[Tensor],
    variances: list[Tensor],
    noises: list[Tensor] | None,
    temperature: float,
    mask: Tensor | None,
    stages_used: list[int],
) -> Expected:
    """RSQ-VAE (HQ-VAE, Takida et al., arXiv 2401.00365), one position at a time.

    Args:
        z: (B, *, D).
        codebooks: N of (K, D).
        variances: N of (B, *, D).
        noises: N of (B, *, K), or None for the deterministic pass.
        temperature: of the Gumbel-softmax.
        mask: (B, *) bool.
        stages_used: for each example, how many stages its code has.
    """
    stages, size, dim = len(codebooks), len(codebooks[0]), z.shape[-1]
    total, discrete, continuous = torch.zeros_like(z), torch.zeros(()).double(), torch.zeros(()).double()
    indices = torch.zeros(*z.shape[:-1], stages, dtype=torch.int64)
    posteriors = torch.zeros(*z.shape[:-1], stages, size).double()
    log_variances = []
    quantized = {}
    for position in _positions(z):
        real = mask is None or bool(mask[position])
        left, used = z[position], stages_used[position[0]]
        summed, spread = torch.zeros(dim).double(), torch.zeros(dim).double()
        for stage in range(stages):
            variance = variances[stage][position]
            log_weight = -((left - codebooks[stage]).square() / (2 * variance)).sum(dim=-1)
            log_posterior = log_weight - _log_sum_exp(log_weight)
            posteriors[position][stage] = log_posterior.exp().detach()
            indices[position][stage] = log_weight.argmax()
            if noises is None:
                code = codebooks[stage][log_weight.argmax()]
            else:
                code = _normalise((log_weight + noises[stage][position]) / temperature) @ codebooks[stage]
            left = left - code
            if stage < used:
                summed, spread = summed + code, spread + variance
                if real:
                    discrete = discrete + math.log(size) + (log_posterior.exp() * log_posterior).sum()
        quantized[position] = summed
        if real:
            continuous = continuous + ((z[position] - summed).square() / (2 * spread)).sum()
            log_variances.append(spread.log().mean())
    total = torch.stack([quantized[position] for position in _positions(z)]).reshape(z.shape)
    continuous, discrete = continuous / len(z), discrete / len(z)
    metrics = {
        "kl_discrete": discrete,
        "kl_continuous": continuous,
        "variance": torch.stack(log_variances).mean().exp(),
    }
    return Expected(total, indices, posteriors, continuous + discrete, metrics)


def residual_vector(
    z: Tensor,
    codebooks: list[Tensor],
    cotangent: Tensor,
    commitment: float,
    gradient: bool,
    mask: Tensor | None,
    stages_used: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Residual VQ with a loss a stage, one position at a time.

    Returns:
        quantized, indices (B, *, N), loss, gradient of z, gradients of the codebooks, and the residuals (B, *, D)
        that each stage was given.
    """
    quantized, loss, grad_z = torch.zeros_like(z), 0.0, torch.zeros_like(z)
    indices = torch.zeros(*z.shape[:-1], len(codebooks), dtype=torch.int64)
    grad_codebooks = [torch.zeros_like(codebook) for codebook in codebooks]
    residuals = [torch.zeros_like(z) for _ in codebooks]
    for position in _positions(z):
        real = mask is None or bool(mask[position])
        left = z[position].clone()
        if real:
            grad_z[position] = cotangent[position]
        for stage, codebook in enumerate(codebooks):
            residuals[stage][position] = left
            code = int((left - codebook).square().sum(dim=-1).argmin())
            indices[position][stage] = code
            error = left - codebook[code]
            if stage < stages_used[position[0]]:
                quantized[position] += codebook[code]
                if real:
                    loss = loss + (commitment + gradient) * error.square().sum() / len(z)
                    grad_z[position] += 2 * commitment * error / len(z)
                    if gradient:
                        grad_codebooks[stage][code] -= 2 * error / len(z)
            left = error
    return quantized, indices, torch.as_tensor(loss), grad_z, grad_codebooks, residuals


def _positions(z: Tensor) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(size) for size in z.shape[:-1])))


class MovingAverages:
    """Codebook as exponential moving averages of the latents assigned to each code, counts Laplace-smoothed."""

    def __init__(self, codebook: Tensor, decay: float, epsilon: float = 1e-5):
        self.codebook = codebook.double().clone()
        self.decay = decay
        self.epsilon = epsilon
        self.count = [1.0] * len(codebook)
        self.total = [row.clone() for row in self.codebook]

    def update(self, latents: Tensor, indices: Tensor) -> None:
        """``latents`` (N, D) and their ``indices`` (N,), the real ones only."""
        size = len(self.codebook)
        for code in range(size):
            mine = latents[indices == code].double()
            self.count[code] = self.decay * self.count[code] + (1 - self.decay) * len(mine)
            self.total[code] = self.decay * self.total[code] + (1 - self.decay) * mine.sum(dim=0)
        everything = sum(self.count)
        for code in range(size):
            smooth = everything * (self.count[code] + self.epsilon) / (everything + size * self.epsilon)
            self.codebook[code] = self.total[code] / smooth


def _log_sum_exp(values: Tensor) -> Tensor:
    highest = values.max(dim=-1, keepdim=True).values.detach()
    return highest + (values - highest).exp().sum(dim=-1, keepdim=True).log()


def _normalise(log_weight: Tensor) -> Tensor:
    return (log_weight - _log_sum_exp(log_weight)).exp()


def _histogram(indices: Tensor, size: int) -> Tensor:
    return torch.stack([(indices == code).double().mean() for code in range(size)])


def _perplexity(probabilities: Tensor) -> Tensor:
    positive = probabilities[probabilities > 0]
    return (-(positive * positive.log()).sum()).exp()


def _usage(indices: Tensor, size: int) -> Tensor:
    return torch.tensor(len(set(indices.tolist())) / size, dtype=torch.float64)
