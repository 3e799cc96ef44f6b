"""The losses of the vocoder against their equations in float64."""

import math

import numpy as np
import pytest
import torch

from sqvae_speech.audio.filterbank import mel_filterbank
from sqvae_speech.audio.melspec import PRESETS
from sqvae_speech.models.inverse_stft import InverseStft
from sqvae_speech.models.vocoder_network import Polar
from sqvae_speech.training.spectral_losses import RESOLUTIONS, MelDistance, MultiResolutionStft, PolarDistance


def wavs(samples: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pairs: a chirp and another with noise; silence and almost silence."""
    time = np.arange(samples) / 16000
    chirp = 0.5 * np.sin(2 * np.pi * (200 + 900 * time) * time)
    noise = np.random.default_rng(0).standard_normal((2, samples))
    real = np.stack([chirp, np.zeros(samples)])
    made = np.stack([0.8 * chirp + 0.01 * noise[0], 1e-3 * noise[1]])
    return torch.from_numpy(made).float(), torch.from_numpy(real).float()


def hann(size: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def magnitudes(wav: np.ndarray, size: int) -> np.ndarray:
    """Frames a quarter of the window apart, centred, relative to a sine at full scale, at least -100 dB."""
    window = hann(size)
    padded = np.pad(wav.astype(np.float64), size // 2)
    starts = range(0, len(padded) - size + 1, size // 4)
    spectrum = np.stack([np.fft.rfft(padded[start : start + size] * window) for start in starts])
    return np.maximum(np.abs(spectrum) * 2 / window.sum(), 1e-5)


def test_the_distance_of_spectra():
    made, real = wavs()
    convergences, differences = [], []
    for size in RESOLUTIONS:
        for ours, theirs in zip(made.numpy(), real.numpy(), strict=True):
            a, b = magnitudes(ours, size), magnitudes(theirs, size)
            quiet = 1e-2 * math.sqrt(len(b))  # of a sine at -40 dB
            convergences.append(np.linalg.norm(b - a) / max(np.linalg.norm(b), quiet))
            differences.append(np.abs(np.log(b) - np.log(a)).mean())
    found = MultiResolutionStft()(made, real)
    assert float(found.convergence) == pytest.approx(np.mean(convergences), rel=1e-4)
    assert float(found.log_magnitude) == pytest.approx(np.mean(differences), rel=1e-3)


def test_equal_wavs_have_no_distance_and_silence_no_gradient_that_is_nan():
    made, real = wavs()
    assert max(MultiResolutionStft()(real, real)) == 0
    silent = torch.zeros_like(made).requires_grad_()
    found = MultiResolutionStft()(silent, real)
    (found.convergence + found.log_magnitude + MelDistance(PRESETS["sqvae16k"])(silent, real)).backward()
    assert silent.grad is not None
    assert torch.isfinite(silent.grad).all()


def test_the_sign_of_a_wav_does_not_matter():
    """No loss may ask for a phase, which a mel does not have."""
    made, real = wavs()
    for loss in (MultiResolutionStft(), MelDistance(PRESETS["sqvae16k"])):
        torch.testing.assert_close(loss(-made, real), loss(made, real))


@pytest.mark.parametrize("name", ["sqvae16k", "melgan22k"])
def test_the_distance_of_what_the_network_says(name):
    spec = PRESETS[name]
    rng = np.random.default_rng(1)
    frames, lengths = 12, [12, 9]
    inverse = InverseStft(spec)
    made = wavs(spec.num_samples(frames))[0].double().numpy() + 0.01 * rng.standard_normal(
        (2, spec.num_samples(frames))
    )
    shape = (2, frames, inverse.num_bins)
    log_magnitude, turn = rng.normal(-3.0, 1.0, shape), rng.uniform(-4.0, 4.0, shape)
    window = hann(inverse.n_fft)
    emphasised = made - spec.preemphasis * np.pad(made, ((0, 0), (1, 0)))[:, :-1]
    padded = np.pad(emphasised, ((0, 0), (-inverse.start, 2 * inverse.n_fft)))
    spectrum = np.stack(
        [np.fft.rfft(padded[:, number * spec.hop_length :][:, : inverse.n_fft] * window) for number in range(frames)],
        axis=1,
    )
    magnitude = np.maximum(np.abs(spectrum), 1e-5 * window.sum() / 2)
    own = 2 * np.pi * np.arange(inverse.num_bins) * spec.hop_length / inverse.n_fft
    turns, magnitudes = [], []
    for row, length in enumerate(lengths):
        inside = slice(2, length - 2)  # the other frames reach beyond an end
        differences = np.abs(log_magnitude[row, inside] - np.log(magnitude[row, inside]))
        magnitudes.append(np.average(differences, weights=magnitude[row, inside] ** 0.25))
        moved = np.angle(spectrum[row, inside][1:]) - np.angle(spectrum[row, inside][:-1]) - own
        wrong = 1.0 - np.cos(turn[row, inside][1:] - moved)
        weights = (magnitude[row, inside][1:] * magnitude[row, inside][:-1]) ** 0.25
        turns.append(np.average(wrong, weights=weights))
    said = Polar(torch.from_numpy(log_magnitude).float(), torch.from_numpy(turn).float())
    found = PolarDistance(inverse)(said, torch.from_numpy(made).float(), torch.tensor(lengths))
    assert float(found.magnitude) == pytest.approx(np.mean(magnitudes), rel=1e-3)
    assert float(found.turn) == pytest.approx(np.mean(turns), rel=1e-3)


@pytest.mark.parametrize("name", ["sqvae16k", "melgan22k"])
def test_the_distance_of_mels(name):
    spec = PRESETS[name]
    made, real = wavs()
    filters, window = mel_filterbank(spec), hann(spec.win_length)

    def log_mel(wav: np.ndarray) -> np.ndarray:
        starts = range(0, len(wav) - spec.win_length + 1, spec.hop_length)
        frames = np.stack([wav[start : start + spec.win_length].astype(np.float64) * window for start in starts])
        return np.log(np.maximum(np.abs(np.fft.rfft(frames, n=spec.n_fft)) @ filters.T, spec.clamp))

    expected = np.mean(
        [np.abs(log_mel(a) - log_mel(b)).mean() for a, b in zip(made.numpy(), real.numpy(), strict=True)]
    )
    assert float(MelDistance(spec)(made, real)) == pytest.approx(expected, rel=1e-3)
    short = MelDistance(spec)(made[:, :100], real[:, :100])  # less than a window
    assert torch.isfinite(short)
