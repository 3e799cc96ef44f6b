"""Several codebooks from end to end: extraction, store, scores and conversion of a residual and a grouped model."""

import numpy as np
import pytest
import torch
from units_world import SPEAKERS, make_model, make_world

from sqvae_speech.audio.vocoder import load_vocoder
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.reader import iterate_utterances
from sqvae_speech.evaluation.scores import score_shards
from sqvae_speech.units.convert_voice import speak_units
from sqvae_speech.units.extract import encode_shards
from sqvae_speech.units.store import read_units


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    ("settings", "codebooks"),
    [({"num_quantizers": 3}, 3), ({"kind": "vq", "num_groups": 2, "num_quantizers": 2}, 4)],
    ids=["residual", "grouped residual"],
)
def test_extraction_scores_and_conversion(world, tmp_path, settings, codebooks):
    bundle = make_model(tmp_path / "model", codebook_size=16, **settings)
    model = bundle.model
    assert model.num_codebooks == codebooks
    encode_shards(bundle, world.shards, tmp_path / "units.parquet", progress=False)
    store = read_units(tmp_path / "units.parquet")
    assert store.meta.num_codebooks == codebooks
    utterances = {u.utterance_id: u for u in iterate_utterances(ShardIndex.load(world.shards))}
    squared_error, values = 0.0, 0
    chosen = np.zeros((codebooks, 16))
    for units in store:
        mel = torch.from_numpy(np.asarray(utterances[units.utterance_id].mel, dtype=np.float32))[None]
        if mel.shape[-1] < 4:
            assert units.codes.shape == (codebooks, 0)
            continue
        encoded = model.encode(mel)
        np.testing.assert_array_equal(units.codes, encoded.codes[0].numpy())
        speaker = torch.tensor([bundle.speakers.index(utterances[units.utterance_id].speaker)])
        reconstruction, target, _ = model.reconstruct(mel, speaker)
        squared_error += (reconstruction - target).double().square().sum().item()
        values += target.numel()
        for number, codes in enumerate(units.codes):
            chosen[number] += np.bincount(codes, minlength=16)
    scores = score_shards(bundle, world.shards, progress=False)
    assert scores.error is not None
    np.testing.assert_array_equal(scores.counts, chosen)
    assert scores.codebook.used == (chosen > 0).sum()
    assert scores.codebook.codebook_size == 16 * codebooks
    frequencies = chosen / chosen.sum(axis=1, keepdims=True)
    entropies = [-(row[row > 0] * np.log(row[row > 0])).sum() for row in frequencies]
    assert scores.codebook.perplexity == pytest.approx(np.exp(entropies).mean())
    longest = max(store, key=lambda units: units.codes.shape[1])
    vocoder = load_vocoder("griffin_lim", bundle.mel_spec)
    spoken = speak_units(bundle, longest, SPEAKERS[0], vocoder)
    assert np.abs(spoken.wav).max() > 0
    decoded = model.decode(torch.from_numpy(longest.codes.T.copy())[None], torch.tensor([0]))
    np.testing.assert_allclose(spoken.mel, decoded[0].numpy(), atol=1e-5)
