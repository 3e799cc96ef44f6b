"""Convolutions over time with fewer multiplications (Toom and Cook; Winograd; Lavin & Gray, arXiv 1509.09308).

m outputs of a filter of r taps are polynomial products: evaluate m + r - 1 inputs and the r taps at as many points,
multiply, interpolate. With channels, the multiplications are m + r - 1 matrix products in place of the m r of the
definition::

    y = Aᵀ [ (G g) ∘ (Bᵀ d) ]          F(4, 3): 6 products in place of 12; F(4, 2): 5 in place of 8

A stride of s is one of 1 over positions that hold s frames each, with r / s taps. Of the 49 GFLOP of a training step
of the published network, 44 are in such layers; 24 are left of them.

The backward pass is the transpose of the same three steps. Sequences are (B, T, C): channels-last memory.
"""

import ctypes
import functools
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sqvae_speech.models import native

# Below so many channels on either side, the transforms cost more than the products that they save.
MIN_CHANNELS = 64
# taps -> (outputs a tile, points besides infinity). Points near 1 keep the rounding of float32 within 3 times that of
# the definition. bfloat16 has no digits to give: fewer points, 1.3 times.
TILES = {3: (4, ("0", "5/7", "-5/7", "7/5", "-7/5")), 2: (4, ("0", "1", "-1", "1/2"))}
HALF_TILES = {3: (2, ("0", "1", "-1")), 2: (2, ("0", "-1"))}


class Scheme(NamedTuple):
    """The matrices of F(m, r), float64: ``outputs`` Aᵀ (m, n), ``taps`` G (n, r), ``inputs`` Bᵀ (n, n)."""

    outputs: Tensor
    taps: Tensor
    inputs: Tensor


def scheme(taps: int, half: bool) -> Scheme:
    """F(m, taps) of :data:`TILES`, or of :data:`HALF_TILES`."""
    return toom_cook(taps, *(HALF_TILES if half else TILES)[taps])


@functools.cache
def toom_cook(taps: int, size: int, names: tuple[str, ...]) -> Scheme:
    """F(size, taps) with polynomials evaluated at the points of these ``names``, such as ``5/7``, and at infinity."""
    points = [Fraction(name) for name in names]

    def product(left_out: int | None) -> list[Fraction]:
        """Coefficients, from the constant on, of the product of x - p over all points but one."""
        coefficients = [Fraction(1)]
        for number, point in enumerate(points):
            if number != left_out:
                shifted, scaled = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
                coefficients = [a - point * b for a, b in zip(shifted, scaled, strict=True)]
        return coefficients

    def powers(count: int, scale: list[Fraction]) -> list[list[Fraction]]:
        """A row for each point, (1, p, p², ...) over its scale, and for infinity one that picks the last."""
        rows = [[point**power / by for power in range(count)] for point, by in zip(points, scale, strict=True)]
        return [*rows, [Fraction(power == count - 1) for power in range(count)]]

    lagrange = [product(number) for number in range(len(points))]
    scale = [
        sum((c * point**power for power, c in enumerate(row)), Fraction(0))
        for point, row in zip(points, lagrange, strict=True)
    ]

    def matrix(rows: list[list[Fraction]]) -> Tensor:
        return torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)

    return Scheme(
        outputs=matrix(powers(size, [Fraction(1)] * len(points))).T.contiguous(),
        taps=matrix(powers(taps, scale)),
        inputs=matrix([*([*row, Fraction(0)] for row in lagrange), product(None)]),
    )


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)`` of a convolution over time, (B, C, 1, T) float, by :mod:`.native` where that is faster.

    Under autocast to bfloat16 the products are in it, and what is between them, and the result, in float32.
    """
    stride, padding = conv.stride[1], conv.padding[1]
    taps, rest = divmod(conv.kernel_size[1], stride)
    suitable = (
        conv.training
        and x.dtype in (torch.float32, torch.float64)
        and rest == 0
        and taps in TILES
        and isinstance(padding, int)
        and (conv.kernel_size[0], conv.groups, conv.dilation[1], conv.bias) == (1, 1, 1, None)
        and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
        and native.usable(x)
    )
    if not suitable:
        return conv(x)
    half = (
        x.dtype == torch.float32
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
    sequence, kernel = (tensor.squeeze(2).transpose(1, 2).contiguous() for tensor in (x, conv.weight))
    return _convolve(sequence, kernel, stride, padding, half)[0].transpose(1, 2).unsqueeze(2)


class _Transform(ctypes.Structure):
    """``struct Transform`` of network.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "length", "channels", "tiles", "step", "offset", "stack")),
        *((name, ctypes.c_int64) for name in ("window", "planes", "threads", "wide", "half")),
        *((name, ctypes.c_void_p) for name in ("matrix", "sequence", "transformed")),
    )


class Layout(NamedTuple):
    """How windows lie on a sequence: tiles of it, how far they are apart, positions before the first, frames each."""

    tiles: int
    step: int
    offset: int = 0
    stack: int = 1


def to_planes(sequence: Tensor, matrix: Tensor, layout: Layout, half: bool) -> Tensor:
    """``matrix`` (n, w) applied to each window: (B, T, C) -> (n, B tiles, stack C), bfloat16 if ``half``."""
    shape = (len(matrix), len(sequence) * layout.tiles, layout.stack * sequence.shape[2])
    planes = sequence.new_empty(shape, dtype=torch.bfloat16 if half else sequence.dtype)
    _call("transform_to_planes", sequence, planes, matrix, layout, window=matrix.shape[1])
    return planes


