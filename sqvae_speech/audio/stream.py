"""Mels of a wav that comes in pieces: equal to those of the whole, in memory that does not grow with its length.

What the whole utterance decides, its peak and the loudest mel value, is a :class:`Level`, taken from a first pass
over a recording or known beforehand.
"""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import soxr
import torch
from torch import Tensor

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.wav import read_wav, wav_info
from sqvae_speech.errors import UserError

BLOCK_SECONDS = 30.0


class Level(NamedTuple):
    """What a mel spec with ``peak`` or ``dynamic_range`` takes from the whole utterance.

    Attributes:
        peak: largest absolute sample, linear, of the wav at the spec's rate, before any normalisation.
        loudest: largest mel value of the wav as it came, linear, before the logarithm.
    """

    peak: float
    loudest: float


class Resampler:
    """Changes the rate of samples that come in pieces; together they equal :func:`sqvae_speech.audio.wav.resample`.

    Raises:
        UserError: a rate that is not above 0.
    """

    def __init__(self, sample_rate: int, new_sample_rate: int):
        if sample_rate <= 0 or new_sample_rate <= 0:
            raise UserError(f"cannot resample from {sample_rate} to {new_sample_rate} Hz; both have to be above 0")
        self._stream = None
        if sample_rate != new_sample_rate:
            self._stream = soxr.ResampleStream(sample_rate, new_sample_rate, 1, dtype="float32", quality="HQ")

    def push(self, wav: np.ndarray, last: bool = False) -> np.ndarray:
        """(n,) float32 at the old rate -> what can be told of the new one so far, (m,) float32."""
        return wav if self._stream is None else self._stream.resample_chunk(wav, last=last)


class MelFrames(NamedTuple):
    """Frames that a piece of a wav completed.

    Attributes:
        mel: (n_mels, F) float64, linear, of the wav as it came.
        peak: (F,) float64, the largest absolute sample up to the last one that each frame needs.
    """

    mel: Tensor
    peak: Tensor


class MelStream:
    """Linear mel frames of a wav that comes in pieces, however it is cut.

    Args:
        logmel: the features.
        sample_rate: Hz of what is pushed.

    Attributes:
        peak, loudest: see :class:`Level`, of what was pushed so far.
        num_samples: samples so far, at the spec's rate.
    """

    def __init__(self, logmel: LogMel, sample_rate: int):
        self.spec = logmel.spec
        self.peak = 0.0
        self.loudest = 0.0
        self.num_samples = 0
        self._logmel = logmel
        self._resampler = Resampler(sample_rate, self.spec.sample_rate)
        self._pushed = 0
        self._sample_rate = sample_rate
        self._num_frames = 0
        self._wav = logmel.window.new_zeros(0)  # samples from number _start on, after pre-emphasis
        self._start = 0
        self._previous = logmel.window.new_zeros(1)

    @property
    def level(self) -> Level:
        """Of what was pushed so far."""
        return Level(self.peak, self.loudest)

    def push(self, wav: np.ndarray | Tensor) -> MelFrames:
        """Give (n,) samples, floating point; get the frames that they complete.

        Raises:
            UserError: NaN or infinite samples.
        """
        samples = np.asarray(wav, dtype=np.float32)
        if not np.isfinite(samples).all():
            first = self._pushed + int(np.flatnonzero(~np.isfinite(samples))[0])
            raise UserError(
                f"the wav holds NaN or infinite samples, the first at {first / self._sample_rate:.3f} s; repair it"
            )
        self._pushed += len(samples)
        return self._add(self._resampler.push(samples))

    def finish(self) -> MelFrames:
        """The wav ends here: get the frames that reach over its end."""
        tail = self._resampler.push(np.zeros(0, np.float32), last=True)
        parts = [self._add(tail), self._cut(self.spec.num_frames(self.num_samples), ended=True)]
        return MelFrames(torch.cat([part.mel for part in parts], dim=1), torch.cat([part.peak for part in parts]))

    def _add(self, samples: np.ndarray) -> MelFrames:
        wav = torch.from_numpy(np.ascontiguousarray(samples)).to(self._wav)
        before, start = self.peak, self.num_samples
        if len(wav):
            self.num_samples += len(wav)
            self.peak = max(before, float(wav.abs().max()))
            if self.spec.preemphasis:
                previous = torch.cat([self._previous, wav[:-1]])
                self._previous = wav[-1:]
                self._wav = torch.cat([self._wav, wav - self.spec.preemphasis * previous])
            else:
                self._wav = torch.cat([self._wav, wav])
        first = self._num_frames
        mel = self._cut(frames_of_samples(self.spec, self.num_samples), ended=False).mel
        peak = mel.new_full((mel.shape[1],), self.peak)
        if mel.shape[1]:
            # by the samples, not by the pieces: what a frame is told does not depend on how the wav was cut
            needed = torch.tensor([samples_of_frames(self.spec, first + n + 1) for n in range(mel.shape[1])])
            peak = wav.abs().cummax(dim=0).values[needed.to(wav.device) - 1 - start].clamp(min=before)
        return MelFrames(mel, peak)

    def _cut(self, stop: int, ended: bool) -> MelFrames:
        """The frames up to ``stop``; forget the samples that no later frame needs."""
        spec, first = self.spec, self._num_frames
        count = max(0, stop - first)
        if not count:
            return MelFrames(self._wav.new_zeros(spec.n_mels, 0), self._wav.new_zeros(0))
        span = (count - 1) * spec.hop_length + spec.win_length
        source = torch.arange(span, device=self._wav.device) + first * spec.hop_length + spec.window_start
        last = self.num_samples - 1
        if spec.pad_mode == "reflect":
            source = source.abs()
            source = torch.where(source > last, 2 * last - source, source)
        outside = (source < 0) | (source > last)
        padded = self._wav[(source - self._start).masked_fill(outside, 0)].masked_fill(outside, 0.0)
        mel = self._logmel.linear(padded.unfold(0, spec.win_length, spec.hop_length)[None])[0]
        self.loudest = max(self.loudest, float(mel.max()))
        self._num_frames = stop
        # a reflection at the end reaches back over less than n_fft samples
        keep = min(stop * spec.hop_length + spec.window_start, self.num_samples - spec.n_fft)
        if keep > self._start:
            self._wav, self._start = self._wav[keep - self._start :].clone(), keep
        return MelFrames(mel, mel.new_full((count,), self.peak))


