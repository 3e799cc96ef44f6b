"""The front end: what trimming, resampling and loudness do to a signal whose answer is known."""

import numpy as np
import pytest
import scipy.signal

from sqvae_speech.audio.front_end import FrontEnd, SilentRecording
from sqvae_speech.audio.wav import RESAMPLERS, resample
from sqvae_speech.errors import UserError

RATE = 16000


def tone(frequency, seconds, rate=RATE, level=0.5):
    return (level * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def prepare(wav, rate=RATE, new_rate=RATE, **settings):
    return FrontEnd(**settings).prepare(wav, rate, new_rate, "a.wav")


def test_by_default_nothing_is_done():
    wav = tone(440, 0.5)
    out = prepare(wav)
    assert out.wav is wav or np.array_equal(out.wav, wav)
    assert (out.onset, out.offset, out.gain, out.clipped) == (0.0, 0.5, 0.0, False)


@pytest.mark.parametrize("method", RESAMPLERS)
@pytest.mark.parametrize(("rate", "new_rate"), [(48000, 16000), (8000, 16000), (44100, 22050), (22050, 24000)])
def test_resamplers_keep_a_tone_and_stop_what_would_alias(method, rate, new_rate):
    out = resample(tone(1000, 1.0, rate), rate, new_rate, method)
    assert len(out) == new_rate
    middle = slice(new_rate // 10, -new_rate // 10)  # the ends ring
    np.testing.assert_allclose(out[middle], tone(1000, 1.0, new_rate)[middle], atol=2e-3)
    if new_rate < rate:
        above = resample(tone(0.55 * new_rate, 1.0, rate), rate, new_rate, method)
        assert np.abs(above[middle]).max() < 5e-4  # 60 dB


def test_another_rate_is_refused_unless_a_resampler_is_chosen():
    with pytest.raises(UserError, match=r"a\.wav: 8000 Hz, the MelSpec has 16000 Hz; pass --resample"):
        prepare(tone(440, 0.5, 8000), 8000)
    assert len(prepare(tone(440, 0.5, 8000), 8000, resample="sinc").wav) == 8000
    with pytest.raises(UserError, match=r"unknown resampler 'linear'; legal are soxr, sinc"):
        resample(tone(440, 0.5), RATE, 8000, "linear")


def test_trimming_finds_the_ends_of_what_is_loud():
    rng = np.random.default_rng(0)
    noise = 1e-4 * rng.standard_normal(3 * RATE).astype(np.float32)  # 74 dB below the tone's peak
    noise[RATE : 2 * RATE] += tone(440, 1.0)
    out = prepare(noise, trim=40)
    # 0.1 s of margin, and half a frame of 2048 samples and a hop of 512 either way
    assert out.onset == pytest.approx(0.9, abs=0.1)
    assert out.offset == pytest.approx(2.1, abs=0.1)
    assert len(out.wav) == round((out.offset - out.onset) * RATE)
    assert np.array_equal(out.wav, noise[round(out.onset * RATE) : round(out.offset * RATE)])
    assert prepare(noise, trim=150).wav.shape == noise.shape


@pytest.mark.parametrize("target", [-23.0, -16.0])
def test_loudness_by_the_standards_own_signal(target):
    """A sine of 997 Hz at 0 dB of full scale in one channel measures -3.01 LUFS (ITU-R BS.1770-4, section 2.1)."""
    level = 0.25
    out = prepare(tone(997, 2.0, 48000, level), 48000, 48000, loudness=target)
    measured = -3.01 + 20 * np.log10(level)
    assert out.gain == pytest.approx(target - measured, abs=0.05)
    assert np.abs(out.wav).max() == pytest.approx(level * 10 ** ((target - measured) / 20), rel=0.01)


def test_loudness_of_what_is_shorter_than_a_block():
    gain = prepare(tone(997, 0.25), loudness=-23).gain
    assert gain == pytest.approx(prepare(tone(997, 2.0), loudness=-23).gain, abs=0.3)


@pytest.mark.parametrize(("wav", "clipped"), [(tone(440, 1, level=0.9), False), (tone(440, 1, level=3.0), True)])
def test_clipping_is_noticed(wav, clipped):
    wav = np.clip(wav, -1, 32767 / 32768)
    assert prepare(wav).clipped is clipped
    wav[100] = 1.0  # a single peak at full scale is a normalised recording
    assert prepare(wav).clipped is clipped


def test_silence_is_refused():
    with pytest.raises(SilentRecording, match=r"a\.wav: silent, its largest sample is 5e-05 of 1"):
        prepare(np.full(RATE, 5e-5, dtype=np.float32))
    hiss = (2e-4 * scipy.signal.firwin(101, 0.01)[50] * np.ones(RATE)).astype(np.float32)
    hiss[0] = 2e-4  # not silent by its peak, but nothing that the standard's gate lets through
    with pytest.raises(SilentRecording, match=r"silent, its loudness is below -70 LUFS"):
        prepare(hiss, loudness=-23)
