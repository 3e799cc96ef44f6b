"""How a model uses its codebook on a set: hard choices, mean posterior, certainty of each choice."""

from dataclasses import dataclass

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
    """

    def __init__(self, codebook_size: int):
        self.counts = torch.zeros(codebook_size, dtype=torch.float64)
        self.posterior = torch.zeros(codebook_size, dtype=torch.float64)
        self.entropy = 0.0
        self.with_posterior = 0

    def update(self, indices: Tensor, mask: Tensor, posterior: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            indices: (B, U) int64.
            mask: (B, U) bool, True for real units; the others count in nothing.
            posterior: (B, U, K) or None.
        """
        self.counts += torch.bincount(indices[mask], minlength=len(self.counts)).double().cpu()
        if posterior is not None:
            real = posterior[mask].double()
            self.posterior += real.sum(dim=0).cpu()
            self.entropy += torch.special.entr(real).sum().item()
            self.with_posterior += len(real)

    def scores(self) -> CodebookScores:
        """The scores of all that was added."""
        counts = self.counts.numpy()
        seen = self.with_posterior
        return CodebookScores(
            perplexity=perplexity(counts),
            perplexity_posterior=perplexity(self.posterior.numpy()) if seen else None,
            posterior_entropy=self.entropy / seen if seen else None,
            usage=usage(counts),
            used=int((counts > 0).sum()),
            codebook_size=len(counts),
        )
