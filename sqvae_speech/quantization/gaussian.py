"""Gaussian stochastic quantization, types I to IV."""

import math

import torch
from torch import Tensor

from sqvae_speech.quantization import functional, metrics
from sqvae_speech.quantization.base import Rows
from sqvae_speech.quantization.stochastic import Prepared, StochasticQuantizer

# covariance -> the paper's type (Table 1)
COVARIANCES = {"global": "I", "sample": "II", "position": "III", "diagonal": "IV"}


class GaussianQuantizer(StochasticQuantizer):
    """Gaussian SQ: ``q(k | z) = softmax_k(-½ (b_k - z)ᵀ Σ⁻¹ (b_k - z))``.

    Args:
        codebook_size: K.
        dim: D.
        covariance: the form of Σ: ``global`` σ²I with one trainable scalar (type I), ``sample`` one variance an
            example (II), ``position`` one a position (III), ``diagonal`` one a dimension (IV). All but the first
            need ``log_var`` from the encoder: (B, 1.., 1), (B, *, 1), (B, *, D).
        init_variance: where the trainable scalar σ² = exp(s) starts; 10 in the published speech code.
        variance_sum: combine the head's variance and the scalar as ``exp(head) + exp(s)`` (published vision code)
            instead of ``exp(head + s)`` (published speech code).
        backend: how to compute in training, see :mod:`sqvae_speech.quantization.fused`; None for the fastest.

    Raises:
        ValueError: an unknown covariance, or a size or variance that is not positive.
    """

    kind = "gaussian"

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        covariance: str = "diagonal",
        *,
        init_variance: float = 10.0,
        variance_sum: bool = False,
        backend: str | None = None,
    ):
        if covariance not in COVARIANCES:
            raise ValueError(f"covariance must be one of {', '.join(COVARIANCES)}, got {covariance!r}")
        if not init_variance > 0:
            raise ValueError(f"init_variance must be positive, got {init_variance}")
        super().__init__(
            codebook_size, dim, init_log_scale=math.log(init_variance), variance_sum=variance_sum, backend=backend
        )
        self.covariance = covariance

    @property
    def log_var_channels(self) -> int:
        return {"global": 0, "sample": 1, "position": 1, "diagonal": self.dim}[self.covariance]

    @property
    def log_var_per_channel(self) -> bool:
        return self.covariance == "diagonal"

    @property
    def log_var_per_example(self) -> bool:
        return self.covariance == "sample"

    def decoding_codebook(self) -> Tensor:
        return self.codebook

    def _prepared(self, rows: Rows, codebook: Tensor | None = None) -> Prepared:
        vectors = functional.at_least_float32(self.codebook if codebook is None else codebook).to(rows.z.dtype)
        precision = torch.exp(-self._total_log_scale(rows)).to(rows.z.dtype)
        return Prepared(rows.z, vectors, precision, functional.centre(vectors))

    def _scale_metrics(self, rows: Rows, weight: Tensor) -> dict[str, Tensor]:
        spread = functional.at_least_float32(self.codebook).var(dim=0, correction=0)
        return metrics.variances(rows, weight, spread)

    def describe(self) -> str:
        return f"GaussianQuantizer(covariance={self.covariance!r})"

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, covariance={self.covariance!r} (type {COVARIANCES[self.covariance]})"
