"""Endless batches of crops of mels with the samples that they stand for, to train vocoders on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.loader import SegmentLoader
from sqvae_speech.data.packed import PackedFile
from sqvae_speech.data.reader import ShardReader
from sqvae_speech.data.shard_recordings import ShardRecordings

_LARGEST = 32767  # steps of 16 bits that an utterance's largest sample is stored as


class SampleSource(Protocol):
    """What cuts the samples of a batch."""

    def gather(self, numbers: np.ndarray, first: np.ndarray, lengths: np.ndarray, width: int) -> Tensor:
        """Cut ``lengths`` (B,) samples from sample ``first`` (B,) on out of the utterances ``numbers`` (B,).

        Returns:
            (B, width) float32 at the level that the mel has, zero beyond ``lengths``.
        """
        ...


class WavFacts(NamedTuple):
    """Of an utterance: its samples, and the largest absolute one as recorded and at the level that its mel has."""

    num_samples: int
    peak: float
    level: float


class WavReader:
    """The wavs behind the utterances of shards, at the level that their mels have.

    Args:
        reader: of the shards.
        recordings: behind them.
    """

    def __init__(self, reader: ShardReader, recordings: ShardRecordings):
        self._reader = reader
        self._recordings = recordings
        self._entries = reader.index.entries()
        self._peak = reader.index.mel_spec.peak

    def __len__(self) -> int:
        return len(self._entries)

    def facts(self, number: int) -> WavFacts:
        """What the shards say of an utterance's wav."""
        entry = self._entries[number]
        meta = self._reader.meta(entry.shard, entry.json)
        peak = meta["peak"]
        return WavFacts(meta["num_samples"], peak, peak if self._peak is None else self._peak)

    def wav(self, number: int) -> np.ndarray:
        """(T,) float32.

        Raises:
            UserError: a recording that is not the one of then, or cannot be read.
        """
        facts = self.facts(number)
        wav = self._recordings.wav(self._entries[number].utterance_id, facts.num_samples)
        return wav * np.float32(facts.level / facts.peak)

    def gather(self, numbers: np.ndarray, first: np.ndarray, lengths: np.ndarray, width: int) -> Tensor:
        """See :class:`SampleSource`; reads the recordings anew each time."""
        out = np.zeros((len(numbers), width), dtype=np.float32)
        for row, number, start, length in zip(out, numbers.tolist(), first.tolist(), lengths.tolist(), strict=True):
            row[:length] = self.wav(number)[start : start + length]
        return torch.from_numpy(out)


class PackedWavs(NamedTuple):
    """The wavs of all utterances one after the other, each in 16-bit steps of its own largest sample.

    Attributes:
        samples: (total,) int16.
        starts: (N,) int64, where each utterance begins.
        steps: (N,) float32, what a step is at the level that the mel has.
    """

    samples: np.ndarray
    starts: np.ndarray
    steps: np.ndarray

    def gather(self, numbers: np.ndarray, first: np.ndarray, lengths: np.ndarray, width: int) -> Tensor:
        """See :class:`SampleSource`."""
        places = (self.starts[numbers] + first)[:, None] + np.arange(width)
        out = self.samples[np.minimum(places, len(self.samples) - 1)] * self.steps[numbers, None]
        np.copyto(out, 0.0, where=np.arange(width) >= lengths[:, None])  # behind an utterance is the next one
        return torch.from_numpy(out)


def open_packed_wavs(index: ShardIndex, wavs: WavReader, limit: int) -> PackedWavs | None:
    """Map the packed wavs of an index, making the file first when there is none, see :class:`PackedFile`.

    Raises:
        UserError: see :meth:`WavReader.wav`.
    """
    facts = [wavs.facts(number) for number in range(len(wavs))]
    num_samples, levels = np.array([one.num_samples for one in facts]), np.array([one.level for one in facts])

    def pieces() -> Iterator[np.ndarray]:
        for number, level in enumerate(levels.tolist()):
            yield np.rint(wavs.wav(number) * (_LARGEST / level)).astype(np.int16)

    total = int(num_samples.sum())
    packed = PackedFile(index, "wavs", total * np.dtype(np.int16).itemsize, {"num_samples": total}, pieces)
    content = packed.open(limit)
    if content is None:
        return None
    starts = np.cumsum(num_samples) - num_samples
    return PackedWavs(content.view(np.int16), starts, (levels / _LARGEST).astype(np.float32))


class WavSegmentLoader(SegmentLoader):
    """:class:`sqvae_speech.data.loader.SegmentLoader` with the samples of each crop.

    The mels are those of the shards, so their level and their floor are those of the whole utterance.

    Args:
        shards: see :class:`SegmentLoader`, also for all that is not listed here.
        recordings: the data directory that the shards were made from.
        allow_pipes: run the commands in its ``wav.scp``.
        options: of :class:`SegmentLoader`; ``cache_bytes`` holds for mels and for wavs.

    Yields:
        what :class:`SegmentLoader` does, and ``wav`` (b, S) float32: the S = ``mel_spec.num_samples(segment_frames)``
        samples that a vocoder makes of the crop, at the level that the mel has, before pre-emphasis; zero beyond
        those of its ``lengths``.

    Raises:
        UserError: see :class:`SegmentLoader` and :class:`ShardRecordings`.
    """

    batching = "crops with wavs"

    def __init__(
        self, shards: str | Path | ShardIndex, *, recordings: str | Path, allow_pipes: bool = False, **options: Any
    ):
        self._data_dir = recordings
        self._allow_pipes = allow_pipes
        super().__init__(shards, **options)

    def _open_source(self, cache_bytes: int) -> None:
        super()._open_source(cache_bytes)
        assert isinstance(self._reader, ShardReader)
        reader = WavReader(self._reader, ShardRecordings(self.index, self._data_dir, self._allow_pipes))
        packed = open_packed_wavs(self.index, reader, cache_bytes) if cache_bytes > 0 else None
        self._wavs: SampleSource = packed or reader

    def _example(self, numbers: np.ndarray, first: np.ndarray, lengths: np.ndarray, width: int) -> dict[str, Any]:
        spec = self.index.mel_spec
        samples = np.array([spec.num_samples(length) for length in lengths.tolist()])
        wav = self._wavs.gather(numbers, first * spec.hop_length, samples, spec.num_samples(width))
        return {**super()._example(numbers, first, lengths, width), "wav": wav}
