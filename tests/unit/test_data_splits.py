"""Splits: what the rules promise, on corpora of many and of few utterances."""

import random
from collections import Counter, defaultdict

import pytest

from sqvae_speech.data.splits import Item, split_by_sentence, split_by_speaker
from sqvae_speech.errors import UserError


def corpus(speakers: int, shared: int, own: int, missing: float = 0.0) -> list[Item]:
    """VCTK's pattern: sentences that all read, less some that are missing, and sentences of each speaker's own."""
    rng = random.Random(1)
    items = []
    for speaker in range(speakers):
        sentences = [f"shared {n}" for n in range(shared) if rng.random() >= missing]
        sentences += [f"own {speaker} {n}" for n in range(own)]
        items += [Item(f"s{speaker}-{n}", f"s{speaker}", sentence) for n, sentence in enumerate(sentences)]
    return items


CORPORA = {
    "vctk": corpus(30, 24, 200, missing=0.05),
    "ten shared sentences each": corpus(4, 12, 0, missing=0.17),
    "own sentences only": corpus(5, 0, 20),
    "three each": corpus(6, 0, 3),
    "two each": corpus(3, 0, 2),
    "one speaker, one sentence": corpus(1, 1, 0),
}


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("seed", range(5))
def test_rules(name, seed):
    items = CORPORA[name]
    split_of = split_by_sentence(items, 0.05, seed)
    assert set(split_of) == {item.utterance_id for item in items}
    sentence_splits = defaultdict(set)
    counts = defaultdict(Counter)
    for item in items:
        sentence_splits[item.sentence].add(split_of[item.utterance_id])
        counts[item.speaker][split_of[item.utterance_id]] += 1
    assert all(len(splits) == 1 for splits in sentence_splits.values())
    for count in counts.values():
        total = count.total()
        assert count["train"] >= 1
        if total >= 3 and name != "ten shared sentences each":
            assert count["test"] >= 1
            assert count["dev"] >= 1
        if total < 3:
            assert count["test"] == count["dev"] == 0
        if total >= 10:  # as much as asked for, within what shared sentences force
            assert max(count["test"], count["dev"]) <= 0.05 * total + 3


def test_few_shared_sentences_leave_most_for_training():
    for seed in range(20):
        split_of = split_by_sentence(CORPORA["ten shared sentences each"], 0.05, seed)
        count = Counter((name.split("-")[0], split) for name, split in split_of.items())
        for speaker in range(4):
            assert count[f"s{speaker}", "train"] >= 5
            assert count[f"s{speaker}", "test"] >= 1
            assert count[f"s{speaker}", "dev"] >= 1


def test_fractions_are_met():
    split_of = split_by_sentence(CORPORA["vctk"], 0.1)
    shares = Counter(split_of.values())
    assert shares["test"] / len(split_of) == pytest.approx(0.1, abs=0.01)
    assert shares["dev"] / len(split_of) == pytest.approx(0.1, abs=0.01)


def test_independent_of_the_order_of_the_files():
    items = CORPORA["vctk"]
    shuffled = random.Random(0).sample(items, len(items))
    assert split_by_sentence(items) == split_by_sentence(shuffled)


def test_seed_decides():
    assert split_by_sentence(CORPORA["vctk"], seed=1) != split_by_sentence(CORPORA["vctk"], seed=2)


def test_no_evaluation_splits_wanted():
    assert set(split_by_sentence(CORPORA["vctk"], 0.0).values()) == {"train"}


@pytest.mark.parametrize("fraction", [-0.1, 0.5, 2])
def test_illegal_fraction(fraction):
    with pytest.raises(UserError, match=r"legal are 0 to 0\.4"):
        split_by_sentence([], fraction)


def test_speakers_kept_for_test():
    names = [f"s{number}" for number in range(40)]
    kept = split_by_speaker(names * 3, 0.1, seed=3)
    assert len(kept) == 4
    assert kept < set(names)
    assert kept == split_by_speaker(reversed(names), 0.1, seed=3), "the order does not matter"
    assert kept != split_by_speaker(names, 0.1, seed=4)
    assert kept <= split_by_speaker(names, 0.2, seed=3)
    assert len(split_by_speaker(["a", "b"], 0.0)) == 1
    for speakers, fraction, message in ((["a"], 0.1, "only a"), (names, 0.7, "0 to 0.4")):
        with pytest.raises(UserError, match=message):
            split_by_speaker(speakers, fraction)
