"""Batch normalisation whose statistics are those of the real positions of the global batch."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from sqvae_speech.models import native
from sqvae_speech.models.rectified import normalize_relu


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that leaves padding out, and in training takes mean and variance over all processes.

    Parameters, buffers, and all numbers of one process without a mask are those of ``nn.BatchNorm2d``. Several
    processes get, in values and gradients, what one gets with the whole batch, on any backend
    (``nn.SyncBatchNorm`` has none for CPUs and knows no mask); every one has to take part.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise.

        Args:
            x: (B, C, H, W) float.
            mask: bool, broadcastable to (B, 1, H, W), True = real; None when all are. Of padding, what comes out is
                finite and means nothing.
        """
        together = self.training and _several_processes()
        if not self.training or (mask is None and not together):
            return super().forward(x)
        # in float32 at least: sums over a batch are what autocast keeps out of half precision, too
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count, mean, variance = _moments(values, mask)
        if together:
            count, mean, variance = _combine(count, mean, variance)
        self._follow(count, mean, variance)
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return torch.addcmul(shift[:, None, None], values, scale[:, None, None]).to(x.dtype)

    def rectified(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``relu(self(x, mask))``, zero where the mask is False; in training on a CPU by :mod:`.native`."""
        plain = x.dtype in (torch.float32, torch.float64) and x.is_contiguous(memory_format=torch.channels_last)
        if not (self.training and self.affine and plain and native.usable(x)):
            x = self(x, mask).relu_()
            return x if mask is None else x.masked_fill(~mask, 0.0)
        rows = None if mask is None else mask.expand(len(x), 1, *x.shape[2:]).reshape(-1)
        y, count, mean, variance = normalize_relu(
            x.permute(0, 2, 3, 1), self.weight, self.bias, rows, self.eps, _several_processes()
        )
        self._follow(count, mean, variance)
        return y.permute(0, 3, 1, 2)

    @torch.no_grad()
    def _follow(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as ``nn.BatchNorm2d`` does: of the variance the unbiased estimate."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _moments(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Number of real positions, a scalar, and mean and (biased) variance over them, (C,) each."""
    if mask is None:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        return x.new_full((), x.numel() / x.shape[1]), mean, variance
    mask = mask.expand(len(x), 1, *x.shape[2:])
    count = mask.sum().to(x.dtype)
    # blanked before the product: padding may hold anything, and 0 * NaN is NaN
    mean = x.masked_fill(~mask, 0.0).sum(dim=(0, 2, 3)) / count.clamp(min=1)
    centred = (x - mean[:, None, None]).masked_fill(~mask, 0.0)
    return count, mean, centred.square().sum(dim=(0, 2, 3)) / count.clamp(min=1)


def _combine(count: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of all processes together.

    A process' row of one matrix is filled and the rest zero, so that the sum over processes gathers them all, with
    gradients. Sums of squares, which would need one reduction less, lose digits where the mean is large.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    row = torch.cat((count.reshape(1), mean, variance))
    rows = all_reduce(torch.cat([row[None] if r == rank else torch.zeros_like(row)[None] for r in range(world_size)]))
    counts, means, variances = rows[:, :1], rows[:, 1 : 1 + len(mean)], rows[:, 1 + len(mean) :]
    total = counts.sum().clamp(min=1)
    share = counts / total
    common = (share * means).sum(dim=0)
    return total.detach(), common, (share * (variances + (means - common).square())).sum(dim=0)
