"""Endless loaders of training batches of speech, crops or whole utterances, from an exact position on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.data.cache import open_packed
from sqvae_speech.data.endless import ExampleLoader, Loader, Window
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.order import BatchPlan
from sqvae_speech.data.reader import ShardReader, ShardSource, Utterances
from sqvae_speech.data.remote import open_index
from sqvae_speech.errors import UserError

_TASK_FRAMES = 8192  # of batches that a thread prepares in one go


class MelSource(Protocol):
    """What cuts the mels of a batch."""

    def gather(self, numbers: np.ndarray, first: np.ndarray, lengths: np.ndarray, width: int) -> Tensor:
        """See :meth:`sqvae_speech.data.reader.ShardSource.gather`."""
        ...


class MelLoader(Loader[Any, Any]):
    """What the loaders of speech share: which utterances there are, and where their mels come from.

    Args:
        shards: folder of shards, an address (see :mod:`sqvae_speech.data.remote`), or an index.
        speakers: the order that numbers the speakers; by default the index' own.
        options: see :class:`sqvae_speech.data.endless.Loader`.

    Raises:
        UserError: see :class:`sqvae_speech.data.endless.Loader`; the index is missing or damaged; a speaker that is
            not in ``speakers``.
    """

    def __init__(self, shards: str | Path | ShardIndex, *, speakers: Sequence[str] | None = None, **options: Any):
        self.index = open_index(shards, ShardIndex)
        self._utterances = Utterances.of(self.index, speakers)
        super().__init__(ShardReader(self.index), self._utterances.shards, **options)

    @property
    def num_utterances(self) -> int:
        """Utterances of an epoch."""
        return self.num_examples

    def _open_source(self, cache_bytes: int) -> None:
        packed = open_packed(self.index, self._utterances, cache_bytes) if cache_bytes > 0 else None
        assert isinstance(self._reader, ShardReader)
        self._source: MelSource = packed or ShardSource(self._reader, self._utterances)

    def _example(self, numbers: np.ndarray, first: np.ndarray, lengths: np.ndarray, width: int) -> dict[str, Any]:
        """The batch of some utterances, cut as ``MelSource.gather`` says."""
        return {
            "mel": self._source.gather(numbers, first, lengths, width),
            "lengths": torch.from_numpy(lengths),
            "first": torch.from_numpy(first),
            "speaker": torch.from_numpy(self._utterances.speakers[numbers]),
            "utterance_id": [self._utterances.ids[number] for number in numbers.tolist()],
        }


class SegmentLoader(MelLoader, ExampleLoader):
    """An endless iterable of batches of crops: one random crop of every utterance in every epoch.

    That is the published policy: an utterance is visited once an epoch and gives one crop, drawn anew each time, so
    a step's crops are of different utterances. (Several crops a visit would read less and correlate the gradient.)

    Args:
        shards: see :class:`MelLoader`, also for all that is not listed here; the sequence is that of
            :class:`sqvae_speech.data.endless.ExampleLoader`.
        batch_size: examples of the global batch, over all processes.
        segment_frames: frames of a crop; a shorter utterance is given whole and zero-padded (see ``lengths``).

    Yields:
        dict with ``mel`` (b, n_mels, segment_frames) float32, ``lengths`` (b,) int64, real frames of each; ``first``
        (b,) int64, the utterance's frame that each begins with; ``speaker`` (b,) int64; ``utterance_id``, a list of
        b; b = batch_size / world_size.

    Raises:
        UserError: see :class:`MelLoader`; a batch size that the processes cannot share evenly.
    """

    batching = "crops"

    def __init__(self, shards: str | Path | ShardIndex, *, batch_size: int, segment_frames: int, **options: Any):
        self._at_least(1, segment_frames=segment_frames)
        self.segment_frames = segment_frames
        super().__init__(shards, batch_size=batch_size, **options)

    @property
    def _batches_per_task(self) -> int:
        return max(1, _TASK_FRAMES // (self.share * self.segment_frames))

    def _make(self, numbers: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
        num_frames = self._utterances.num_frames[numbers]
        lengths = np.minimum(num_frames, self.segment_frames)
        first = (draws * (num_frames - lengths + 1)).astype(np.int64)
        return self._example(numbers, first, lengths, self.segment_frames)


class UtteranceLoader(MelLoader):
    """An endless iterable of batches of whole utterances of like length.

    The batches form one endless sequence: epoch after epoch, each a division of all utterances into batches, drawn
    from ``(seed, epoch)``. In a step every process takes one: of ``world_size`` that follow each other the
    ``rank``-th. The ends of epochs do not matter to that, so every process always has a batch, and in an epoch
    nothing is left out or comes twice. The sequence does not depend on the number of processes, a step is as many
    batches of it as there are processes.

    Args:
        shards: see :class:`MelLoader`, also for all that is not listed here.
        batch_frames: frames of one process' batch at most, padding included.

    Yields:
        dict with ``mel`` (b, n_mels, T) float32, T the longest's frames, zero beyond ``lengths`` (b,) int64;
        ``first`` (b,) int64, all 0; ``speaker`` (b,) int64; ``utterance_id``, a list of b. b * T is at most
        ``batch_frames``.

    Raises:
        UserError: see :class:`MelLoader`; an utterance that is longer than ``batch_frames``.
    """

    batching = "utterances"

    def __init__(self, shards: str | Path | ShardIndex, *, batch_frames: int, **options: Any):
        self._at_least(1, batch_frames=batch_frames)
        self.batch_frames = batch_frames
        super().__init__(shards, **options)
        longest = int(np.argmax(self._utterances.num_frames))
        frames = int(self._utterances.num_frames[longest])
        if frames > batch_frames:
            raise UserError(
                f"batch_frames {batch_frames}; {self._utterances.ids[longest]!r} of {self.index.folder} has {frames} "
                f"frames: give at least {frames} (data.batch_frames), or leave it out of the shards"
            )

    @property
    def epoch(self) -> float:
        epoch, number = self._cursor
        return epoch + number / len(self._plan(epoch).numbers)

    @property
    def _batches_per_task(self) -> int:
        return max(1, _TASK_FRAMES // self.batch_frames)

    def _start(self) -> tuple[int, int]:
        return 0, 0

    def _after(self, cursor: tuple[int, int]) -> tuple[int, int]:
        return self._later(cursor, self.world_size)

    def _later(self, cursor: tuple[int, int], batches: int) -> tuple[int, int]:
        epoch, number = cursor[0], cursor[1] + batches
        while number >= (size := len(self._plan(epoch).numbers)):
            epoch, number = epoch + 1, number - size
        return epoch, number

    def _batch(self, cursor: tuple[int, int]) -> dict[str, Any]:
        epoch, number = self._later(cursor, self.rank)
        numbers = self._plan(epoch).numbers[number]
        lengths = self._utterances.num_frames[numbers]
        return self._example(numbers, np.zeros_like(lengths), lengths, int(lengths.max()))

    def _windows(self, cursor: tuple[int, int]) -> tuple[Window, Window]:
        return self._window_of(*cursor), self._window_of(*self._later(cursor, self.world_size - 1))

    def _draw(self, epoch: int) -> BatchPlan:
        return self._order.batches(epoch, self._utterances.num_frames, self.batch_frames)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "batch_frames": self.batch_frames}

    def _position(self) -> dict[str, int]:
        return dict(zip(("epoch", "batch"), self._cursor, strict=True))

    def _move_to(self, state: dict[str, Any]) -> None:
        self._cursor = (int(state["epoch"]), int(state["batch"]))
