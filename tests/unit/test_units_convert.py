"""Conversion: any source, to a trained speaker, at the source's level, with a log of what was done."""

import json

import numpy as np
import pytest
import soundfile
import torch
from units_world import SECONDS, SPEAKERS, make_model, make_world, voice

from sqvae_speech.audio.loudness import active_level, integrated_loudness
from sqvae_speech.audio.vocoder import GriffinLim, load_vocoder
from sqvae_speech.data.reader import iterate_utterances
from sqvae_speech.errors import UserError
from sqvae_speech.units.convert_files import (
    Source,
    convert_files,
    plan_conversions,
    read_pairs,
    shard_sources,
    unit_sources,
    wav_sources,
)
from sqvae_speech.units.convert_voice import convert_voice, require_units_of, speak_units, speaker_index
from sqvae_speech.units.extract import encode_shards, store_meta
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate
from sqvae_speech.units.store import UnitStoreMeta, read_units


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("convert"))


@pytest.fixture(scope="module")
def vocoder(world):
    return GriffinLim(world.bundle.mel_spec, n_iter=3)  # how it sounds is not the matter here


def test_converted_mel_is_the_decoder_s_and_units_speak_the_same(world, vocoder, tmp_path):
    utterance = next(iter(iterate_utterances(world.shards)))
    result = convert_voice(world.bundle, utterance.mel, "bob", vocoder, utterance.peak)
    model = world.bundle.model
    with torch.no_grad():
        indices = model.encode(torch.from_numpy(utterance.mel)[None]).indices
        expected = model.decode(indices, torch.tensor([SPEAKERS.index("bob")]))[0].numpy()
    np.testing.assert_allclose(result.mel, expected, atol=1e-5)
    assert result.mel.shape == (80, 2 * indices.shape[1])
    assert result.wav.dtype == np.float32
    assert len(result.wav) == world.bundle.mel_spec.num_samples(result.mel.shape[1])
    assert np.isfinite(result.wav).all()
    assert result.wav.std() > 1e-4  # quiet, since nobody trained the decoder

    other = convert_voice(world.bundle, utterance.mel, "ann", vocoder, utterance.peak)
    assert np.abs(other.mel - result.mel).max() > 1e-3
    units = UtteranceUnits("u", indices.numpy(), peak=utterance.peak)
    for stored in (units, deduplicate(units)):
        spoken = speak_units(world.bundle, stored, "bob", vocoder)
        np.testing.assert_allclose(spoken.mel, result.mel, atol=1e-5)
        np.testing.assert_allclose(spoken.wav, result.wav, atol=1e-3)


def test_the_level_follows_the_peak(world, vocoder):
    mel = next(iter(iterate_utterances(world.shards))).mel
    loud = convert_voice(world.bundle, mel, "bob", vocoder, 0.4).wav
    quiet = convert_voice(world.bundle, mel, "bob", vocoder, 0.04).wav
    np.testing.assert_allclose(loud, 10 * quiet, atol=1e-4 * np.abs(loud).max())


def test_unknown_speaker_and_too_short_a_source(world, vocoder):
    message = r"'bobb' was not trained, did you mean 'bob'\? \(trained: ann, bob, eve\).*any source, seen target"
    with pytest.raises(UserError, match=message):
        convert_voice(world.bundle, np.zeros((80, 20), np.float32), "bobb", vocoder)
    with pytest.raises(UserError, match=r"3 frames are too few: a unit needs 4 \(40 ms\)"):
        convert_voice(world.bundle, np.zeros((80, 3), np.float32), "bob", vocoder)
    with pytest.raises(UserError, match="u has no units"):
        speak_units(world.bundle, UtteranceUnits("u", np.zeros((1, 0), int)), "bob", vocoder)
    assert speaker_index(SPEAKERS, "eve") == 2


def test_units_of_another_model_are_refused_with_both_values(world, tmp_path):
    meta = store_meta(world.bundle)
    require_units_of(world.bundle, meta, "a.parquet")
    require_units_of(world.bundle, UnitStoreMeta(32), "a.km")  # a text form does not say more
    other = make_model(tmp_path / "k16", codebook_size=16)
    with pytest.raises(UserError, match=r"a\.parquet has codebook_size 32, the checkpoint has codebook_size 16"):
        require_units_of(other, meta, "a.parquet")
    melgan = make_model(tmp_path / "melgan", "melgan22k")
    with pytest.raises(UserError, match=r"hop_length: 256 in the checkpoint, 160 in a\.parquet"):
        require_units_of(melgan, meta, "a.parquet")
    seed = make_model(tmp_path / "seed", seed=1)
    with pytest.raises(UserError, match=f"{world.bundle.fingerprint[:12]}, and this one is {seed.fingerprint[:12]}"):
        require_units_of(seed, meta, "a.parquet")


