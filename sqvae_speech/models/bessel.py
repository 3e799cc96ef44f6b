"""Modified Bessel functions of the first kind, and the von Mises-Fisher normaliser, differentiable in float64."""

import math

import torch
from torch import Tensor


def log_bessel(order: float, x: Tensor) -> Tensor:
    """``log I_v(x) - x``, the logarithm of the exponentially scaled Bessel function.

    Two series, of which each is exact to rounding on its side of ``max(100, 2 v²)``: the ascending one (DLMF
    10.25.2), whose terms are all positive, and Hankel's for large x (DLMF 10.40.1). Nothing waits for the device.

    Args:
        order: v, at least 0.
        x: positive, any shape.

    Returns:
        float64, the shape of ``x``; differentiable any number of times.
    """
    if order < 0:
        raise ValueError(f"the order of a Bessel function must not be negative here, got {order}")
    x = x.double()
    border = max(100.0, 2.0 * order**2)
    ascending = _ascending(order, x.clamp(max=border), border)
    # clamped, since a branch that is not taken must not hand NaN to the gradient
    return torch.where(x <= border, ascending, _hankel(order, x.clamp(min=border)))


def _ascending(order: float, x: Tensor, largest: float) -> Tensor:
    """``log Σ_k (x/2)^(2k+v) / (k! Γ(k+v+1)) - x``; the largest terms lie at k near x/2, and are as wide as √x."""
    count = int(largest / 2 + 10 * math.sqrt(largest) + 30)
    k = torch.arange(count, dtype=torch.float64, device=x.device)
    constants = torch.lgamma(k + 1) + torch.lgamma(k + order + 1)
    return torch.logsumexp((2 * k + order) * torch.log(x / 2)[..., None] - constants, dim=-1) - x


def _hankel(order: float, x: Tensor) -> Tensor:
    """``-½ log 2πx + log Σ_k (-1)^k a_k(v) / x^k``."""
    term = total = torch.ones_like(x)
    for k in range(1, 31):
        term = -term * (4 * order**2 - (2 * k - 1) ** 2) / (8 * k * x)
        total = total + term
    return total.log() - 0.5 * torch.log(2 * math.pi * x)


def vmf_log_normalizer(dim: int, kappa: Tensor) -> Tensor:
    """``log C_F(κ) + κ``, where ``C_F(κ) exp(κ μᵀx)`` is the von Mises-Fisher density on the unit sphere of R^F.

    ``log C_F(κ) = (F/2 - 1) log κ - (F/2) log 2π - log I_{F/2-1}(κ)``. With κ added it stays small: the density at x
    is ``exp(this - κ (1 - μᵀx))``.

    Args:
        dim: F, at least 2.
        kappa: positive, any shape.

    Returns:
        float64, the shape of ``kappa``.
    """
    order = dim / 2 - 1
    kappa = kappa.double()
    return order * kappa.log() - (dim / 2) * math.log(2 * math.pi) - log_bessel(order, kappa)
