"""Posterior columns: against the posterior itself, the same from every source, drawn as the posterior says."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from scipy import stats
from units_world import SECONDS, make_model, make_world

from sqvae_speech.bin.main import main
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.data.reader import UtteranceMel, iterate_utterances
from sqvae_speech.errors import UserError
from sqvae_speech.models import wavs
from sqvae_speech.tokenizer import SpeechTokenizer
from sqvae_speech.units import soft as soft_module
from sqvae_speech.units.extract import encode_shards, extract_units
from sqvae_speech.units.f0 import F0
from sqvae_speech.units.soft import SoftUnits, soft_columns
from sqvae_speech.units.store import read_units

COLUMNS = ("codes", "entropy", "top_codes", "top_probabilities", "samples", "f0")
ALL = SoftUnits(entropy=True, top_k=3, sample_seeds=(4, 0))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("soft"))


@pytest.mark.parametrize(
    "settings",
    [{}, {"covariance": "sample"}, {"num_quantizers": 2}, {"kind": "vq", "num_groups": 2}, {"kind": "vmf"}],
    ids=str,
)
def test_columns_are_those_of_the_posterior(world, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(soft_module, "_BLOCK", 7)  # so that utterances have several
    bundle = make_model(tmp_path, codebook_size=16, **settings)
    model, books = bundle.model, bundle.model.num_codebooks
    utterances = [one for one in iterate_utterances(world.shards) if one.mel.shape[1] >= 4]
    for utterance, units in zip(utterances, extract_units(bundle, utterances, soft=ALL), strict=True):
        mel = torch.from_numpy(utterance.mel)[None]
        p = model.posterior(mel)[0].double().numpy().reshape(units.num_units, books, 16).transpose(1, 0, 2)
        np.testing.assert_array_equal(units.codes, model.encode(mel).codes[0].numpy())
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.nansum(p * np.log(p), axis=-1)
        np.testing.assert_allclose(units.entropy, entropy, atol=2e-5)
        np.testing.assert_allclose(units.top_probabilities, -np.sort(-p, axis=-1)[..., :3], atol=2e-5)
        np.testing.assert_allclose(np.take_along_axis(p, units.top_codes, -1), units.top_probabilities, atol=2e-5)
        assert units.samples.shape == (2, books, units.num_units)
        if settings.get("kind") == "vq":
            np.testing.assert_array_equal(units.samples[0], units.codes)  # its posterior is one-hot
        alone = next(iter(extract_units(bundle, [utterance], soft=SoftUnits(sample_seeds=(0,)))))
        np.testing.assert_array_equal(alone.samples[0], units.samples[1])


def test_draws_follow_the_posterior_and_not_one_another(world):
    """Chi-squared over 2,000 seeds of one unit; the seeds are the only thing that differs."""
    quantizer = world.bundle.model.quantizer
    z = quantizer.codebook[:1].detach() * 0.5
    log_var = torch.full_like(z, -0.5)
    posterior = quantizer.posterior(z[None], log_var[None])[0, 0].detach().double().numpy()
    wanted = SoftUnits(sample_seeds=tuple(range(2000)))
    drawn = soft_columns(world.bundle.model, z, log_var, "a", wanted)["samples"][:, 0, 0]
    counts = np.bincount(drawn, minlength=len(posterior))
    likely = posterior * 2000 >= 5
    observed = np.append(counts[likely], counts[~likely].sum())
    expected = np.append(posterior[likely], max(posterior[~likely].sum(), 1e-9))
    assert likely.sum() >= 3
    assert stats.chisquare(observed, expected / expected.sum() * 2000).pvalue > 1e-3
    other = soft_columns(world.bundle.model, z, log_var, "b", wanted)["samples"][:, 0, 0]
    agree, chance = (drawn == other).mean(), (posterior**2).sum()
    assert abs(agree - chance) < 5 * np.sqrt(chance * (1 - chance) / 2000)


def same_columns(one, two, tolerance=2e-5) -> None:
    for name in COLUMNS:
        first, second = getattr(one, name), getattr(two, name)
        assert (first is None) == (second is None), name
        if first is not None:
            np.testing.assert_allclose(first, second, atol=tolerance, err_msg=f"{one.utterance_id} {name}")


def test_shards_data_directory_and_wavs_give_the_same(world, tmp_path, capsys):
    data = str(world.root / "data" / "test")
    sources = {
        "shards": ["--shards", str(world.shards), "--recordings", data],
        "data": ["--data-dir", data],
        "wavs": [str(world.root / "wavs" / f"{name}.wav") for name in SECONDS],
    }
    stores = {}
    for name, source in sources.items():
        path = str(tmp_path / f"{name}.parquet")
        argv = ["encode", *source, "--model", str(world.model), "--output", path, "--device", "cpu", "--quiet"]
        assert main([*argv, "--f0", "--entropy", "--top-k", "3", "--sample-units", "4,0"]) == 0
        stores[name] = read_units(path)
        assert stores[name].meta == stores["shards"].meta
    assert stores["data"].meta.f0 == {"method": "pyin", "minimum": 65.0, "maximum": 400.0}
    assert stores["data"].meta.sample_seeds == (4, 0)
    assert stores["data"].ids == list(SECONDS)
    for units in stores["data"]:
        assert units.num_samples == round(SECONDS[units.utterance_id] * 16_000)
        same_columns(units, stores["wavs"][units.utterance_id])
        same_columns(units, stores["shards"][units.utterance_id], tolerance=1e-3)  # float32 mels
        assert stores["shards"][units.utterance_id].num_samples == units.num_samples
    assert max(units.f0.max() for units in stores["data"]) > 80


def test_a_long_recording_is_the_same_in_pieces(world, tmp_path, monkeypatch):
    tokenizer = SpeechTokenizer(world.bundle)
    path = str(world.root / "wavs" / "ann-1.wav")
    argv = ["encode", path, "--model", str(world.model), "--entropy", "--top-k", "2", "--sample-units", "1"]
    assert main([*argv, "--output", str(tmp_path / "whole.parquet")]) == 0
    monkeypatch.setattr(wavs, "LONG_SECONDS", 0.1)
    assert main([*argv, "--output", str(tmp_path / "pieces.parquet")]) == 0
    one, two = (read_units(tmp_path / f"{name}.parquet")["ann-1"] for name in ("whole", "pieces"))
    same_columns(one, two)
    np.testing.assert_array_equal(one.codes, tokenizer.encode(path)[0].numpy())


def test_deduplicated_columns(world, tmp_path):
    data = str(world.root / "data" / "test")
    argv = ["encode", "--data-dir", data, "--model", str(world.model), "--quiet", "--f0", "--entropy"]
    assert main([*argv, "--output", str(tmp_path / "a.parquet")]) == 0
    assert main([*argv, "--output", str(tmp_path / "b.parquet"), "--deduplicate"]) == 0
    for full, short in zip(read_units(tmp_path / "a.parquet"), read_units(tmp_path / "b.parquet"), strict=True):
        ends = np.cumsum(short.durations)
        for run, (start, end) in enumerate(zip(ends - short.durations, ends, strict=True)):
            assert short.entropy[0, run] == pytest.approx(full.entropy[0, start:end].mean(), rel=1e-5)
            voiced = full.f0[start:end][full.f0[start:end] > 0]
            assert short.f0[run] == pytest.approx(voiced.mean() if len(voiced) else 0.0, rel=1e-5)


def test_an_utterance_without_units_has_empty_columns(world, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.full(300, 0.1), 16_000)
    argv = ["encode", str(tmp_path / "short.wav"), "--model", str(world.model), "--f0", "--entropy", "--top-k", "2"]
    assert main([*argv, "--sample-units", "1", "--output", str(tmp_path / "a.parquet")]) == 0
    (units,) = list(read_units(tmp_path / "a.parquet"))
    assert (units.f0.shape, units.entropy.shape) == ((0,), (1, 0))
    assert (units.top_codes.shape, units.samples.shape) == ((1, 0, 2), (1, 1, 0))


def test_mels_too_short_for_a_unit(world):
    short = UtteranceMel("s", "ann", np.zeros((80, 3), np.float32), 0.5, {})
    (units,) = list(extract_units(world.bundle, [short], soft=ALL))
    assert (units.top_codes.shape, units.samples.shape) == ((1, 0, 3), (2, 1, 0))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-k", "33"], "--top-k 33; legal is 0 to the 32 codes of the model"),
        (["--top-k", "-1"], "--top-k -1"),
        (["--sample-units", "1,1"], "--sample-units 1,1; legal are whole numbers from 0, each once"),
        (["--sample-units", "1,x"], "--sample-units 1,x"),
        (["--top-k", "2", "--deduplicate"], "are of single steps, which --deduplicate collapses"),
        (["--f0", "--f0-range", "400", "65"], "--f0-range 400 65; legal is 20 to 4000 Hz"),
        (["--f0"], "--f0 with --shards needs --recordings"),
        (["--f0", "--recordings", "{root}/nowhere"], "nowhere does not exist"),
    ],
)
def test_mistakes_are_one_message(world, tmp_path, capsys, words, message):
    argv = ["encode", "--shards", str(world.shards), "--model", str(world.model), "--quiet", "--output"]
    assert main([*argv, str(tmp_path / "u.parquet"), *(word.format(root=world.root) for word in words)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_columns_need_a_store(world, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["encode", str(world.root / "wavs" / "ann-1.wav"), "--model", str(world.model), "--entropy"])
    assert raised.value.code == 2
    assert "--entropy is a column of a store: give --output" in capsys.readouterr().err
    with pytest.raises(SystemExit) as raised:
        main(["encode", "--data-dir", "x", "--model", "y", "--output", "z.parquet", "--f0", "--recordings", "x"])
    assert raised.value.code == 2
    assert "--recordings is for --f0 with --shards" in capsys.readouterr().err


def test_recordings_that_are_not_those_of_the_shards(world, tmp_path):
    data = DataDir.read(world.root / "data" / "test")
    other = tmp_path / "ann-1.wav"
    soundfile.write(other, np.full(9_000, 0.1), 16_000)
    changed = [
        replace(one, wav=str(other), duration=None) if one.utterance_id == "ann-1" else replace(one, duration=None)
        for one in data.utterances
    ]
    DataDir(changed).write(tmp_path / "data")
    options = {"f0": F0(), "progress": False}
    with pytest.raises(UserError, match="makes 9000 samples, and the shards were made from 9760"):
        encode_shards(world.bundle, world.shards, tmp_path / "u.parquet", recordings=tmp_path / "data", **options)
    DataDir(changed[1:]).write(tmp_path / "less")
    with pytest.raises(UserError, match="has no utterance 'ann-1'"):
        encode_shards(world.bundle, world.shards, tmp_path / "u.parquet", recordings=tmp_path / "less", **options)
