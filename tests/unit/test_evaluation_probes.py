"""Probes learn what is there, do not learn what is not, and never see what they are tested on."""

from dataclasses import replace

import numpy as np
import pytest

from sqvae_speech.data.kaldi import Interval
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation import probes as module
from sqvae_speech.evaluation.frames import FrameSequence
from sqvae_speech.evaluation.probes import Examples, average, examples_of, probe, probes

WORDS = ("one", "two", "three")


def said(count, seed, *, speaker_in=1.0, word_in=1.0, first=0):
    """Utterances of one word of two phones by four speakers; frames and codes may tell the word, or the speaker."""
    rng = np.random.default_rng(seed)
    sequences = []
    for number in range(first, first + count):
        word, speaker = number % 3, (number // 3) % 4
        frames = 0.15 * rng.normal(size=(10, 7))
        frames[:, word] += word_in
        frames[:, 3 + speaker] += speaker_in
        codes = np.where(rng.random(10) < word_in, word, rng.integers(0, 3, 10))
        sequences.append(
            FrameSequence(
                f"s{speaker}-{number:03d}",
                f"s{speaker}",
                0.2,
                0.01 + 0.02 * np.arange(10),
                0.02,
                {"latents": frames.astype(np.float32)},
                codes[None],
                (Interval(0.0, 0.1, f"x{word}"), Interval(0.1, 0.2, "y")),
                text=WORDS[word],
            )
        )
    return sequences


def test_they_find_what_is_there_and_only_that():
    both = probes(said(60, 0), "latents")
    assert both["speaker"].accuracy == both["word"].accuracy == 1
    assert (both["speaker"].held_out, both["word"].held_out, both["phone"].held_out) == (
        "utterance",
        "speaker",
        "speaker",
    )
    assert both["speaker"].folds == 5
    assert both["word"].folds == 4  # one a speaker
    assert both["word"].chance == pytest.approx(1 / 3)
    assert both["phone"].examples == 120
    assert both["phone"].chance == pytest.approx(1 / 2)
    deaf = probes(said(60, 0, speaker_in=0.0, word_in=0.0), "latents")
    assert deaf["word"].accuracy < 0.6
    assert deaf["speaker"].accuracy < 0.6
    codes = probes(said(60, 0), "codes", codebook_size=3)
    assert codes["word"].accuracy == 1
    assert codes["speaker"].accuracy < 0.6


def test_another_set_to_train_on():
    test, train = said(24, 1), said(48, 2, first=100)
    scores = probes(test, "latents", train)
    assert scores["speaker"].accuracy == 1
    assert (scores["speaker"].folds, scores["speaker"].trained_on) == (1, 48)
    assert (scores["word"].folds, scores["word"].trained_on) == (4, 36)  # without the speaker tested
    assert scores == probes(test, "latents", train)
    with pytest.raises(UserError, match=r"utterance 's0-000' is to be trained on and tested on"):
        probes(test, "latents", test)


def test_voices_that_were_held_out_are_learnt_from_the_test_itself():
    test = said(60, 0)
    others = [replace(each, utterance_id=f"o{each.utterance_id}", speaker=f"o{each.speaker}") for each in said(48, 2)]
    scores = probes(test, "latents", others)
    assert scores["speaker"] == probes(test, "latents")["speaker"]
    assert scores["word"].trained_on == 48
    mixed = [*others, replace(test[0], utterance_id="other")]
    assert probes(test, "latents", mixed)["speaker"].folds == 1


@pytest.mark.parametrize("target", ["speaker", "word"])
@pytest.mark.parametrize("other", [False, True])
def test_nothing_is_tested_that_was_trained_on(monkeypatch, target, other):
    """Features carry the number of their utterance; what a classifier gets is looked at."""
    test = examples_of(said(24, 1), "latents", target)
    train = examples_of(said(48, 2, first=100), "latents", target) if other else None
    for examples in filter(None, (test, train)):
        examples.features[:] = np.arange(len(examples.labels))[:, None]
    tested = []

    def classify(features, labels, asked):
        pool = test if train is None else train
        trained, asked = features[:, 0].astype(int), asked[:, 0].astype(int)
        held_out = "utterances" if target == "speaker" else "speakers"
        assert not set(getattr(pool, held_out)[trained]) & set(getattr(test, held_out)[asked])
        tested.extend(asked.tolist())
        return test.labels[asked]

    monkeypatch.setattr(module, "_classify", classify)
    assert probe(test, train, target=target).accuracy == 1
    assert sorted(tested) == list(range(24))


def test_averages():
    one = said(1, 3)[0]
    np.testing.assert_allclose(
        average(one, "latents", slice(2, 5)), one.kind("latents")[2:5].astype(float).mean(axis=0)
    )
    counts = np.bincount(one.codes[0, 2:7], minlength=4) / 5
    np.testing.assert_allclose(average(one, "codes", slice(2, 7), 4), counts)


def test_what_has_no_labels_has_no_score():
    sequences = said(12, 0)
    bare = [FrameSequence(s.utterance_id, "s0", s.seconds, s.times, s.step, s.features) for s in sequences]
    assert probes(bare, "latents") == {"speaker": None, "phone": None, "word": None}
    with pytest.raises(UserError, match="no probe for 'words', did you mean 'word'"):
        examples_of(bare, "latents", "words")
    few = Examples(np.zeros((2, 1)), np.array(["a", "b"]), np.array(["s", "t"]), np.array(["u", "v"]))
    assert probe(few, target="word") is None  # each fold would be trained on one label
