"""Reading utterances back from shards: any of them in any order, or all in the order of the manifest."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.data.index import Entry, ShardIndex
from sqvae_speech.data.shard_maps import ShardMaps, damaged, iterate_samples
from sqvae_speech.errors import UserError, nearest


@dataclass(frozen=True)
class UtteranceMel:
    """An utterance read from a shard.

    Attributes:
        utterance_id, speaker: ids.
        mel: (n_mels, T) float32.
        peak: largest absolute sample of its wav, linear, before any normalisation.
        meta: the sample's ``json``: num_frames, num_samples, sample_rate, text and ali where known, ...
    """

    utterance_id: str
    speaker: str
    mel: np.ndarray
    peak: float
    meta: dict[str, Any]


class Utterances(NamedTuple):
    """What the loaders know of the N utterances of an index, in the order of the manifest: columns, not rows.

    Attributes:
        ids: utterance ids.
        speakers: (N,) int64, their numbers.
        num_frames: (N,) int64.
        shards: (N,) int64.
        offsets, sizes: (N,) int64, place and bytes of each ``.mel.npy`` in its shard.
    """

    ids: list[str]
    speakers: np.ndarray
    num_frames: np.ndarray
    shards: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, index: ShardIndex, speakers: Sequence[str] | None = None) -> "Utterances":
        """List the utterances of an index; ``speakers`` and errors as in :func:`speaker_numbers`."""
        numbers = speaker_numbers(index, speakers)
        ids = []
        columns = np.empty((5, index.num_utterances), dtype=np.int64)
        for row, entry in enumerate(index.entries()):
            ids.append(entry.utterance_id)
            columns[:, row] = (numbers[entry.speaker], entry.num_frames, entry.shard, *entry.mel)
        return cls(ids, *columns)


class ShardReader(ShardMaps):
    """Random access to the utterances of an index."""

    def __init__(self, index: ShardIndex):
        super().__init__(index)
        self.index = index

    def mel(self, entry: Entry) -> np.ndarray:
        """Return an utterance's mel, (n_mels, T), as a read-only view of the stored float32 or float16."""
        return self.mel_at(entry.shard, *entry.mel, entry.num_frames, entry.utterance_id)

    def mel_at(self, shard: int, offset: int, size: int, num_frames: int, utterance_id: str) -> np.ndarray:
        """Return the mel whose ``.npy`` lies at ``offset``, as :meth:`mel` does; the id is for messages."""
        shape = (self.index.mel_spec.n_mels, num_frames)
        return self.array(shard, (offset, size), shape, self.index.dtype, utterance_id)

    def utterance(self, entry: Entry) -> UtteranceMel:
        """Return an utterance with a float32 copy of its mel."""
        meta = self.meta(entry.shard, entry.json)
        mel = self.mel(entry).astype(np.float32)
        return UtteranceMel(entry.utterance_id, entry.speaker, mel, meta["peak"], meta)


class ShardSource:
    """Cuts batches from the shards, an utterance after the other.

    Args:
        reader: of the shards.
        utterances: of its index.
    """

    def __init__(self, reader: ShardReader, utterances: Utterances):
        self._reader = reader
        self._utterances = utterances
        self._n_mels = reader.index.mel_spec.n_mels

    def gather(self, numbers: np.ndarray, first: np.ndarray, lengths: np.ndarray, width: int) -> Tensor:
        """Cut ``lengths`` (B,) frames from frame ``first`` (B,) on out of the utterances ``numbers`` (B,).

        Returns:
            (B, n_mels, width) float32, zero beyond ``lengths``.
        """
        places = self._utterances
        out = np.empty((len(numbers), self._n_mels, width), dtype=np.float32)
        stored = (places.shards, places.offsets, places.sizes, places.num_frames)
        columns = (numbers, *(column[numbers] for column in stored), first, lengths)
        rows = zip(out, *(column.tolist() for column in columns), strict=True)
        for row, number, shard, offset, size, num_frames, start, length in rows:
            mel = self._reader.mel_at(shard, offset, size, num_frames, places.ids[number])
            row[:, :length] = mel[:, start : start + length]
            if length < width:
                row[:, length:] = 0.0
        return torch.from_numpy(out)


