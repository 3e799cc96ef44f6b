"""``SpeechTokenizer``: what goes in, what comes out, and that company changes nothing."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from units_world import SPEAKERS, make_model, voice

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.vocoder import GriffinLim
from sqvae_speech.audio.wav import resample
from sqvae_speech.errors import UserError
from sqvae_speech.models import wavs
from sqvae_speech.models.pretrained import load_speech_model
from sqvae_speech.tokenizer import SpeechTokenizer, Units
from sqvae_speech.units.extract import store_meta
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import store_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "model"
    make_model(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return SpeechTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("residual") / "model"
    make_model(folder, num_quantizers=3)
    return SpeechTokenizer.from_pretrained(folder)


def wav_of(seconds: float, seed: int = 0, sample_rate: int = 16_000) -> np.ndarray:
    return voice(seconds, seed, sample_rate).astype(np.float32)


def expected_codes(tokenizer: SpeechTokenizer, wav: np.ndarray) -> torch.Tensor:
    """By the model as it was trained, on the whole wav alone: (N, U)."""
    mel = LogMel(tokenizer.mel_spec)(torch.from_numpy(wav)[None]).mel
    return tokenizer.bundle.model.encode(mel).codes[0]


def test_properties(tokenizer, residual):
    assert (tokenizer.sample_rate, tokenizer.frame_rate) == (16_000, 50.0)
    assert (tokenizer.codebook_size, tokenizer.num_codebooks, residual.num_codebooks) == (32, 1, 3)
    assert tokenizer.speakers == SPEAKERS
    assert tokenizer.mel_spec == MelSpec.preset("sqvae16k")
    assert math.isclose(tokenizer.bitrate, 250.0)
    assert math.isclose(residual.bitrate, 750.0)
    assert "sqvae16k, 1 x 32 codes, 50 units/s, 3 speakers" in repr(tokenizer)


def test_units_are_typed_and_timed(tokenizer):
    wav = wav_of(1.0)
    units = tokenizer.encode(wav, 16_000)
    assert isinstance(units, Units)
    assert (units.codes.shape, units.codes.dtype) == ((1, 1, 49), torch.int64)
    assert torch.equal(units[0], expected_codes(tokenizer, wav))
    assert (units.lengths.tolist(), units.num_samples.tolist(), len(units)) == ([49], [16_000], 1)
    assert math.isclose(float(units.peaks[0]), np.abs(wav).max(), rel_tol=1e-6)
    # unit 0 stands for mel frames 1 and 2, centred on 10 and 20 ms
    torch.testing.assert_close(units.times[0], torch.tensor([0.005, 0.025], dtype=torch.float64))
    for unit in (0, 1, 48):
        span = torch.tensor(units.timing.span(unit), dtype=torch.float64) / 16_000
        torch.testing.assert_close(units.times[unit], span)
    torch.testing.assert_close(units.times[:, 0], 0.005 + 0.02 * torch.arange(49, dtype=torch.float64))
    with pytest.raises(AttributeError):
        units.codes = units.codes


def test_every_way_to_give_a_wav_gives_the_same(tokenizer, tmp_path):
    pair = np.stack([wav_of(0.5, 1), wav_of(0.5, 2)])
    paths = [tmp_path / "a.wav", tmp_path / "b.flac"]
    for path, wav in zip(paths, pair, strict=True):
        soundfile.write(path, wav, 16_000, subtype="PCM_24")
    pair = np.stack([soundfile.read(path, dtype="float32")[0] for path in paths])
    expected = torch.stack([expected_codes(tokenizer, wav) for wav in pair])
    ways = [
        (pair, 16_000),
        (pair.astype(np.float64), 16_000),
        (torch.from_numpy(pair), 16_000),
        (list(pair), 16_000),
        (tuple(torch.from_numpy(pair)), 16_000),
        (paths, None),
        ([str(paths[0]), pair[1]], 16_000.0),
    ]
    for wav, rate in ways:
        assert torch.equal(tokenizer.encode(wav, rate).codes, expected)
    padded = np.pad(pair, ((0, 0), (0, 999)), constant_values=0.5)
    for lengths in ([8_000, 8_000], torch.tensor([8_000, 8_000])):
        assert torch.equal(tokenizer.encode(padded, 16_000, lengths=lengths).codes, expected)
    assert torch.equal(tokenizer.encode(paths[1]).codes[0], expected[1])
    assert torch.equal(tokenizer.encode(torch.from_numpy(pair[0]).requires_grad_(), 16_000)[0], expected[0])


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_other_rates_are_resampled(tokenizer, tmp_path, rate):
    wav = wav_of(0.6, 1, rate)
    soundfile.write(tmp_path / "a.wav", wav, rate, subtype="FLOAT")
    expected = expected_codes(tokenizer, resample(wav, rate, 16_000))
    assert torch.equal(tokenizer.encode(wav, rate)[0], expected)
    assert torch.equal(tokenizer.encode(tmp_path / "a.wav")[0], expected)
    stream = tokenizer.stream(rate, level=tokenizer.level(wav, rate))
    parts = [*map(stream.push, np.array_split(wav, 20)), stream.finish()]
    assert torch.equal(torch.cat(parts, dim=1), expected)


def company(rng: np.random.Generator) -> list[np.ndarray]:
    count = int(rng.integers(1, 9))
    return [wav_of(float(rng.uniform(0.02, 0.8)), int(rng.integers(0, 5))) for _ in range(count)]


def check_company(tokenizer: SpeechTokenizer, rounds: int) -> int:
    rng, checked = np.random.default_rng(0), 0
    for _ in range(rounds):
        batch = company(rng)
        units = tokenizer.encode(batch, 16_000)
        assert units.codes.shape == (len(batch), tokenizer.num_codebooks, int(units.lengths.max()))
        for number, wav in enumerate(batch):
            if len(wav) >= 480:
                assert torch.equal(units[number], tokenizer.encode(wav, 16_000)[0])
                assert torch.equal(units[number], expected_codes(tokenizer, wav))
            assert not units.codes[number, :, int(units.lengths[number]) :].any()
            checked += int(units.lengths[number])
    return checked


@pytest.fixture(autouse=True)
def mixed_lengths(monkeypatch):
    """As on a GPU: batches of any lengths, which tell most about padding."""
    monkeypatch.setattr(wavs, "LEAST_FILLED", 0.0)


def test_batches_on_a_cpu_hold_little_padding(tokenizer, monkeypatch):
    batches = []
    read = wavs.WavReader._read_batch

    def spy(self, members, reader):
        batches.append([len(wav) for _, wav in members])
        return read(self, members, reader)

    monkeypatch.setattr(wavs, "LEAST_FILLED", 0.8)
    monkeypatch.setattr(wavs.WavReader, "_read_batch", spy)
    batch = [wav_of(seconds, 1) for seconds in (0.2, 1.0, 0.85, 0.5, 0.45, 0.7)]
    units = tokenizer.encode(batch, 16_000)
    assert batches == [[16_000, 13_600], [11_200], [8_000, 7_200], [3_200]]
    for number, wav in enumerate(batch):
        assert torch.equal(units[number], expected_codes(tokenizer, wav))


def test_units_do_not_depend_on_company(tokenizer, residual, monkeypatch):
    monkeypatch.setattr(wavs, "BATCH_SECONDS", 2.0)
    monkeypatch.setattr(wavs, "WINDOW_BATCHES", 1)
    assert check_company(tokenizer, 12) > 500
    assert check_company(residual, 4) > 100


@pytest.mark.slow
def test_units_do_not_depend_on_company_in_200_batches(tokenizer):
    assert check_company(tokenizer, 200) > 10_000


def test_an_utterance_of_the_same_values_far_louder_company(tokenizer):
    """Level is each utterance's own: a shout beside a whisper changes nothing."""
    whisper, shout = 1e-3 * wav_of(0.4, 1), wav_of(0.8, 2)
    units = tokenizer.encode([shout, whisper, shout[:300]], 16_000)
    assert torch.equal(units[1], expected_codes(tokenizer, whisper))
    assert units.lengths.tolist() == [39, 19, 0]


