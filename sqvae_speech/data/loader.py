"""Training batches: a random crop of every utterance in every epoch, from an exact position on."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.reader import ShardReader, pad, speaker_numbers
from sqvae_speech.errors import UserError

CACHE_BYTES = 1 << 30


class SegmentLoader:
    """An endless iterable of batches of crops.

    The examples form one endless sequence: epoch after epoch, each an order of all utterances and a place to crop in
    each, drawn from ``(seed, epoch)``. A batch is the next ``batch_size`` examples, across the ends of epochs, and a
    process takes its ``batch_size / world_size`` of them. So the global batch of a step depends on the seed and the
    step alone, N processes together see what one would, and a position saved by some number of processes can be taken
    up by another.

    Args:
        index_dir: folder of shards, or its index.
        batch_size: examples of the global batch, over all processes.
        segment_frames: frames of a crop; a shorter utterance is given whole and zero-padded (see ``lengths``).
        seed: of order and crops.
        num_workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
        shuffle: False keeps the order of the manifest; crops are random still.
        rank, world_size: this process, of how many.
        speakers: the order that numbers the speakers; by default the index' own.
        cache_bytes: mels are kept in memory, as stored, up to so many bytes; the others are read from the shards,
            which are mapped into memory, each time.

    Yields:
        dict with ``mel`` (b, n_mels, segment_frames) float32, ``lengths`` (b,) int64, real frames of each;
        ``speaker`` (b,) int64; ``utterance_id``, a list of b; b = batch_size / world_size.

    Raises:
        UserError: the index or a shard is missing or damaged; a speaker that is not in ``speakers``; a batch size
            that the processes cannot share evenly; an illegal number.
    """

    def __init__(
        self,
        index_dir: str | Path | ShardIndex,
        *,
        batch_size: int,
        segment_frames: int,
        seed: int,
        num_workers: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        speakers: Sequence[str] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ):
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("segment_frames", segment_frames, 1),
            ("seed", seed, 0),
            ("num_workers", num_workers, 0),
            ("world_size", world_size, 1),
        ):
            if value < least:
                raise UserError(f"{name} {value}; at least {least} is needed")
        if batch_size % world_size:
            raise UserError(
                f"batch_size {batch_size} cannot be shared by {world_size} processes; use a multiple of {world_size}"
            )
        if not 0 <= rank < world_size:
            raise UserError(f"rank {rank} of {world_size} processes; legal are 0 to {world_size - 1}")
        self.index = index_dir if isinstance(index_dir, ShardIndex) else ShardIndex.load(index_dir)
        self.batch_size = batch_size
        self.segment_frames = segment_frames
        self.seed = seed
        self.num_workers = num_workers
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        numbers = speaker_numbers(self.index, speakers)
        self._entries = self.index.entries()
        self._speakers = [numbers[entry.speaker] for entry in self._entries]
        self._reader = ShardReader(self.index)
        self._cache: dict[int, np.ndarray] = {}
        self._cache_left = cache_bytes
        self._cache_lock = threading.Lock()
        self._plans: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.position = 0  # examples of the global sequence that have been handed out

    @property
    def num_utterances(self) -> int:
        """Utterances, and examples of an epoch."""
        return len(self._entries)

    @property
    def epoch(self) -> float:
        """Epochs gone by, with the fraction of the current one."""
        return self.position / self.num_utterances

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batches yielded so far, whatever has been prepared ahead."""
        return {
            "position": self.position,
            "epoch": self.position // self.num_utterances,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "fingerprint": self.index.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved position; batch size and number of processes may be others than then.

        Raises:
            UserError: the state is of other shards, another seed or order.
        """
        for name, ours in (("fingerprint", self.index.fingerprint), ("seed", self.seed), ("shuffle", self.shuffle)):
            if state[name] != ours:
                what = "shards with other contents" if name == "fingerprint" else f"{name} {state[name]}"
                raise UserError(
                    f"the saved position is of {what}, {self.index.folder} is read with {name} {ours}; resume with "
                    "the same shards and settings, or start anew"
                )
        self.position = int(state["position"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.num_workers:
            while True:
                batch = self.batch_at(self.position)
                self.position += self.batch_size
                yield batch
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="segments") as pool:
            ahead: deque[tuple[int, Future[dict[str, Any]]]] = deque()
            while True:
                if ahead and ahead[0][0] != self.position:  # load_state_dict was called meanwhile
                    ahead.clear()
                while len(ahead) < 2 * self.num_workers:
                    position = self.position + len(ahead) * self.batch_size
                    ahead.append((position, pool.submit(self.batch_at, position)))
                batch = ahead.popleft()[1].result()
                self.position += self.batch_size
                yield batch

    def batch_at(self, position: int) -> dict[str, Any]:
        """Return this process' part of the batch that begins at example ``position`` of the global sequence."""
        share = self.batch_size // self.world_size
        start = position + self.rank * share
        crops, chosen = [], []
        for example in range(start, start + share):
            epoch, place = divmod(example, self.num_utterances)
            order, where = self._plan(epoch)
            number = int(order[place])
            mel = self._mel(number)
            first = int(where[place] * (max(0, mel.shape[1] - self.segment_frames) + 1))
            crops.append(mel[:, first : first + self.segment_frames])
            chosen.append(number)
        return {
            **pad(crops, self.segment_frames),
            "speaker": torch.tensor([self._speakers[number] for number in chosen]),
            "utterance_id": [self._entries[number].utterance_id for number in chosen],
        }

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of an epoch's utterances, and where in [0, 1) of its possible crops each is cut."""
        plan = self._plans.get(epoch)
        if plan is None:
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(self.num_utterances) if self.shuffle else np.arange(self.num_utterances)
            plan = (order, rng.random(self.num_utterances))
            # A batch seldom spans more than two epochs; threads may still be at the one before.
            kept = {number: self._plans[number] for number in list(self._plans)[-3:]}
            self._plans = {**kept, epoch: plan}
        return plan

    def _mel(self, number: int) -> np.ndarray:
        mel = self._cache.get(number)
        if mel is None:
            mel = self._reader.mel(self._entries[number])
            with self._cache_lock:
                if number not in self._cache and mel.nbytes <= self._cache_left:
                    self._cache[number] = mel.copy()
                    self._cache_left -= mel.nbytes
        return mel
