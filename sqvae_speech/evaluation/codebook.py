"""How a model uses its codebook on a set: hard choices, mean posterior, certainty of each choice."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.units.statistics import perplexity, usage


@dataclass(frozen=True)
class CodebookScores:
    """Of one set.

    Attributes:
        perplexity: of the counts of the most probable codes, as the published speech code counts.
        perplexity_posterior: of the mean of q(k | z) over all units, as the published image code counts; None for a
            model whose codes have no joint posterior. For VQ-VAE, whose posterior is one-hot, the two are equal.
        posterior_entropy: mean of the entropies of q(k | z), nats: 0 when every choice is certain.
        usage: share of the codes that are chosen at all, 0 to 1.
        used: how many.
        codebook_size: of how many.

    With several codebooks a position, perplexities and usage are means over the codebooks, the entropy is the sum,
    and ``used`` and ``codebook_size`` count the codes of all.
    """

    perplexity: float
    perplexity_posterior: float | None
    posterior_entropy: float | None
    usage: float
    used: int
    codebook_size: int


class CodebookAccumulator:
    """Gathers counts and posteriors over batches, in float64.

    Args:
        codebook_size: K.
        num_codebooks: N.

    Attributes:
        counts: (N, K) uses of each code.
    """

    def __init__(self, codebook_size: int, num_codebooks: int = 1):
        self.codebook_size = codebook_size
        self.num_codebooks = num_codebooks
        self.counts = torch.zeros(num_codebooks, codebook_size, dtype=torch.float64)
        self.posterior = torch.zeros(num_codebooks, codebook_size, dtype=torch.float64)
        self.entropy = 0.0
        self.with_posterior = 0

    def update(self, indices: Tensor, mask: Tensor, posterior: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            indices: (B, U) int64, or (B, U, N).
            mask: (B, U) bool, True for real units; the others count in nothing.
            posterior: (B, U, K), (B, U, N, K) or None.
        """
        for counts, codes in zip(self.counts, indices[mask].view(-1, self.num_codebooks).T.cpu(), strict=True):
            counts += torch.bincount(codes, minlength=self.codebook_size).double()
        if posterior is not None:
            real = posterior[mask].double().view(-1, self.num_codebooks, self.codebook_size)
            self.posterior += real.sum(dim=0).cpu()
            self.entropy += torch.special.entr(real).sum().item()
            self.with_posterior += len(real)

    def scores(self) -> CodebookScores:
        """The scores of all that was added."""
        counts = self.counts.numpy()
        seen = self.with_posterior
        return CodebookScores(
            perplexity=_mean_perplexity(counts),
            perplexity_posterior=_mean_perplexity(self.posterior.numpy()) if seen else None,
            posterior_entropy=self.entropy / seen if seen else None,
            usage=usage(counts),
            used=int((counts > 0).sum()),
            codebook_size=counts.size,
        )


def _mean_perplexity(weights: np.ndarray) -> float:
    return float(np.mean([perplexity(row) for row in weights]))
