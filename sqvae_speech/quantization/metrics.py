"""How a codebook is used: perplexity and usage, from hard choices or from mean posteriors."""

import torch
from torch import Tensor


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


class CodebookStatistics:
    """Accumulates code counts over batches, and over processes when asked."""

    def __init__(self, codebook_size: int):
        self.codebook_size = codebook_size
        self.counts = torch.zeros(codebook_size, dtype=torch.float64)

    def update(self, indices: Tensor, mask: Tensor | None = None) -> None:
        """Add the hard choices of a batch: ``indices`` int64 of any shape, ``mask`` bool of the same."""
        if self.counts.device != indices.device:
            self.counts = self.counts.to(indices.device)
        self.counts += code_counts(indices, self.codebook_size, mask)

    def synchronize(self) -> None:
        """Sum the counts over all processes; does nothing without an initialised process group."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.counts)

    def reset(self) -> None:
        self.counts.zero_()

    @property
    def perplexity(self) -> float:
        return perplexity(self.counts).item()

    @property
    def usage(self) -> float:
        return usage(self.counts).item()
