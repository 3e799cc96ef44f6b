"""LogMel against librosa's numbers, on a signal as hard as speech."""

import dataclasses

import librosa
import numpy as np
import pytest
import scipy.signal
import torch

from sqvae_speech.audio.filterbank import hz_to_mel, mel_filterbank, mel_to_hz
from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import PRESETS, MelSpec


def voice(sample_rate: int, seconds: float, seed: int) -> np.ndarray:
    """Return (T,) float64: gliding pulses through formants, frication, pauses of digital silence, 60 dB of range."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * sample_rate)) / sample_rate
    pitch = 120 * (1 + 0.3 * np.sin(2 * np.pi * 0.7 * t + seed))
    pulses = np.diff(np.floor(np.cumsum(pitch) / sample_rate), prepend=0.0)
    out = pulses + 0.003 * rng.standard_normal(len(t))
    for formant, width in ((600, 80), (1300, 110), (2600, 160), (3400, 250)):
        radius = np.exp(-np.pi * width / sample_rate)
        angle = 2 * np.pi * formant / sample_rate
        out = scipy.signal.lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], out)
    syllable = np.clip(np.sin(2 * np.pi * 3 * t), 0, 1) ** 2  # the lower half-waves are silence, exactly 0
    return 0.5 * out * syllable / np.abs(out).max()


def librosa_logmel(wav: np.ndarray, spec: MelSpec) -> np.ndarray:
    """Return the log-mel of a float64 wav by librosa alone, (n_mels, frames)."""
    if spec.peak is not None:
        wav = wav / np.abs(wav).max() * spec.peak
    if spec.preemphasis:
        wav = scipy.signal.lfilter([1, -spec.preemphasis], [1], wav)
    if not spec.center:
        wav = np.pad(wav, spec.padding, mode=spec.pad_mode)
    mel = librosa.feature.melspectrogram(
        y=wav,
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        hop_length=spec.hop_length,
        win_length=spec.win_length,
        center=spec.center,
        pad_mode=spec.pad_mode,
        power=spec.power,
        n_mels=spec.n_mels,
        fmin=spec.fmin,
        fmax=spec.fmax,
        htk=spec.mel_scale == "htk",
        norm=spec.mel_norm,
    )
    if spec.log == "db":
        to_db = librosa.amplitude_to_db if spec.power == 1.0 else librosa.power_to_db
        decibel = to_db(mel, ref=1.0, amin=spec.clamp, top_db=spec.dynamic_range)
        return decibel / spec.dynamic_range + 1 if spec.normalize else decibel
    log = np.log10 if spec.log == "log10" else np.log
    return log(np.maximum(mel, spec.clamp))


VARIANTS = {
    **PRESETS,
    "sqvae16k-constant": dataclasses.replace(PRESETS["sqvae16k"], pad_mode="constant"),
    "melgan22k-constant": dataclasses.replace(PRESETS["melgan22k"], pad_mode="constant"),
    "power-db": dataclasses.replace(PRESETS["sqvae16k"], power=2.0, clamp=1e-10, normalize=False, peak=None),
    "odd-window": dataclasses.replace(PRESETS["waveglow22k"], win_length=601, n_fft=1200, hop_length=173),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_equal_to_librosa_alone_and_in_a_batch(name):
    spec = VARIANTS[name]
    wavs = [voice(spec.sample_rate, seconds, seed) for seed, seconds in enumerate((2.0, 0.31, 1.237))]
    lengths = torch.tensor([len(wav) for wav in wavs])
    batch = torch.ones(len(wavs), int(lengths.max()), dtype=torch.float64)
    for row, wav in zip(batch, wavs, strict=True):
        row[: len(wav)] = torch.from_numpy(wav)
    out = LogMel(spec)(batch, lengths)
    for row, wav in enumerate(wavs):
        expected = librosa_logmel(wav, spec)
        found = out.mel[row, :, : out.lengths[row]].numpy()
        assert found.shape == expected.shape
        assert np.ptp(expected) > 0.5  # the reference itself has something to say
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
        if spec.normalize:  # float32 is enough for these: 5e-5 of 80 dB is 0.004 dB
            fast = LogMel(spec, torch.float32)(torch.from_numpy(wav)[None]).mel[0].numpy()
            np.testing.assert_allclose(fast, expected, rtol=0, atol=5e-5)


def test_the_published_padding_differs_from_todays_librosa_at_the_edges_only():
    """By default librosa 0.7 reflected and 1.0 pads with zeros, so MelSpec has a pad_mode."""
    reflect = PRESETS["sqvae16k"]
    wav = torch.from_numpy(voice(16000, 1.0, 3)[1000:]).float()[None]
    first = LogMel(reflect)(wav).mel[0]
    second = LogMel(dataclasses.replace(reflect, pad_mode="constant"))(wav).mel[0]
    different = (first - second).abs().amax(dim=0) > 1e-5
    edge = reflect.win_length // 2 // reflect.hop_length + 1
    assert different[:edge].any()
    assert not different[edge:-edge].any()


@pytest.mark.parametrize("name", PRESETS)
def test_filterbank_equals_librosas(name):
    spec = PRESETS[name]
    expected = librosa.filters.mel(
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        n_mels=spec.n_mels,
        fmin=spec.fmin,
        fmax=spec.fmax,
        htk=spec.mel_scale == "htk",
        norm=spec.mel_norm,
        dtype=np.float64,
    )
    np.testing.assert_allclose(mel_filterbank(spec), expected, rtol=1e-9, atol=1e-12)
    assert (mel_filterbank(spec).sum(axis=1) > 0).all()  # no band without a bin


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_mel_scale_is_inverted(scale):
    hz = np.array([0.0, 50.0, 999.9, 1000.0, 1000.1, 8000.0, 12000.0])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz, scale), scale), hz, atol=1e-9)
    np.testing.assert_allclose(hz_to_mel(hz, scale), librosa.hz_to_mel(hz, htk=scale == "htk"), atol=1e-9)
