"""LogMel: batches, silence, short and bad input."""

import dataclasses

import numpy as np
import pytest
import torch

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import PRESETS, MelSpec
from sqvae_speech.errors import UserError


def noise(samples: int, seed: int = 0, level: float = 0.1) -> torch.Tensor:
    return level * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("name", PRESETS)
def test_batch_equals_single_whatever_follows_the_wav(name, pad_mode):
    spec = dataclasses.replace(MelSpec.preset(name), pad_mode=pad_mode)
    logmel = LogMel(spec)
    lengths = torch.tensor([spec.min_samples, 16000, 4001, 9999, 2048])
    batch = torch.full((5, 17000), 3.0)  # rubbish, louder than the wavs, that must not be read
    for row, length in enumerate(lengths.tolist()):
        batch[row, :length] = noise(length, seed=row, level=0.1 / (row + 1))
    out = logmel(batch, lengths)
    assert out.mel.dtype == torch.float32
    assert out.lengths.dtype == torch.int64
    for row, length in enumerate(lengths.tolist()):
        alone = logmel(batch[row : row + 1, :length])
        frames = spec.num_frames(length)
        assert out.lengths[row] == alone.lengths[0] == alone.mel.shape[2] == frames
        torch.testing.assert_close(out.mel[row, :, :frames], alone.mel[0], rtol=0, atol=1e-6)
        assert not out.mel[row, :, frames:].any()
        assert out.peak[row] == alone.peak[0] == batch[row, :length].abs().max()


@pytest.mark.parametrize("name", PRESETS)
def test_silence_gives_the_floor(name):
    spec = MelSpec.preset(name)
    out = LogMel(spec)(torch.stack([torch.zeros(8000), noise(8000)]))
    floor = {"db": 20 * np.log10(spec.clamp) / (spec.dynamic_range or 1) + 1, "ln": np.log(spec.clamp)}
    expected = floor.get(spec.log, np.log10(spec.clamp))
    np.testing.assert_allclose(out.mel[0].numpy(), expected, rtol=1e-6)
    assert out.peak[0] == 0
    assert torch.isfinite(out.mel).all()


def test_peak_normalisation_removes_the_level_and_reports_it():
    logmel = LogMel(MelSpec.preset("sqvae16k"))
    wav = noise(8000)
    out = logmel(torch.stack([wav, 0.01 * wav, 1e-12 * wav]))
    torch.testing.assert_close(out.mel[1], out.mel[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.mel[2], out.mel[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.peak, wav.abs().max() * torch.tensor([1, 0.01, 1e-12]))


@pytest.mark.parametrize("name", PRESETS)
def test_too_short_is_refused_with_the_least_length(name):
    spec = MelSpec.preset(name)
    wav = noise(8000)[None].repeat(2, 1)
    with pytest.raises(UserError, match=f"needs at least {spec.min_samples} "):
        LogMel(spec)(wav, torch.tensor([8000, spec.min_samples - 1]))


def test_bad_input_is_refused():
    logmel = LogMel(MelSpec.preset("sqvae16k"))
    wav = torch.stack([noise(4000), noise(4000)])
    for value in (float("nan"), float("inf"), float("-inf")):
        broken = wav.clone()
        broken[1, 100] = value
        with pytest.raises(UserError, match="wav 1 of the batch holds NaN or infinite"):
            logmel(broken)
    with pytest.raises(UserError, match="floating point"):
        logmel((wav * 32768).to(torch.int16))
    with pytest.raises(UserError, match=r"\(batch, samples\)"):
        logmel(wav[0])
    with pytest.raises(UserError, match="lengths go up to"):
        logmel(wav, torch.tensor([4000, 4001]))
    with pytest.raises(UserError, match="integers"):
        logmel(wav, torch.tensor([0.5, 1.0]))


def test_long_recording_is_the_same_as_its_parts():
    """Frames are transformed a part at a time; the joints must not show."""
    spec = MelSpec.preset("melgan22k")
    wav = noise(256 * 5000)
    whole = LogMel(spec)(wav[None]).mel[0]
    start = 256 * 2000
    part = LogMel(spec)(wav[None, start : start + 256 * 200]).mel[0]
    torch.testing.assert_close(whole[:, 2004:2196], part[:, 4:196], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sqvae16k", "vocos24k"])
def test_gradient_reaches_the_wav(name):
    wav = noise(4000)[None].requires_grad_()
    LogMel(MelSpec.preset(name))(wav).mel.sum().backward()
    assert wav.grad is not None
    assert torch.isfinite(wav.grad).all()
    assert wav.grad.abs().sum() > 0
