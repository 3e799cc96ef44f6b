"""Frames of models and baselines: the right numbers, at the right times, with the right labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from units_world import make_model, make_world

from sqvae_speech.data.kaldi import DataDir, Interval
from sqvae_speech.data.reader import iterate_utterances
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.frames import FrameSequence
from sqvae_speech.evaluation.items import Item, phone_items, read_items, word_items, write_items
from sqvae_speech.evaluation.kmeans import KMeansSource, fit_kmeans, nearest_centroids
from sqvae_speech.evaluation.sets import EvaluationSet
from sqvae_speech.evaluation.sources import MelSource, ModelSource
from sqvae_speech.models.inference import UnitTiming


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("frames"))


@pytest.mark.parametrize("max_frames", [16_000, 80])
@pytest.mark.parametrize("quantizer", [{}, {"num_quantizers": 2}, {"kind": "vq"}, {"num_groups": 2}])
def test_model_frames_are_those_of_single_utterances(world, tmp_path, quantizer, max_frames):
    bundle = make_model(tmp_path / "model", **quantizer) if quantizer else world.bundle
    source = ModelSource(bundle, max_frames=max_frames)
    sequences = {s.utterance_id: s for s in source.frames(iterate_utterances(world.shards), source.kinds)}
    assert "bob-2" in sequences  # 0.05 s are a unit
    timing = UnitTiming(bundle.mel_spec)
    for utterance in iterate_utterances(world.shards):
        found, mel = sequences[utterance.utterance_id], torch.from_numpy(utterance.mel)[None]
        with torch.no_grad():
            z, log_var = bundle.model.latents(mel)
            indices = bundle.model.encode(mel).indices
            posterior = bundle.model.quantizer.posterior(z, log_var)
        np.testing.assert_allclose(found.kind("latents"), z[0], atol=1e-5)
        np.testing.assert_array_equal(found.codes, indices[0].view(len(z[0]), -1).T)
        np.testing.assert_array_equal(found.kind("quantized"), bundle.model.quantizer.decode(indices)[0].detach())
        own = found.kind("posterior").reshape(len(z[0]), source.num_codebooks, 32)
        np.testing.assert_allclose(own * source.num_codebooks, posterior[0].view(own.shape), atol=1e-4)
        np.testing.assert_allclose(found.kind("posterior").sum(axis=1), 1, rtol=1e-5)
        for unit, time in enumerate(found.times):
            start, end = timing.span(unit)
            assert time == pytest.approx((start + end) / 2 / 16_000, abs=1e-12)
            assert found.edges[unit] == pytest.approx(start / 16_000, abs=1e-12)
        assert found.seconds == pytest.approx(utterance.mel.shape[1] / 100)
    with pytest.raises(UserError, match="no representation 'latent', did you mean 'latents'"):
        list(source.frames([], ["latent"]))


def test_mel_frames_and_stacks(world):
    spec = world.bundle.mel_spec
    plain = list(MelSource(spec).frames(iterate_utterances(world.shards), ["mel"]))
    stacked = list(MelSource(spec, 3).frames(iterate_utterances(world.shards), ["mel"]))
    for utterance, one, three in zip(iterate_utterances(world.shards), plain, stacked, strict=True):
        np.testing.assert_array_equal(one.kind("mel"), utterance.mel.T)
        np.testing.assert_allclose(one.times, np.arange(utterance.mel.shape[1]) / 100)  # frames are centred
        assert len(three.times) == utterance.mel.shape[1] // 3
        for row, time in enumerate(three.times):
            np.testing.assert_array_equal(three.kind("mel")[row], utterance.mel[:, 3 * row : 3 * row + 3].T.ravel())
            assert time == pytest.approx((3 * row + 1) / 100)
    with pytest.raises(UserError, match="--stack 0"):
        MelSource(spec, 0)


def test_frames_within_an_interval():
    sequence = FrameSequence("u", "s", 0.2, 0.01 + 0.02 * np.arange(10), 0.02, {"mel": np.zeros((10, 1))})
    assert sequence.within(0.03, 0.07) == slice(1, 4)  # both ends count
    assert sequence.within(0.031, 0.069) == slice(2, 3)
    assert sequence.within(0.032, 0.038) == slice(1, 2)  # no middle inside: the nearest
    assert sequence.within(0.25, 0.3) == slice(9, 10)
    labelled = replace(sequence, phones=(Interval(0.01, 0.05, "a"), Interval(0.09, 0.1, "b")))
    assert labelled.phone_numbers({"a": 7, "b": 9}).tolist() == [7, 7, -1, -1, 9, -1, -1, -1, -1, -1]
    with pytest.raises(UserError, match=r"no 'codes' here; there are mel"):
        sequence.kind("codes")


def test_labels_of_data_directories(world, tmp_path):
    """They replace those in the shards, and follow what trimming has left."""
    data = DataDir.read(world.root / "data" / "test")
    ali = (Interval(0.0, 0.02, "a"), Interval(0.02, 0.05, "b"))
    DataDir(replace(utterance, ali=ali, text=None) for utterance in data).write(tmp_path / "data")
    spec = world.bundle.mel_spec
    sequences = list(MelSource(spec).frames(EvaluationSet.of([world.shards], [tmp_path / "data"]), ["mel"]))
    assert all(s.phones == ali and s.text is None for s in sequences)
    plain = list(MelSource(spec).frames(EvaluationSet.of([world.shards]), ["mel"]))
    assert all(s.phones == () and s.text == f"say {s.utterance_id}" for s in plain)

    from sqvae_speech.evaluation.sets import _relabelled

    utterance = next(iter(iterate_utterances(world.shards)))
    trimmed = replace(utterance, meta={**utterance.meta, "part": [0.01, 0.03]})
    meta = _relabelled(trimmed, replace(data.utterances[0], ali=ali)).meta
    assert meta["ali"] == [Interval(0.0, 0.01, "a"), Interval(0.01, 0.02, "b")]

    DataDir(data.utterances[:2]).write(tmp_path / "few")
    with pytest.raises(UserError, match=r"utterance 'bob-1' .* is not in"):
        list(EvaluationSet.of([world.shards], [tmp_path / "few"]))
    with pytest.raises(UserError, match=r"'ann-1' .* comes twice"):
        list(EvaluationSet.of([world.shards, world.shards]))


def test_a_part_of_a_set_is_spread_over_it(world):
    whole = [utterance.utterance_id for utterance in EvaluationSet.of([world.shards])]
    chosen = EvaluationSet.of([world.shards]).at_most(4)
    assert [utterance.utterance_id for utterance in chosen] == whole[::2], "of six, every second"
    assert [utterance.utterance_id for utterance in chosen] == whole[::2], "and again"
    assert len(list(chosen.at_most(100))) == len(whole)


def test_intervals_that_spell_the_transcript_are_words(world):
    utterance = next(iter(iterate_utterances(world.shards)))
    ali = [(0.0, 0.2, "SIL"), (0.2, 0.3, "Two"), (0.3, 0.4, "words")]
    for text, are_words in (("two words.", True), ("two other words", False), (None, False)):
        labelled = replace(utterance, meta={**utterance.meta, "ali": ali, "text": text})
        (sequence,) = MelSource(world.bundle.mel_spec).frames([labelled], ["mel"])
        assert sequence.words == (tuple(Interval(*one) for one in ali) if are_words else ())
        assert sequence.phones == (() if are_words else tuple(Interval(*one) for one in ali))


def test_kmeans(world):
    source = ModelSource(world.bundle)
    one = fit_kmeans(source, EvaluationSet.of([world.shards]), 8, seed=3)
    two = fit_kmeans(source, EvaluationSet.of([world.shards]), 8, seed=3)
    np.testing.assert_array_equal(one.centroids, two.centroids)
    assert not np.allclose(one.centroids, fit_kmeans(source, EvaluationSet.of([world.shards]), 8, seed=4).centroids)
    sampled = fit_kmeans(source, EvaluationSet.of([world.shards]), 8, max_frames=20)
    assert sampled.description["training_frames"] == 20
    latents = list(source.frames(iterate_utterances(world.shards), ["latents"]))
    for frames, clusters in zip(latents, one.frames(iterate_utterances(world.shards), ["quantized"]), strict=True):
        distances = ((frames.kind("latents").astype(np.float64)[:, None] - one.centroids) ** 2).sum(axis=2)
        np.testing.assert_array_equal(clusters.codes[0], distances.argmin(axis=1))
        np.testing.assert_allclose(clusters.kind("quantized"), one.centroids[clusters.codes[0]], rtol=1e-6)
        np.testing.assert_array_equal(clusters.times, frames.times)
    # far from the origin too
    np.testing.assert_array_equal(
        nearest_centroids(np.array([[1e6 + 1], [1e6]]), np.array([[1e6], [1e6 + 1]])), [1, 0]
    )
    error = sum(
        float(((f.kind("latents") - c.kind("quantized")) ** 2).sum())
        for f, c in zip(latents, one.frames(iterate_utterances(world.shards), ["quantized"]), strict=True)
    )
    everything = np.concatenate([f.kind("latents") for f in latents])
    assert error < 0.7 * float(((everything - everything.mean(axis=0)) ** 2).sum())
    mel = KMeansSource(MelSource(world.bundle.mel_spec), np.zeros((4, 80)))
    assert (mel.name, mel.codebook_size) == ("k-means 4 on log-mel", 4)
    with pytest.raises(UserError, match="--clusters 9999"):
        fit_kmeans(source, EvaluationSet.of([world.shards]), 9999)


def phones(*labels, gap_after=None):
    """Of 0.1 s each."""
    intervals, time = [], 0.0
    for label in labels:
        intervals.append(Interval(round(time, 3), round(time + 0.1, 3), label))
        time += 0.1 + (0.05 if label == gap_after else 0)
    return FrameSequence("u", "s", time, np.zeros(1), 0.02, phones=tuple(intervals), text="Five")


def test_items_of_phones_and_words():
    items = phone_items([phones("SIL", "a", "b", "c", "SIL", "d")])
    assert [(i.label, i.previous, i.next, i.onset, i.offset) for i in items] == [
        ("a", "SIL", "b", 0.1, 0.2),
        ("b", "a", "c", 0.2, 0.3),
        ("c", "b", "SIL", 0.3, 0.4),
        ("d", "SIL", "SIL", 0.5, 0.6),
    ]
    assert phone_items([phones("a", "b", "c", gap_after="a")])[1].previous == "SIL"
    triphones = phone_items([phones("SIL", "a", "b", "c", "SIL", "d")], "triphone")
    assert triphones == [Item("u", 0.1, 0.4, "b", "a", "c", "s")]
    words = word_items([phones("SIL", "a", "b", "SIL"), replace(phones("a"), text="two words")])
    assert words == [Item("u", 0.1, 0.3, "five", "SIL", "SIL", "s")]
    assert word_items([replace(phones(), text="SIX")])[0].offset == 0.0
    words = (Interval(0.0, 0.2, "Two"), Interval(0.2, 0.3, "SIL"), Interval(0.3, 0.4, "words"))
    assert [item.label for item in word_items([replace(phones(), words=words)])] == ["two", "words"]
    with pytest.raises(UserError, match="no span 'triphon', did you mean 'triphone'"):
        phone_items([], "triphon")


def test_item_files(tmp_path):
    items = phone_items([phones("a", "b", "c")])
    write_items(tmp_path / "x.item", items)
    assert (
        (tmp_path / "x.item")
        .read_text()
        .startswith("#file onset offset #phone prev-phone next-phone speaker\nu 0.000000")
    )
    assert read_items(tmp_path / "x.item") == items
    for line, message in (
        ("u 0 1 a b c", r"x.item:2: 6 columns"),
        ("u 1 1 a b c s", r"x.item:2: 1 to 1 is no interval"),
        ("u x 1 a b c s", r"x.item:2: x to 1 is no interval"),
        ("", "lists no items"),
    ):
        (tmp_path / "x.item").write_text(f"header\n{line}\n")
        with pytest.raises(UserError, match=message):
            read_items(tmp_path / "x.item")
