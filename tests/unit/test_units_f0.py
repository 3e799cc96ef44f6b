"""F0 a unit: a tone whose pitch is known at every moment, at any rate, in one piece or many."""

import numpy as np
import pytest

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.sources import array_source
from sqvae_speech.errors import UserError
from sqvae_speech.models.inference import UnitTiming
from sqvae_speech.models.speech import SpeechModel
from sqvae_speech.units import f0 as f0_module
from sqvae_speech.units.f0 import F0, f0_of_units, track_f0


def glide(seconds: float, sample_rate: int, silent: tuple[float, float] = (0, 0)) -> np.ndarray:
    """From 100 Hz upwards by 40 Hz a second, with harmonics, silent from one time to another."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * (100 * t + 20 * t**2)
    wav = sum(np.sin(k * phase) / k for k in range(1, 8)) / 4
    return np.where((t >= silent[0]) & (t < silent[1]), 0, wav).astype(np.float32)


@pytest.mark.parametrize(("preset", "rate"), [("sqvae16k", 16_000), ("sqvae16k", 44_100), ("melgan22k", 22_050)])
def test_pitch_at_the_middle_of_every_unit(preset, rate):
    spec = MelSpec.preset(preset)
    timing = UnitTiming(spec)
    count = round(1.4 * timing.frame_rate)
    wav = glide(1.5, rate, silent=(0.6, 0.9))
    f0 = f0_of_units(array_source(wav, rate, "glide"), spec, SpeechModel, count, F0())
    assert f0.shape == (count,)
    assert f0.dtype == np.float32
    spans = np.array([timing.span(unit) for unit in range(count)]) / spec.sample_rate
    middle = spans.mean(axis=1)
    away = (np.abs(middle - 0.6) > 0.06) & (np.abs(middle - 0.9) > 0.06) & (middle > 0.06)
    silent = (middle > 0.6) & (middle < 0.9)
    assert np.all(f0[silent & away] == 0)
    sounding = away & ~silent
    # pYIN's grid is a tenth of a semitone, 0.6%
    np.testing.assert_allclose(f0[sounding], 100 + 40 * middle[sounding], rtol=0.012)


def test_pieces_are_as_good_as_the_whole(monkeypatch):
    spec = MelSpec.preset("sqvae16k")
    wav = glide(2.0, 16_000, silent=(1.0, 1.2))
    whole = track_f0(array_source(wav, 16_000, "glide"), spec, 200, F0())
    monkeypatch.setattr(f0_module, "_CHUNK_FRAMES", 37)
    pieces = track_f0(array_source(wav, 16_000, "glide"), spec, 200, F0())
    assert pieces.shape == whole.shape == (200,)
    both = (pieces > 0) & (whole > 0)
    assert both.sum() >= 170
    assert ((pieces > 0) == (whole > 0)).mean() > 0.98
    np.testing.assert_allclose(pieces[both], whole[both], rtol=0.01)


@pytest.mark.parametrize("size", [1, 13, 4_001, 10**6])
def test_stretches_cover_every_frame_once_whatever_the_blocks(monkeypatch, size):
    monkeypatch.setattr(f0_module, "_CHUNK_FRAMES", 10)
    monkeypatch.setattr(f0_module, "_MARGIN_FRAMES", 3)
    wav = np.arange(1, 5_001, dtype=np.float32)
    for hop, offset, frames in ((160, 0, 31), (160, 128, 35), (100, -50, 25), (160, 0, 0)):
        blocks = (wav[start : start + size] for start in range(0, len(wav), size))
        middles = []
        for samples, skip, count in f0_module._chunks(blocks, hop, offset, frames):
            middles += [samples[(skip + n) * hop] for n in range(count)]
        places = np.arange(frames) * hop + offset
        expected = [wav[place] if 0 <= place < len(wav) else 0 for place in places]
        np.testing.assert_array_equal(middles, expected)


def test_silence_and_nothing_at_all():
    spec = MelSpec.preset("sqvae16k")
    silence = array_source(np.zeros(8_000, np.float32), 16_000, "silence")
    assert f0_of_units(silence, spec, SpeechModel, 20, F0()).tolist() == [0.0] * 20
    assert f0_of_units(silence, spec, SpeechModel, 0, F0()).shape == (0,)


@pytest.mark.parametrize("settings", [F0(400, 65), F0(5, 100), F0(65, 5000), F0(65, float("nan"))])
def test_ranges_that_are_none(settings):
    with pytest.raises(UserError, match="--f0-range"):
        settings.check(16_000)
