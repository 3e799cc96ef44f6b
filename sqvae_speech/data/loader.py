"""Endless loaders of training batches, crops or whole utterances, from an exact position on."""

from pathlib import Path
from typing import Any

import numpy as np

from sqvae_speech.data.endless import Loader, Window
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.order import BatchPlan, EpochPlan
from sqvae_speech.errors import UserError


class SegmentLoader(Loader[EpochPlan, int]):
    """An endless iterable of batches of crops: one random crop of every utterance in every epoch.

    That is the published policy: an utterance is visited once an epoch and gives one crop, drawn anew each time, so
    a step's crops are of different utterances. (Several crops a visit would read less and correlate the gradient.)

    The examples form one endless sequence: epoch after epoch, each an order of all utterances and a place to crop in
    each, drawn from ``(seed, epoch)``. A batch is the next ``batch_size`` examples, across the ends of epochs, and a
    process takes its ``batch_size / world_size`` of them. So the global batch of a step depends on the seed and the
    step alone, N processes together see what one would, and a position saved by some number of processes can be taken
    up by another.

    Args:
        shards: see :class:`Loader`, also for all that is not listed here.
        batch_size: examples of the global batch, over all processes.
        segment_frames: frames of a crop; a shorter utterance is given whole and zero-padded (see ``lengths``).

    Yields:
        dict with ``mel`` (b, n_mels, segment_frames) float32, ``lengths`` (b,) int64, real frames of each;
        ``speaker`` (b,) int64; ``utterance_id``, a list of b; b = batch_size / world_size.

    Raises:
        UserError: see :class:`Loader`; a batch size that the processes cannot share evenly.
    """

    batching = "crops"

    def __init__(
        self,
        shards: str | Path | ShardIndex,
        *,
        batch_size: int,
        segment_frames: int,
        world_size: int = 1,
        **options: Any,
    ):
        self._at_least(1, batch_size=batch_size, segment_frames=segment_frames, world_size=world_size)
        if batch_size % world_size:
            raise UserError(
                f"batch_size {batch_size} cannot be shared by {world_size} processes; use a multiple of {world_size}"
            )
        self.batch_size = batch_size
        self.segment_frames = segment_frames
        super().__init__(shards, world_size=world_size, **options)

    @property
    def position(self) -> int:
        """Examples of the global sequence that have been handed out."""
        return self._cursor

    @property
    def epoch(self) -> float:
        return self._cursor / self.num_utterances

    @property
    def _frames_of_batch(self) -> int:
        return self.batch_size // self.world_size * self.segment_frames

    def _start(self) -> int:
        return 0

    def _after(self, cursor: int) -> int:
        return cursor + self.batch_size

    def _batch(self, cursor: int) -> dict[str, Any]:
        share = self.batch_size // self.world_size
        start = cursor + self.rank * share
        end = start + share
        orders, draws = [], []
        while start < end:
            epoch, place = divmod(start, self.num_utterances)
            size = min(end - start, self.num_utterances - place)
            plan = self._plan(epoch)
            orders.append(plan.order[place : place + size])
            draws.append(plan.draws[place : place + size])
            start += size
        numbers = np.concatenate(orders)
        num_frames = self._utterances.num_frames[numbers]
        lengths = np.minimum(num_frames, self.segment_frames)
        first = (np.concatenate(draws) * (num_frames - lengths + 1)).astype(np.int64)
        return self._example(numbers, first, lengths, self.segment_frames)

    def _windows(self, cursor: int) -> tuple[Window, Window]:
        first, last = (divmod(place, self.num_utterances) for place in (cursor, cursor + self.batch_size - 1))
        return self._window_of(*first), self._window_of(*last)

    def _draw(self, epoch: int) -> EpochPlan:
        return self._order(epoch)

    def _position(self) -> dict[str, int]:
        return {"position": self._cursor, "epoch": self._cursor // self.num_utterances}

    def _move_to(self, state: dict[str, Any]) -> None:
        self._cursor = int(state["position"])


class UtteranceLoader(Loader[BatchPlan, tuple[int, int]]):
    """An endless iterable of batches of whole utterances of like length.

    The batches form one endless sequence: epoch after epoch, each a division of all utterances into batches, drawn
    from ``(seed, epoch)``. In a step every process takes one: of ``world_size`` that follow each other the
    ``rank``-th. The ends of epochs do not matter to that, so every process always has a batch, and in an epoch
    nothing is left out or comes twice. The sequence does not depend on the number of processes, a step is as many
    batches of it as there are processes.

    Args:
        shards: see :class:`Loader`, also for all that is not listed here.
        batch_frames: frames of one process' batch at most, padding included.

    Yields:
        dict with ``mel`` (b, n_mels, T) float32, T the longest's frames, zero beyond ``lengths`` (b,) int64;
        ``speaker`` (b,) int64; ``utterance_id``, a list of b. b * T is at most ``batch_frames``.

    Raises:
        UserError: see :class:`Loader`; an utterance that is longer than ``batch_frames``.
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
    def _frames_of_batch(self) -> int:
        return self.batch_frames

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
