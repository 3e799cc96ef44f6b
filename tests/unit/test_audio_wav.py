"""Recordings in and out, and the messages for those that are no good."""

import importlib.util
import io
import logging

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from sqvae_speech.audio.wav import read_wav, resample, wav_info, write_wav
from sqvae_speech.errors import UserError


def sine(frequency: float, sample_rate: int, seconds: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * sample_rate)) / sample_rate)).astype(
        np.float32
    )


def test_write_then_read_is_within_half_a_step(tmp_path):
    wav = np.concatenate([sine(440, 16000), np.float32([-1.0, 32767 / 32768])])
    path = tmp_path / "new" / "a.wav"
    write_wav(path, wav, 16000)
    again, rate = read_wav(path)
    assert rate == 16000
    assert again.dtype == np.float32
    assert np.abs(again - wav).max() <= 0.5 / 32768
    assert wav_info(path) == (len(wav), 16000, 1)
    write_wav(path, again, 16000)  # a second generation loses nothing more
    np.testing.assert_array_equal(read_wav(path)[0], again)
    assert [p.name for p in path.parent.iterdir()] == ["a.wav"]


def test_a_part_is_cut_in_seconds(tmp_path):
    wav = sine(440, 8000, 1.0)
    soundfile.write(tmp_path / "a.flac", wav, 8000, subtype="PCM_24")
    part, _ = read_wav(tmp_path / "a.flac", start=0.25, end=0.5)
    np.testing.assert_allclose(part, wav[2000:4000], atol=2e-7)
    assert len(read_wav(tmp_path / "a.flac", start=0.25, end=1.004)[0]) == 6000
    for start, end in ((0.5, 0.5), (-0.1, None), (0.2, 1.2), (1.0, None)):
        with pytest.raises(UserError, match=r"a\.flac: no part from .* the recording has 1\.000 s"):
            read_wav(tmp_path / "a.flac", start=start, end=end)


@pytest.mark.parametrize(("rate", "new_rate"), [(8000, 16000), (48000, 16000), (16000, 22050), (44100, 24000)])
def test_resampling_keeps_tone_level_and_duration(tmp_path, rate, new_rate):
    write_wav(tmp_path / "a.wav", sine(1000, rate), rate)
    wav, found_rate = read_wav(tmp_path / "a.wav", sample_rate=new_rate)
    assert found_rate == new_rate
    assert abs(len(wav) - 0.5 * new_rate) <= 1
    edge = new_rate // 20  # the filter rings where the tone starts and stops
    middle = slice(edge, len(wav) - edge)
    np.testing.assert_allclose(wav[middle], sine(1000, new_rate, 0.6)[middle], atol=2e-4)


def test_resampling_removes_what_the_new_rate_cannot_hold():
    wav = resample(sine(7000, 24000), 24000, 12000)
    assert np.abs(wav[500:-500]).max() < 1e-4


def test_several_channels_need_a_choice(tmp_path):
    left, right = sine(300, 8000), sine(500, 8000)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"s\.wav: 2 channels.*--channel mix .*0\|1"):
        read_wav(tmp_path / "s.wav")
    np.testing.assert_array_equal(read_wav(tmp_path / "s.wav", channel=1)[0], right)
    np.testing.assert_array_equal(read_wav(tmp_path / "s.wav", channel="0")[0], left)
    np.testing.assert_allclose(read_wav(tmp_path / "s.wav", channel="mix")[0], (left + right) / 2, atol=1e-7)
    with pytest.raises(UserError, match="no channel 2"):
        read_wav(tmp_path / "s.wav", channel=2)


def test_reading_an_open_file(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, sine(440, 8000), 8000, format="WAV", subtype="FLOAT")
    buffer.seek(0)
    np.testing.assert_array_equal(read_wav(buffer)[0], sine(440, 8000))


def test_bad_recordings_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"none\.wav: no such recording"):
        read_wav(tmp_path / "none.wav")
    with pytest.raises(UserError, match="not a file"):
        read_wav(tmp_path)
    (tmp_path / "zero.wav").touch()
    with pytest.raises(UserError, match=r"zero\.wav: the file is empty"):
        wav_info(tmp_path / "zero.wav")
    (tmp_path / "text.wav").write_text("not audio at all, but long enough to be read as a header")
    with pytest.raises(UserError, match=r"text\.wav: not a readable recording"):
        read_wav(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    with pytest.raises(UserError, match=r"empty\.wav: the recording is empty \(0 samples\)"):
        read_wav(tmp_path / "empty.wav")
    broken = sine(440, 8000)
    broken[800:802] = np.nan, np.inf
    soundfile.write(tmp_path / "nan.wav", broken, 8000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"nan\.wav: 2 of 4000 samples are NaN or infinite, the first at 0\.100 s"):
        read_wav(tmp_path / "nan.wav")


def test_a_truncated_flac_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "whole.flac", 0.1 * rng.standard_normal(48000), 16000)
    content = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"half\.flac: .*get the file again"):
        read_wav(tmp_path / "half.flac")


def test_clipping_warns_and_clips(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        write_wav(tmp_path / "a.wav", np.array([0.0, 1.5, -2.0]), 16000)
    assert "2 of 3 samples clipped, peak 2.00" in caplog.text
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav")[0], [0, 1, -1], atol=1 / 32768)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.wav"
    write_wav(path, sine(440, 16000), 16000)
    before = path.read_bytes()
    with pytest.raises(UserError, match="1 of 2 samples are NaN"):
        write_wav(path, np.array([0.0, np.nan]), 16000)
    with pytest.raises(UserError, match=r"\(samples,\) of floating point"):
        write_wav(path, np.zeros((2, 10)), 16000)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_torchaudio_is_asked_for_what_libsndfile_does_not_know(tmp_path, monkeypatch):
    """FFmpeg and torchcodec are not among the tests' packages: a decoder stands in for them."""
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    with pytest.raises(UserError, match=r"a\.m4a: not a readable recording .*with FFmpeg and torchcodec"):
        read_wav(tmp_path / "a.m4a")
    stereo = torch.linspace(-0.5, 0.5, 2 * 8000).reshape(2, 8000)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torchaudio, "load", lambda path: (stereo, 16000))
    assert wav_info(tmp_path / "a.m4a") == (8000, 16000, 2)
    wav, rate = read_wav(tmp_path / "a.m4a", start=0.1, end=0.2, channel=1)
    assert rate == 16000
    assert np.array_equal(wav, stereo[1, 1600:3200].numpy())
    with pytest.raises(UserError, match=r"a\.m4a: 2 channels, one is wanted"):
        read_wav(tmp_path / "a.m4a")

    def without_ffmpeg(path):
        raise RuntimeError("Could not load libtorchcodec")

    monkeypatch.setattr(torchaudio, "load", without_ffmpeg)
    with pytest.raises(UserError, match=r"a\.m4a: not a readable recording"):
        read_wav(tmp_path / "a.m4a")
