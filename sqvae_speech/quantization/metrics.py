"""How a codebook is used (perplexity, usage: of choices, of mean posteriors), and how large its noise is."""

import torch
from torch import Tensor

from sqvae_speech.quantization.base import Rows

# metrics that add up over the codebooks of a position; of the others the mean is reported
SUMMED = ("entropy", "kl_discrete", "kl_continuous", "distance")


def code_counts(indices: Tensor, codebook_size: int, mask: Tensor | None = None) -> Tensor:
    """Count how often each code is chosen.

    Args:
        indices: int64, any shape.
        codebook_size: K.
        mask: bool, the shape of ``indices``; True counts.

    Returns:
        (K,) float64 counts.
    """
    indices = indices.reshape(-1)
    counts = torch.zeros(codebook_size, dtype=torch.float64, device=indices.device)
    # not bincount, which torch.compile cannot take; float64 counts are exact in any order, so deterministic
    weights = torch.ones_like(indices) if mask is None else mask.reshape(-1)
    return counts.index_add_(0, indices, weights.to(counts.dtype))


def perplexity(counts: Tensor) -> Tensor:
    """``exp`` of the entropy of the distribution that ``counts`` (K,) are proportional to; 1 when all are zero."""
    probabilities = counts / counts.sum().clamp(min=torch.finfo(counts.dtype).tiny)
    return torch.special.entr(probabilities).sum().exp()


def usage(counts: Tensor) -> Tensor:
    """The share of codes chosen at least once, in [0, 1]."""
    return (counts > 0).to(counts.dtype).mean()


def codebook_metrics(
    indices: Tensor, posterior: Tensor | None, codebook_size: int, mask: Tensor | None
) -> dict[str, Tensor]:
    """Perplexity and usage of one codebook in a batch.

    Args:
        indices: (N,) int64 hard choices.
        posterior: (K,) summed over the real rows, or None where it is one-hot at the choices.
        codebook_size: K.
        mask: (N,) bool, or None.

    Returns:
        ``perplexity`` of hard choices, ``perplexity_posterior`` of the mean posterior, ``usage``: float64 scalars.
    """
    counts = code_counts(indices, codebook_size, mask)
    return {
        "perplexity": perplexity(counts),
        "perplexity_posterior": perplexity(counts if posterior is None else posterior),
        "usage": usage(counts),
    }


def combine_codebooks(reports: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The metrics of several codebooks as one.

    Nats and squared distances add up over codebooks, the rest are means; ``perplexity_0``, ``perplexity_1``, ...
    are those of each.
    """
    combined = {}
    for name in reports[0]:
        values = torch.stack([report[name] for report in reports])
        combined[name] = values.sum(dim=0) if name in SUMMED else values.mean(dim=0)
    for number, report in enumerate(reports):
        combined[f"perplexity_{number}"] = report["perplexity"]
    return combined


class CodebookStatistics:
    """Accumulates code counts over batches, and over processes when asked.

    Attributes:
        counts: (K,) float64 uses of each code; (N, K) with N > 1 codebooks, whose perplexity and usage are means.
    """

    def __init__(self, codebook_size: int, num_codebooks: int = 1):
        self.codebook_size = codebook_size
        self.num_codebooks = num_codebooks
        shape = (codebook_size,) if num_codebooks == 1 else (num_codebooks, codebook_size)
        self.counts = torch.zeros(shape, dtype=torch.float64)

    def update(self, indices: Tensor, mask: Tensor | None = None) -> None:
        """Add the hard choices of a batch.

        Args:
            indices: int64 (B, *), or (B, *, N) of N > 1 codebooks.
            mask: bool (B, *), True counts.
        """
        if self.counts.device != indices.device:
            self.counts = self.counts.to(indices.device)
        if self.num_codebooks == 1:
            self.counts += code_counts(indices, self.codebook_size, mask)
            return
        for counts, codes in zip(self.counts, indices.unbind(dim=-1), strict=True):
            counts += code_counts(codes, self.codebook_size, mask)

    def synchronize(self) -> None:
        """Sum the counts over all processes; does nothing without an initialised process group."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.counts)

    def reset(self) -> None:
        self.counts.zero_()

    @property
    def perplexity(self) -> float:
        return torch.stack([perplexity(counts) for counts in self.counts.view(-1, self.codebook_size)]).mean().item()

    @property
    def usage(self) -> float:
        return usage(self.counts).item()


def variances(rows: Rows, precision: Tensor, spread: Tensor) -> dict[str, Tensor]:
    """``variance``, the geometric mean of σ², and ``relative_variance``, the harmonic mean of σ² over the codes' own.

    A network can shrink its noise by growing its codes, and one with a variance a dimension lets that of dimensions
    which it does not use grow without bound. Only the second number tells whether quantization anneals: it is
    governed by the dimensions in which codes can be told apart.

    Args:
        rows: the batch; masked rows do not count.
        precision: 1/σ², (1, 1), (N, 1) or (N, D).
        spread: (D,) variance of the codes.
    """

    def mean(values: Tensor) -> Tensor:
        return rows.total(values.mean(dim=-1).expand(len(rows.z))) / rows.num_real()

    return {
        "variance": torch.exp(-mean(precision.log())),
        "relative_variance": 1.0 / mean(precision * spread).clamp(min=1e-12),
    }