def test_shards_to_every_other_speaker(world, vocoder, tmp_path):
    sources = shard_sources(world.shards, world.bundle.mel_spec)
    assert [source.utterance_id for source in sources] == list(SECONDS)
    plan = plan_conversions(sources, SPEAKERS, to_self=False, maximum=3)
    log = convert_files(world.bundle, plan, vocoder, tmp_path / "out", progress=False)
    num_frames = {u.utterance_id: u.mel.shape[1] for u in iterate_utterances(world.shards)}
    assert [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()] == log
    assert [(line["source_speaker"], line["target_speaker"]) for line in log] == [
        ("ann", "bob"),
        ("bob", "eve"),
        ("eve", "ann"),
    ]
    for line in log:
        wav, rate = soundfile.read(tmp_path / "out" / line["wav"])
        assert rate == 16_000
        assert len(wav) / rate == pytest.approx(line["seconds"], abs=1e-4)
        assert line["seconds"] == pytest.approx(SECONDS[line["utterance_id"]], abs=0.04)
        assert 0 < np.abs(wav).max() <= 1
        assert (tmp_path / "out" / line["plot"]).read_bytes()[1:4] == b"PNG"
        assert line["units"] == (num_frames[line["utterance_id"]] - 2) // 2
        assert line["start"] == 0.01, "the encoder's first convolution takes a frame of 10 ms at each end"
        assert line["source_seconds"] == pytest.approx(SECONDS[line["utterance_id"]], abs=1e-4)
        assert line["checkpoint"] == world.bundle.fingerprint
        assert line["vocoder"] == "GriffinLim"
        assert line["faults"] == []
    assert len(list((tmp_path / "out").iterdir())) == 7


def test_a_result_is_as_loud_as_its_source(world, vocoder, tmp_path):
    """From shards: as the source's log-mel through the same vocoder; from a recording: as the recording."""
    plan = plan_conversions(shard_sources(world.shards, world.bundle.mel_spec)[:2], ["bob"])
    wavs = [world.root / "wavs" / "ann-1.wav", world.root / "wavs" / "ann-2.wav"]
    plan_of_wavs = plan_conversions(wav_sources(wavs, world.bundle.mel_spec), ["bob"])
    for name, conversions in (("shards", plan), ("wavs", plan_of_wavs)):
        log = convert_files(
            world.bundle, conversions, vocoder, tmp_path / name, plots=False, progress=False, vocoder_name="x"
        )
        assert [line["level"]["measure"].split()[0] for line in log] == ["LUFS", "dB"], "0.61 s and 0.2 s"
        assert {line["vocoder"] for line in log} == {"x"}
        for line, path in zip(log, wavs, strict=True):
            made, _ = soundfile.read(tmp_path / name / line["wav"])
            if name == "wavs":
                reference, _ = soundfile.read(path)
                assert line["source"] == str(path)
            else:
                utterance = next(
                    u for u in iterate_utterances(world.shards) if u.utterance_id == line["utterance_id"]
                )
                reference = vocoder.vocode(torch.from_numpy(utterance.mel), peak=utterance.peak).numpy()
                assert line["source"] is None
            measured = integrated_loudness if line["utterance_id"] == "ann-1" else active_level
            limited = line["level"]["limited"]
            assert measured(made, 16_000) == pytest.approx(measured(reference, 16_000) - limited, abs=0.1)
            assert line["level"]["converted"] == pytest.approx(line["level"]["source"] - limited, abs=0.02)


class Broken(GriffinLim):
    """A vocoder that spoils its wavs."""

    def __init__(self, mel_spec, spoil):
        super().__init__(mel_spec, n_iter=1)
        self.spoil = spoil

    def vocode(self, mel, peak=None, lengths=None):
        return self.spoil(super().vocode(mel, peak, lengths))


def with_nan(wav):
    return torch.where(torch.arange(len(wav)) == 5, torch.nan, wav)


@pytest.mark.parametrize(
    ("spoil", "fault", "written"),
    [
        (lambda wav: wav[:-200], "samples, and should have", True),
        (lambda wav: wav * 0, "it is silent", True),
        (with_nan, "1 of 9440 samples are NaN", False),
    ],
)
def test_every_wav_is_checked(world, tmp_path, caplog, spoil, fault, written):
    sources = shard_sources(world.shards, world.bundle.mel_spec)[:1]
    vocoder = Broken(world.bundle.mel_spec, spoil)
    log = convert_files(world.bundle, [(sources[0], "bob")], vocoder, tmp_path, plots=False, progress=False)
    assert len(log[0]["faults"]) == 1
    assert fault in log[0]["faults"][0]
    assert f"ann-1-to-bob.wav: {log[0]['faults'][0]}" in caplog.text
    assert (log[0]["wav"] is not None) == written == (tmp_path / "ann-1-to-bob.wav").exists()
    assert json.loads((tmp_path / "log.jsonl").read_text()) == log[0]


