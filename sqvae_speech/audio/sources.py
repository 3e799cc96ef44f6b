"""Whatever a user may call a wav, checked in one place: arrays, tensors, recordings; one, a batch, a list."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sqvae_speech.audio.stream import array_blocks, file_blocks
from sqvae_speech.audio.wav import read_wav, wav_info
from sqvae_speech.errors import UserError

Wav = str | os.PathLike[str] | np.ndarray | Tensor
WavLike = Wav | Sequence[Wav]

# Full scale is 1. Resampling overshoots a little, floating-point recordings more; integers in disguise far more.
_LARGEST = 16.0
_LEGAL = (
    "a wav is a path, an array or tensor of floating point, (samples,) or (batch, samples), or a list of paths and "
    "(samples,) arrays"
)


class WavSource(NamedTuple):
    """A wav that is there, or can be read.

    Attributes:
        name: for messages.
        sample_rate: its own, Hz.
        seconds: its length.
        whole: gives all of it, (T,) float32 at its own rate.
        blocks: gives it in pieces, in flat memory where it is a recording.
    """

    name: str
    sample_rate: int
    seconds: float
    whole: Callable[[], NDArray[np.float32]]
    blocks: Callable[[], Iterator[NDArray[np.float32]]]


def wav_sources(
    wav: WavLike,
    sample_rate: int | None = None,
    *,
    lengths: Tensor | np.ndarray | Sequence[int] | None = None,
    channel: int | str | None = None,
) -> list[WavSource]:
    """Check what a user gives and list its wavs.

    Args:
        wav: a path; (T,) or (B, T) floating point, NumPy or torch, in [-1, 1]; or a list of paths and of (T,).
        sample_rate: of arrays, Hz; recordings have their own.
        lengths: (B,) integers, the real samples of each row of a (B, T) wav; None: all.
        channel: of recordings with several, see :func:`sqvae_speech.audio.wav.read_wav`.

    Raises:
        UserError: anything else; no wavs, an empty wav, NaN or infinite samples, no sample rate, no such recording.
    """
    if isinstance(wav, str | os.PathLike):
        rows: list[Any] = [wav]
    elif isinstance(wav, np.ndarray | Tensor):
        rows = _rows(wav, lengths)
    elif isinstance(wav, list | tuple):
        rows = list(wav)
        if not rows:
            raise UserError("no wavs: the list is empty; give at least one")
    else:
        raise UserError(f"wav is a {type(wav).__name__}; {_LEGAL}")
    if lengths is not None and not (isinstance(wav, np.ndarray | Tensor) and wav.ndim == 2):
        raise UserError("lengths belong to a (batch, samples) wav; the wavs of a list have their own")
    single = len(rows) == 1
    return [
        recording_source(row, channel)
        if isinstance(row, str | os.PathLike)
        else array_source(row, sample_rate, "the wav" if single else f"wav {number} of {len(rows)}")
        for number, row in enumerate(rows)
    ]


def _rows(wav: np.ndarray | Tensor, lengths: Any) -> list[Any]:
    if wav.ndim == 1:
        return [wav]
    shape = tuple(wav.shape)
    if wav.ndim != 2:
        raise UserError(f"wav is {shape}; {_LEGAL}")
    if shape[0] == 0:
        raise UserError(f"no wavs: the batch is {shape}; give at least one")
    if 0 < shape[1] <= 8 < shape[0]:
        raise UserError(
            f"wav is {shape}, which looks like (samples, channels), and (batch, samples) is wanted; choose a channel "
            "(wav[:, 0]) or mix them (wav.mean(1))"
        )
    if lengths is None:
        return list(wav)
    real = np.asarray(lengths.cpu() if isinstance(lengths, Tensor) else lengths)
    if real.shape != shape[:1] or not np.issubdtype(real.dtype, np.integer):
        raise UserError(f"lengths are {real.shape} {real.dtype}; they have to be ({shape[0]},) integers")
    if real.min() < 0 or real.max() > shape[1]:
        raise UserError(f"lengths are {real.tolist()}; each has to be from 1 to the wav's {shape[1]} samples")
    return [row[:length] for row, length in zip(wav, real.tolist(), strict=True)]


def recording_source(path: str | os.PathLike[str], channel: int | str | None) -> WavSource:
    """A recording, which is read when it is needed. :class:`UserError` when it is none."""
    info = wav_info(path)
    return WavSource(
        name=os.fspath(path),
        sample_rate=info.sample_rate,
        seconds=info.duration,
        whole=lambda: read_wav(path, channel=channel)[0],
        blocks=lambda: file_blocks(path, channel),
    )


def array_source(wav: Any, sample_rate: int | None, name: str) -> WavSource:
    """A (T,) array or tensor. :class:`UserError` when it is none, see :func:`wav_sources`."""
    if not isinstance(wav, np.ndarray | Tensor):
        raise UserError(f"{name} is a {type(wav).__name__}; {_LEGAL}")
    samples = checked_samples(wav, name)
    if len(samples) == 0:
        raise UserError(f"{name} is empty (0 samples); leave it out")
    if sample_rate is None:
        raise UserError(f"{name} is an array, which does not say its rate; give sample_rate, in Hz")
    if isinstance(sample_rate, bool) or int(sample_rate) != sample_rate or sample_rate <= 0:
        raise UserError(f"sample_rate is {sample_rate!r}; it has to be a whole number of Hz above 0")
    rate = int(sample_rate)
    bad = np.flatnonzero(~np.isfinite(samples))
    if len(bad):
        where = f"{len(bad)} of {len(samples)} samples are NaN or infinite, the first at {bad[0] / rate:.3f} s"
        raise UserError(f"{name}: {where}; repair it or leave it out")
    peak = float(np.abs(samples).max())
    if peak > _LARGEST:
        raise UserError(f"{name} goes up to {peak:.6g}; full scale is 1: divide 16-bit samples by 32768")
    return WavSource(
        name=name,
        sample_rate=rate,
        seconds=len(samples) / rate,
        whole=lambda: samples,
        blocks=lambda: array_blocks(samples, rate),
    )


def checked_samples(wav: np.ndarray | Tensor, name: str) -> NDArray[np.float32]:
    """(T,) floating point of any precision, NumPy or torch, on any device -> float32 NumPy.

    Raises:
        UserError: another rank or type.
    """
    floating = wav.is_floating_point() if isinstance(wav, Tensor) else np.issubdtype(wav.dtype, np.floating)
    if not floating:
        raise UserError(f"{name} is {wav.dtype}; floating point in [-1, 1] is wanted: divide 16-bit samples by 32768")
    if wav.ndim != 1:
        raise UserError(f"{name} is {tuple(wav.shape)}; {_LEGAL}")
    if isinstance(wav, Tensor):
        return wav.detach().to("cpu", torch.float32).numpy()
    return np.ascontiguousarray(wav, dtype=np.float32)
