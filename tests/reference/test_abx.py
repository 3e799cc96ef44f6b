"""ABX against every triplet compared one by one, in float64 and plain Python."""

import itertools
import math
from statistics import fmean

import numpy as np
import pytest
from spoken import spoken

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.feature_files import write_features
from sqvae_speech.evaluation.frames import FrameSequence
from sqvae_speech.evaluation.items import Item, phone_items, word_items, write_items

fastabx = pytest.importorskip("fastabx", reason="needs Python 3.12")

from sqvae_speech.evaluation.abx import CONDITIONS, AbxCondition, AbxData  # noqa: E402


def angle(x, y):
    cosine = float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi


def symmetric_kl(p, q):
    p, q = p + 1e-6, q + 1e-6  # as the evaluation does, so that zeros have a logarithm
    return 0.5 * sum(float((a - b) * (math.log(a) - math.log(b))) for a, b in zip(p, q, strict=True))


def hamming(x, y):
    return sum(float(a != b) for a, b in zip(x, y, strict=True))


FRAME_DISTANCES = {"latents": angle, "posterior": symmetric_kl, "codes": hamming}


def warped(x, y, distance):
    """Dynamic time warping: the least cost over the length of its path, with diagonal steps first among equals."""
    local = [[distance(a, b) for b in y] for a in x]
    best = {}
    for i, j in itertools.product(range(len(x)), range(len(y))):
        before = [
            (best[p][0], order, p) for order, p in enumerate(((i - 1, j - 1), (i, j - 1), (i - 1, j))) if p in best
        ]
        cost, _, previous = min(before) if before else (0.0, 0, None)
        best[i, j] = (cost + local[i][j], previous)
    place, length = (len(x) - 1, len(y) - 1), 0
    cost = best[place][0]
    while place is not None:
        place, length = best[place][1], length + 1
    return cost / length


def brute_force(sequences, items, kind, condition):
    """Mean over contexts, then over speakers of A and B, then over pairs of labels; None without a triplet."""
    by_id = {sequence.utterance_id: sequence for sequence in sequences}
    pieces = []
    for item in items:
        sequence = by_id[item.utterance_id]
        inside = [n for n, time in enumerate(sequence.times) if item.onset - 1e-7 <= time <= item.offset + 1e-7]
        inside = inside or [
            min(range(len(sequence.times)), key=lambda n: abs(sequence.times[n] - (item.onset + item.offset) / 2))
        ]
        pieces.append(sequence.kind(kind)[inside].astype(np.float64))
    cache = {}

    def distance(i, j):
        if (i, j) not in cache:
            cache[i, j] = warped(pieces[i], pieces[j], FRAME_DISTANCES[kind])
        return cache[i, j]

    wins, triplets = {}, 0
    for x, a, b in itertools.permutations(range(len(items)), 3):
        ix, ia, ib = items[x], items[a], items[b]
        if not (ix.label == ia.label != ib.label and ia.speaker == ib.speaker):
            continue
        if (ix.speaker == ia.speaker) != (condition.speaker == "within"):
            continue
        contexts = {(item.previous, item.next) for item in (ix, ia, ib)}
        if condition.context == "within" and len(contexts) > 1:
            continue
        context = contexts.pop() if condition.context == "within" else None
        near, far = distance(x, a), distance(x, b)
        cell = (
            wins.setdefault((ia.label, ib.label), {}).setdefault(ia.speaker, {}).setdefault((context, ix.speaker), [])
        )
        cell.append(0.5 if abs(near - far) < 1e-9 else float(near > far))
        triplets += 1
    if not wins:
        return None
    pairs = []
    for speakers in wins.values():
        means = []
        for cells in speakers.values():
            by_x = {key: fmean(cell) for key, cell in cells.items()}
            # without contexts to average over first, cells count one by one
            means += by_x.values() if condition.context == "any" else [fmean(by_x.values())]
        pairs.append(fmean(means))
    return fmean(pairs), triplets, len(pairs)


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
@pytest.mark.parametrize(("kind", "books"), [("latents", 1), ("posterior", 1), ("codes", 1), ("codes", 3)])
def test_against_brute_force(kind, books, condition):
    sequences = spoken(12, seed=3, books=books)
    items = phone_items(sequences)
    score = AbxData({s.utterance_id: s for s in sequences}, items, kind).score(
        condition, max_size_group=None, max_x_across=None
    )
    error, triplets, pairs = brute_force(sequences, items, kind, condition)
    assert score.error == pytest.approx(error, abs=2e-6)
    assert (score.triplets, score.pairs) == (triplets, pairs)
    assert score.error < 0.5
    assert score.error > 0.01 or condition.context == "within"  # of few triplets


