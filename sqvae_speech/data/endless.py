"""What the endless loaders share: the sequence of batches and the position in it, workers, windows, caches.

Nothing here knows what an example is: :mod:`sqvae_speech.data.loader` makes batches of speech,
:mod:`sqvae_speech.data.image_loader` of images.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

from sqvae_speech.data.order import BatchPlan, EpochOrder, EpochPlan
from sqvae_speech.data.packed import default_limit
from sqvae_speech.data.remote import RemoteShards
from sqvae_speech.data.shard_folder import ShardFolder
from sqvae_speech.data.shard_maps import ShardMaps
from sqvae_speech.errors import UserError

Plan = TypeVar("Plan", EpochPlan, BatchPlan)
Cursor = TypeVar("Cursor")
Window = tuple[int, int]  # epoch, and number of the window in it

_PLANS = 4  # epochs that are kept: a batch seldom spans more than two, and threads may still be at the one before


class Loader(ABC, Generic[Plan, Cursor]):
    """What the loaders share: the endless sequence of batches, workers, the saved position.

    Batches form one endless sequence, epoch after epoch. Each is a function of the settings, the seed and its cursor
    alone, so threads may prepare any of them ahead, and a position can be taken up anywhere.

    Args:
        maps: of the shards.
        shard_numbers: (N,) int64, the shard of each example, in the order of the manifest.
        seed: of order and all that is drawn.
        num_workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
        shuffle: False keeps the order of the manifest.
        shuffle_shards: shuffle within windows of so many shards, for corpora that are larger than memory or remote:
            only the shards of a window are mapped, and those of the next one are fetched meanwhile. 0 shuffles all,
            and fetches all shards first.
        rank, world_size: this process, of how many.
        cache_bytes: of the packed cache (see :mod:`sqvae_speech.data.packed`) at most, by default half of the
            memory; 0 reads the shards. Changes the speed only.

    Raises:
        UserError: an illegal number; a shard that is missing or damaged; remote shards that cannot be fetched, or
            windows that the download folder cannot hold.
    """

    batching: str

    def __init__(
        self,
        maps: ShardMaps,
        shard_numbers: np.ndarray,
        *,
        seed: int,
        num_workers: int = 0,
        shuffle: bool = True,
        shuffle_shards: int = 0,
        rank: int = 0,
        world_size: int = 1,
        cache_bytes: int | None = None,
    ):
        self._at_least(0, seed=seed, num_workers=num_workers, shuffle_shards=shuffle_shards)
        self._at_least(1, world_size=world_size)
        if cache_bytes is not None:
            self._at_least(0, cache_bytes=cache_bytes)
        if not 0 <= rank < world_size:
            raise UserError(f"rank {rank} of {world_size} processes; legal are 0 to {world_size - 1}")
        self.shards: ShardFolder = maps.folder
        self.seed = seed
        self.num_workers = num_workers
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.num_examples = len(shard_numbers)
        self._order = EpochOrder(
            shard_numbers, len(self.shards.shards), seed=seed, shuffle=shuffle, shuffle_shards=shuffle_shards
        )
        self._plans: dict[int, Plan] = {}
        self._held: tuple[Window, Window] | None = None
        self._reader = maps
        self._open_source(self._fetch_first(default_limit() if cache_bytes is None else cache_bytes))
        self._cursor = self._start()

    @staticmethod
    def _at_least(least: int, **values: int) -> None:
        for name, value in values.items():
            if value < least:
                raise UserError(f"{name} {value}; at least {least} is needed")

    def _fetch_first(self, cache_bytes: int) -> int:
        """Fetch remote shards, where all are needed; returns the bytes that a packed cache may have."""
        copies = self.shards.copies
        if not isinstance(copies, RemoteShards):
            return cache_bytes
        if window := self._order.shuffle_shards:
            # the current one and the next; of several processes one may be a step ahead
            copies.require_room(window, num_windows=2 if self.world_size == 1 else 3)
            return 0  # the cache would take all shards
        copies.fetch_all()
        return min(cache_bytes, copies.spare_bytes)

    @abstractmethod
    def _open_source(self, cache_bytes: int) -> None:
        """Open what batches are cut from, a packed cache of so many bytes at most; 0 asks for none."""

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

    @property
    @abstractmethod
    def _batches_per_task(self) -> int:
        """Batches that a thread prepares in one go: handing over costs as much as a small batch does."""

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
            "fingerprint": self.shards.fingerprint,
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
                    f"the saved position is of {what}, {self.shards.folder} is read with {name} {ours}; resume with "
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
        size = self._batches_per_task
        ahead: deque[tuple[list[Cursor], Future[list[dict[str, Any]]]]] = deque()
        ready: deque[tuple[Cursor, dict[str, Any]]] = deque()
        next_cursor = self._cursor
        try:
            while True:
                due = ready[0][0] if ready else ahead[0][0][0] if ahead else next_cursor
                if due != self._cursor:  # load_state_dict was called meanwhile
                    for _, task in ahead:
                        task.cancel()
                    ahead.clear()
                    ready.clear()
                    next_cursor = self._cursor
                while len(ahead) < 2 * self.num_workers and not ((ahead or ready) and self._is_far(next_cursor)):
                    cursors: list[Cursor] = []
                    while len(cursors) < size and not (cursors and self._is_far(next_cursor)):
                        self._hold(next_cursor)
                        cursors.append(next_cursor)
                        next_cursor = self._after(next_cursor)
                    ahead.append((cursors, pool.submit(self._batches, cursors)))
                if not ready:
                    cursors, task = ahead.popleft()
                    ready.extend(zip(cursors, task.result(), strict=True))
                batch = ready.popleft()[1]
                self._cursor = self._after(self._cursor)
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _batches(self, cursors: list[Cursor]) -> list[dict[str, Any]]:
        return [self._batch(cursor) for cursor in cursors]

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
        if isinstance(self.shards.copies, RemoteShards):
            self.shards.copies.hold(shards, self._shards_of(window).tolist())
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
        """The window of the example or batch at a place of an epoch."""
        return epoch, int(np.searchsorted(self._plan(epoch).window_ends, place, side="right"))


class ExampleLoader(Loader[EpochPlan, int]):
    """An endless iterable of batches of single examples, each of which comes once an epoch.

    The examples form one endless sequence: epoch after epoch, each an order of all of them and a number drawn for
    each, from ``(seed, epoch)``. A batch is the next ``batch_size`` examples, across the ends of epochs, and a
    process takes its ``batch_size / world_size`` of them. So the global batch of a step depends on the seed and the
    step alone, N processes together see what one would, and a position saved by some number of processes can be taken
    up by another.

    Args:
        maps, shard_numbers: see :class:`Loader`, also for all that is not listed here.
        batch_size: examples of the global batch, over all processes.

    Raises:
        UserError: see :class:`Loader`; a batch size that the processes cannot share evenly.
    """

    def __init__(
        self, maps: ShardMaps, shard_numbers: np.ndarray, *, batch_size: int, world_size: int = 1, **options: Any
    ):
        self._at_least(1, batch_size=batch_size, world_size=world_size)
        if batch_size % world_size:
            raise UserError(
                f"batch_size {batch_size} cannot be shared by {world_size} processes; use a multiple of {world_size}"
            )
        self.batch_size = batch_size
        self.share = batch_size // world_size
        super().__init__(maps, shard_numbers, world_size=world_size, **options)

    @abstractmethod
    def _make(self, numbers: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
        """Make a batch of the examples ``numbers`` (b,), with their ``draws`` (b,) from [0, 1)."""

    @property
    def position(self) -> int:
        """Examples of the global sequence that have been handed out."""
        return self._cursor

    @property
    def epoch(self) -> float:
        return self._cursor / self.num_examples

    def _start(self) -> int:
        return 0

    def _after(self, cursor: int) -> int:
        return cursor + self.batch_size

    def _batch(self, cursor: int) -> dict[str, Any]:
        start = cursor + self.rank * self.share
        end = start + self.share
        orders, draws = [], []
        while start < end:
            epoch, place = divmod(start, self.num_examples)
            size = min(end - start, self.num_examples - place)
            plan = self._plan(epoch)
            orders.append(plan.order[place : place + size])
            draws.append(plan.draws[place : place + size])
            start += size
        return self._make(np.concatenate(orders), np.concatenate(draws))

    def _windows(self, cursor: int) -> tuple[Window, Window]:
        first, last = (divmod(place, self.num_examples) for place in (cursor, cursor + self.batch_size - 1))
        return self._window_of(*first), self._window_of(*last)

    def _draw(self, epoch: int) -> EpochPlan:
        return self._order(epoch)

    def _position(self) -> dict[str, int]:
        return {"position": self._cursor, "epoch": self._cursor // self.num_examples}

    def _move_to(self, state: dict[str, Any]) -> None:
        self._cursor = int(state["position"])
