"""Something like a voice, for tests of vocoders."""

import numpy as np
import scipy.signal
import torch


def voice(sample_rate: int, seconds: float = 0.8, peak: float = 0.3) -> torch.Tensor:
    """Return (1, T): a gliding vowel with breath and a pause."""
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * sample_rate)) / sample_rate
    phase = np.cumsum(140 * (1 + 0.2 * np.sin(2 * np.pi * t))) / sample_rate
    out = np.diff(np.floor(phase), prepend=0.0) + 0.01 * rng.standard_normal(len(t))
    for formant in (700, 1200, 2600):
        angle = 2 * np.pi * formant / sample_rate
        radius = np.exp(-np.pi * 120 / sample_rate)
        out = scipy.signal.lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], out)
    out *= 0.02 + np.clip(np.sin(2 * np.pi * 2.5 * t), 0, 1)
    return torch.from_numpy(peak * out / np.abs(out).max()).float()[None]
