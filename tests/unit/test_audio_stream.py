"""A wav in pieces gives the mels, the resampled samples and the level of the whole, however it is cut."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from units_world import voice

from sqvae_speech.audio import stream
from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import PRESETS
from sqvae_speech.audio.stream import (
    MelStream,
    Resampler,
    array_blocks,
    file_blocks,
    frames_of_samples,
    measure_level,
    samples_of_frames,
)
from sqvae_speech.audio.wav import read_wav, resample, write_wav
from sqvae_speech.errors import UserError

SPECS = {
    **PRESETS,
    "zeros": replace(PRESETS["sqvae16k"], pad_mode="constant"),
    "power": replace(PRESETS["sqvae16k"], power=2.0),
    "odd hop": replace(PRESETS["sqvae16k"], hop_length=161, win_length=399),
    "no padding": replace(PRESETS["sqvae16k"], n_fft=512, center=False, padding=0),
}


def cut(wav: np.ndarray, size: int | None, seed: int = 0) -> list[np.ndarray]:
    """Pieces of ``size``, or of random sizes with empty ones among them."""
    if size is not None:
        return [wav[start : start + size] for start in range(0, len(wav), size)]
    ends = np.sort(np.random.default_rng(seed).integers(0, len(wav), 40))
    return np.split(wav, ends)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [None, 1_000, 10**9])
def test_mels_in_pieces_are_those_of_the_whole(name, size):
    spec = SPECS[name]
    logmel = LogMel(spec)
    wav = voice(0.7, 1, spec.sample_rate).astype(np.float32)
    whole = logmel(torch.from_numpy(wav)[None])
    mels = MelStream(logmel, spec.sample_rate)
    parts = [mels.push(piece) for piece in cut(wav, size)] + [mels.finish()]
    gain = 1.0 if spec.peak is None else spec.peak / mels.level.peak
    linear = torch.cat([part.mel for part in parts], dim=1)[None] * gain**spec.power
    got = logmel.log(linear, torch.tensor([mels.level.loudest * gain**spec.power])).float()
    assert mels.level.peak == float(whole.peak[0])
    assert got.shape == whole.mel.shape
    torch.testing.assert_close(got, whole.mel, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SPECS)
def test_a_frame_comes_with_the_last_sample_it_needs_and_not_before(name):
    spec = SPECS[name]
    wav = voice(0.3, 2, spec.sample_rate).astype(np.float32)
    mels = MelStream(LogMel(spec), spec.sample_rate)
    found = 0
    for number, sample in enumerate(wav[:, None], 1):
        frames = mels.push(sample)
        for _ in range(frames.mel.shape[1]):
            found += 1
            assert samples_of_frames(spec, found) == number
        assert frames_of_samples(spec, number) == found
        if len(frames.peak):
            assert float(frames.peak[-1]) == np.abs(wav[:number]).max()
    assert 0 < found <= spec.num_frames(len(wav))


def test_the_running_peak_of_a_frame_does_not_depend_on_the_cut():
    spec = SPECS["sqvae16k"]
    wav = voice(0.5, 1).astype(np.float32)
    peaks = []
    for size in (None, 37, 10**9):
        mels = MelStream(LogMel(spec), 16_000)
        peaks.append(torch.cat([part.peak for part in [*map(mels.push, cut(wav, size)), mels.finish()]]))
    assert torch.equal(peaks[0], peaks[1])
    assert torch.equal(peaks[0], peaks[2])
    expected = [np.abs(wav[: samples_of_frames(spec, frame + 1)]).max() for frame in range(len(peaks[0]))]
    np.testing.assert_array_equal(peaks[0].numpy(), np.array(expected, dtype=np.float64))


@pytest.mark.parametrize("rates", [(48_000, 16_000), (44_100, 16_000), (8_000, 22_050), (16_000, 16_000)])
@pytest.mark.parametrize("size", [None, 777])
def test_resampling_in_pieces_is_resampling(rates, size):
    wav = voice(1.5, 0, rates[0]).astype(np.float32)
    resampler = Resampler(*rates)
    parts = [resampler.push(piece) for piece in cut(wav, size)] + [resampler.push(wav[:0], last=True)]
    expected = wav if rates[0] == rates[1] else resample(wav, *rates)
    np.testing.assert_array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_files_and_arrays_are_cut_alike(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(stream, "BLOCK_SECONDS", 0.1)
    path = tmp_path / "a.wav"
    write_wav(path, voice(0.55, 0, rate), rate)
    wav, _ = read_wav(path)
    blocks = list(file_blocks(path))
    assert [len(block) for block in blocks] == [len(block) for block in array_blocks(wav, rate)]
    assert max(map(len, blocks)) == rate // 10
    np.testing.assert_array_equal(np.concatenate(blocks), wav)
    logmel = LogMel(PRESETS["sqvae16k"])
    level = measure_level(logmel, rate, file_blocks(path))
    native = torch.from_numpy(resample(wav, rate, 16_000) if rate != 16_000 else wav)[None]
    assert level.peak == float(logmel(native).peak[0])


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_compressed_recordings_are_read_in_pieces_as_in_one(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(stream, "BLOCK_SECONDS", 0.21)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, voice(2.0, 0), 16_000)
    np.testing.assert_allclose(np.concatenate(list(file_blocks(path))), read_wav(path)[0], rtol=0, atol=1e-6)


def test_a_recording_with_nothing_or_several_channels_is_refused_as_elsewhere(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "two.wav", np.zeros((400, 2)), 16_000)
    with pytest.raises(UserError, match="0 samples"):
        list(file_blocks(tmp_path / "empty.wav"))
    with pytest.raises(UserError, match="2 channels"):
        list(file_blocks(tmp_path / "two.wav"))
    assert len(list(file_blocks(tmp_path / "two.wav", "mix"))) == 1


def test_nan_is_refused_with_its_place():
    mels = MelStream(LogMel(PRESETS["sqvae16k"]), 16_000)
    mels.push(np.zeros(8_000))
    with pytest.raises(UserError, match=r"first at 0\.625 s"):
        mels.push(np.where(np.arange(4_000) == 2_000, np.nan, 0.0))


def test_memory_does_not_grow_with_the_length():
    mels = MelStream(LogMel(PRESETS["sqvae16k"]), 16_000)
    for _ in range(30):
        mels.push(np.zeros(1_600))
    assert len(mels._wav) < 1_600 + 2 * 2048
    assert mels.num_samples == 48_000
