"""What the endless loaders of units in memory share: order, position, the share of a process."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from sqvae_speech.errors import UserError

_PLANS = 2  # epochs that are kept: a batch seldom spans more


class EndlessUnits(ABC):
    """Batches without end, epoch after epoch, each in an order drawn from ``(seed, epoch)``.

    The global batch of a step depends on the seed and the step alone; a process takes its share of it.

    Args:
        num_examples: of an epoch.
        batch_size: of the global batch, over all processes.
        seed: of the order.
        rank, world_size: this process, of how many.

    Raises:
        UserError: a batch size that the processes cannot share evenly.
    """

    def __init__(self, num_examples: int, *, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1):
        if batch_size % world_size:
            raise UserError(
                f"batch_size {batch_size} cannot be shared by {world_size} processes; use a multiple of {world_size}"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._num_examples = num_examples
        self._position = 0  # handed out, over all processes, counted as batch_size is
        self._plans: dict[int, Any] = {}

    @abstractmethod
    def _batch(self, first: int, count: int) -> dict[str, Any]:
        """``count`` parts of a batch, from number ``first`` of the endless sequence on."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """What decides the sequence, by name."""

    @abstractmethod
    def _mismatch(self, name: str, theirs: Any, ours: Any) -> str:
        """What to say of a saved position whose setting is another."""

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches yielded so far."""
        return {**self._settings(), "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved position; the number of processes may be another than then.

        Raises:
            UserError: the state is of other units or settings.
        """
        for name, ours in self._settings().items():
            if state.get(name) != ours:
                raise UserError(self._mismatch(name, state.get(name), ours))
        self._position = int(state["position"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        share = self.batch_size // self.world_size
        while True:
            batch = self._batch(self._position + self.rank * share, share)
            self._position += self.batch_size
            yield batch

    def _draw(self, epoch: int) -> Any:
        """The examples in the order of an epoch, (num_examples,) int64; loaders may add to it."""
        return np.random.default_rng((self.seed, epoch)).permutation(self._num_examples)

    def _plan(self, epoch: int) -> Any:
        """What :meth:`_draw` gives, kept for the last epochs."""
        if epoch not in self._plans:
            kept = {number: self._plans[number] for number in list(self._plans)[1 - _PLANS :]}
            self._plans = {**kept, epoch: self._draw(epoch)}
        return self._plans[epoch]
