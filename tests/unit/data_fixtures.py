"""Small corpora made of sound, for the tests of the data package."""

from pathlib import Path

import numpy as np
import soundfile

from sqvae_speech.data.kaldi import DataDir, Interval, Utterance

RATE = 16000


def voice(seconds: float, pitch: float = 120.0, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """A buzz with some noise: (T,) float32, peak about 0.6."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    wav = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 10)) * 0.3
    return np.float32(wav + 0.01 * rng.standard_normal(len(time)))


def write(path: Path, wav: np.ndarray, rate: int = RATE, **options) -> Path:
    """Write a recording with soundfile itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, rate, **options)
    return path


def make_data_dir(folder: Path, speakers: int = 3, per_speaker: int = 4, seconds: float = 0.3) -> DataDir:
    """Write a data directory of utterances of different lengths (10 ms apart), and its recordings."""
    utterances = []
    for speaker in range(speakers):
        for number in range(per_speaker):
            duration = seconds + 0.01 * (speaker * per_speaker + number)
            name = f"s{speaker}-{number:03d}"
            wav = voice(duration, 100 + 30 * speaker, seed=number)
            path = write(folder.parent / "wavs" / f"{name}.wav", wav)
            ali = (Interval(0.0, 0.1, "aa"), Interval(0.1, 0.2, "bb"))
            utterances.append(
                Utterance(name, f"s{speaker}", str(path), duration=len(wav) / RATE, text=f"word {number}", ali=ali)
            )
    data = DataDir(utterances)
    data.write(folder)
    return data
