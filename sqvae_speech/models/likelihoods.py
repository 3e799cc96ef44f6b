"""Reconstruction losses: negative log-likelihoods of the data given the decoder's output, in nats per example.

In training mode sums run over all processes (every one has to take part); in evaluation mode over the caller's batch.
Of values they are here, of labels in :mod:`sqvae_speech.models.label_likelihoods`.
"""

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sqvae_speech.quantization.functional import at_least_float32


class ReconstructionLoss(NamedTuple):
    """Of the global batch.

    Attributes:
        loss: scalar in nats per example, up to constants.
        metrics: detached float32 scalars: ``mse``, the mean squared error, of values; ``accuracy`` of labels.
        share: detached; this process' number of examples relative to the mean over the processes. A mean over its
            own examples, times this, averages over processes to the mean over all examples, and so do gradients.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    share: Tensor


class Totals(NamedTuple):
    """Detached float64 sums over all processes.

    Attributes:
        score: squared error, or labels that are right.
        values: real values, at least 1.
        examples: of the global batch.
        share: see :class:`ReconstructionLoss`.
        world_size: number of processes.
    """

    score: Tensor
    values: Tensor
    examples: Tensor
    share: Tensor
    world_size: int

    @property
    def mean(self) -> Tensor:
        """Score a value."""
        return self.score / self.values

    @property
    def values_per_example(self) -> Tensor:
        return self.values / self.examples

    def per_example(self, local_sum: Tensor) -> Tensor:
        """A sum over this process as a mean over examples; averaged over processes, value and gradient are global."""
        return local_sum * (self.world_size / self.examples).to(local_sum.dtype)


def totals(score: Tensor, values: Tensor | int, examples: int, synchronize: bool) -> Totals:
    """Add up a batch's detached sums over the processes, or with ``synchronize`` False take this one's."""
    parts = (score.detach().double(), values, examples)
    # numbers are filled in on the device: a copy from the CPU would wait for it
    sums = torch.stack(
        [
            part.double() if isinstance(part, Tensor) else score.new_full((), part, dtype=torch.float64)
            for part in parts
        ]
    )
    world_size = 1
    if synchronize and dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
        world_size = dist.get_world_size()
    return Totals(sums[0], sums[1].clamp(min=1.0), sums[2], world_size * examples / sums[2], world_size)


def _squared_error(output: Tensor, target: Tensor, mask: Tensor | None, synchronize: bool) -> tuple[Tensor, Totals]:
    """The sum of squared errors of this process, with gradient, and of all."""
    error = at_least_float32(output) - at_least_float32(target)
    values: Tensor | int = error.numel()
    if mask is not None:
        # blanked before it is squared: the square's gradient, 0 * NaN, would bring padding of any content back in
        error = error.masked_fill(~mask, 0.0)
        values = mask.expand_as(error).sum()
    local = error.square().sum()
    return local, totals(local, values, len(output), synchronize)


class ArelboLikelihood(nn.Module):
    """Gaussian with its variance at the maximum-likelihood value: ``(D/2) log MSE`` (arXiv 2102.08663).

    D is the number of real values an example, MSE the mean over the real values of the global batch. Over several
    processes the value is the global one on each, and the gradients, averaged as data-parallel wrappers do, are
    those of one process with the whole batch.
    """

    def forward(self, output: Tensor, target: Tensor, mask: Tensor | None = None) -> ReconstructionLoss:
        """``output``, ``target`` (B, ...) float; ``mask`` bool, broadcastable to them, True = real."""
        local, total = _squared_error(output, target, mask, self.training)
        mse = total.mean.clamp(min=1e-12)
        # d/dθ (D/2) log MSE = D/2 · ∇(sum) / (values · MSE); the first term has the value, the second the gradient
        value = (0.5 * total.values_per_example * mse.log()).to(local.dtype)
        loss = value + total.per_example(local - local.detach()) * (0.5 / mse).to(local.dtype)
        return ReconstructionLoss(loss, {"mse": mse.float()}, total.share.to(local.dtype))


class GaussianLikelihood(nn.Module):
    """Gaussian with a trainable log-variance: ``D/2 log σ² + Σ(x - x̂)² / 2σ²``, or a fixed one.

    Args:
        init_variance: where σ² starts.
        trainable: False keeps it there, which makes the loss a squared error with a constant weight.
    """

    def __init__(self, init_variance: float = 0.1, trainable: bool = True):
        super().__init__()
        if not init_variance > 0:
            raise ValueError(f"the variance of the likelihood must be positive, got {init_variance}")
        self.log_variance = nn.Parameter(torch.tensor(math.log(init_variance)), requires_grad=trainable)

    def forward(self, output: Tensor, target: Tensor, mask: Tensor | None = None) -> ReconstructionLoss:
        """``output``, ``target`` (B, ...) float; ``mask`` bool, broadcastable to them, True = real."""
        local, total = _squared_error(output, target, mask, self.training)
        values_per_example = total.values_per_example.to(local.dtype)
        error = total.per_example(local) * torch.exp(-self.log_variance)
        loss = 0.5 * (values_per_example * self.log_variance + error)
        return ReconstructionLoss(loss, {"mse": total.mean.float()}, total.share.to(local.dtype))


LIKELIHOODS = {
    "arelbo": lambda variance: ArelboLikelihood(),
    "gaussian": lambda variance: GaussianLikelihood(variance, trainable=True),
    "fixed": lambda variance: GaussianLikelihood(variance, trainable=False),
}


def build_likelihood(name: str, init_variance: float) -> nn.Module:
    """``arelbo``, ``gaussian`` (trainable variance) or ``fixed``.

    Raises:
        ValueError: another name.
    """
    if name not in LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {name!r}")
    return LIKELIHOODS[name](init_variance)
