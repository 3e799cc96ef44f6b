"""Batch normalisation and ReLU on a CPU in few passes over memory, with a mask and over processes."""

import ctypes

import torch
import torch.distributed as dist
from torch import Tensor

from sqvae_speech.models import native


class _Normalization(ctypes.Structure):
    """``struct Normalization`` of network.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "channels", "threads", "wide")),
        *((name, ctypes.c_void_p) for name in ("x", "mask", "scale", "shift", "y", "count", "mean", "squares")),
        *((name, ctypes.c_void_p) for name in ("grad", "grad_sum", "grad_product", "grad_offset", "grad_factor")),
        ("grad_x", ctypes.c_void_p),
    )


def normalize_relu(
    x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, eps: float, together: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise by the statistics of the real positions, of all processes if ``together``, and rectify.

    Args:
        x: (..., C) contiguous, float32 or float64.
        weight: (C,).
        bias: (C,).
        mask: (N,) bool for the N positions of x, True = real; None when all are.
        eps: added to the variance.
        together: every process has to take part, in the backward pass too.

    Returns:
        The result, zero where the mask is False; and without gradient the number of real positions, their mean and
        their (biased) variance, float64.
    """
    return _forward(x, weight, bias, mask, eps, together)


def _call(function: str, x: Tensor, **tensors: Tensor | None) -> None:
    channels = x.shape[-1]
    arguments = _Normalization(
        rows=x.numel() // channels,
        channels=channels,
        threads=torch.get_num_threads(),
        wide=x.dtype == torch.float64,
        x=x.data_ptr(),
        **{name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None},
    )
    native.call(f"normalization_{function}", arguments)


def _affine(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """(C,) scale and shift, of the dtype of x."""
    scale = weight.double() * torch.rsqrt(variance + eps)
    return scale.to(x.dtype), (bias.double() - mean * scale).to(x.dtype)


@torch.library.custom_op("sqvae_speech::normalize_relu", mutates_args=())
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, eps: float, together: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    statistics = x.new_zeros(1 + 2 * x.shape[-1], dtype=torch.float64)
    count, mean, squares = statistics[:1], *statistics[1:].chunk(2)
    _call("moments", x, mask=mask, count=count, mean=mean, squares=squares)
    if together:
        gathered = [torch.empty_like(statistics) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, statistics)
        counts, means, sums = torch.stack(gathered).tensor_split((1, 1 + len(mean)), dim=1)
        count = counts.sum(dim=0)
        mean = (counts * means).sum(dim=0) / count.clamp(min=1)
        squares = (sums + counts * (means - mean).square()).sum(dim=0)
    variance = squares / count.clamp(min=1)
    scale, shift = _affine(x, weight, bias, mean, variance, eps)
    y = torch.empty_like(x)
    _call("normalize", x, mask=mask, scale=scale, shift=shift, y=y)
    return y, count.clone().squeeze(0), mean.clone(), variance


@_forward.register_fake
def _(x, weight, bias, mask, eps, together):
    channels = x.new_empty(x.shape[-1], dtype=torch.float64)
    return torch.empty_like(x), channels.new_empty(()), channels, torch.empty_like(channels)


@torch.library.custom_op("sqvae_speech::normalize_relu_backward", mutates_args=())
def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    count: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    together: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    scale, shift = _affine(x, weight, bias, mean, variance, eps)
    sums = mean.new_zeros(2, len(mean))
    given = {"mask": mask, "scale": scale, "shift": shift, "mean": mean, "grad": grad}
    _call("gradient_sums", x, **given, grad_sum=sums[0], grad_product=sums[1])
    inverse = torch.rsqrt(variance + eps)
    grad_weight, grad_bias = sums[1] * inverse, sums[0].clone()
    if together:
        dist.all_reduce(sums)  # the statistics are everybody's
    share = weight.double() * inverse / count.clamp(min=1)
    grad_x = torch.empty_like(x)
    offset, factor = (share * sums[0]).to(x.dtype), (share * inverse.square() * sums[1]).to(x.dtype)
    _call("gradient", x, **given, grad_offset=offset, grad_factor=factor, grad_x=grad_x)
    return grad_x, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


@_backward.register_fake
def _(grad, x, weight, bias, *_):
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _save_for_backward(ctx, inputs, output) -> None:
    x, weight, bias, mask, ctx.eps, ctx.together = inputs
    _, count, mean, variance = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(count, mean, variance)
    ctx.save_for_backward(x, weight, bias, mask, count, mean, variance)


def _differentiate(ctx, grad, *_):
    grads = _backward(grad.contiguous(), *ctx.saved_tensors, ctx.eps, ctx.together)
    return *grads, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)
