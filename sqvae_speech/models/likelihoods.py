"""Reconstruction losses: negative log-likelihoods of the data given the decoder's output, in nats per example.

In training mode sums run over all processes (every one has to take part); in evaluation mode over the caller's batch.
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
        mse: detached mean squared error.
        share: detached; this process' number of examples relative to the mean over the processes. A mean over its
            own examples, times this, averages over processes to the mean over all examples, and so do gradients.
    """

    loss: Tensor
    mse: Tensor
    share: Tensor


class _SquaredError(NamedTuple):
    """Of the global batch: what a process adds to it, and (detached) totals over all processes."""

    local_sum: Tensor  # with gradient
    total_sum: Tensor
    total_values: Tensor
    total_examples: Tensor
    share: Tensor
    world_size: int


def _squared_error(output: Tensor, target: Tensor, mask: Tensor | None, synchronize: bool) -> _SquaredError:
    error = at_least_float32(output) - at_least_float32(target)
    if mask is not None:
        # blanked before it is squared: the square's gradient, 0 * NaN, would bring padding of any content back in
        error = error.masked_fill(~mask, 0.0)
        values = mask.expand_as(error).sum()
    else:
        values = _scalar(error.numel(), error)
    local = error.square().sum()
    totals = torch.stack((local.detach().double(), values.double(), _scalar(len(output), error)))
    world_size = 1
    if synchronize and dist.is_available() and dist.is_initialized():
        dist.all_reduce(totals)
        world_size = dist.get_world_size()
    share = (world_size * len(output) / totals[2]).to(local.dtype)
    return _SquaredError(local, totals[0], totals[1].clamp(min=1.0), totals[2], share, world_size)


def _scalar(value: float, like: Tensor) -> Tensor:
    """float64 on the device of ``like``, filled there: a copy from the CPU would wait for the device."""
    return torch.full((), value, dtype=torch.float64, device=like.device)


class ArelboLikelihood(nn.Module):
    """Gaussian with its variance at the maximum-likelihood value: ``(D/2) log MSE`` (arXiv 2102.08663).

    D is the number of real values an example, MSE the mean over the real values of the global batch. Over several
    processes the value is the global one on each, and the gradients, averaged as data-parallel wrappers do, are
    those of one process with the whole batch.
    """

    def forward(self, output: Tensor, target: Tensor, mask: Tensor | None = None) -> ReconstructionLoss:
        """``output``, ``target`` (B, ...) float; ``mask`` bool, broadcastable to them, True = real."""
        error = _squared_error(output, target, mask, self.training)
        mse = (error.total_sum / error.total_values).clamp(min=1e-12)
        values_per_example = error.total_values / error.total_examples
        # d/dθ (D/2) log MSE = D/2 · ∇(sum) / (values · MSE); the first term has the value, the second the gradient
        scale = (error.world_size * 0.5 / (error.total_examples * mse)).to(error.local_sum.dtype)
        value = (0.5 * values_per_example * mse.log()).to(error.local_sum.dtype)
        loss = value + scale * (error.local_sum - error.local_sum.detach())
        return ReconstructionLoss(loss, mse.float(), error.share)


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
        error = _squared_error(output, target, mask, self.training)
        scale = error.world_size / error.total_examples.to(error.local_sum.dtype)
        values_per_example = (error.total_values / error.total_examples).to(error.local_sum.dtype)
        loss = 0.5 * (
            values_per_example * self.log_variance + scale * error.local_sum * torch.exp(-self.log_variance)
        )
        return ReconstructionLoss(loss, (error.total_sum / error.total_values).float(), error.share)


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
