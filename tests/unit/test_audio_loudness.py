"""Loudness of recordings, and what is checked of every wav that is made."""

import sys

import numpy as np
import pytest

from sqvae_speech.audio.faults import wav_faults
from sqvae_speech.audio.loudness import ACTIVE, LUFS, active_level, integrated_loudness, match_loudness

RATE = 16_000


def tone(seconds: float, amplitude: float, frequency: float = 997.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def test_a_full_scale_tone_has_the_loudness_of_the_standard():
    """ITU-R BS.1770-4: 997 Hz at 0 dB of full scale reads -3.01 LUFS in one channel."""
    assert integrated_loudness(tone(1.0, 1.0), RATE) == pytest.approx(-3.01, abs=0.1)
    assert integrated_loudness(tone(0.2, 0.1), RATE) == pytest.approx(-23.01, abs=0.3), "shorter than a block"
    assert integrated_loudness(np.zeros(RATE), RATE) == -np.inf


def test_pauses_do_not_count_in_the_active_level():
    wav = tone(0.4, 0.1)
    level = active_level(wav, RATE)
    assert level == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.05)
    pause = np.zeros(3200, np.float32)
    assert active_level(np.concatenate([pause, wav, pause]), RATE) == pytest.approx(level, abs=0.01)
    assert active_level(np.zeros(800), RATE) == -np.inf
    assert active_level(np.zeros(0), RATE) == -np.inf


@pytest.mark.parametrize(("seconds", "measure"), [(1.0, LUFS), (0.3, ACTIVE)])
def test_a_match_is_as_loud_as_its_reference(seconds: float, measure: str):
    reference = tone(1.3, 0.3)
    match = match_loudness(tone(seconds, 0.02), reference, RATE)
    assert match.measure == measure
    assert match.wav.dtype == np.float32
    assert np.abs(match.wav).max() == pytest.approx(0.3, rel=0.03)
    measured = integrated_loudness if measure == LUFS else active_level
    assert measured(match.wav, RATE) == pytest.approx(measured(reference, RATE), abs=0.05)
    assert match.loudness == pytest.approx(match.reference, abs=1e-9)
    assert (match.gain, match.limited) == (pytest.approx(20 * np.log10(15), abs=0.3), 0.0)


def test_a_match_does_not_clip():
    click = tone(1.0, 0.02)
    click[5000] = 0.9
    match = match_loudness(click, tone(1.0, 0.5), RATE)
    assert np.abs(match.wav).max() == pytest.approx(0.999, abs=1e-6)
    assert match.limited > 20
    assert match.loudness == pytest.approx(match.reference - match.limited, abs=1e-6)
    assert integrated_loudness(match.wav, RATE) == pytest.approx(match.loudness, abs=0.05)
    assert wav_faults(match.wav) == []


def test_silence_is_left_alone():
    for wav, reference in ((tone(1.0, 0.1), np.zeros(RATE)), (np.zeros(RATE), tone(1.0, 0.1))):
        match = match_loudness(wav, reference, RATE)
        np.testing.assert_array_equal(match.wav, wav.astype(np.float32))
        assert match.gain == 0.0
        assert (match.loudness is None) == (not wav.any())
        assert (match.reference is None) == (not reference.any())


def test_without_the_package_the_active_level_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    match = match_loudness(tone(1.0, 0.02), tone(1.0, 0.3), RATE)
    assert match.measure == ACTIVE
    assert np.abs(match.wav).max() == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize(
    ("wav", "fault"),
    [
        (tone(1.0, 0.3), None),
        (tone(1.0, 0.3)[:-160], None),
        (tone(1.0, 0.3)[:-161], "15839 samples, and should have 16000"),
        (np.append(tone(1.0, 0.3), np.zeros(200)), "16200 samples"),
        (np.clip(tone(1.0, 1.5), -1, 1), "clipped"),
        (tone(1.0, 1e-3), "silent"),
        (np.zeros(RATE), "silent"),
        (np.append(tone(1.0, 0.3)[:-1], np.nan), "1 of 16000 samples are NaN"),
        (np.zeros(0), "no samples"),
    ],
)
def test_faults(wav: np.ndarray, fault: str | None):
    faults = wav_faults(wav, RATE, 160)
    assert len(faults) == (0 if fault is None else 1)
    assert fault is None or fault in faults[0]


def test_several_faults_at_once_and_silence_by_consent():
    assert len(wav_faults(np.zeros(100), RATE, 160)) == 2
    assert wav_faults(np.zeros(100), silence=False) == []
