"""Reading utterances back from shards: any of them in any order, or all in the order of the manifest."""

import io
import json
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.data.index import Entry, ShardIndex
from sqvae_speech.data.npy import npy_header
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


class ShardReader:
    """Random access to the utterances of an index, through memory maps of its shards.

    Nothing is kept in this process but the maps; what is read often stays in the system's page cache, which all
    processes of a machine share.
    """

    def __init__(self, index: ShardIndex):
        self.index = index
        self._maps: dict[int, np.ndarray] = {}

    def mel(self, entry: Entry) -> np.ndarray:
        """Return an utterance's mel, (n_mels, T), as a read-only view of the stored float32 or float16."""
        return self.mel_at(entry.shard, *entry.mel, entry.num_frames, entry.utterance_id)

    def mel_at(self, shard: int, offset: int, size: int, num_frames: int, utterance_id: str) -> np.ndarray:
        """Return the mel whose ``.npy`` lies at ``offset``, as :meth:`mel` does; the id is for messages."""
        content = self._map(shard)
        shape = (self.index.mel_spec.n_mels, num_frames)
        header = npy_header(shape, self.index.dtype)  # the same for equal shapes: compared, not parsed
        start = offset + len(header)
        end = start + shape[0] * shape[1] * np.dtype(self.index.dtype).itemsize
        if end != offset + size or end > len(content) or content[offset:start].tobytes() != header:
            name = self.index.shards[shard].name
            raise UserError(
                f"{self.index.folder / name} does not hold the mel of {utterance_id!r} where its list says; "
                "remove it and run `sqvae-speech shards` again"
            )
        return content[start:end].view(self.index.dtype).reshape(shape)

    def meta(self, entry: Entry) -> dict[str, Any]:
        """Return an utterance's ``json``."""
        offset, size = entry.json
        return json.loads(self._map(entry.shard)[offset : offset + size].tobytes())

    def utterance(self, entry: Entry) -> UtteranceMel:
        """Return an utterance with a float32 copy of its mel."""
        meta = self.meta(entry)
        mel = self.mel(entry).astype(np.float32)
        return UtteranceMel(entry.utterance_id, entry.speaker, mel, meta["peak"], meta)

    def keep(self, shards: Collection[int]) -> None:
        """Let the maps of all other shards go; they are made again when they are read again."""
        self._maps = {number: content for number, content in self._maps.items() if number in shards}

    def _map(self, number: int) -> np.ndarray:
        content = self._maps.get(number)
        if content is None:
            content = map_file(self.index.shard_path(number)).numpy()
            content.flags.writeable = False
            self._maps[number] = content
        return content


def map_file(path: Path) -> Tensor:
    """Map a file, which is not empty, into memory: (bytes,) uint8. What is written to it never reaches the file.

    The file is not held open: Python's own maps keep a descriptor each, of which a process may have 1024, and large
    corpora have more shards.
    """
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


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
    from webdataset.tariterators import group_by_keys, tar_file_expander

    index = index_dir if isinstance(index_dir, ShardIndex) else ShardIndex.load(index_dir)
    # webdataset's own steps, but without its URLs, in which a path with '#', '?' or '{' is another path, and without
    # its splitting: whichever process asks gets all.
    found = 0
    try:
        for sample in group_by_keys(tar_file_expander(_opened(index))):
            found += 1
            meta = json.loads(sample["json"])
            mel = np.load(io.BytesIO(sample["mel.npy"]), allow_pickle=False).astype(np.float32)
            yield UtteranceMel(meta["utterance_id"], meta["speaker"], mel, meta["peak"], meta)
    except (tarfile.ReadError, KeyError, EOFError, ValueError) as error:
        raise UserError(
            f"a shard of {index.folder} is damaged ({error}); `sqvae-speech data validate {index.folder}` says which"
        ) from None
    if found != index.num_utterances:
        raise UserError(
            f"the shards of {index.folder} hold {found} utterances, index.json says {index.num_utterances}; "
            f"`sqvae-speech data validate {index.folder}` says which shard is damaged"
        )


def _opened(index: ShardIndex) -> Iterator[dict[str, Any]]:
    for path in index.shard_paths():
        with path.open("rb") as stream:
            yield {"url": str(path), "stream": stream}


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
