"""Edit distance of sequences (Levenshtein)."""

from collections.abc import Hashable, Sequence

import numpy as np


def edit_distance(one: Sequence[Hashable], two: Sequence[Hashable]) -> int:
    """The least number of insertions, deletions and substitutions that make ``two`` of ``one``."""
    numbers: dict[Hashable, int] = {}
    first, second = (
        np.array([numbers.setdefault(x, len(numbers)) for x in row], dtype=np.int64) for row in (one, two)
    )
    columns = np.arange(len(second) + 1)
    row = columns.copy()
    for number in first:
        best = row + 1
        best[1:] = np.minimum(best[1:], row[:-1] + (second != number))
        row = np.minimum.accumulate(best - columns) + columns  # and insertions, from left to right
    return int(row[-1])
