"""Bidirectional gated recurrent units on a CPU, a layer's steps in one call.

PyTorch has a dozen small operators a step, in turn for each direction. Here both directions run side by side in
``network.cpp``, and time comes first, so that all steps' products with one matrix are one product.
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sqvae_speech.models import native
from sqvae_speech.quantization.compiler import blas
from sqvae_speech.quantization.functional import at_least_float32


def input_weights(rnn: nn.GRU, layer: int) -> tuple[Tensor, Tensor]:
    """What makes a layer's gates of its input, both directions one below the other: (6H, I) and (6H,)."""
    return torch.cat(_both(rnn, f"weight_ih_l{layer}")), torch.cat(_both(rnn, f"bias_ih_l{layer}"))


def run_layers(rnn: nn.GRU, gates: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The hidden states of the last layer.

    Args:
        rnn: bidirectional, without dropout.
        gates: (T, B, 6H), the first layer's input times :func:`input_weights`.
        lengths: (B,) int64 real steps, None when all are. Beyond them states are zero.

    Returns:
        (T, B, 2H) float32, or float64.
    """
    hidden = _run_layer(rnn, 0, gates, lengths)
    for layer in range(1, rnn.num_layers):
        hidden = _run_layer(rnn, layer, F.linear(hidden, *input_weights(rnn, layer)), lengths)
    return hidden


def _run_layer(rnn: nn.GRU, layer: int, gates: Tensor, lengths: Tensor | None) -> Tensor:
    weight, bias = (torch.stack(_both(rnn, f"{name}_hh_l{layer}")) for name in ("weight", "bias"))
    by_direction = at_least_float32(gates).unflatten(2, (2, -1))
    return _scan(by_direction, weight, bias, lengths)[0].flatten(2)


def _both(rnn: nn.GRU, name: str) -> list[Tensor]:
    return [getattr(rnn, name), getattr(rnn, f"{name}_reverse")]


class _Scan(ctypes.Structure):
    """``struct Scan`` of network.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "batch", "hidden", "threads", "wide")),
        *((name, ctypes.c_void_p) for name in ("gates", "weight", "bias", "output", "kept")),
        *((name, ctypes.c_void_p) for name in ("grad_output", "grad_gates", "grad_hidden", "lengths")),
        *((name, ctypes.c_void_p) for name in ("sgemm", "dgemm")),
    )


def _call(function: str, output: Tensor, **tensors: Tensor | None) -> None:
    steps, batch, _, hidden = output.shape
    held = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    arguments = _Scan(
        steps=steps,
        batch=batch,
        hidden=hidden,
        threads=torch.get_num_threads(),
        wide=output.dtype == torch.float64,
        output=output.data_ptr(),
        sgemm=blas("sgemm"),
        dgemm=blas("dgemm"),
        **{name: tensor.data_ptr() for name, tensor in held.items()},
    )
    native.call(function, arguments)


@torch.library.custom_op("sqvae_speech::gru_scan", mutates_args=())
def _scan(gates: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """(T, B, 2, 3H), (2, 3H, H), (2, 3H) -> states (T, B, 2, H), and what the backward pass needs (T, B, 2, 4H)."""
    steps, batch, _, width = gates.shape
    output, kept = gates.new_empty(steps, batch, 2, width // 3), gates.new_empty(steps, batch, 2, width // 3 * 4)
    _call("scan_forward", output, gates=gates, weight=weight, bias=bias, kept=kept, lengths=lengths)
    return output, kept


@_scan.register_fake
def _(gates, weight, bias, lengths):
    leading, hidden = gates.shape[:3], gates.shape[3] // 3
    return gates.new_empty((*leading, hidden)), gates.new_empty((*leading, 4 * hidden))


@torch.library.custom_op("sqvae_speech::gru_scan_backward", mutates_args=())
def _scan_backward(
    grad: Tensor, weight: Tensor, output: Tensor, kept: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of gates, weight and bias."""
    steps, batch, _, hidden = output.shape
    grad_gates, grad_inner = output.new_empty(steps, batch, 2, 3 * hidden), torch.empty_like(output)
    _call(
        "scan_backward",
        output,
        weight=weight,
        kept=kept,
        grad_output=grad,
        grad_gates=grad_gates,
        grad_hidden=grad_inner,
        lengths=lengths,
    )
    # what the products with the state before had for a gradient: r and z as they are, n by its hidden half
    parts = (grad_gates[..., : 2 * hidden], grad_inner)
    grad_bias = torch.cat([part.sum(dim=(0, 1)) for part in parts], dim=-1)
    grad_weight = torch.empty_like(weight)
    with torch.autocast("cpu", enabled=False):
        for direction, (now, before) in enumerate((_LATER_EARLIER, _LATER_EARLIER[::-1])):
            states = output[before, :, direction].flatten(0, 1)
            for part, rows in zip(parts, (slice(2 * hidden), slice(2 * hidden, None)), strict=True):
                torch.mm(part[now, :, direction].flatten(0, 1).T, states, out=grad_weight[direction, rows])
    return grad_gates, grad_weight, grad_bias


# of all steps but one: those after the first, those before the last
_LATER_EARLIER = (slice(1, None), slice(None, -1))


@_scan_backward.register_fake
def _(grad, weight, output, kept, lengths):
    hidden = output.shape[3]
    grad_gates = output.new_empty((*output.shape[:3], 3 * hidden))
    return grad_gates, torch.empty_like(weight), weight.new_empty((2, 3 * hidden))


def _save_for_backward(ctx, inputs, output) -> None:
    _, weight, _, lengths = inputs
    ctx.set_materialize_grads(False)  # of what is not differentiable they would be large zeros
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(weight, *output, lengths)


def _differentiate(ctx, grad, _):
    return *_scan_backward(grad.contiguous(), *ctx.saved_tensors), None


_scan.register_autograd(_differentiate, setup_context=_save_for_backward)