def test_codes_are_one_hot_vectors_under_the_angle():
    """The distance between codes gives what the angle between their one-hot vectors would."""
    sequences = spoken(12, seed=5)
    one_hot = [
        FrameSequence(**{**vars(s), "features": {"latents": np.eye(6, dtype=np.float32)[s.codes[0]]}})
        for s in sequences
    ]
    items = phone_items(sequences)
    condition = AbxCondition("across", "any")
    codes = AbxData({s.utterance_id: s for s in sequences}, items, "codes").score(condition)
    vectors = AbxData({s.utterance_id: s for s in one_hot}, items, "latents").score(condition)
    assert codes.error == pytest.approx(vectors.error, abs=1e-6)


def test_draws_are_limited_and_the_same_every_time():
    sequences = spoken(40, seed=1)
    by_id, items = {s.utterance_id: s for s in sequences}, phone_items(sequences)
    condition = AbxCondition("across", "any")

    def score(**options):
        return AbxData(by_id, items, "latents").score(condition, **options)

    everything, drawn = score(max_size_group=None, max_x_across=None), score(max_size_group=4, max_x_across=1)
    assert drawn == score(max_size_group=4, max_x_across=1)
    assert drawn != score(max_size_group=4, max_x_across=1, seed=1)
    assert drawn.pairs == everything.pairs == 6
    assert drawn.cells == 6 * 3  # pairs of labels, speakers of A; one speaker of X each
    assert drawn.triplets == 18 * 4**3
    assert drawn.error == pytest.approx(everything.error, abs=0.1)


def test_files_that_fastabx_reads_give_the_same(tmp_path):
    """Features and an item file on disk, read and sliced by fastabx itself, score what ours do in memory."""
    sequences = spoken(9, seed=3)
    items = phone_items(sequences)

    class Source:
        codebook_size, description = 6, {}

    write_features(tmp_path / "features", Source(), sequences, "latents", "pt")
    write_items(tmp_path / "x.item", items)
    theirs = fastabx.zerospeech_abx(
        tmp_path / "x.item",
        tmp_path / "features",
        max_size_group=None,
        max_x_across=None,
        speaker="across",
        context="within",
        frequency=50,
        device="cpu",
        progress=False,
    )
    data = AbxData({s.utterance_id: s for s in sequences}, items, "latents")
    ours = data.score(AbxCondition("across", "within"), max_size_group=None, max_x_across=None)
    assert ours.error == pytest.approx(theirs, abs=1e-6)


def test_words_and_what_cannot_be_scored():
    sequences = [
        FrameSequence(**{**vars(s), "text": "ONE" if n % 2 else "two"}) for n, s in enumerate(spoken(8, seed=2))
    ]
    by_id = {s.utterance_id: s for s in sequences}
    data = AbxData(by_id, word_items(sequences), "latents")
    assert data.score(AbxCondition("across", "any")).pairs == 2
    alone = [item._replace(speaker="s0") for item in word_items(sequences)]
    assert AbxData(by_id, alone, "latents").score(AbxCondition("across", "any")) is None
    with pytest.raises(UserError, match="no items"):
        AbxData(by_id, [], "latents")
    with pytest.raises(UserError, match=r"of 1 utterances that have no frames, such as 'nobody'"):
        AbxData(by_id, [Item("nobody", 0.0, 0.1, "a", "b", "c", "s0")], "latents")
    sequences[0].features["latents"][0, 0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        AbxData(by_id, word_items(sequences), "latents")
