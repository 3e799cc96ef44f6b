"""Griffin-Lim: what comes out sounds as the mel says, for every preset."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.signal
import torch
from voice_fixtures import voice

from sqvae_speech.audio.filterbank import mel_filterbank
from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import PRESETS, MelSpec
from sqvae_speech.audio.vocoder import GriffinLim, load_vocoder, undo_preemphasis
from sqvae_speech.errors import UserError

SPECS = {
    **PRESETS,
    "power-db": dataclasses.replace(
        PRESETS["sqvae16k"], power=2.0, clamp=1e-10, normalize=False, peak=None, pad_mode="constant"
    ),
}


def decibel(mel: torch.Tensor, spec: MelSpec) -> torch.Tensor:
    unit = {"db": spec.dynamic_range if spec.normalize else 1.0, "ln": 20 / math.log(10), "log10": 20.0}[spec.log]
    return mel * (unit or 1.0)


def level(wav: torch.Tensor) -> float:
    return 10 * math.log10(wav.double().square().mean())


@pytest.mark.parametrize("name", SPECS)
def test_what_is_synthesised_has_the_mel_the_length_and_the_level(name):
    spec = SPECS[name]
    wav = voice(spec.sample_rate)
    mel, frames, peak = LogMel(spec)(wav)
    made = load_vocoder("griffin_lim", spec).vocode(mel, peak)
    assert made.shape == (1, spec.num_samples(int(frames)))
    assert 0 <= wav.shape[1] - made.shape[1] < spec.hop_length
    assert abs(level(made) - level(wav)) < 1.0
    # Analysed at the level of the first wav, as the made wav's own largest sample is another.
    again = dataclasses.replace(spec, peak=None)
    scale = spec.peak / peak if spec.peak else 1.0
    difference = decibel(LogMel(again)(made * scale).mel - mel, spec)
    assert difference.shape == decibel(mel, spec).shape
    assert difference.abs().mean() < 1.5
    assert difference.mean().abs() < 0.6
    # and the long-term spectrum, which a pre-emphasis left in would tilt by 20 dB
    for low, high in ((100, 500), (500, 1500), (1500, 3500)):
        sos = scipy.signal.butter(4, (low, high), "bandpass", fs=spec.sample_rate, output="sos")
        bands = [level(torch.from_numpy(scipy.signal.sosfilt(sos, x[0].numpy()))) for x in (made, wav)]
        assert abs(bands[0] - bands[1]) < 1.5


def test_the_peak_brings_the_level_back():
    spec = PRESETS["sqvae16k"]
    vocoder = GriffinLim(spec, n_iter=8)
    loud, quiet = voice(16000, peak=0.5), voice(16000, peak=0.005)
    out = LogMel(spec)(torch.cat([loud, quiet]))
    made = vocoder.vocode(out.mel, out.peak)
    assert abs(level(made[0]) - level(loud)) < 1.0
    assert abs(level(made[1]) - level(quiet)) < 1.0
    torch.testing.assert_close(made[0], 100 * made[1], rtol=1e-3, atol=1e-3)
    assert not vocoder.vocode(out.mel, 0.0).any()
    plain = GriffinLim(PRESETS["vocos24k"], n_iter=8)
    mel = LogMel(plain.mel_spec)(quiet).mel  # a spec without a peak holds the level itself
    torch.testing.assert_close(plain.vocode(mel, 0.9), plain.vocode(mel))


def test_nothing_exceeds_full_scale():
    spec = PRESETS["sqvae16k"]
    mel = LogMel(spec)(voice(16000)).mel
    made = GriffinLim(spec, n_iter=4).vocode(torch.cat([mel, mel + 3.0]), torch.tensor([0.1, 1.0]))
    assert made[0].abs().max() < 0.2
    torch.testing.assert_close(made[1].abs().max(), torch.tensor(0.999))


@pytest.mark.parametrize("name", ["sqvae16k", "melgan22k"])
def test_each_sounds_the_same_alone_and_in_a_batch(name):
    spec = PRESETS[name]
    vocoder = GriffinLim(spec, n_iter=10)
    mel = LogMel(spec)(voice(spec.sample_rate)).mel
    frames = mel.shape[2]
    lengths = torch.tensor([frames, frames // 2, 1])
    batch = mel.repeat(3, 1, 1)
    batch[1, :, frames // 2 :] = torch.nan  # what lies beyond is never read
    made = vocoder.vocode(batch, torch.tensor([0.3, 0.3, 0.3]), lengths)
    together = vocoder._synthesise(batch, lengths)  # as on a GPU: one padded batch
    for row, length in enumerate(lengths.tolist()):
        alone = vocoder.vocode(mel[0, :, :length], torch.tensor(0.3))
        assert alone.ndim == 1
        assert len(alone) == spec.num_samples(length)
        torch.testing.assert_close(made[row, : len(alone)], alone, rtol=0, atol=0)
        assert not made[row, len(alone) :].any()
        assert not together[row, len(alone) :].any()
        one = vocoder._synthesise(mel[:, :, :length], torch.tensor([length]))[0]
        # Rounding differs with the batch, and the phase search amplifies it a little.
        assert (together[row, : len(one)] - one).norm() <= 1e-3 * one.norm()


@pytest.mark.parametrize("name", PRESETS)
def test_the_spectrum_found_is_positive_and_has_the_mel(name):
    spec = PRESETS[name]
    log_mel = LogMel(spec)(voice(spec.sample_rate)).mel
    linear = torch.pow(10.0, decibel(log_mel - log_mel.max(), spec) / 20)
    vocoder = GriffinLim(spec)
    vocoder._bin_step = 1  # keep all bins
    spectrum = vocoder._undo_mel(linear)[0].double()
    assert (spectrum >= 0).all()
    found = spectrum @ torch.from_numpy(mel_filterbank(spec)).T
    error = 20 * torch.log10(found.T / linear[0])
    assert error.square().mean().sqrt() < 0.1


def test_undoing_preemphasis_is_the_recursive_filter():
    noise = torch.randn(2, 3001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for coefficient, samples in itertools.product((0.5, 0.97), (1, 31, 32, 33, 1024, 3001)):
        wav = noise[:, :samples]
        expected = scipy.signal.lfilter([1.0], [1.0, -coefficient], wav.numpy())
        np.testing.assert_allclose(undo_preemphasis(wav, coefficient).numpy(), expected, atol=1e-9)


def test_silence_stays_silent():
    for name in ("sqvae16k", "vocos24k"):
        spec = PRESETS[name]
        mel, _, peak = LogMel(spec)(torch.zeros(1, 8000))
        made = GriffinLim(spec, n_iter=4).vocode(mel, peak)
        assert torch.isfinite(made).all()
        assert made.abs().max() < 1e-4


def test_the_same_mel_gives_the_same_wav():
    spec = PRESETS["waveglow22k"]
    mel = LogMel(spec)(voice(22050)).mel
    assert torch.equal(GriffinLim(spec, n_iter=3).vocode(mel), GriffinLim(spec, n_iter=3).vocode(mel.clone()))


def test_bad_input_is_refused():
    spec = PRESETS["sqvae16k"]
    vocoder = GriffinLim(spec, n_iter=1)
    mel = torch.zeros(2, 80, 5)
    with pytest.raises(UserError, match=r"\(2, 5, 80\).*\(batch, 80, frames\)"):
        vocoder.vocode(mel.transpose(1, 2))
    with pytest.raises(UserError, match="at least one frame"):
        vocoder.vocode(mel[:, :, :0])
    with pytest.raises(UserError, match="NaN or infinity"):
        vocoder.vocode(torch.full((80, 3), math.nan))
    for lengths in ([5, 6], [0, 5]):
        with pytest.raises(UserError, match="from 1 to the mel's 5 frames"):
            vocoder.vocode(mel, lengths=torch.tensor(lengths))
    for peak in (torch.ones(3), -1.0, math.nan):
        with pytest.raises(UserError, match="it has to be one number, 0 or more, or 2 of them"):
            vocoder.vocode(mel, peak)
    with pytest.raises(UserError, match="n_iter is 0"):
        GriffinLim(spec, n_iter=0)
    with pytest.raises(UserError, match=r"momentum is 1\.5"):
        GriffinLim(spec, momentum=1.5)


def test_unknown_vocoders_are_refused_with_what_is_legal():
    with pytest.raises(UserError, match="'griffinlim', did you mean 'griffin_lim'"):
        load_vocoder("griffinlim", PRESETS["sqvae16k"])
