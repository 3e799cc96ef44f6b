"""How predictable units are from the ones before them: n-gram entropies of a set."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sqvae_speech.errors import UserError
from sqvae_speech.units.statistics import entropy_bits


@dataclass(frozen=True)
class EntropyRate:
    """Of units given the ``order - 1`` before them.

    Attributes:
        order: n of the n-gram; 1 is the entropy of single units, which ZeroSpeech's bitrate is made of.
        bits: a unit, H(u_t | u_{t-n+1} ... u_{t-1}), by the frequencies in the set itself. The fewer units a context
            was seen with, the more this is too low: compare only sets of one size, and look at ``units_per_context``.
        units: that have so many before them in their utterance.
        units_per_context: mean number of units seen after a context.
    """

    order: int
    bits: float
    units: int
    units_per_context: float


def entropy_rates(codes: Iterable[np.ndarray], max_order: int = 3) -> list[EntropyRate]:
    """N-gram entropies for n = 1 to ``max_order``, fewer where no utterance is as long.

    Args:
        codes: (N, T) int64 of each utterance; with several codebooks a unit is the column of its codes. N-grams do
            not cross from one utterance to the next.
        max_order: at least 1.

    Raises:
        UserError: no units, or ``max_order`` below 1.
    """
    if max_order < 1:
        raise UserError(f"n-gram order {max_order}; at least 1 is needed")
    utterances = [list(map(bytes, np.ascontiguousarray(one.T, dtype=np.int64))) for one in codes]
    rates = []
    for order in range(1, max_order + 1):
        grams: Counter[tuple[bytes, ...]] = Counter()
        for units in utterances:
            grams.update(zip(*(units[start:] for start in range(order)), strict=False))
        if not grams:
            break
        contexts: Counter[tuple[bytes, ...]] = Counter()
        for gram, count in grams.items():
            contexts[gram[:-1]] += count
        total = grams.total()
        bits = entropy_bits(list(grams.values())) - entropy_bits(list(contexts.values()))
        rates.append(EntropyRate(order, max(0.0, bits), total, total / len(contexts)))
    if not rates:
        raise UserError("no units; there is no entropy rate")
    return rates
