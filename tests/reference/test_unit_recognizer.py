"""Phones recognised in units against counting by hand and a search through every path there is."""

import itertools
import math

import numpy as np
import pytest

from sqvae_speech.data.kaldi import Interval
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.frames import FrameSequence
from sqvae_speech.evaluation.unit_recognizer import _PRIOR, _PRIOR_STEPS, UnitRecognizer

STEP = 0.02
SPOKEN = ["aaabbbcc", "abbbccca", "ccaab"]
UNITS = [[0, 0, 1, 2, 3, 2, 4, 0], [1, 2, 2, 3, 4, 4, 0, 0], [4, 4, 0, 1, 2]]


def sequence(spoken: str, units: list[int]) -> FrameSequence:
    phones, start = [], 0
    for label, run in itertools.groupby(spoken):
        length = len(list(run))
        phones.append(Interval(start * STEP, (start + length) * STEP, label))
        start += length
    times = STEP * (np.arange(len(units)) + 0.5)
    return FrameSequence("u", "s", times[-1], times, STEP, codes=np.array([units]), phones=tuple(phones))


def log_probability(path: tuple[int, ...], units: list[int]) -> float:
    """By counts of pairs, of beginnings and of steps, with what is added to each."""
    all_units = [unit for one in UNITS for unit in one]
    general = np.array([all_units.count(unit) + 0.5 for unit in range(5)])
    total = 0.0
    for place, (phone, unit) in enumerate(zip(path, units, strict=True)):
        pairs = [
            u
            for spoken, one in zip(SPOKEN, UNITS, strict=True)
            for p, u in zip(spoken, one, strict=True)
            if p == "abc"[phone]
        ]
        share = _PRIOR * general[unit] / general.sum()
        total += math.log((pairs.count(unit) + share) / (len(pairs) + _PRIOR))
        if place == 0:
            starts = [spoken[0] for spoken in SPOKEN].count("abc"[phone])
            total += math.log((starts + _PRIOR_STEPS) / (len(SPOKEN) + 3 * _PRIOR_STEPS))
        else:
            steps = [
                two for spoken in SPOKEN for one, two in itertools.pairwise(spoken) if one == "abc"[path[place - 1]]
            ]
            total += math.log((steps.count("abc"[phone]) + _PRIOR_STEPS) / (len(steps) + 3 * _PRIOR_STEPS))
    return total


@pytest.mark.parametrize("seed", range(4))
def test_the_best_path_of_all(seed):
    recognizer = UnitRecognizer([sequence(*one) for one in zip(SPOKEN, UNITS, strict=True)])
    units = np.random.default_rng(seed).integers(0, 5, 7).tolist()
    best = max(itertools.product(range(3), repeat=7), key=lambda path: log_probability(path, units))
    expected = ["abc"[phone] for phone, _ in itertools.groupby(best)]
    assert recognizer.recognize(np.array([units])) == expected


def test_what_it_knows_nothing_of():
    recognizer = UnitRecognizer([sequence("aab", [0, 0, 1])])
    assert recognizer.recognize(np.array([[0, 9, 1]])) == ["a", "b"], "a unit that training did not have"
    assert recognizer.recognize(np.zeros((1, 0), int)) == []
    with pytest.raises(UserError, match="no utterance of training has phones"):
        UnitRecognizer([FrameSequence("u", "s", 1.0, np.array([0.5]), STEP, codes=np.array([[1]]))])
