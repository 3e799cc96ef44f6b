"""Endless loaders of training batches, crops or whole utterances, from an exact position on."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.data.cache import default_limit, open_packed
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.order import BatchPlan, EpochOrder, EpochPlan
from sqvae_speech.data.reader import ShardReader, ShardSource, Utterances
from sqvae_speech.data.remote import RemoteIndex, open_index
from sqvae_speech.errors import UserError

Plan = TypeVar("Plan", EpochPlan, BatchPlan)
Cursor = TypeVar("Cursor")
Window = tuple[int, int]  # epoch, and number of the window in it

_PLANS = 4  # epochs that are kept: a batch seldom spans more than two, and threads may still be at the one before


class MelSource(Protocol):
    """What cuts the mels of a batch."""

    def gather(self, numbers: np.ndarray, first: np.ndarray, lengths: np.ndarray, width: int) -> Tensor:
        """See :meth:`sqvae_speech.data.reader.ShardSource.gather`."""
        ...


class Loader(ABC, Generic[Plan, Cursor]):
    """What the loaders share: the endless sequence of batches, workers, the saved position, where mels come from.

    Batches form one endless sequence, epoch after epoch. Each is a function of the settings, the seed and its cursor
    alone, so threads may prepare any of them ahead, and a position can be taken up anywhere.

    Args:
        shards: folder of shards, an address (see :mod:`sqvae_speech.data.remote`), or an index.
        seed: of order and crops.
        num_workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
        shuffle: False keeps the order of the manifest.
        shuffle_shards: shuffle within windows of so many shards, for corpora that are larger than memory or remote:
            only the shards of a window are mapped, and those of the next one are fetched meanwhile. 0 shuffles all,
            and fetches all shards first.
        rank, world_size: this process, of how many.
        speakers: the order that numbers the speakers; by default the index' own.
        cache_bytes: of the packed cache (see :mod:`sqvae_speech.data.cache`) at most, by default half of the
            memory; 0 reads the shards. Changes the speed only.

    Raises:
        UserError: the index or a shard is missing or damaged; a speaker that is not in ``speakers``; an illegal
            number; remote shards that cannot be fetched, or windows that the download folder cannot hold.
    """

    batching: str

    def __init__(
        self,
        shards: str | Path | ShardIndex,
        *,
        seed: int,
        num_workers: int = 0,
        shuffle: bool = True,
        shuffle_shards: int = 0,
        rank: int = 0,
        world_size: int = 1,
        speakers: Sequence[str] | None = None,
        cache_bytes: int | None = None,
    ):
        self._at_least(0, seed=seed, num_workers=num_workers, shuffle_shards=shuffle_shards)
        self._at_least(1, world_size=world_size)
        if cache_bytes is not None:
            self._at_least(0, cache_bytes=cache_bytes)
        if not 0 <= rank < world_size:
            raise UserError(f"rank {rank} of {world_size} processes; legal are 0 to {world_size - 1}")
        self.index = open_index(shards)
        self.seed = seed
        self.num_workers = num_workers
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self._utterances = Utterances.of(self.index, speakers)
        self._order = EpochOrder(
            self._utterances.shards, len(self.index.shards), seed=seed, shuffle=shuffle, shuffle_shards=shuffle_shards
        )
        self._plans: dict[int, Plan] = {}
        self._held: tuple[Window, Window] | None = None
        self._reader = ShardReader(self.index)
        self._source = self._open_source(cache_bytes)
        self._cursor = self._start()

    @staticmethod
    def _at_least(least: int, **values: int) -> None:
        for name, value in values.items():
            if value < least:
                raise UserError(f"{name} {value}; at least {least} is needed")

    def _open_source(self, cache_bytes: int | None) -> MelSource:
        limit = default_limit() if cache_bytes is None else cache_bytes
        window = self._order.shuffle_shards
        if isinstance(self.index, RemoteIndex):
            if window:
                # the current one and the next; of several processes one may be a step ahead
                self.index.require_room(window, 2 if self.world_size == 1 else 3)
                limit = 0  # which would take all shards
            else:
                self.index.fetch_all()
                limit = min(limit, self.index.spare_bytes)
        packed = open_packed(self.index, self._utterances, limit) if limit > 0 else None
        return packed or ShardSource(self._reader, self._utterances)

    @property
    def num_utterances(self) -> int:
        """Utterances of an epoch."""
        return len(self._utterances.ids)

    @property
    @abstractmethod
    def epoch(self) -> float:
        """Epochs gone by, with the fraction of the current one."""

    # ---- the sequence: what a kind of batches has to say

    @abstractmethod
    def _start(self) -> Cursor:
        """The cursor of the first batch."""

    @abstractmethod
    def _after(self, cursor: Cursor) -> Cursor:
        """The cursor of the next step."""

    @abstractmethod
    def _batch(self, cursor: Cursor) -> dict[str, Any]:
        """Make this process' batch of a step."""

    @abstractmethod
    def _windows(self, cursor: Cursor) -> tuple[Window, Window]:
        """The first and the last window that a step's batches, of all processes, are from."""

    @abstractmethod
    def _draw(self, epoch: int) -> Plan:
        """Draw an epoch."""

    @abstractmethod
    def _position(self) -> dict[str, int]:
        """The cursor, for a state."""

    @abstractmethod
    def _move_to(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`_position`."""

    def _settings(self) -> dict[str, Any]:
        """What a position is a position in."""
        return {
            "fingerprint": self.index.fingerprint,
            "batching": self.batching,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "shuffle_shards": self._order.shuffle_shards,
        }

    # ---- position

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batches yielded so far, whatever has been prepared ahead."""
        return {**self._settings(), **self._position()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved position; the number of processes may be another than then.

        Raises:
            UserError: the state is of other shards, another seed, order or batching.
        """
        state = {"batching": "crops", "shuffle_shards": 0, **state}  # what earlier versions did not say
        for name, ours in self._settings().items():
            if state.get(name) != ours:
                what = "shards with other contents" if name == "fingerprint" else f"{name} {state.get(name)}"
                raise UserError(
                    f"the saved position is of {what}, {self.index.folder} is read with {name} {ours}; resume with "
                    "the same shards and settings, or start anew"
                )
        self._move_to(state)

    # ---- batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.num_workers:
            while True:
                self._hold(self._cursor)
                batch = self._batch(self._cursor)
                self._cursor = self._after(self._cursor)
                yield batch
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="loader")
        ahead: deque[tuple[Cursor, Future[dict[str, Any]]]] = deque()
        try:
            while True:
                if ahead and ahead[0][0] != self._cursor:  # load_state_dict was called meanwhile
                    while ahead:
                        ahead.pop()[1].cancel()
                cursor = self._after(ahead[-1][0]) if ahead else self._cursor
                while len(ahead) < 2 * self.num_workers and not (ahead and self._is_far(cursor)):
                    self._hold(cursor)
                    ahead.append((cursor, pool.submit(self._batch, cursor)))
                    cursor = self._after(cursor)
                batch = ahead.popleft()[1].result()
                self._cursor = self._after(self._cursor)
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _example(self, numbers: np.ndarray, first: np.ndarray, lengths: np.ndarray, width: int) -> dict[str, Any]:
        """The batch of some utterances, cut as ``MelSource.gather`` says."""
        return {
            "mel": self._source.gather(numbers, first, lengths, width),
            "lengths": torch.from_numpy(lengths),
            "speaker": torch.from_numpy(self._utterances.speakers[numbers]),
            "utterance_id": [self._utterances.ids[number] for number in numbers.tolist()],
        }

    # ---- epochs and windows

    def _plan(self, epoch: int) -> Plan:
        plan = self._plans.get(epoch)
        if plan is None:
            plan = self._draw(epoch)
            kept = {number: self._plans[number] for number in list(self._plans)[1 - _PLANS :]}
            self._plans = {**kept, epoch: plan}
        return plan

    def _hold(self, cursor: Cursor) -> None:
        """Keep the shards of the windows from the current step's to ``cursor``'s, and have the next one's fetched."""
        if self._order.shuffle_shards == 0:
            return
        held = (self._windows(self._cursor)[0], self._windows(cursor)[1])
        if held == self._held:
            return
        shards: set[int] = set()
        window = held[0]
        while window <= held[1]:
            shards.update(self._shards_of(window).tolist())
            window = self._window_after(window)
        if isinstance(self.index, RemoteIndex):
            self.index.hold(shards, self._shards_of(window).tolist())
        self._reader.keep(shards)
        self._held = held

    def _is_far(self, cursor: Cursor) -> bool:
        """Whether a step is beyond the window after the current one; only so much is held."""
        if self._order.shuffle_shards == 0:
            return False
        return self._windows(cursor)[1] > self._window_after(self._windows(self._cursor)[0])

    def _shards_of(self, window: Window) -> np.ndarray:
        return self._plan(window[0]).window_shards[window[1]]

    def _window_after(self, window: Window) -> Window:
        epoch, number = window
        return (epoch, number + 1) if number + 1 < len(self._plan(epoch).window_shards) else (epoch + 1, 0)

    def _window_of(self, epoch: int, place: int) -> Window:
        """The window of the utterance or batch at a place of an epoch."""
        return epoch, int(np.searchsorted(self._plan(epoch).window_ends, place, side="right"))


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
