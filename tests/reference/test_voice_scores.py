"""Scores of voices against float64 computations written from their equations."""

import itertools
import math

import numpy as np
import pytest
import torch

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.voices.alignment import distances, warping_path
from sqvae_speech.evaluation.voices.cepstra import (
    VOICE_SPEC,
    cepstral_distortion,
    mel_cepstra,
    mel_cepstral_distortion,
    voice_mel,
)
from sqvae_speech.evaluation.voices.pitch import pitch_scores, pitch_track
from sqvae_speech.evaluation.voices.quality import pesq, stoi
from sqvae_speech.evaluation.voices.spectra import Resolution, stft_distance

RATE = 16_000


def vowel(pitch: float, formant: float, seconds: float = 0.5, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Harmonics of a steady pitch under one formant, and a little noise; (samples,) float32."""
    time = np.arange(round(seconds * rate)) / rate
    wav = sum(
        math.exp(-(((k * pitch - formant) / 600) ** 2)) * np.sin(2 * np.pi * k * pitch * time)
        for k in range(1, int(0.45 * rate / pitch))
    )
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.4 * wav / np.abs(wav).max() + 1e-3 * noise).astype(np.float32)


def all_paths(rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """Every monotonic path through a table, by recursion."""
    if rows == columns == 1:
        return [[(0, 0)]]
    before = [(rows - 1, columns), (rows, columns - 1), (rows - 1, columns - 1)]
    return [[*path, (rows - 1, columns - 1)] for r, c in before if r >= 1 and c >= 1 for path in all_paths(r, c)]


# ---- alignment


def test_the_path_is_the_cheapest_of_all():
    rng = np.random.default_rng(0)
    for rows, columns in itertools.product((1, 3, 5), (2, 4)):
        cost = rng.random((rows, columns))
        path = warping_path(cost)
        sums = [math.fsum(cost[pair] for pair in one) for one in all_paths(rows, columns)]
        assert math.fsum(cost[tuple(pair)] for pair in path) == pytest.approx(min(sums), abs=1e-12)
        assert path[0].tolist() == [0, 0]
        assert path[-1].tolist() == [rows - 1, columns - 1]
        steps = np.diff(path, axis=0)
        assert ((steps >= 0) & (steps <= 1)).all()
        assert (steps.sum(axis=1) > 0).all()


def test_distances_are_euclidean():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    expected = [[math.sqrt(sum((x - y) ** 2 for x, y in zip(one, two, strict=True))) for two in b] for one in a]
    np.testing.assert_allclose(distances(a, b), expected, rtol=1e-12)


def test_nothing_to_align_is_refused():
    with pytest.raises(UserError, match="nothing to align"):
        warping_path(np.zeros((0, 3)))
    with pytest.raises(UserError, match="NaN"):
        warping_path(np.array([[0.0, np.nan]]))


# ---- mel-cepstral distortion


def test_cepstra_by_their_sum():
    mel = np.random.default_rng(2).normal(-30, 10, size=(12, 3))
    found = mel_cepstra(mel, order=4)
    assert found.shape == (3, 4)
    for frame, d in itertools.product(range(3), range(1, 5)):
        natural = [value * math.log(10) / 20 for value in mel[:, frame]]
        expected = 2 / 12 * math.fsum(x * math.cos(math.pi * d * (n + 0.5) / 12) for n, x in enumerate(natural))
        assert found[frame, d - 1] == pytest.approx(expected, abs=1e-12)


def test_distortion_is_the_spectral_difference_in_db():
    """A difference of a cosine of 3 dB amplitude is 3 / sqrt 2 dB, root mean square; a gain is none at all."""
    bands = np.arange(80) + 0.5
    mel = np.random.default_rng(3).normal(-30, 10, size=(80, 6))
    changed = mel + 3.0 * np.cos(np.pi * 5 * bands / 80)[:, None] + 7.0
    path = np.stack([np.arange(6)] * 2, axis=1)
    found = cepstral_distortion(mel_cepstra(mel), mel_cepstra(changed), path)
    assert found == pytest.approx(3.0 / math.sqrt(2.0), abs=1e-9)


def test_distortion_along_a_given_and_along_the_best_path():
    rng = np.random.default_rng(4)
    one, two = rng.normal(size=(4, 24)), rng.normal(size=(3, 24))

    def along(path: list[tuple[int, int]]) -> float:
        each = [
            10 / math.log(10) * math.sqrt(2 * math.fsum((x - y) ** 2 for x, y in zip(one[i], two[j], strict=True)))
            for i, j in path
        ]
        return math.fsum(each) / len(each)

    paths = all_paths(4, 3)
    for path in paths[:5]:
        assert cepstral_distortion(one, two, np.array(path)) == pytest.approx(along(path), abs=1e-10)
    # warping minimises the sum, and the score is the mean
    best = min(paths, key=lambda path: along(path) * len(path))
    assert cepstral_distortion(one, two) == pytest.approx(along(best), abs=1e-10)


def test_distortion_of_recordings():
    one = vowel(120, 700)
    assert mel_cepstral_distortion(one, one, RATE) == 0.0
    assert mel_cepstral_distortion(one, 0.1 * one, RATE) < 0.5, "loudness is in c_0"
    slower = np.concatenate([one, one[:3200]])
    near, far = mel_cepstral_distortion(one, slower, RATE), mel_cepstral_distortion(one, vowel(120, 2500), RATE)
    assert near < 1.0, "time is warped"
    assert far > 5 * near
    assert mel_cepstral_distortion(one, vowel(120, 700, rate=8000), RATE, 8000) < far


def test_the_mel_of_scores_is_of_16_khz_and_60_db_deep():
    mel = voice_mel(vowel(120, 700), RATE)
    assert mel.shape == (80, 51)
    assert mel.max() - mel.min() == pytest.approx(VOICE_SPEC.dynamic_range, abs=1e-4)


# ---- pitch


def test_pitch_scores_by_hand():
    reference = np.array([0, 100, 200, 0, 150], dtype=np.float32)
    other = np.array([0, 110, 0, 120, 150, 75], dtype=np.float32)
    path = np.array([(0, 0), (1, 1), (2, 1), (2, 2), (3, 3), (4, 4), (4, 5)])
    scores = pitch_scores(reference, other, path)
    logs = [math.log(110 / 100), math.log(110 / 200), 0.0, math.log(75 / 150)]
    assert scores.voiced == 4
    assert scores.log_f0_rmse == pytest.approx(math.sqrt(sum(x * x for x in logs) / 4), abs=1e-7)
    cents = [1200 * math.log2(math.exp(x)) for x in logs]
    assert scores.cents == pytest.approx(math.sqrt(sum(x * x for x in cents) / 4), abs=1e-4)
    assert scores.voicing_error == pytest.approx(2 / 7)
    silent = pitch_scores(np.zeros(3), np.zeros(3), np.array([(0, 0), (1, 1), (2, 2)]))
    assert (silent.log_f0_rmse, silent.cents, silent.voicing_error, silent.voiced) == (None, None, 0.0, 0)


def test_a_tone_s_pitch_lies_on_the_frames_of_its_mel():
    frames = voice_mel(vowel(200, 700), RATE).shape[1]
    track = pitch_track(vowel(200, 700), RATE, VOICE_SPEC, frames)
    assert track.shape == (frames,)
    voiced = track[5:-5]
    np.testing.assert_allclose(voiced[voiced > 0], 200, rtol=0.02)
    assert (voiced > 0).mean() > 0.9


# ---- spectra


def test_stft_distance_by_a_plain_transform():
    rng = np.random.default_rng(5)
    one, two = rng.normal(0, 0.1, size=(2, 400))
    resolutions = (Resolution(32, 8, 24), Resolution(64, 20, 64))
    convergence, log_magnitude = [], []
    for n_fft, hop, win in resolutions:
        window = np.zeros(n_fft)
        left = (n_fft - win) // 2
        window[left : left + win] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / win)
        magnitudes = []
        for wav in (one, two):
            padded = np.pad(wav, n_fft // 2, mode="reflect")
            frames = [padded[at : at + n_fft] * window for at in range(0, len(wav) + 1, hop)]
            turn = np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft)
            power = np.abs(turn @ np.array(frames).T) ** 2
            magnitudes.append(np.sqrt(np.maximum(power, 1e-7)))
        convergence.append(np.sqrt(((magnitudes[0] - magnitudes[1]) ** 2).sum() / (magnitudes[0] ** 2).sum()))
        log_magnitude.append(np.abs(np.log(magnitudes[0]) - np.log(magnitudes[1])).mean())
    found = stft_distance(torch.from_numpy(one), torch.from_numpy(two), resolutions)
    assert found.convergence == pytest.approx(np.mean(convergence), rel=1e-9)
    assert found.log_magnitude == pytest.approx(np.mean(log_magnitude), rel=1e-9)
    assert found.total == pytest.approx(found.convergence + found.log_magnitude, rel=1e-12)


def test_stft_distance_refuses_what_it_cannot_compare():
    with pytest.raises(UserError, match="too few"):
        stft_distance(torch.zeros(500), torch.zeros(500))
    with pytest.raises(UserError, match="of floating point"):
        stft_distance(torch.zeros(1, 5000), torch.zeros(5000))


# ---- STOI and PESQ


def speech(seconds: float = 1.5) -> np.ndarray:
    """Syllables of several vowels with pauses between them."""
    parts = [vowel(110 + 10 * n, 400 + 350 * n, 0.2, n) * np.hanning(3200).astype(np.float32) for n in range(6)]
    return np.tile(np.concatenate(parts), math.ceil(seconds / 1.2))[: round(seconds * RATE)]


def test_stoi_falls_with_noise():
    pytest.importorskip("pystoi")
    wav = speech()
    noise = np.random.default_rng(6).normal(0, 1, len(wav)).astype(np.float32)
    scores = [stoi(wav, wav + level * noise, RATE) for level in (0.0, 0.03, 0.3)]
    assert scores[0] == pytest.approx(1.0, abs=1e-6)
    assert 1.0 > scores[1] > scores[2]
    assert stoi(wav, np.append(wav, np.zeros(100, np.float32)), RATE) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(UserError, match="sample by sample"):
        stoi(wav, wav[:-2000], RATE)
    with pytest.raises(UserError, match=r"0\.4 s"):
        stoi(wav[:3200], wav[:3200], RATE)


def test_pesq_falls_with_noise():
    pytest.importorskip("pesq")
    wav = speech(2.5)
    noise = np.random.default_rng(7).normal(0, 1, len(wav)).astype(np.float32)
    scores = [pesq(wav, wav + level * noise, RATE) for level in (0.0, 0.003, 0.1)]
    assert scores[0] == pytest.approx(4.64, abs=0.01), "the best there is in wide band"
    assert scores[0] > scores[1] > scores[2]
    narrow = wav[::2]
    assert pesq(narrow, narrow, 8000) == pytest.approx(4.55, abs=0.01), "and in narrow band"
    with pytest.raises(UserError, match="at least 8000 Hz"):
        pesq(wav, wav, 4000)
    with pytest.raises(UserError, match=r"PESQ cannot score these 0\.10 s"):
        pesq(wav[:1600], wav[:1600], RATE)


@pytest.mark.parametrize(("package", "score"), [("pystoi", stoi), ("pesq", pesq)])
def test_a_missing_package_is_named(package, score, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=rf"package {package}.*sqvae_speech\[voices\]"):
        score(np.zeros(RATE, np.float32), np.zeros(RATE, np.float32), RATE)