@pytest.mark.parametrize("preset", ["sqvae16k", "melgan22k"])
def test_long_wavs_in_pieces_are_the_whole(tmp_path, monkeypatch, preset):
    make_model(tmp_path / "model", preset)
    tokenizer = SpeechTokenizer.from_pretrained(tmp_path / "model")
    rate = tokenizer.sample_rate
    recording = wav_of(3.3, 1, rate)
    recording[: rate // 2] *= 0.01
    soundfile.write(tmp_path / "a.wav", recording, rate, subtype="FLOAT")
    whole = tokenizer.encode([recording, recording[: rate // 3]], rate)
    soft = tokenizer.posterior(recording, rate).probabilities
    monkeypatch.setattr(wavs, "LONG_SECONDS", 1.0)
    monkeypatch.setattr("sqvae_speech.audio.stream.BLOCK_SECONDS", 0.37)
    monkeypatch.setattr("sqvae_speech.models.streaming._UNITS_AT_ONCE", 31)
    monkeypatch.setattr("sqvae_speech.audio.sources.read_wav", None)  # a long recording is not read at once
    pieces = tokenizer.encode([tmp_path / "a.wav", recording[: rate // 3]], rate)
    for name in ("codes", "lengths", "num_samples", "peaks"):
        assert torch.equal(getattr(pieces, name), getattr(whole, name)), name
    torch.testing.assert_close(tokenizer.posterior(recording, rate).probabilities, soft, rtol=1e-3, atol=1e-5)


PEAK_MEMORY = """
import re, sys
from pathlib import Path
from sqvae_speech.models import wavs
from sqvae_speech.tokenizer import SpeechTokenizer

folder, path, long_seconds = sys.argv[1:]
wavs.LONG_SECONDS = float(long_seconds)
units = SpeechTokenizer.from_pretrained(folder).encode(path)
# not ru_maxrss, which begins at what the parent had
status = Path("/proc/self/status").read_text()
print(int(units.lengths[0]), int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024)
"""


def peak_memory(folder: Path, path: Path, long_seconds: float) -> tuple[int, float]:
    """Units of a recording, and the megabytes that a process of its own took for them."""
    command = [sys.executable, "-c", PEAK_MEMORY, str(folder), str(path), str(long_seconds)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    units, memory = done.stdout.split()
    return int(units), float(memory)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks of memory are read from Linux' /proc")
def test_memory_does_not_grow_with_the_length_of_a_recording(folder, tmp_path):
    minute = np.tile(wav_of(10.0, 1, 48_000), 6)
    for minutes in (2, 8):
        with soundfile.SoundFile(tmp_path / f"{minutes}.wav", "w", 48_000, 1) as file:
            for _ in range(minutes):
                file.write(minute)
    units, short = peak_memory(folder, tmp_path / "2.wav", 60)
    assert units == 2 * 60 * 50 - 1
    units, long = peak_memory(folder, tmp_path / "8.wav", 60)
    assert units == 8 * 60 * 50 - 1
    assert long - short < 60
    _, whole = peak_memory(folder, tmp_path / "8.wav", 1e9)
    assert whole - short > 200  # or the difference could not be seen


def test_posteriors_have_the_units_as_their_largest(tokenizer, residual):
    for model, books in ((tokenizer, 1), (residual, 3)):
        batch = [wav_of(0.5, 1), wav_of(0.02, 1)[:100], wav_of(0.9, 2)]
        posterior, units = model.posterior(batch, 16_000), model.encode(batch, 16_000)
        assert posterior.probabilities.shape == (3, books, 44, 32)
        assert torch.equal(posterior.lengths, units.lengths)
        for number in range(3):
            own = posterior.probabilities[number, :, : int(units.lengths[number])]
            torch.testing.assert_close(own.sum(dim=-1), torch.ones_like(own[..., 0]))
            assert torch.equal(own.argmax(dim=-1), units[number])
        assert not posterior.probabilities[1].any()


def test_the_posterior_of_type_two_is_of_the_whole_utterance(tmp_path, monkeypatch):
    bundle = make_model(tmp_path, covariance="sample")
    tokenizer = SpeechTokenizer(bundle)
    wav = wav_of(1.5, 1)
    monkeypatch.setattr(wavs, "LONG_SECONDS", 0.5)
    mel = LogMel(bundle.mel_spec)(torch.from_numpy(wav)[None]).mel
    got = tokenizer.posterior(wav, 16_000).probabilities[0, 0]
    torch.testing.assert_close(got, bundle.model.posterior(mel)[0].detach(), rtol=1e-3, atol=1e-5)


def test_decode_says_units_in_a_voice(tokenizer, residual):
    for model in (tokenizer, residual):
        batch = [wav_of(0.5, 1), wav_of(0.3, 2)]
        units = model.encode(batch, 16_000)
        speech = model.decode(units, ["ann", "eve"])
        assert speech.sample_rate == 16_000
        assert speech.lengths.tolist() == [(2 * 24 - 1) * 160, (2 * 14 - 1) * 160]
        assert speech.wav.shape == (2, (2 * 24 - 1) * 160)
        mel = model.decode_mel(units, ["ann", "eve"])
        assert mel.mel.shape == (2, 80, 48)
        assert mel.lengths.tolist() == [48, 28]
        # alone, from bare codes, as the model itself does it
        alone = model.decode_mel(units[1], "eve")
        indices = units[1].T[None] if model.num_codebooks > 1 else units[1]
        expected = model.bundle.model.decode(indices, torch.tensor([2]))
        torch.testing.assert_close(alone.mel, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mel.mel[1, :, :28], expected[0], rtol=1e-5, atol=1e-5)
        by_hand = GriffinLim(model.mel_spec).vocode(mel.mel[1, :, :28], peak=float(np.abs(batch[1]).max()))
        torch.testing.assert_close(speech.wav[1, : len(by_hand)], by_hand, rtol=1e-3, atol=1e-4)
        assert not torch.equal(model.decode_mel(units[1], "ann").mel, alone.mel)


def test_convert_is_encode_and_decode(tokenizer):
    wav = wav_of(0.5, 1, 22_050)
    got = tokenizer.convert(wav, "bob", 22_050)
    assert torch.equal(got.wav, tokenizer.decode(tokenizer.encode(wav, 22_050), "bob").wav)


def test_streams_give_codes_of_all_codebooks_and_end_once(residual):
    wav = wav_of(0.7, 1)
    stream = residual.stream(16_000, level=residual.level(torch.from_numpy(wav), 16_000))
    assert math.isclose(stream.latency, 0.0775)
    first = stream.push(wav[:8_000])
    assert first.shape == (3, stream.num_units)
    assert stream.push(wav[:0]).shape == (3, 0)
    rest = [stream.push(torch.from_numpy(wav[8_000:])), stream.finish()]
    assert torch.equal(torch.cat([first, *rest], dim=1), expected_codes(residual, wav))
    for call in (lambda: stream.push(wav), stream.finish):
        with pytest.raises(UserError, match="open another"):
            call()


def test_bfloat16_changes_few_units_and_no_shape(folder, tokenizer):
    half = SpeechTokenizer.from_pretrained(folder, dtype=torch.bfloat16)
    wav = wav_of(4.0, 1)
    exact, rounded = tokenizer.encode(wav, 16_000), half.encode(wav, 16_000)
    assert exact.codes.shape == rounded.codes.shape
    assert 0 < int((exact.codes != rounded.codes).sum()) < 60
    assert half.bundle.model.decoder.output.weight.dtype == torch.float32


def test_codes_go_into_a_unit_store(residual):
    units = residual.encode([wav_of(0.5, 1), wav_of(0.01, 1)], 16_000)
    rows = [UtteranceUnits(f"u{number}", units[number].numpy()) for number in range(2)]
    store = store_of(rows, store_meta(residual.bundle))
    np.testing.assert_array_equal(store["u0"].codes, units[0].numpy())
    assert store["u1"].codes.shape == (3, 0)


def test_gradients_are_not_kept_and_the_callers_model_is_not_changed(folder):
    bundle = load_speech_model(folder)
    tokenizer = SpeechTokenizer(bundle)
    assert not tokenizer.encode(wav_of(0.2), 16_000).codes.requires_grad
    assert not tokenizer.decode_mel(tokenizer.encode(wav_of(0.2), 16_000), "ann").mel.requires_grad
    assert all(parameter.requires_grad for parameter in bundle.model.parameters())


NAN = np.array([0.0] * 8_000 + [np.nan] * 2)
BAD_WAVS = {
    "empty": (np.zeros(0), 16_000, "the wav is empty"),
    "empty in a list": ([np.zeros(900), np.zeros(0)], 16_000, "wav 1 of 2 is empty"),
    "empty list": ([], 16_000, "the list is empty"),
    "empty batch": (np.zeros((0, 900)), 16_000, r"no wavs: the batch is \(0, 900\)"),
    "no samples": (np.zeros((2, 0)), 16_000, "wav 0 of 2 is empty"),
    "nan": (NAN, 16_000, r"2 of 8002 samples are NaN or infinite, the first at 0\.500 s"),
    "infinite": (torch.tensor([0.1, torch.inf] * 400), 16_000, "400 of 800 samples"),
    "no rate": (np.zeros(900), None, "give sample_rate"),
    "rate 0": (np.zeros(900), 0, "sample_rate is 0"),
    "rate 0.5": (np.zeros(900), 16_000.5, "whole number"),
    "int16": (np.zeros(900, np.int16), 16_000, "int16; .* divide 16-bit samples by 32768"),
    "int tensor": (torch.zeros(900, dtype=torch.int64), 16_000, "torch.int64"),
    "loud": (np.full(900, 20_000.0), 16_000, "goes up to 20000; .* divide"),
    "rank 3": (np.zeros((1, 1, 900)), 16_000, r"wav is \(1, 1, 900\)"),
    "rank 0": (np.zeros(()), 16_000, r"wav is \(\)"),
    "rank 2 in a list": ([np.zeros((1, 900))], 16_000, r"the wav is \(1, 900\)"),
    "channels last": (np.zeros((900, 2)), 16_000, r"wav\.mean\(1\)"),
    "numbers": ([0.0, 0.1], 16_000, "wav 0 of 2 is a float"),
    "none": (None, 16_000, "wav is a NoneType"),
    "no file": ("nowhere.wav", None, "nowhere.wav: no such recording"),
}


def test_a_file_that_is_no_recording_is_one_message(tokenizer, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no audio at all")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    for name, message in (("a.wav", "not a readable recording"), ("empty.wav", r"empty \(0 samples\)")):
        with pytest.raises(UserError, match=rf"{name}: .*{message}"):
            tokenizer.encode([tmp_path / name])


@pytest.mark.parametrize("name", BAD_WAVS)
@pytest.mark.parametrize("method", ["encode", "posterior"])
def test_what_is_no_wav_is_one_message(tokenizer, name, method):
    wav, rate, message = BAD_WAVS[name]
    with pytest.raises(UserError, match=message):
        getattr(tokenizer, method)(wav, rate)


def test_stereo_recordings_are_refused_or_mixed(tokenizer, tmp_path):
    left, right = wav_of(0.4, 1), wav_of(0.4, 2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    with pytest.raises(UserError, match="2 channels"):
        tokenizer.encode(tmp_path / "a.wav")
    assert torch.equal(tokenizer.encode(tmp_path / "a.wav", channel=1)[0], expected_codes(tokenizer, right))
    mixed = np.stack([left, right]).mean(0)
    assert torch.equal(tokenizer.encode(tmp_path / "a.wav", channel="mix")[0], expected_codes(tokenizer, mixed))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([900], r"have to be \(2,\) integers"),
        ([900.0, 2.0], "integers"),
        ([900, 901], "900 samples"),
        ([900, 0], "empty"),
    ],
)
def test_wrong_lengths(tokenizer, lengths, message):
    with pytest.raises(UserError, match=message):
        tokenizer.encode(np.zeros((2, 900)), 16_000, lengths=lengths)
    with pytest.raises(UserError, match="lengths belong to"):
        tokenizer.encode([np.zeros(900)], 16_000, lengths=[1])


@pytest.mark.parametrize(
    ("codes", "speaker", "message"),
    [
        ([[1, 2]], "eva", "'eva' was not trained, did you mean 'eve'.*any source, seen target"),
        ([[1, 2]], ["ann", "bob"], "2 speakers for 1 utterances"),
        ([[1, 32]], "ann", "code 32 is outside the codebook of 32"),
        ([[-1, 2]], "ann", "code -1 is outside"),
        ([[1.0, 2.0]], "ann", "float"),
        ([1, 2], "ann", r"codes are \(2,\)"),
        ([[1], [2]], "ann", r"codes are \(1, 2, 1\)"),
        (np.zeros((1, 0), np.int64), "ann", "nothing to say"),
        (np.zeros((0, 1, 5), np.int64), "ann", "nothing to say"),
    ],
)
def test_what_cannot_be_decoded_is_one_message(tokenizer, codes, speaker, message):
    with pytest.raises(UserError, match=message):
        tokenizer.decode(np.array(codes), speaker)


def test_other_refusals(tokenizer, folder):
    with pytest.raises(UserError, match="utterance 1 of the batch has no units"):
        tokenizer.decode(tokenizer.encode([wav_of(0.2), wav_of(0.2)[:50]], 16_000), "ann")
    with pytest.raises(UserError, match="not trained"):
        tokenizer.convert("nowhere.wav", "zoe")
    with pytest.raises(UserError, match="different mel settings"):
        tokenizer.decode(
            tokenizer.encode(wav_of(0.2), 16_000), "ann", vocoder=GriffinLim(MelSpec.preset("melgan22k"))
        )
    with pytest.raises(UserError, match="did you mean 'griffin_lim'"):
        tokenizer.decode(np.zeros((1, 4), np.int64), "ann", vocoder="griffinlim")
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
        SpeechTokenizer.from_pretrained(folder, dtype="bfloat")
    with pytest.raises(UserError, match="no device 'gpu0'"):
        SpeechTokenizer.from_pretrained(folder, device="gpu0")
    with pytest.raises(UserError, match="what was pushed is int16; floating point"):
        tokenizer.stream(16_000).push(np.zeros(4, np.int16))
    with pytest.raises(UserError, match="samples are a list"):
        tokenizer.stream(16_000).push([0.0])
    with pytest.raises(UserError, match="cannot resample from 0"):
        tokenizer.stream(0)