def speaker_numbers(index: ShardIndex, speakers: Sequence[str] | None) -> dict[str, int]:
    """Return ``{speaker: number}`` by ``speakers``, or by the index' own sorted list when that is None.

    Raises:
        UserError: the index has a speaker that is not in ``speakers``.
    """
    known = {speaker: number for number, speaker in enumerate(index.speakers if speakers is None else speakers)}
    for speaker in index.speakers:
        if speaker not in known:
            listed = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
            raise UserError(
                f"speaker {speaker!r} of {index.folder} was not trained; known are {listed}"
                f"{nearest(speaker, known)}. Use the splits that the model's corpus was prepared into"
            )
    return known


def iterate_utterances(index_dir: str | Path | ShardIndex) -> Iterator[UtteranceMel]:
    """Yield all utterances in the order of the manifest, one in memory at a time; a stream over webdataset.

    Raises:
        UserError: the index or a shard is missing or damaged.
    """
    index = index_dir if isinstance(index_dir, ShardIndex) else ShardIndex.load(index_dir)
    for sample in iterate_samples(index):
        try:
            meta = json.loads(sample["json"])
            mel = np.load(io.BytesIO(sample["mel.npy"]), allow_pickle=False).astype(np.float32)
            utterance = UtteranceMel(meta["utterance_id"], meta["speaker"], mel, meta["peak"], meta)
        except (KeyError, EOFError, ValueError) as error:
            raise damaged(index, error) from None
        yield utterance


def batch_utterances(
    index_dir: str | Path | ShardIndex,
    max_frames: int,
    *,
    speakers: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield all utterances once, whole, in zero-padded batches of similar lengths, the longest first.

    Args:
        index_dir: folder of shards, or its index.
        max_frames: frames of a batch, padding included; an utterance that is longer alone is a batch of its own.
        speakers: the order that numbers the speakers; by default the index' own.

    Yields:
        dict with ``mel`` (B, n_mels, T) float32, ``lengths`` (B,) int64, ``speaker`` (B,) int64, ``peak`` (B,)
        float32, ``utterance_id`` and ``meta``, lists of B.

    Raises:
        UserError: the index or a shard is missing or damaged; a speaker that is not in ``speakers``; ``max_frames``
            below 1.
    """
    if max_frames < 1:
        raise UserError(f"max_frames {max_frames}; at least 1 is needed")
    index = index_dir if isinstance(index_dir, ShardIndex) else ShardIndex.load(index_dir)
    numbers = speaker_numbers(index, speakers)
    reader = ShardReader(index)
    # Longest first: memory that is too small shows in the first batch, not in the last.
    entries = sorted(index.entries(), key=lambda entry: (-entry.num_frames, entry.utterance_id))
    start = 0
    while start < len(entries):
        size = max(1, max_frames // entries[start].num_frames)
        batch = [reader.utterance(entry) for entry in entries[start : start + size]]
        start += size
        yield {
            **pad([utterance.mel for utterance in batch]),
            "speaker": torch.tensor([numbers[utterance.speaker] for utterance in batch]),
            "peak": torch.tensor([utterance.peak for utterance in batch], dtype=torch.float32),
            "utterance_id": [utterance.utterance_id for utterance in batch],
            "meta": [utterance.meta for utterance in batch],
        }


def pad(mels: Sequence[np.ndarray], length: int | None = None) -> dict[str, Tensor]:
    """Return ``mel`` (B, n_mels, T) float32, zero beyond each mel's own frames, and ``lengths`` (B,) int64.

    Args:
        mels: B arrays (n_mels, T_i).
        length: T; by default the longest's.
    """
    length = max(mel.shape[1] for mel in mels) if length is None else length
    out = np.zeros((len(mels), mels[0].shape[0], length), dtype=np.float32)
    for row, mel in zip(out, mels, strict=True):
        row[:, : mel.shape[1]] = mel
    return {"mel": torch.from_numpy(out), "lengths": torch.tensor([mel.shape[1] for mel in mels])}
