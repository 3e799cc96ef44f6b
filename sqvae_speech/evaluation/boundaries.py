"""Whether units change where phones do: precision, recall, F1 and R-value of boundaries."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.frames import FrameSequence

TOLERANCE = 0.020  # s
_ROUNDING = 1e-9


@dataclass(frozen=True)
class BoundaryScores:
    """Of boundaries found against those of the alignment.

    Attributes:
        precision: share of the found ones that are within the tolerance of a true one of their own.
        recall: share of the true ones that are found.
        f1: their harmonic mean.
        over_segmentation: how many more were found than there are, recall / precision - 1.
        r_value: 1 for a perfect segmentation; unlike F1, not raised by finding boundaries everywhere (Räsänen, Laine
            and Altosaar, Interspeech 2009, equations 5 to 7). Can be negative.
        found, true, hits: counts.
        tolerance: s.
    """

    precision: float
    recall: float
    f1: float
    over_segmentation: float
    r_value: float
    found: int
    true: int
    hits: int
    tolerance: float


def unit_boundaries(sequence: FrameSequence) -> np.ndarray:
    """(B,) s, where a unit is followed by another one: where the second begins."""
    codes = sequence.codes
    if codes is None:
        raise UserError(f"{sequence.utterance_id}: no codes; boundaries are those of units")
    changes = np.flatnonzero(np.any(codes[:, 1:] != codes[:, :-1], axis=0)) + 1
    return sequence.edges[changes]


def phone_boundaries(sequence: FrameSequence) -> np.ndarray:
    """(B,) s, where phones begin or end, but for the beginning of the first and the end of the last."""
    edges = sorted({edge for phone in sequence.phones for edge in (phone.onset, phone.offset)})
    return np.array(edges[1:-1])


def count_hits(found: np.ndarray, true: np.ndarray, tolerance: float) -> int:
    """The most pairs of a found and a true boundary that are not further apart, each in one pair at most.

    Args:
        found: s, rising.
        true: s, rising.
        tolerance: s, inclusive.
    """
    hits = i = j = 0
    while i < len(found) and j < len(true):
        # on a line, to pair the earliest two that may be paired is never worse than any other choice
        if abs(found[i] - true[j]) <= tolerance + _ROUNDING:
            hits, i, j = hits + 1, i + 1, j + 1
        elif found[i] < true[j]:
            i += 1
        else:
            j += 1
    return hits


def boundary_scores(sequences: Iterable[FrameSequence], tolerance: float = TOLERANCE) -> BoundaryScores:
    """Pooled over utterances; those without an alignment are left out.

    Raises:
        UserError: no codes, no true boundary at all, or a tolerance that is not positive.
    """
    if tolerance <= 0:
        raise UserError(f"tolerance {tolerance} s; it has to be greater than 0 (0.02 is usual)")
    hits = found = true = 0
    for sequence in sequences:
        if sequence.phones:
            ours, theirs = unit_boundaries(sequence), phone_boundaries(sequence)
            hits += count_hits(ours, theirs, tolerance)
            found, true = found + len(ours), true + len(theirs)
    if not true:
        raise UserError("no phone boundaries; the set needs an alignment (`ali`)")
    precision, recall = hits / found if found else 0.0, hits / true
    over = found / true - 1
    distance = math.hypot(1 - recall, over)
    skew = (recall - 1 - over) / math.sqrt(2)
    return BoundaryScores(
        precision=precision,
        recall=recall,
        f1=2 * hits / (found + true),
        over_segmentation=over,
        r_value=1 - (distance + abs(skew)) / 2,
        found=found,
        true=true,
        hits=hits,
        tolerance=tolerance,
    )