def test_pairs_of_a_file(tmp_path):
    sources = [Source(f"{speaker}-{n}", speaker, lambda: None) for speaker in "ab" for n in range(2)]
    path = tmp_path / "pairs"
    path.write_text("# source target\nb-1 a\n\na-0  b\nb-1 b\n")
    plan = [(source.utterance_id, target) for source, target in read_pairs(path, sources, "ab")]
    assert plan == [("a-0", "b"), ("b-1", "a"), ("b-1", "b")]
    for text, message in (
        ("a-0 b\na-0\n", r"pairs:2: 'a-0' should be 'SOURCE-UTTERANCE TARGET-SPEAKER'"),
        ("a-7 b\n", r"pairs:1: no source is called 'a-7', did you mean 'a-"),
        ("a-0 c\n", r"pairs:1: speaker 'c' was not trained"),
        ("a-0 b\nb-0 a\na-0 b\n", r"pairs:3: 'a-0 b' is on line 1 already"),
        ("# nothing\n", "lists no pair"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_pairs(path, sources, "ab")


def test_the_plan_spreads_over_pairs():
    sources = [Source(f"{speaker}-{n}", speaker, lambda: None) for speaker in "abc" for n in range(3)]

    def pairs(plan):
        return [(source.utterance_id, target) for source, target in plan]

    everything = pairs(plan_conversions(sources, "ab"))
    assert everything == [(source.utterance_id, target) for source in sources for target in "ab"]
    assert pairs(plan_conversions(sources, "abc", to_self=False, maximum=3)) == [
        ("a-0", "b"),
        ("b-0", "c"),
        ("c-0", "a"),
    ]
    assert pairs(plan_conversions(sources, "ab", to_self=False, maximum=5)) == [
        ("a-0", "b"),
        ("b-0", "a"),
        ("c-0", "a"),
        ("c-0", "b"),
        ("c-1", "a"),
    ]
    assert pairs(plan_conversions(sources, "b", maximum=4)) == [
        ("a-0", "b"),
        ("a-1", "b"),
        ("b-0", "b"),
        ("c-0", "b"),
    ]
    assert len(plan_conversions(sources, "ab", to_self=False)) == 3 + 3 + 6


def test_recordings_of_strangers_at_any_rate(world, vocoder, tmp_path):
    soundfile.write(tmp_path / "stranger.flac", voice(0.3, 5, 44_100), 44_100)
    sources = wav_sources([tmp_path / "stranger.flac"], world.bundle.mel_spec)
    log = convert_files(
        world.bundle, plan_conversions(sources, ["eve"]), vocoder, tmp_path / "out", plots=False, progress=False
    )
    assert log[0]["source_speaker"] is None
    assert log[0]["plot"] is None
    assert log[0]["seconds"] == pytest.approx(0.3, abs=0.04)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"stranger-to-eve.wav", "log.jsonl"}


def test_recordings_that_cannot_be_used(world, vocoder, tmp_path):
    spec = world.bundle.mel_spec
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "stereo.wav", np.zeros((8000, 2)) + 0.1, 16_000)
    soundfile.write(tmp_path / "short.wav", voice(0.02, 0), 16_000)
    soundfile.write(tmp_path / "a" / "short.wav", voice(0.3, 0), 16_000)
    (tmp_path / "text.wav").write_text("no")
    with pytest.raises(UserError, match=r"missing\.wav"):
        wav_sources([tmp_path / "missing.wav"], spec)
    with pytest.raises(UserError, match=r"text\.wav"):
        wav_sources([tmp_path / "text.wav"], spec)
    with pytest.raises(UserError, match="called 'short'"):
        wav_sources([tmp_path / "short.wav", tmp_path / "a" / "short.wav"], spec)
    for name, message in (("stereo.wav", "stereo.wav.*channel"), ("short.wav", "short")):
        plan = plan_conversions(wav_sources([tmp_path / name], spec), ["eve"])
        with pytest.raises(UserError, match=message):
            convert_files(world.bundle, plan, vocoder, tmp_path / "out", progress=False)
    plan = plan_conversions(wav_sources([tmp_path / "stereo.wav"], spec, channel="mix"), ["eve"])
    assert len(convert_files(world.bundle, plan, vocoder, tmp_path / "out", plots=False, progress=False)) == 1


def test_a_stored_split_is_spoken(world, vocoder, tmp_path):
    encode_shards(world.bundle, world.shards, tmp_path / "u.parquet", deduplicated=True, progress=False)
    sources = unit_sources(read_units(tmp_path / "u.parquet"))
    plan = plan_conversions(sources, ["ann"], maximum=2)
    log = convert_files(world.bundle, plan, vocoder, tmp_path / "out", plots=False, progress=False)
    direct = convert_voice(world.bundle, plan_source(world, log[1]), "ann", vocoder, log[1]["peak"]).wav
    wav, _ = soundfile.read(tmp_path / "out" / log[1]["wav"])
    np.testing.assert_allclose(wav, direct, atol=2e-3)


def plan_source(world, line):
    return next(u.mel for u in iterate_utterances(world.shards) if u.utterance_id == line["utterance_id"])


def test_sources_and_vocoders_of_another_spec_are_refused(world, tmp_path):
    melgan = make_model(tmp_path / "melgan", "melgan22k")
    with pytest.raises(UserError, match="sample_rate: 22050 in the checkpoint, 16000 in the shards"):
        shard_sources(world.shards, melgan.mel_spec)
    wrong = load_vocoder("griffin_lim", melgan.mel_spec)
    with pytest.raises(UserError, match="16000 in the checkpoint, 22050 in the vocoder"):
        convert_files(world.bundle, [], wrong, tmp_path, progress=False)
