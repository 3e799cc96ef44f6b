"""Which phones a sequence of units says: a hidden Markov model of phones and units, counted on an alignment."""

from collections.abc import Iterable

import numpy as np

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.frames import FrameSequence, phone_table

_PRIOR = 1.0  # units that a phone is taken to have had beforehand, spread as units are in general
_PRIOR_STEPS = 0.01  # the same of steps to each phone


class UnitRecognizer:
    """States are phones; a step is a unit, with the probability of its phone, and goes on to a phone by a bigram.

    Args:
        sequences: units (repeats not collapsed) with phones, of training.

    Raises:
        UserError: none of them has phones.
    """

    def __init__(self, sequences: Iterable[FrameSequence]):
        sequences = [one for one in sequences if one.phones and one.codes is not None]
        if not sequences:
            raise UserError("no utterance of training has phones (`ali`): there is nothing to recognise them by")
        table = phone_table(sequences)
        self.phones = tuple(table)
        self._units: dict[tuple[int, ...], int] = {}
        starts, steps = np.zeros(len(table)), np.zeros((len(table), len(table)))
        pairs: list[np.ndarray] = []
        for one in sequences:
            spoken = one.phone_numbers(table)
            units = np.array([self._units.setdefault(unit, len(self._units)) for unit in _columns(one.codes)])
            real = spoken >= 0
            pairs.append(np.stack([spoken[real], units[real]]))
            both = real[1:] & real[:-1]
            np.add.at(steps, (spoken[:-1][both], spoken[1:][both]), 1)
            starts[spoken[real][:1]] += 1
        counts = np.zeros((len(table), len(self._units)))
        np.add.at(counts, tuple(np.concatenate(pairs, axis=1)), 1)
        general = counts.sum(axis=0) + 0.5
        counts += _PRIOR * general / general.sum()
        self._emission = np.log(counts / counts.sum(axis=1, keepdims=True))
        self._start = np.log((starts + _PRIOR_STEPS) / (starts + _PRIOR_STEPS).sum())
        steps += _PRIOR_STEPS
        self._step = np.log(steps / steps.sum(axis=1, keepdims=True))

    def recognize(self, codes: np.ndarray) -> list[str]:
        """The phones on the most probable path (Viterbi), each once for as long as it stays: (N, T) int64 -> names.

        A unit that training did not have says nothing.
        """
        if not codes.shape[1]:
            return []
        unknown = np.zeros(len(self.phones))
        emissions = [
            unknown if (number := self._units.get(unit)) is None else self._emission[:, number]
            for unit in _columns(codes)
        ]
        score = self._start + emissions[0]
        back = []
        for emission in emissions[1:]:
            arrivals = score[:, None] + self._step
            back.append(arrivals.argmax(axis=0))
            score = arrivals.max(axis=0) + emission
        path = [int(score.argmax())]
        for origins in reversed(back):
            path.append(int(origins[path[-1]]))
        path.reverse()
        return [self.phones[phone] for phone, before in zip(path, [-1, *path], strict=False) if phone != before]


def _columns(codes: np.ndarray | None) -> list[tuple[int, ...]]:
    assert codes is not None
    return list(map(tuple, codes.T.tolist()))
