"""Unigram and bigram models of units: what a language model has to be better than.

They see and predict what :class:`~sqvae_speech.models.unit_lm.UnitLm` does, code by code with the codebook known,
ends included, so that their bits can be compared. Counts are of a training set, float64 throughout.
"""

from typing import NamedTuple, Protocol

import numpy as np

from sqvae_speech.errors import UserError
from sqvae_speech.models.unit_lm import IGNORE
from sqvae_speech.units.blocks import UnitSequences

ADDED = 0.5  # to every count of a unigram: Jeffreys' prior
_DISCOUNTS = (0.1, 0.9)  # where there are too few rare counts to estimate one


class Baseline(Protocol):
    """A model of units that counting gives."""

    def nats(self, sequences: UnitSequences) -> np.ndarray:
        """(S,) float64, of each sequence."""
        ...


class _Codes(NamedTuple):
    """Of one codebook: the ``target`` (M,), the symbol ``before`` it (M,), and its ``sequence`` (M,)."""

    target: np.ndarray
    before: np.ndarray
    sequence: np.ndarray


def _codes(sequences: UnitSequences) -> list[_Codes]:
    """All predictions, a codebook at a time."""
    number = np.repeat(np.arange(len(sequences)), sequences.predictions)
    firsts = np.cumsum(sequences.predictions) - sequences.predictions
    symbols, targets = sequences.cut(number, np.arange(len(number)) - firsts[number])
    books = []
    for book in range(sequences.vocabulary.num_codebooks):
        real = targets[:, book] != IGNORE
        books.append(_Codes(targets[real, book], symbols[real, book], number[real]))
    return books


def _counted(train: UnitSequences) -> list[_Codes]:
    """What is counted; there is something."""
    if not train.lengths.any():
        raise UserError(f"{train.name} has no units to count")
    return _codes(train)


def _legal(sequences: UnitSequences, book: int) -> int:
    """How many targets a codebook has: in sequences of any length the first one's may be an end too."""
    ends = book == 0 and sequences.vocabulary.num_units is None
    return sequences.vocabulary.codebook_size + ends


class Unigram:
    """Each code by its frequency, 1/2 added to every count.

    Args:
        train: what is counted.

    Raises:
        UserError: it has no units.
    """

    def __init__(self, train: UnitSequences):
        self._log_probabilities = []
        for book, codes in enumerate(_counted(train)):
            counts = np.bincount(codes.target, minlength=_legal(train, book)) + ADDED
            self._log_probabilities.append(np.log(counts / counts.sum()))

    def nats(self, sequences: UnitSequences) -> np.ndarray:
        total = np.zeros(len(sequences))
        for log_probability, codes in zip(self._log_probabilities, _codes(sequences), strict=True):
            np.subtract.at(total, codes.sequence, log_probability[codes.target])
        return total


class Bigram:
    """Each code by the one before it, interpolated Kneser-Ney smoothing (Chen and Goodman 1998).

    ``p(w | v) = max(c(v, w) - D, 0) / c(v) + D T(v) / c(v) q(w)``, with T(v) the number of different w after v, and
    q(w) in proportion to the number of different v before w, discounted in the same way towards the uniform
    distribution. ``D = n1 / (n1 + 2 n2)`` from the numbers of pairs seen once and twice.

    Args:
        train: what is counted.

    Raises:
        UserError: it has no units.
    """

    def __init__(self, train: UnitSequences):
        symbols = train.vocabulary.begin + 1
        self._books = [_KneserNey(codes, symbols, _legal(train, book)) for book, codes in enumerate(_counted(train))]

    def nats(self, sequences: UnitSequences) -> np.ndarray:
        total = np.zeros(len(sequences))
        for model, codes in zip(self._books, _codes(sequences), strict=True):
            np.subtract.at(total, codes.sequence, np.log(model.probability(codes.before, codes.target)))
        return total


class _KneserNey:
    """One codebook's. The pairs are kept sparse: K squared numbers would not fit for a large codebook."""

    def __init__(self, codes: _Codes, num_symbols: int, size: int):
        self.size = size
        self.keys, self.counts = np.unique(codes.before * size + codes.target, return_counts=True)
        before, target = np.divmod(self.keys, size)
        self.total = np.bincount(before, weights=self.counts, minlength=num_symbols)
        self.followers = np.bincount(before, minlength=num_symbols)
        self.discount = _discount(self.counts)
        preceding = np.bincount(target, minlength=size)
        lower = _discount(preceding)
        spread = lower * np.count_nonzero(preceding) / size
        self.backoff = (np.maximum(preceding - lower, 0.0) + spread) / len(self.keys)

    def probability(self, before: np.ndarray, target: np.ndarray) -> np.ndarray:
        backoff, total = self.backoff[target], self.total[before]
        key = before * self.size + target
        place = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        count = np.where(self.keys[place] == key, self.counts[place], 0)
        known = np.maximum(count - self.discount, 0.0) + self.discount * self.followers[before] * backoff
        return np.where(total > 0, known / np.maximum(total, 1.0), backoff)


def _discount(counts: np.ndarray) -> float:
    once, twice = (int(np.count_nonzero(counts == times)) for times in (1, 2))
    low, high = _DISCOUNTS
    return min(max(once / (once + 2 * twice), low), high) if once else low
