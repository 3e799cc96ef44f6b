"""Edit distance against the recursion that defines it."""

import functools

import numpy as np
import pytest

from sqvae_speech.evaluation.edit_distance import edit_distance


def by_definition(one: tuple, two: tuple) -> int:
    @functools.cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        same = one[i - 1] == two[j - 1]
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (not same))

    return distance(len(one), len(two))


@pytest.mark.parametrize("seed", range(20))
def test_edit_distance(seed):
    rng = np.random.default_rng(seed)
    one, two = (tuple(rng.integers(0, 4, rng.integers(0, 12)).tolist()) for _ in range(2))
    assert edit_distance(one, two) == by_definition(one, two)


def test_of_strings():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance(["ab", "c"], ["c"]) == 1
