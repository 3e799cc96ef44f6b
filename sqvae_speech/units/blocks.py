"""Unit stores as a language model reads them: endless packed blocks to train on, windows to score."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sqvae_speech.errors import UserError
from sqvae_speech.models.unit_lm import IGNORE, UnitVocabulary
from sqvae_speech.units.endless import EndlessUnits
from sqvae_speech.units.store import UnitStore, UnitStoreMeta


def vocabulary_of(meta: UnitStoreMeta) -> UnitVocabulary:
    """What a language model of the units of a store models."""
    return UnitVocabulary(meta.codebook_size, meta.num_codebooks, meta.shape or ())


def facts_of(meta: UnitStoreMeta) -> dict[str, Any]:
    """What of a store's metadata a language model of its units is bound to, in types that JSON can hold.

    ``UnitStoreMeta.from_dict`` reads it, for units that the model draws.
    """
    names = ("codebook_size", "num_codebooks", "frame_rate", "mel_spec", "checkpoint", "deduplicated")
    return {**{name: getattr(meta, name) for name in names}, "shape": None if meta.shape is None else [*meta.shape]}


class UnitSequences:
    """The units of a store in flat arrays, cut anywhere.

    A sequence of U units has U + 1 predictions, the last that of its end; image codes have no end to predict. The
    unit in whose place a prediction stands is called by its number in the sequence, the end by U.

    Args:
        store: units as they are stored: a deduplicated store gives runs.
        vocabulary: of the model.
        conditions: names of the speakers (or classes) that the model can be told; others are unknown to it.

    Raises:
        UserError: for an empty store.
    """

    def __init__(self, store: UnitStore, vocabulary: UnitVocabulary, conditions: Sequence[str] = ()):
        if not len(store):
            raise UserError(f"{store.name} has no utterances")
        self.name = store.name
        self.vocabulary = vocabulary
        numbers = {name: number for number, name in enumerate(conditions)}
        codes, speakers = [], []
        for units in store:
            codes.append(units.codes.astype(np.int32))
            speakers.append(numbers.get(units.speaker or "", len(conditions)))
        self.codes = np.concatenate(codes, axis=1)
        self.lengths = np.array([one.shape[1] for one in codes], dtype=np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.predictions = self.lengths + (vocabulary.num_units is None)
        self.conditions = np.array(speakers, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that training sees."""
        digest = hashlib.sha256(repr(self.vocabulary).encode())
        for array in (self.codes, self.lengths, self.conditions):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def cut(self, sequences: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Symbols and targets of some predictions.

        Args:
            sequences: (...) int64 numbers of sequences.
            units: (...) int64, which prediction of each.

        Returns:
            Two (..., N) int64 arrays.
        """
        books, size = self.vocabulary.num_codebooks, self.vocabulary.codebook_size
        at_end = units == self.lengths[sequences]
        places = self.starts[sequences] + units
        here = self.codes[:, np.minimum(places, self.codes.shape[1] - 1)] if self.codes.size else None
        targets = np.full((*units.shape, books), IGNORE, dtype=np.int64)
        symbols = np.full((*units.shape, books), self.vocabulary.begin, dtype=np.int64)
        if here is not None:
            targets[~at_end] = np.moveaxis(here, 0, -1)[~at_end]
            before = self.codes[-1, np.maximum(places - 1, 0)] + (books - 1) * size
            symbols[..., 0] = np.where(units == 0, self.vocabulary.begin, before)
            for book in range(1, books):
                symbols[..., book] = np.where(at_end, self.vocabulary.begin, here[book - 1] + (book - 1) * size)
        targets[at_end, 0] = self.vocabulary.end
        return symbols, targets


class UnitBlockLoader(EndlessUnits):
    """An endless iterable of blocks of ``context`` predictions, without padding.

    The sequences of an epoch follow one another in an order drawn from ``(seed, epoch)``, epochs follow one another,
    and the whole is cut every ``context`` predictions: every unit and every end is learned once an epoch. What is cut
    off goes on in the next block, where it has the unit before it to begin with. A batch is the next ``batch_size``
    blocks, of which a process takes its share: the global batch of a step depends on the seed and the step alone.

    Args:
        sequences: what to train on.
        context: predictions of a block.
        batch_size: blocks of the global batch, over all processes.
        seed: of the order.
        rank, world_size: this process, of how many.

    Yields:
        dict with the arguments of :class:`~sqvae_speech.models.unit_lm.UnitLm`, int64: ``symbols`` and ``targets``
        (B, U, N), ``segments``, ``positions`` and ``conditions`` (B, U); B = batch_size / world_size, U = context.

    Raises:
        UserError: a batch size that the processes cannot share evenly.
    """

    def __init__(
        self,
        sequences: UnitSequences,
        *,
        context: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(len(sequences), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.sequences = sequences
        self.context = context
        self._fingerprint = sequences.fingerprint
        self._epoch_size = int(sequences.predictions.sum())

    @property
    def epoch(self) -> float:
        """Epochs gone by, with the fraction of the current one."""
        return self._position * self.context / self._epoch_size

    def _batch(self, first: int, count: int) -> dict[str, Any]:
        start, stop = first * self.context, (first + count) * self.context
        # (B, U) numbers of predictions in the endless sequence
        predictions = np.arange(start, stop).reshape(count, self.context)
        sequences = np.empty_like(predictions)
        units = np.empty_like(predictions)
        epochs, places = np.divmod(predictions, self._epoch_size)
        for epoch in np.unique(epochs).tolist():
            order, ends = self._plan(epoch)
            chosen = epochs == epoch
            number = np.searchsorted(ends, places[chosen], side="right")
            sequences[chosen] = order[number]
            units[chosen] = places[chosen] - (ends[number] - self.sequences.predictions[order[number]])
        symbols, targets = self.sequences.cut(sequences, units)
        starts = units == 0
        starts[:, 0] = False
        arrays = {
            "symbols": symbols,
            "targets": targets,
            "segments": np.cumsum(starts, axis=1),
            "positions": units,
            "conditions": self.sequences.conditions[sequences],
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The sequences in the order of an epoch, and where the predictions of each end."""
        order = super()._draw(epoch)
        return order, np.cumsum(self.sequences.predictions[order])

    def _settings(self) -> dict[str, Any]:
        return {"fingerprint": self._fingerprint, "seed": self.seed, "context": self.context}

    def _mismatch(self, name: str, theirs: Any, ours: Any) -> str:
        what = "other units" if name == "fingerprint" else f"{name} {theirs}"
        return (
            f"the saved position is of {what}, {self.sequences.name} is read with {name} {ours}; resume with "
            "the same units and settings, or start anew"
        )
