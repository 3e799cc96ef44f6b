"""A unit store with its transcripts as a text-to-units model learns from it: texts, runs, and which go together."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sqvae_speech.data.texts import TextFrontEnd, unknown_symbols
from sqvae_speech.errors import UserError
from sqvae_speech.units.alignment import LEAP, Aligner, align, train_aligner
from sqvae_speech.units.endless import EndlessUnits
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate
from sqvae_speech.units.store import UnitStore

logger = logging.getLogger(__name__)


class SpokenText(NamedTuple):
    """An utterance: its text in ``symbols``, its ``units`` as runs with durations."""

    symbols: list[str]
    units: UtteranceUnits


def read_spoken_texts(
    store: UnitStore, front_end: TextFrontEnd, known: Sequence[str] = (), speakers: Sequence[str] = ()
) -> list[SpokenText]:
    """The utterances that can be learned from, or be said; the log says how many cannot, and why.

    Args:
        store: of speech; units are deduplicated, if they are not.
        front_end: makes symbols of the texts.
        known: symbols that texts may have; empty for any.
        speakers: that there may be; empty for any.

    Raises:
        UserError: deduplicated units without durations, or nothing that can be learned from.
    """
    found: list[SpokenText] = []
    left_out: dict[str, list[str]] = {}
    for units in store:
        if store.meta.deduplicated and units.durations is None:
            raise UserError(f"{store.name}: {units.utterance_id} has no durations; encode with --deduplicate again")
        if not units.text or not units.num_units:
            left_out.setdefault("no text, or no units", []).append(units.utterance_id)
            continue
        symbols = front_end.symbols(units.text)
        one = SpokenText(symbols, deduplicate(units))
        if known and (unknown := unknown_symbols(symbols, known)):
            left_out.setdefault(f"symbols that training has not: {' '.join(unknown)}", []).append(units.utterance_id)
        elif speakers and units.speaker not in speakers:
            left_out.setdefault("speakers that training has not", []).append(units.utterance_id)
        elif len(symbols) > LEAP * one.units.num_units:
            left_out.setdefault("a text too long for its recording", []).append(units.utterance_id)
        else:
            found.append(one)
    for reason, names in left_out.items():
        logger.warning("%s: %d utterances left out (%s), such as %s", store.name, len(names), reason, names[0])
    if not found:
        reasons = "; ".join(f"{len(names)}: {reason}" for reason, names in left_out.items()) or "it is empty"
        raise UserError(
            f"{store.name} has no utterance with a text that can be said ({reasons}). Texts come from the data "
            "directory's `text` by way of the shards; speakers are not looked at with --data.condition none"
        )
    return found


class SpokenTexts:
    """Utterances as arrays, aligned.

    Args:
        spoken: of :func:`read_spoken_texts`.
        symbols: the table of symbols, which has all of them.
        speakers: the table of speakers, which has all of them; empty for none.
        codebook_size: K.
        aligner: trained on others; None trains one on these.
        name: for messages.
    """

    def __init__(
        self,
        spoken: Sequence[SpokenText],
        symbols: Sequence[str],
        speakers: Sequence[str],
        codebook_size: int,
        aligner: Aligner | None = None,
        name: str = "units",
    ):
        numbers = {symbol: number for number, symbol in enumerate(symbols)}
        voices = {speaker: number for number, speaker in enumerate(speakers)}
        self.name = name
        self.units = [one.units for one in spoken]
        self.texts = [np.array([numbers[symbol] for symbol in one.symbols], dtype=np.int64) for one in spoken]
        self.speakers = np.array([voices.get(one.units.speaker or "", 0) for one in spoken], dtype=np.int64)
        first_codes = [units.codes[0] for units in self.units]
        self.aligner = aligner or train_aligner(self.texts, first_codes, len(symbols), codebook_size)
        self.counts = align(self.aligner, self.texts, first_codes)

    def __len__(self) -> int:
        return len(self.units)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that training sees."""
        digest = hashlib.sha256(self.speakers.tobytes())
        for text, counts, units in zip(self.texts, self.counts, self.units, strict=True):
            assert units.durations is not None
            for array in (text, counts, units.codes, units.durations):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def batch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Some utterances as the arguments of :class:`~sqvae_speech.models.text_to_units.TextToUnits`."""

        def padded(arrays: Sequence[np.ndarray | None]) -> Tensor:
            return pad_sequence([torch.from_numpy(array) for array in arrays], batch_first=True)

        return {
            "text": padded([self.texts[number] for number in numbers]),
            "text_lengths": torch.tensor([len(self.texts[number]) for number in numbers]),
            "speaker": torch.from_numpy(self.speakers[list(numbers)]),
            "counts": padded([self.counts[number] for number in numbers]),
            "codes": padded([self.units[number].codes.T for number in numbers]),
            "durations": padded([self.units[number].durations for number in numbers]),
        }


class SpokenTextLoader(EndlessUnits):
    """An endless iterable of batches, each utterance once an epoch, in an order drawn from ``(seed, epoch)``.

    The global batch of a step depends on the seed and the step alone; a process takes its share of it.

    Args:
        texts: what to train on.
        batch_size: utterances of the global batch, over all processes.
        seed: of the order.
        rank, world_size: this process, of how many.

    Raises:
        UserError: a batch size that the processes cannot share evenly.
    """

    def __init__(self, texts: SpokenTexts, *, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1):
        super().__init__(len(texts), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.texts = texts
        self._fingerprint = texts.fingerprint

    @property
    def epoch(self) -> float:
        """Epochs gone by, with the fraction of the current one."""
        return self._position / len(self.texts)

    def _batch(self, first: int, count: int) -> dict[str, Any]:
        return self.texts.batch([self._number(place) for place in range(first, first + count)])

    def _number(self, place: int) -> int:
        """Which utterance has a place in the endless sequence of epochs."""
        epoch, row = divmod(place, len(self.texts))
        return int(self._plan(epoch)[row])

    def _settings(self) -> dict[str, Any]:
        return {"fingerprint": self._fingerprint, "seed": self.seed}

    def _mismatch(self, name: str, theirs: Any, ours: Any) -> str:
        what = "other texts or units" if name == "fingerprint" else f"seed {theirs}"
        return (
            f"the saved position is of {what} than {self.texts.name} with seed {self.seed}; resume with the "
            "same data and settings, or start anew"
        )
