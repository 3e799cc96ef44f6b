"""Inputs and comparisons that the reference tests of the quantizers share."""

from typing import NamedTuple

import torch
from torch import Tensor

from sqvae_speech.quantization import Quantizer

# Largest difference from the reference, relative to the largest entry of the tensor compared.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


class Batch(NamedTuple):
    """Inputs of one comparison; float64, leaves with gradient."""

    z: Tensor
    log_var: Tensor | None
    mask: Tensor | None
    cotangent: Tensor


def make_batch(quantizer: Quantizer, leading: tuple[int, ...], masked: bool, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        # on float32's grid, so that both precisions see the same inputs
        return torch.randn(*shape, generator=generator).double()

    z, cotangent = draw(*leading, quantizer.dim), draw(*leading, quantizer.dim)
    log_var = None
    if quantizer.log_var_per_example:
        log_var = draw(leading[0], *(1,) * (len(leading) - 1), 1)
    elif quantizer.log_var_channels:
        log_var = draw(*leading, quantizer.log_var_channels)
    mask = torch.rand(leading, generator=generator) < 0.7 if masked else None
    return Batch(z, log_var, mask, cotangent)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert torch.isfinite(actual).all(), f"{what} is not finite"
    scale = max(expected.abs().max().item(), 1e-30)
    error = (actual.double() - expected).abs().max().item() / scale
    assert error <= tolerance, f"{what}: relative error {error:.1e} > {tolerance:.0e}"


def gradients(total: Tensor, **leaves: Tensor | None) -> dict[str, Tensor]:
    named = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    return dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))


def as_leaf(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.to(dtype).clone().requires_grad_()