def samples_of_frames(spec: MelSpec, num_frames: int) -> int:
    """Samples from the beginning of a wav that fix its first ``num_frames`` frames, whatever follows."""
    start = (num_frames - 1) * spec.hop_length
    window_end = start + spec.window_start + spec.win_length
    # the frame also has to exist: all of its n_fft samples lie within the padded wav
    return max(window_end, start + spec.n_fft - 2 * spec.pad_samples, _least(spec))


def frames_of_samples(spec: MelSpec, num_samples: int) -> int:
    """Frames that the first ``num_samples`` samples of a wav fix: the inverse of :func:`samples_of_frames`."""
    if num_samples < _least(spec):
        return 0
    most = min(num_samples - spec.window_start - spec.win_length, num_samples - spec.n_fft + 2 * spec.pad_samples)
    return max(0, most // spec.hop_length + 1)


def _least(spec: MelSpec) -> int:
    reflected = 1 - spec.window_start if spec.pad_mode == "reflect" else 1  # sample 0 is the mirror
    return max(spec.min_samples, reflected)


def file_blocks(path: str | os.PathLike[str], channel: int | str | None = None) -> Iterator[np.ndarray]:
    """Read a recording at its own rate, (n,) float32 at a time: :data:`BLOCK_SECONDS` of it are in memory.

    Raises:
        UserError: see :func:`sqvae_speech.audio.wav.read_wav`.
    """
    info = wav_info(path)
    size = max(1, round(BLOCK_SECONDS * info.sample_rate))
    for start in range(0, max(info.num_samples, 1), size):
        stop = min(start + size, info.num_samples)
        yield read_wav(path, start=start / info.sample_rate, end=stop / info.sample_rate, channel=channel)[0]


def array_blocks(wav: np.ndarray, sample_rate: int) -> Iterator[np.ndarray]:
    """Cut (T,) samples as :func:`file_blocks` cuts a recording."""
    size = max(1, round(BLOCK_SECONDS * sample_rate))
    for start in range(0, len(wav), size):
        yield wav[start : start + size]


def measure_level(logmel: LogMel, sample_rate: int, blocks: Iterable[np.ndarray]) -> Level:
    """The level of a whole wav, given in pieces at ``sample_rate``."""
    stream = MelStream(logmel, sample_rate)
    for block in blocks:
        stream.push(block)
    stream.finish()
    return stream.level
