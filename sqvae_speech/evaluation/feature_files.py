"""Features as the public ABX evaluations read them: a file an utterance, in a folder.

==============  ======================================================================================================
``zs2019``      ``.txt``, a frame a line, no times (ZeroSpeech 2019, and its track in ZeroSpeech 2020)
``zs2017``      ``.txt``, a frame a line after its middle in seconds (ZeroSpeech 2017, and its track in 2020)
``zs2021``      ``.txt``, a frame a line of a regular grid (ZeroSpeech 2021, ``zrc`` toolkit)
``npy``, ``pt`` a matrix (T, D) float32 of a regular grid (Libri-Light's ``eval_ABX.py``; fastabx reads ``pt``)
==============  ======================================================================================================

A regular grid has the middle of frame i at (i + 0.5) / rate seconds: that is what those evaluations assume, knowing
nothing but a rate. A model's first unit may be later, and its last may end early, so each place of the grid gets the
frame nearest to it, and the grid covers the whole utterance: no interval of an item file falls outside.

Codes are written as one-hot vectors, of N codebooks side by side.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sqvae_speech.data.files import whole_file, write_text
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.evaluation.frames import FrameSequence
from sqvae_speech.evaluation.sources import FrameSource
from sqvae_speech.units.statistics import entropy_bits

_DIGITS = "%.9g"  # gives every float32 back


@dataclass(frozen=True)
class WrittenFeatures:
    """What was written.

    Attributes:
        form, kind: of it.
        files: how many.
        dim: numbers a frame.
        rate: frames a second, None without a grid.
        feature_size: seconds a frame, the option of Libri-Light's and ZeroSpeech 2021's evaluations.
        bitrate: bit/s of what was written, by :func:`zerospeech_bitrate`.
        source: the source's description.
    """

    form: str
    kind: str
    files: int
    dim: int
    rate: float | None
    feature_size: float | None
    bitrate: float
    source: dict[str, Any]


def _write_npy(path: Path, frames: np.ndarray, times: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, frames)


def _write_pt(path: Path, frames: np.ndarray, times: np.ndarray) -> None:
    torch.save(torch.from_numpy(np.ascontiguousarray(frames)), path)


def _write_txt(path: Path, frames: np.ndarray, times: np.ndarray) -> None:
    with path.open("w", encoding="ascii") as file:
        np.savetxt(file, frames, fmt=_DIGITS)


def _write_timed_txt(path: Path, frames: np.ndarray, times: np.ndarray) -> None:
    with path.open("w", encoding="ascii") as file:
        for time, line in zip(times, frames, strict=True):
            file.write(" ".join([f"{time:.6f}", *(_DIGITS % value for value in line)]) + "\n")


@dataclass(frozen=True)
class _Form:
    suffix: str
    grid: bool
    write: Callable[[Path, np.ndarray, np.ndarray], None]


FORMS = {
    "zs2017": _Form(".txt", False, _write_timed_txt),
    "zs2019": _Form(".txt", False, _write_txt),
    "zs2021": _Form(".txt", True, _write_txt),
    "npy": _Form(".npy", True, _write_npy),
    "pt": _Form(".pt", True, _write_pt),
}


def write_features(
    folder: str | os.PathLike,
    source: FrameSource,
    sequences: Iterable[FrameSequence],
    kind: str,
    form: str,
    *,
    rate: float | None = None,
) -> WrittenFeatures:
    """Write a file an utterance, and ``<folder>.json`` beside the folder, which says what they are.

    Args:
        folder: to write to; the files are named by utterance id.
        source: that the sequences are from.
        sequences: with ``kind``.
        kind: of representation.
        form: one of :data:`FORMS`.
        rate: of the grid, Hz; by default the frames' own. For forms with a grid only.

    Raises:
        UserError: another form; a rate for a form without a grid; frames of a single number, which the evaluations
            take for an empty line; no utterances.
    """
    if form not in FORMS:
        raise UserError(f"no form of features {form!r}{nearest(form, FORMS)}; legal: {', '.join(FORMS)}")
    chosen = FORMS[form]
    if rate is not None and not (chosen.grid and rate > 0):
        raise UserError(
            f"--rate {rate:g}: it has to be positive, and {form} " + ("has one" if chosen.grid else "has none")
        )
    folder = Path(folder)
    files, dim, seconds = 0, 0, 0.0
    own_rate = None
    counts: dict[bytes, int] = {}
    for sequence in sequences:
        own_rate = rate or 1 / sequence.step
        frames = vectors(sequence, kind, source.codebook_size)
        times = sequence.times
        if chosen.grid:
            frames, times = on_grid(frames, sequence, own_rate)
        if frames.shape[1] < 2:
            raise UserError(f"{kind} has one number a frame, which {form} readers skip; write another kind")
        with whole_file(folder / f"{sequence.utterance_id}{chosen.suffix}") as part:
            chosen.write(part, frames, times)
        files, dim, seconds = files + 1, frames.shape[1], seconds + sequence.seconds
        _count(frames, counts)
    if not files:
        raise UserError("no utterance is long enough for a frame; nothing to write")
    grid_rate = own_rate if chosen.grid else None
    written = WrittenFeatures(
        form=form,
        kind=kind,
        files=files,
        dim=dim,
        rate=grid_rate,
        feature_size=None if grid_rate is None else 1 / grid_rate,
        bitrate=_bitrate(counts, seconds),
        source=source.description,
    )
    text = json.dumps(asdict(written), indent=1, ensure_ascii=False)
    write_text(folder.with_name(f"{folder.name}.json"), text + "\n")
    return written


def vectors(sequence: FrameSequence, kind: str, codebook_size: int | None) -> np.ndarray:
    """(T, D) float32 of a kind, codes as one-hot vectors (T, N*K)."""
    if kind != "codes":
        return sequence.kind(kind)
    if sequence.codes is None or codebook_size is None:
        return sequence.kind(kind)  # which says what there is
    books, count = sequence.codes.shape
    one_hot = np.zeros((count, books * codebook_size), dtype=np.float32)
    np.put_along_axis(one_hot, sequence.codes.T + codebook_size * np.arange(books), 1.0, axis=1)
    return one_hot


def on_grid(frames: np.ndarray, sequence: FrameSequence, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, D) at (i + 0.5) / rate seconds for all i in the utterance, each the nearest one (of two, the later).

    Returns:
        ``(frames, times)``.
    """
    count = max(1, int(np.floor(sequence.seconds * rate + 0.5)))
    times = (np.arange(count) + 0.5) / rate
    chosen = np.floor((times - sequence.edges[0]) / sequence.step + 1e-6).astype(np.int64)
    return frames[chosen.clip(0, len(frames) - 1)], times


def zerospeech_bitrate(frames: Iterable[np.ndarray], seconds: float) -> float:
    """Bit/s as ZeroSpeech 2019 defines it, (n / D) H: every different vector is a symbol.

    Args:
        frames: (T, D) of each utterance; n frames in all.
        seconds: D, all utterances together.
    """
    counts: dict[bytes, int] = {}
    for array in frames:
        _count(array, counts)
    return _bitrate(counts, seconds)


def _count(frames: np.ndarray, counts: dict[bytes, int]) -> None:
    for row in np.ascontiguousarray(frames):
        key = hashlib.blake2b(row.tobytes(), digest_size=16).digest()  # a row itself may be thousands of bytes
        counts[key] = counts.get(key, 0) + 1


def _bitrate(counts: dict[bytes, int], seconds: float) -> float:
    return sum(counts.values()) / seconds * entropy_bits(list(counts.values()))
