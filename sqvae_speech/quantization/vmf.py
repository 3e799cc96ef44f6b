"""Von Mises-Fisher stochastic quantization, on the unit sphere."""

import math

import torch.nn.functional as F
from torch import Tensor

from sqvae_speech.quantization import functional
from sqvae_speech.quantization.base import Rows
from sqvae_speech.quantization.stochastic import Prepared, StochasticQuantizer


class VmfQuantizer(StochasticQuantizer):
    """Von Mises-Fisher SQ: ``q(k | z) = softmax_k(κ b_kᵀ z)`` with z and b_k normalised to unit length.

    Latents and codebook are normalised here, so any latents can be handed in. It needs no ``log_var``.

    Args:
        codebook_size: K.
        dim: D, at least 2.
        init_kappa: where the trainable concentration κ = exp(s) starts.
        variance_sum: κ = 1 + exp(s), as in the published vision code.
        backend: how to compute in training, see :mod:`sqvae_speech.quantization.fused`; None for the fastest.

    Raises:
        ValueError: a size or concentration out of range.
    """

    kind = "vmf"

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        *,
        init_kappa: float = 20.0,
        variance_sum: bool = False,
        backend: str | None = None,
    ):
        if isinstance(dim, int) and dim < 2:
            raise ValueError(f"dim must be at least 2 (the sphere has dim - 1 dimensions), got {dim}")
        if not init_kappa > 0:
            raise ValueError(f"init_kappa must be positive, got {init_kappa}")
        super().__init__(
            codebook_size, dim, init_log_scale=math.log(init_kappa), variance_sum=variance_sum, backend=backend
        )

    def decoding_codebook(self) -> Tensor:
        return F.normalize(self.codebook, dim=-1)

    def _prepared(self, rows: Rows, codebook: Tensor | None = None) -> Prepared:
        raw = functional.at_least_float32(self.codebook if codebook is None else codebook).to(rows.z.dtype)
        vectors = F.normalize(raw, dim=-1)
        kappa = self._total_log_scale(rows).exp().to(rows.z.dtype)
        return Prepared(F.normalize(rows.z, dim=-1), vectors, kappa, None)

    def _scale_metrics(self, rows: Rows, weight: Tensor) -> dict[str, Tensor]:
        """``kappa``: the concentration, a scalar."""
        return {"kappa": weight.reshape(())}
