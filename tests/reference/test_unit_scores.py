"""Units against phones, boundaries, entropies and bitrate, each from its definition, one unit at a time."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import mutual_info_score
from spoken import spoken

from sqvae_speech.data.kaldi import Interval
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.boundaries import boundary_scores, count_hits, phone_boundaries, unit_boundaries
from sqvae_speech.evaluation.entropy_rate import entropy_rates
from sqvae_speech.evaluation.feature_files import vectors, zerospeech_bitrate
from sqvae_speech.evaluation.frames import FrameSequence
from sqvae_speech.evaluation.unit_phone import by_dominant_phone, joint_counts, unit_phone_scores


def pairs_of(sequences, leave_out=()):
    """(phone, unit) of every unit whose middle lies in a phone, by a search through all phones."""
    pairs = []
    for sequence in sequences:
        for time, unit in zip(sequence.times, map(tuple, sequence.codes.T), strict=True):
            labels = [p.label for p in sequence.phones if p.onset <= time < p.offset and p.label not in leave_out]
            pairs += [(label, unit) for label in labels]
    return pairs


@pytest.mark.parametrize("books", [1, 2])
@pytest.mark.parametrize("leave_out", [(), ("SIL",)])
def test_unit_to_phone(books, leave_out):
    sequences = spoken(30, seed=0, books=books)
    joint = joint_counts(sequences, leave_out)
    scores = unit_phone_scores(joint)
    pairs = pairs_of(sequences, leave_out)
    phones, units = [phone for phone, _ in pairs], [str(unit) for _, unit in pairs]
    entropy = -sum(n / len(pairs) * math.log(n / len(pairs)) for n in Counter(phones).values())
    information = mutual_info_score(phones, units)
    assert scores.pnmi == pytest.approx(information / entropy, rel=1e-12)
    assert scores.mutual_information == pytest.approx(information / math.log(2), rel=1e-12)
    assert scores.phone_entropy == pytest.approx(entropy / math.log(2), rel=1e-12)
    counted = Counter(pairs)
    purity = sum(max(n for (_, u), n in counted.items() if u == unit) for unit in {u for _, u in pairs})
    assert scores.phone_purity == pytest.approx(purity / len(pairs), rel=1e-12)
    purity = sum(max(n for (p, _), n in counted.items() if p == phone) for phone in set(phones))
    assert scores.cluster_purity == pytest.approx(purity / len(pairs), rel=1e-12)
    assert (scores.units, scores.phones) == (len(pairs), len(set(phones)))
    assert scores.unlabelled == sum(s.codes.shape[1] for s in sequences) - len(pairs)
    for row, phone in enumerate(joint.phones):
        assert joint.counts[row].tolist() == [counted[phone, unit] for unit in joint.units]


def test_perfect_and_useless_units():
    sequences = spoken(20, seed=1)
    names = sorted({phone.label for sequence in sequences for phone in sequence.phones})

    def recoded(code_of):
        return [
            FrameSequence(**{**vars(s), "codes": np.array([[code_of(label) for label, _ in pairs_of([s])]])})
            for s in sequences
        ]

    perfect, useless = recoded(names.index), recoded(lambda label: 0)
    scores = unit_phone_scores(joint_counts(perfect))
    assert scores.pnmi == pytest.approx(1)
    assert scores.phone_purity == scores.cluster_purity == 1
    assert boundary_scores(perfect).precision == 1
    scores = unit_phone_scores(joint_counts(useless))
    assert scores.pnmi == pytest.approx(0)
    assert scores.cluster_purity == 1
    assert boundary_scores(useless).f1 == boundary_scores(useless).precision == 0
    order, dominant = by_dominant_phone(joint_counts(perfect))
    assert sorted(dominant.tolist()) == list(range(len(names)))
    assert dominant[order].tolist() == list(range(len(names)))


def test_boundaries_against_the_best_assignment():
    rng = np.random.default_rng(0)
    for _ in range(50):
        found, true = np.sort(rng.random(rng.integers(0, 9))), np.sort(rng.random(rng.integers(0, 9)))
        tolerance = float(rng.uniform(0.01, 0.3))
        near = (np.abs(found[:, None] - true) <= tolerance).astype(float)
        rows, columns = linear_sum_assignment(-near)
        assert count_hits(found, true, tolerance) == near[rows, columns].sum()
    assert count_hits(np.array([0.12]), np.array([0.10]), 0.02) == 1  # inclusive, in spite of rounding


def test_boundary_scores_by_hand():
    sequence = FrameSequence(
        "u",
        "s",
        0.2,
        times=0.01 + 0.02 * np.arange(10),
        step=0.02,
        codes=np.array([[0, 0, 0, 1, 1, 2, 2, 2, 3, 3]]),
        phones=(Interval(0, 0.05, "a"), Interval(0.05, 0.16, "b"), Interval(0.16, 0.2, "c")),
    )
    np.testing.assert_allclose(unit_boundaries(sequence), [0.06, 0.1, 0.16])
    np.testing.assert_allclose(phone_boundaries(sequence), [0.05, 0.16])
    scores = boundary_scores([sequence])
    assert (scores.hits, scores.found, scores.true) == (2, 3, 2)
    assert (scores.precision, scores.recall) == (2 / 3, 1)
    assert scores.f1 == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    assert scores.over_segmentation == pytest.approx(1 / (2 / 3) - 1)
    r1, r2 = math.sqrt(0**2 + 0.5**2), (-0.5 + 1 - 1) / math.sqrt(2)
    assert scores.r_value == pytest.approx(1 - (abs(r1) + abs(r2)) / 2)
    assert boundary_scores([sequence], tolerance=0.005).hits == 1
    with pytest.raises(UserError, match="no phone boundaries"):
        boundary_scores([FrameSequence("u", "s", 1.0, np.zeros(1), 0.02, codes=np.zeros((1, 1), int))])


def test_entropy_rates():
    sequences = spoken(20, seed=4, books=2)
    rates = entropy_rates([s.codes for s in sequences], max_order=3)
    assert [rate.order for rate in rates] == [1, 2, 3]
    for rate in rates:
        followers = {}
        for sequence in sequences:
            units = list(map(tuple, sequence.codes.T))
            for end in range(rate.order, len(units) + 1):
                *context, unit = units[end - rate.order : end]
                followers.setdefault(tuple(context), []).append(unit)
        total = sum(map(len, followers.values()))
        bits = -sum(
            n / total * math.log2(n / len(units)) for units in followers.values() for n in Counter(units).values()
        )
        assert rate.bits == pytest.approx(bits, rel=1e-12)
        assert (rate.units, rate.units_per_context) == (total, total / len(followers))
    assert entropy_rates([np.array([[0, 1] * 50])])[1].bits == 0
    assert len(entropy_rates([np.array([[3]])], max_order=5)) == 1
    with pytest.raises(UserError, match="no units"):
        entropy_rates([np.zeros((1, 0), int)])


def test_bitrate_of_lines():
    """(n / D) H over the lines of the files, different lines being different symbols."""
    sequences = spoken(20, seed=6, books=2)
    frames = [vectors(s, "codes", 6) for s in sequences]
    lines = Counter(tuple(row) for array in frames for row in array.tolist())
    total, seconds = lines.total(), sum(s.seconds for s in sequences)
    expected = total / seconds * -sum(n / total * math.log2(n / total) for n in lines.values())
    assert zerospeech_bitrate(frames, seconds) == pytest.approx(expected, rel=1e-12)
    assert zerospeech_bitrate((s.codes.T for s in sequences), seconds) == pytest.approx(expected, rel=1e-12)
    different = np.random.default_rng(0).random((128, 3)).astype(np.float32)
    assert zerospeech_bitrate([different], 2.0) == pytest.approx(128 / 2 * 7)
