"""How units and phones go together: mutual information and purities (HuBERT, arXiv 2106.07447, section IV-A)."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.frames import FrameSequence, phone_table
from sqvae_speech.units.statistics import entropy_bits


@dataclass(frozen=True, eq=False)
class JointCounts:
    """Units at the middle of which a phone is spoken, counted by both.

    Attributes:
        counts: (P, U) int64.
        phones: P labels, sorted.
        units: U units that occur, sorted; each a tuple of N codes.
        unlabelled: units where no phone is.
    """

    counts: np.ndarray
    phones: tuple[str, ...]
    units: tuple[tuple[int, ...], ...]
    unlabelled: int


@dataclass(frozen=True)
class UnitPhoneScores:
    """Of units against phones.

    Attributes:
        pnmi: phone-normalised mutual information, I(phone; unit) / H(phone): the share of the uncertainty about the
            phone that the unit takes away, 0 to 1. Grows with the number of different units on small sets.
        phone_purity: accuracy of naming the most frequent phone of each unit, 0 to 1.
        cluster_purity: accuracy of naming the most frequent unit of each phone: 1 when a phone is one unit.
        mutual_information, phone_entropy, unit_entropy: bits.
        units: counted.
        different_units, phones: that occur.
        unlabelled: units where no phone is, which count in nothing.
    """

    pnmi: float
    phone_purity: float
    cluster_purity: float
    mutual_information: float
    phone_entropy: float
    unit_entropy: float
    units: int
    different_units: int
    phones: int
    unlabelled: int


def joint_counts(sequences: Iterable[FrameSequence], leave_out: Iterable[str] = ()) -> JointCounts:
    """Count units and phones together.

    Args:
        sequences: with codes and phones.
        leave_out: labels that do not count, such as silences; by default all count, as in HuBERT.

    Raises:
        UserError: no codes, or not a single labelled unit.
    """
    sequences = list(sequences)
    phones = phone_table(sequences, leave_out)
    table: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for sequence in sequences:
        if sequence.codes is None:
            raise UserError(f"{sequence.utterance_id}: no codes; unit scores are for quantized representations")
        numbers = sequence.phone_numbers(phones).tolist()
        table.update(zip(numbers, map(tuple, sequence.codes.T.tolist()), strict=True))
    unlabelled = sum(count for (phone, _), count in table.items() if phone < 0)
    labelled = {key: count for key, count in table.items() if key[0] >= 0}
    if not labelled:
        raise UserError("no unit lies in a labelled phone; the set needs an alignment (`ali`)")
    units = sorted({unit for _, unit in labelled})
    columns = {unit: number for number, unit in enumerate(units)}
    counts = np.zeros((len(phones), len(units)), dtype=np.int64)
    for (phone, unit), count in labelled.items():
        counts[phone, columns[unit]] = count
    return JointCounts(counts, tuple(phones), tuple(units), unlabelled)


def unit_phone_scores(joint: JointCounts) -> UnitPhoneScores:
    """The scores of :func:`joint_counts`."""
    counts = joint.counts
    total = int(counts.sum())
    phone_entropy, unit_entropy = entropy_bits(counts.sum(axis=1)), entropy_bits(counts.sum(axis=0))
    information = max(0.0, phone_entropy + unit_entropy - entropy_bits(counts))
    return UnitPhoneScores(
        pnmi=information / phone_entropy if phone_entropy else 0.0,
        phone_purity=float(counts.max(axis=0).sum() / total),
        cluster_purity=float(counts.max(axis=1).sum() / total),
        mutual_information=information,
        phone_entropy=phone_entropy,
        unit_entropy=unit_entropy,
        units=total,
        different_units=counts.shape[1],
        phones=int(np.count_nonzero(counts.sum(axis=1))),
        unlabelled=joint.unlabelled,
    )


def by_dominant_phone(joint: JointCounts) -> tuple[np.ndarray, np.ndarray]:
    """Units ordered by their most frequent phone, then by how often they are used.

    Returns:
        ``(order, dominant)``: (U,) int64 columns of ``counts``, and (U,) int64 the phone of each column (unordered).
    """
    dominant = joint.counts.argmax(axis=0)
    order = np.lexsort((-joint.counts.sum(axis=0), dominant))
    return order, dominant
