"""The steps that vocoders share, against their definitions in float64."""

import dataclasses

import numpy as np
import pytest
import torch

from sqvae_speech.audio.band_matrix import BandMatrix
from sqvae_speech.audio.filterbank import mel_filterbank
from sqvae_speech.audio.mel_inversion import MelInversion
from sqvae_speech.audio.melspec import PRESETS
from sqvae_speech.audio.overlap_add import overlap_add
from sqvae_speech.audio.phase_search import search_phases, with_magnitude
from sqvae_speech.audio.windowed_transform import WindowedTransform


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("to_bands", [False, True])
def test_a_band_matrix_is_the_matrix(name, to_bands):
    filters = mel_filterbank(PRESETS[name])
    matrix = filters.T if to_bands else filters
    x = np.random.default_rng(0).uniform(size=(2, 3, len(matrix)))
    made = BandMatrix(torch.from_numpy(matrix))(torch.from_numpy(x))
    np.testing.assert_allclose(made.numpy(), x @ matrix, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shape", [(1, 1), (4, 2), (2, 9), (7, 5)])
def test_a_band_matrix_may_be_small_empty_or_full(shape):
    rng = np.random.default_rng(0)
    for matrix in (np.zeros(shape), rng.standard_normal(shape)):
        x = rng.standard_normal((3, shape[0]))
        made = BandMatrix(torch.from_numpy(matrix))(torch.from_numpy(x))
        np.testing.assert_allclose(made.numpy(), x @ matrix, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("length", [5, 8, 9, 12])
def test_overlap_add_is_a_sum_of_frames_under_a_window(length):
    hop, rng = 5 if length == 5 else 4, np.random.default_rng(0)
    frames, window = rng.standard_normal((2, 7, length)), rng.standard_normal(length)
    expected = np.zeros((2, 6 * hop + length))
    for number in range(7):
        expected[:, number * hop : number * hop + length] += frames[:, number] * window
    made = overlap_add(torch.from_numpy(frames), torch.from_numpy(window), hop)
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-12, atol=1e-14)


def in_float64(transform: WindowedTransform) -> WindowedTransform:
    transform.window = torch.hann_window(transform.win_length, periodic=True, dtype=torch.float64)
    return transform


def analysed(wav: np.ndarray, window: np.ndarray, hop: int, n_fft: int) -> np.ndarray:
    starts = range(0, len(wav) - len(window) + 1, hop)
    return np.stack([np.fft.rfft(wav[start : start + len(window)] * window, n_fft) for start in starts])


def synthesised(spectrum: np.ndarray, window: np.ndarray, hop: int, n_fft: int) -> np.ndarray:
    """By the least squares: the wav whose frames are nearest."""
    size = (len(spectrum) - 1) * hop + len(window)
    rows = np.zeros((len(spectrum) * len(window), size))
    for number in range(len(spectrum)):
        for n in range(len(window)):
            rows[number * len(window) + n, number * hop + n] = window[n]
    frames = np.fft.irfft(spectrum, n_fft)[:, : len(window)]
    return np.linalg.lstsq(rows, frames.ravel(), rcond=None)[0]


@pytest.mark.parametrize("momentum", [0.0, 0.99])
@pytest.mark.parametrize("win", [12, 16])
def test_the_phase_search_is_fast_griffin_lim(momentum, win):
    """As its paper has it: the spectrum is projected on those of wavs, and from there goes a step ahead."""
    hop, n_fft, frames, rng = 4, 16, 9, np.random.default_rng(0)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / win)
    magnitude = rng.uniform(0.1, 1.0, (frames, 9))
    spectrum = magnitude * np.exp(2j * np.pi * rng.uniform(size=magnitude.shape))
    expected, before = spectrum, None
    for _ in range(4):
        projected = analysed(synthesised(expected, window, hop, n_fft), window, hop, n_fft)
        ahead = projected if before is None else projected + momentum * (projected - before)
        expected, before = magnitude * np.exp(1j * np.angle(ahead)), projected
    wav = synthesised(expected, window, hop, n_fft)
    transform = in_float64(WindowedTransform(win, hop, n_fft, 1e-9))
    given = torch.from_numpy(spectrum)[None], torch.from_numpy(magnitude)[None]
    made = search_phases(transform, *given, 4, momentum=momentum)[0].numpy()
    assert made.shape == wav.shape
    np.testing.assert_allclose(made[1:], wav[1:], atol=1e-9)  # a Hann window says nothing of sample 0


def test_a_phase_search_of_a_padded_batch_is_that_of_each():
    transform = WindowedTransform(16, 4, 16, 1e-9)
    rng = torch.Generator().manual_seed(0)
    magnitude = torch.rand(2, 9, 9, generator=rng)
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    spectrum = torch.polar(magnitude, 6.0 * torch.rand(2, 9, 9, generator=rng))
    made = search_phases(transform, spectrum, magnitude, 3, mask=mask)
    alone = search_phases(transform, spectrum[1:, :5], magnitude[1:, :5], 3)
    torch.testing.assert_close(made[1:, : alone.shape[1]], alone)
    assert not made[1, alone.shape[1] :].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_magnitudes_change_and_phases_stay(dtype):
    rng = torch.Generator().manual_seed(0)
    spectrum = torch.randn(3, 50, dtype=dtype.to_complex(), generator=rng) * torch.logspace(-14, 10, 50, dtype=dtype)
    spectrum[1, 7] = 0.0
    magnitude = torch.rand(3, 50, dtype=dtype, generator=rng)
    made = with_magnitude(spectrum, magnitude)
    torch.testing.assert_close(made, magnitude * torch.sgn(spectrum))
    assert made[1, 7] == 0
    # and gradients are the same, 0 where there is nothing
    gradients = []
    for function in (with_magnitude, lambda x, y: y * torch.sgn(x)):
        inputs = [spectrum.clone().requires_grad_(True), magnitude.clone().requires_grad_(True)]
        torch.view_as_real(function(*inputs))[..., 1].sum().backward()
        assert inputs[0].grad[1, 7] == 0
        gradients.append([inputs[0].grad * spectrum.abs(), inputs[1].grad])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("extend", [False, True])
def test_the_mel_is_inverted_by_multiplicative_updates(extend):
    """Lee and Seung, theorem 2: with H the spectrum, V the mel and W the filters' weights of bins."""
    spec = dataclasses.replace(PRESETS["sqvae16k"], fmin=300.0, fmax=6000.0, n_mels=20, n_fft=512)
    filters = mel_filterbank(spec)
    mel = np.random.default_rng(0).uniform(0.1, 1.0, 20)
    covered = np.flatnonzero(filters.sum(axis=0))
    w = filters[:, covered]
    h = np.array([(mel / filters.sum(axis=1)) @ column / column.sum() for column in w.T])
    for _ in range(3):
        found = w @ h
        h = np.array([h[bin_] * (w[:, bin_] * mel / found).sum() / w[:, bin_].sum() for bin_ in range(len(h))])
    made = MelInversion(filters, 3, extend=extend)(torch.from_numpy(mel).float()).numpy()
    np.testing.assert_allclose(made[covered], h, rtol=1e-5)
    assert 0 < covered[0] < covered[-1] < 256
    assert len(covered) == covered[-1] - covered[0] + 1
    np.testing.assert_allclose(made[: covered[0]], h[0] if extend else 0.0, rtol=1e-5)
    np.testing.assert_allclose(made[covered[-1] + 1 :], h[-1] if extend else 0.0, rtol=1e-5)
