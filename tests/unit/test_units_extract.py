"""Extraction: every utterance once, in manifest order, the same codes in any batch, to every file asked for."""

import numpy as np
import pytest
import torch
from units_world import SECONDS, make_model, make_world

from sqvae_speech.data.reader import UtteranceMel, iterate_utterances
from sqvae_speech.errors import UserError
from sqvae_speech.units import batches
from sqvae_speech.units.batches import choose_device, in_order
from sqvae_speech.units.extract import encode_shards, extract_units, min_frames
from sqvae_speech.units.formats import read_format
from sqvae_speech.units.sequences import expand
from sqvae_speech.units.store import read_units


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("extract"))


@pytest.mark.parametrize(("max_frames", "window"), [(16_000, 16), (70, 1), (1, 1)])
def test_batches_give_what_single_utterances_give(world, monkeypatch, max_frames, window):
    monkeypatch.setattr(batches, "WINDOW_BATCHES", window)
    utterances = list(iterate_utterances(world.shards))
    units = list(extract_units(world.bundle, utterances, max_frames=max_frames))
    assert [u.utterance_id for u in units] == list(SECONDS)
    for utterance, got in zip(utterances, units, strict=True):
        with torch.no_grad():
            alone = world.bundle.model.encode(torch.from_numpy(utterance.mel)[None]).indices
        np.testing.assert_array_equal(got.codes, alone.numpy())
        assert got.num_frames == utterance.mel.shape[1]
        assert got.codes.shape == (1, (got.num_frames - 2) // 2)
        assert (got.speaker, got.text, got.peak) == (utterance.speaker, f"say {got.utterance_id}", utterance.peak)
    assert len(np.unique(np.concatenate([u.codes[0] for u in units]))) > 5  # or equality would say little


def test_shards_to_a_store_and_text_forms(world, tmp_path):
    output = tmp_path / "units" / "test.parquet"
    files = encode_shards(world.bundle, world.shards, output, formats=["km", "gslm", "kaldi"], progress=False)
    names = {
        "test.parquet",
        "test.km",
        "test.ids",
        "dict.km.txt",
        "test.gslm",
        "code_dict",
        "test.kaldi",
        "units.txt",
    }
    names |= {"test.km.json", "test.gslm.json", "test.kaldi.json"}
    assert {file.name for file in files} == names == {file.name for file in output.parent.iterdir()}
    store = read_units(output)
    assert store.ids == list(SECONDS)
    assert (store.meta.codebook_size, store.meta.frame_rate) == (32, 50.0)
    assert store.meta.mel_spec == world.bundle.mel_spec.to_dict()
    assert store.meta.checkpoint == world.bundle.fingerprint
    for name in ("km", "gslm", "kaldi"):
        back = read_format(output.with_suffix(f".{name}"), codebook_size=32)
        assert {u.utterance_id: u.codes.tolist() for u in back} == {u.utterance_id: u.codes.tolist() for u in store}


def test_deduplicated_extraction_expands_to_the_same(world, tmp_path):
    encode_shards(world.bundle, world.shards, tmp_path / "a.parquet", progress=False)
    encode_shards(world.bundle, world.shards, tmp_path / "b.parquet", deduplicated=True, progress=False)
    short = read_units(tmp_path / "b.parquet")
    assert short.meta.deduplicated
    for full, runs in zip(read_units(tmp_path / "a.parquet"), short, strict=True):
        np.testing.assert_array_equal(expand(runs).codes, full.codes)
        assert not np.any(runs.codes[:, 1:] == runs.codes[:, :-1])


def test_an_utterance_too_short_for_a_unit_has_none(world, caplog):
    short = UtteranceMel("short", "ann", np.zeros((80, 3), np.float32), 0.5, {})
    good = next(iter(iterate_utterances(world.shards)))
    units = list(extract_units(world.bundle, [short, good, short]))
    assert [u.num_units for u in units] == [0, units[1].num_units, 0]
    assert units[1].num_units > 0
    assert units[0].codes.shape == (1, 0)
    assert "short: 3 frames are too few" in caplog.text
    assert min_frames(world.bundle.model) == 4


def test_features_of_another_spec_are_refused_with_both_values(world, tmp_path):
    other = make_model(tmp_path / "melgan", "melgan22k")
    with pytest.raises(UserError, match=r"sample_rate: 22050 in the checkpoint, 16000 in the shards of"):
        encode_shards(other, world.shards, tmp_path / "x.parquet", progress=False)
    assert not (tmp_path / "x.parquet").exists()


def test_an_unknown_form_is_refused_before_the_work(world, tmp_path):
    with pytest.raises(UserError, match="did you mean 'gslm'"):
        encode_shards(world.bundle, world.shards, tmp_path / "x.parquet", formats=["gsln"], progress=False)
    assert not (tmp_path / "x.parquet").exists()


def test_batches_stay_within_max_frames_and_read_ahead_is_bounded(monkeypatch):
    monkeypatch.setattr(batches, "WINDOW_BATCHES", 2)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 50, 100)
    read = 0

    def stream():
        nonlocal read
        for number, length in enumerate(lengths):
            read += int(length)
            yield UtteranceMel(str(number), "s", np.full((2, length), number, np.float32), 1.0, {})

    def process(batch):
        assert batch.mel.shape[0] * batch.mel.shape[2] <= 100
        for utterance, mel, length in zip(batch.utterances, batch.mel, batch.lengths, strict=True):
            assert torch.all(mel[:, :length] == int(utterance.utterance_id))
            assert torch.all(mel[:, length:] == 0)
        return [int(utterance.utterance_id) for utterance in batch.utterances]

    given = 0
    for number, (utterance, result) in enumerate(in_order(stream(), process, max_frames=100, min_frames=5)):
        assert utterance.utterance_id == str(number)
        assert result == (number if lengths[number] >= 5 else None)
        given += int(lengths[number])
        assert read - given <= 2 * 100 + 50
    assert number == 99


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="no device 'gpu0'"):
        choose_device("gpu0")
    if not torch.cuda.is_available():
        assert choose_device() == torch.device("cpu")
        with pytest.raises(UserError, match="--device cpu"):
            choose_device("cuda")
