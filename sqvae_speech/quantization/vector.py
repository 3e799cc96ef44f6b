"""Deterministic vector quantization (VQ-VAE), the baseline that every claim is measured against."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sqvae_speech.quantization import functional, metrics
from sqvae_speech.quantization.base import Quantizer, QuantizerOutput, Rows

UPDATES = ("ema", "gradient")


class VectorQuantizer(Quantizer):
    """VQ-VAE's nearest-neighbour quantization with a straight-through gradient (van den Oord et al., 2017).

    The loss of an example is ``β Σ_i |z_i - sg(b)|²``, plus ``Σ_i |sg(z_i) - b|²`` when the codebook learns by
    gradient; summed over positions and dimensions like every latent loss here.

    Args:
        codebook_size: K.
        dim: D.
        codebook_update: ``ema``, exponential moving averages of the latents assigned to a code (Appendix A.1 of
            the VQ-VAE paper, with Laplace smoothing of the counts), or ``gradient``.
        commitment: β, the weight that holds latents to their codes.
        ema_decay: γ of the moving averages.

    Raises:
        ValueError: an unknown update, or a setting out of range.
    """

    counts_ema: Tensor
    sums_ema: Tensor

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        codebook_update: str = "ema",
        *,
        commitment: float = 0.25,
        ema_decay: float = 0.99,
    ):
        super().__init__(codebook_size, dim)
        if codebook_update not in UPDATES:
            raise ValueError(f"codebook_update must be one of {', '.join(UPDATES)}, got {codebook_update!r}")
        if not commitment > 0:
            raise ValueError(f"commitment must be positive, got {commitment}")
        if not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay must be in (0, 1), got {ema_decay}")
        self.codebook_update = codebook_update
        self.commitment = commitment
        self.ema_decay = ema_decay
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim), requires_grad=codebook_update == "gradient")
        if codebook_update == "ema":
            self.register_buffer("counts_ema", torch.ones(codebook_size))
            self.register_buffer("sums_ema", self.codebook.detach().clone())

    def decoding_codebook(self) -> Tensor:
        return self.codebook

    @torch.no_grad()
    def set_codebook(self, vectors: Tensor) -> None:
        """Replace the codebook by ``vectors`` (K, D), and start the moving averages there."""
        super().set_codebook(vectors)
        if self.codebook_update == "ema":
            self.counts_ema.fill_(1.0)
            self.sums_ema.copy_(vectors)

    def _quantize(self, rows: Rows, temperature: float, sample: bool) -> QuantizerOutput:
        indices, quantized, loss, distance = self._assign(rows)
        if self.training and self.codebook_update == "ema":
            self._update_codebook(rows, indices)
        with torch.no_grad():
            report = {
                **metrics.codebook_metrics(indices, None, self.codebook_size, rows.mask),
                "entropy": torch.zeros_like(distance),  # the posterior is one-hot
                "distance": distance,
            }
        straight_through = rows.z + (quantized - rows.z).detach()
        return QuantizerOutput(straight_through, indices, loss, report)

    def _assign(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Nearest codes: indices (N,), vectors (N, D), loss, and the squared distance an example."""
        codebook = functional.at_least_float32(self.codebook).to(rows.z.dtype)
        indices = self._nearest(rows)
        quantized = F.embedding(indices, codebook)
        distance = rows.total((rows.z - quantized.detach()).square().sum(dim=-1)) / rows.batch_size
        loss = self.commitment * distance
        if self.codebook_update == "gradient":
            loss = loss + rows.total((rows.z.detach() - quantized).square().sum(dim=-1)) / rows.batch_size
        return indices, quantized, loss, distance

    @torch.no_grad()
    def _update_codebook(self, rows: Rows, indices: Tensor) -> None:
        """Move the averages, with the latents of every process, so that codebooks stay equal on all of them."""
        weights = torch.ones_like(rows.z[:, 0]) if rows.mask is None else rows.mask.to(rows.z.dtype)
        counts = self.counts_ema.new_zeros(self.codebook_size).index_add_(0, indices, weights.to(self.counts_ema))
        sums = torch.zeros_like(self.sums_ema).index_add_(0, indices, rows.select(rows.z).to(self.sums_ema))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(sums)
        self.counts_ema.lerp_(counts, 1.0 - self.ema_decay)
        self.sums_ema.lerp_(sums, 1.0 - self.ema_decay)
        total, epsilon = self.counts_ema.sum(), 1e-5
        smoothed = (self.counts_ema + epsilon) / (total + self.codebook_size * epsilon) * total
        self.codebook.copy_(self.sums_ema / smoothed[:, None])

    def _posterior(self, rows: Rows) -> Tensor:
        return F.one_hot(self._nearest(rows), self.codebook_size).to(rows.z.dtype)

    def _sample(self, rows: Rows, seed: int) -> Tensor:
        return self._nearest(rows)  # the posterior is one-hot

    def _nearest(self, rows: Rows) -> Tensor:
        with torch.no_grad():
            codebook = functional.at_least_float32(self.codebook).to(rows.z.dtype)
            blocks = functional.row_blocks(rows.z, self.codebook_size)
            return torch.cat(
                [functional.squared_distances(rows.z[block], codebook).argmin(dim=-1) for block in blocks]
            )

    def describe(self) -> str:
        return f"VectorQuantizer(codebook_update={self.codebook_update!r})"

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, codebook_update={self.codebook_update!r}"