def from_planes(
    planes: Tensor, matrix: Tensor, layout: Layout, shape: tuple[int, int, int], dtype: torch.dtype
) -> Tensor:
    """``matrix`` (w, n) applied to each tile, and the windows added up: (n, B tiles, stack C) -> (B, T, C)."""
    sequence = planes.new_empty(shape, dtype=dtype)
    _call("transform_from_planes", sequence, planes, matrix, layout, window=len(matrix))
    return sequence


def _call(function: str, sequence: Tensor, planes: Tensor, matrix: Tensor, layout: Layout, window: int) -> None:
    assert sequence.is_contiguous()
    assert planes.is_contiguous()
    matrix = matrix.contiguous()
    batch, length, channels = sequence.shape
    arguments = _Transform(
        batch=batch,
        length=length,
        channels=channels,
        **layout._asdict(),
        window=window,
        planes=len(planes),
        threads=torch.get_num_threads(),
        wide=sequence.dtype == torch.float64,
        half=planes.dtype == torch.bfloat16,
        matrix=matrix.data_ptr(),
        sequence=sequence.data_ptr(),
        transformed=planes.data_ptr(),
    )
    native.call(function, arguments)


def _layouts(length: int, taps: int, outputs: int, stride: int, padding: int) -> tuple[Layout, Layout, Layout]:
    """Of inputs, of outputs and of the kernel, whose output channels are its batch."""
    tiles = -(-length // outputs)
    return (
        Layout(tiles, outputs * stride, padding, stride),
        Layout(tiles, outputs),
        Layout(tiles=1, step=0, stack=stride),
    )


# Operators rather than an autograd.Function: torch.compile takes them whole, without a graph break.


@torch.library.custom_op("sqvae_speech::convolve", mutates_args=())
def _convolve(x: Tensor, kernel: Tensor, stride: int, padding: int, half: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(B, T, C) and (O, k, C) -> (B, T', O), and for the backward pass what was made of either."""
    taps = kernel.shape[1] // stride
    outputs, points, inputs = scheme(taps, half)
    length = (x.shape[1] + 2 * padding - kernel.shape[1]) // stride + 1
    of_inputs, of_outputs, of_kernel = _layouts(length, taps, len(outputs), stride, padding)
    windows = to_planes(x, inputs, of_inputs, half)
    kernels = to_planes(kernel, points, of_kernel, half)
    with torch.autocast("cpu", enabled=False):
        products = torch.bmm(windows, kernels.transpose(1, 2))
    shape = (len(x), length, len(kernel))
    return from_planes(products, outputs, of_outputs, shape, x.dtype), windows, kernels


@_convolve.register_fake
def _(x, kernel, stride, padding, half):
    taps = int(kernel.shape[1] // stride)  # of a compiler that would leave it open
    outputs = (HALF_TILES if half else TILES)[taps][0]
    length = (x.shape[1] + 2 * padding - kernel.shape[1]) // stride + 1
    planes, dtype = outputs + taps - 1, torch.bfloat16 if half else x.dtype
    windows = x.new_empty((planes, x.shape[0] * (-(-length // outputs)), stride * x.shape[2]), dtype=dtype)
    kernels = x.new_empty((planes, kernel.shape[0], stride * x.shape[2]), dtype=dtype)
    return x.new_empty((x.shape[0], length, kernel.shape[0])), windows, kernels


@torch.library.custom_op("sqvae_speech::convolve_backward", mutates_args=())
def _convolve_backward(
    grad: Tensor, windows: Tensor, kernels: Tensor, length: int, stride: int, padding: int, taps: int, wanted: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x, empty if it is not wanted, and of the kernel."""
    half = windows.dtype == torch.bfloat16
    outputs, points, inputs = scheme(taps, half)
    of_inputs, of_outputs, of_kernel = _layouts(grad.shape[1], taps, len(outputs), stride, padding)
    channels = windows.shape[2] // stride
    grad_products = to_planes(grad, outputs.T, of_outputs, half)
    with torch.autocast("cpu", enabled=False):
        grad_kernels = torch.bmm(grad_products.transpose(1, 2), windows)
        grad_windows = torch.bmm(grad_products, kernels) if wanted else None
    shape = (kernels.shape[1], taps * stride, channels)
    grad_kernel = from_planes(grad_kernels, points.T, of_kernel, shape, grad.dtype)
    if grad_windows is None:
        return grad.new_empty(0), grad_kernel
    shape = (len(grad), length, channels)
    return from_planes(grad_windows, inputs.T, of_inputs, shape, grad.dtype), grad_kernel


@_convolve_backward.register_fake
def _(grad, windows, kernels, length, stride, padding, taps, wanted):
    channels = windows.shape[2] // stride
    grad_x = grad.new_empty((grad.shape[0], length, channels) if wanted else 0)
    return grad_x, grad.new_empty((kernels.shape[1], taps * stride, channels))


def _save_for_backward(ctx, inputs, output) -> None:
    x, kernel, ctx.stride, ctx.padding, _ = inputs
    _, windows, kernels = output
    ctx.length, ctx.taps = x.shape[1], kernel.shape[1] // ctx.stride
    ctx.set_materialize_grads(False)  # of what is not differentiable they would be large zeros
    ctx.mark_non_differentiable(windows, kernels)
    ctx.save_for_backward(windows, kernels)


def _differentiate(ctx, grad, *_):
    wanted = ctx.needs_input_grad[0]
    grad_x, grad_kernel = _convolve_backward(
        grad.contiguous(), *ctx.saved_tensors, ctx.length, ctx.stride, ctx.padding, ctx.taps, wanted
    )
    return grad_x if wanted else None, grad_kernel, None, None, None


_convolve.register_autograd(_differentiate, setup_context=_save_for_backward)
