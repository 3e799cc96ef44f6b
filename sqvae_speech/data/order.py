"""The order of an epoch: every example once, shuffled as a whole or within windows of shards, by the seed alone."""

from typing import NamedTuple

import numpy as np

# Batches' worth of utterances that are sorted by length together: enough that neighbours are of like length, few
# enough that those an utterance shares its batch with change from epoch to epoch.
POOL_BATCHES = 32


class EpochPlan(NamedTuple):
    """An epoch.

    Attributes:
        order: (N,) int64, the examples.
        draws: (N,) float64, uniform in [0, 1), for what is drawn of each: where its crop is cut.
        window_ends: (W,) int64, places in ``order`` where the windows end.
        window_shards: the shards of each window, int64 arrays.
    """

    order: np.ndarray
    draws: np.ndarray
    window_ends: np.ndarray
    window_shards: tuple[np.ndarray, ...]


class BatchPlan(NamedTuple):
    """An epoch in batches of whole utterances.

    Attributes:
        numbers: the utterances of each batch, int64 arrays, the longest first.
        window_ends: (W,) int64, the numbers of batches after which the windows end.
        window_shards: the shards of each window.
    """

    numbers: tuple[np.ndarray, ...]
    window_ends: np.ndarray
    window_shards: tuple[np.ndarray, ...]


class EpochOrder:
    """Draws epochs; each is a function of ``(seed, epoch)`` and the division into shards.

    Args:
        shards: (N,) the shard of each example, in the order of the manifest, so not decreasing.
        num_shards: how many there are.
        seed: of order and draws.
        shuffle: False keeps the order of the manifest.
        shuffle_shards: shards of a window: the shards are shuffled, and then the examples of so many shards that
            follow each other; 0, or as many as there are, shuffles all examples at once.
    """

    def __init__(self, shards: np.ndarray, num_shards: int, *, seed: int, shuffle: bool, shuffle_shards: int = 0):
        self.shards = shards
        self.num_shards = num_shards
        self.seed = seed
        self.shuffle = shuffle
        self.shuffle_shards = 0 if shuffle_shards >= num_shards else shuffle_shards

    def __call__(self, epoch: int) -> EpochPlan:
        """Draw an epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        size = self.shuffle_shards or self.num_shards
        # With one window nothing is drawn for the shards: saved positions of earlier versions stay valid.
        chain = np.arange(self.num_shards)
        if self.shuffle and self.shuffle_shards:
            chain = rng.permutation(self.num_shards)
        order = rng.permutation(len(self.shards)) if self.shuffle else np.arange(len(self.shards))
        windows = np.empty(self.num_shards, dtype=np.int64)
        windows[chain] = np.arange(self.num_shards) // size
        of_example = windows[self.shards]
        if self.shuffle_shards:
            order = order[np.argsort(of_example[order], kind="stable")]
        return EpochPlan(
            order=order,
            draws=rng.random(len(order)),
            window_ends=np.cumsum(np.bincount(of_example, minlength=-(-self.num_shards // size))),
            window_shards=tuple(chain[start : start + size] for start in range(0, self.num_shards, size)),
        )

    def batches(self, epoch: int, num_frames: np.ndarray, batch_frames: int) -> BatchPlan:
        """Draw an epoch in batches of whole utterances of like length.

        Utterances that follow each other in the order make a pool, are sorted by length, and cut into batches; the
        batches of a window are shuffled.

        Args:
            epoch: its number.
            num_frames: (N,) frames of each utterance, none above ``batch_frames``.
            batch_frames: frames of a batch at most, padding included.
        """
        plan = self(epoch)
        rng = np.random.default_rng((self.seed, epoch, 1))
        pool = max(1, round(POOL_BATCHES * batch_frames / float(num_frames.mean())))
        batches: list[np.ndarray] = []
        ends = []
        start = 0
        for end in plan.window_ends.tolist():
            window: list[np.ndarray] = []
            for first in range(start, end, pool):
                window += _cut(plan.order[first : min(first + pool, end)], num_frames, batch_frames)
            turns = rng.permutation(len(window)) if self.shuffle else range(len(window))
            batches += [window[turn] for turn in turns]
            ends.append(len(batches))
            start = end
        return BatchPlan(tuple(batches), np.array(ends), plan.window_shards)


def _cut(numbers: np.ndarray, num_frames: np.ndarray, batch_frames: int) -> list[np.ndarray]:
    """Sort utterances by length, the longest first, and cut them into batches."""
    numbers = numbers[np.argsort(-num_frames[numbers], kind="stable")]
    lengths = num_frames[numbers].tolist()
    batches, start = [], 0
    while start < len(numbers):
        size = batch_frames // lengths[start]
        batches.append(numbers[start : start + size])
        start += size
    return batches
