"""An utterance as what is evaluated: a sequence of frames with their times, of one or more kinds of representation.

Kinds: ``latents``, ``quantized`` vectors, ``codes`` and ``posterior`` of a quantizer, and the log-mel ``mel`` itself.
"""

import string
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from sqvae_speech.data.kaldi import Interval
from sqvae_speech.data.reader import UtteranceMel
from sqvae_speech.errors import UserError, nearest

KINDS = ("latents", "quantized", "codes", "posterior", "mel")
SILENCES = frozenset({"SIL", "sil", "sp", "spn", "SP", "SPN", "<eps>", "<sil>", "h#", "pau", "epi"})
_ROUNDING = 1e-7  # s, far below any alignment's step


@dataclass(frozen=True, eq=False)
class FrameSequence:
    """The frames of an utterance.

    Attributes:
        utterance_id, speaker: ids.
        seconds: the utterance lasts.
        times: (T,) float64, s from the utterance's start, the middle of what each frame stands for; evenly spaced.
        step: s from frame to frame.
        features: kind -> (T, D) float32.
        codes: (N, T) int64 of N codebooks, or None where nothing is quantized.
        phones: their intervals, in order of time; none where there is no alignment of phones.
        words: their intervals; none where there is no alignment of words.
        text: transcript, where known.
    """

    utterance_id: str
    speaker: str
    seconds: float
    times: np.ndarray
    step: float
    features: dict[str, np.ndarray] = field(default_factory=dict)
    codes: np.ndarray | None = None
    phones: tuple[Interval, ...] = ()
    words: tuple[Interval, ...] = ()
    text: str | None = None

    @property
    def edges(self) -> np.ndarray:
        """(T + 1,) s, where each frame begins and the last one ends."""
        return np.append(self.times - self.step / 2, self.times[-1] + self.step / 2)

    def kind(self, name: str) -> np.ndarray:
        """(T, D) float32; ``codes`` as (T, N) numbers.

        Raises:
            UserError: the sequence has no such kind.
        """
        if name == "codes" and self.codes is not None:
            return self.codes.T.astype(np.float32)
        if name not in self.features:
            legal = [*self.features, *(["codes"] if self.codes is not None else [])]
            raise UserError(f"no {name!r} here{nearest(name, legal)}; there are {', '.join(legal)}")
        return self.features[name]

    def within(self, onset: float, offset: float) -> slice:
        """The frames whose middle lies in [onset, offset], the rule of the ZeroSpeech evaluations.

        An interval too short to hold the middle of any frame gets the one frame that is nearest to its own middle, so
        that representations of any frame rate are compared on the same intervals.
        """
        first = int(np.searchsorted(self.times, onset - _ROUNDING, side="left"))
        last = int(np.searchsorted(self.times, offset + _ROUNDING, side="right"))
        if first >= last:
            first = int(np.argmin(np.abs(self.times - (onset + offset) / 2)))
            last = first + 1
        return slice(first, last)

    def phone_numbers(self, phones: dict[str, int]) -> np.ndarray:
        """(T,) int64, the number that ``phones`` gives the phone at each frame's middle; -1 where there is none."""
        if not self.phones:
            return np.full(len(self.times), -1, dtype=np.int64)
        onsets = np.array([phone.onset for phone in self.phones])
        offsets = np.array([phone.offset for phone in self.phones])
        numbers = np.array([phones.get(phone.label, -1) for phone in self.phones], dtype=np.int64)
        at = np.searchsorted(onsets, self.times, side="right") - 1
        return np.where((at >= 0) & (self.times < offsets[at]), numbers[at], -1)


def sequence_of(
    utterance: UtteranceMel,
    seconds: float,
    first_time: float,
    step: float,
    features: dict[str, np.ndarray],
    codes: np.ndarray | None = None,
) -> FrameSequence:
    """Frames of an utterance of the shards, evenly spaced by ``step`` s from ``first_time`` s on, with its labels.

    The intervals of an ``ali`` are words when they spell the transcript, as in FSDD, and phones otherwise.
    """
    intervals = tuple(Interval(*interval) for interval in utterance.meta.get("ali", ()))
    text = utterance.meta.get("text")
    are_words = spell(intervals, text)
    count = len(next(iter(features.values()))) if codes is None else codes.shape[1]
    return FrameSequence(
        utterance_id=utterance.utterance_id,
        speaker=utterance.speaker,
        seconds=seconds,
        times=first_time + step * np.arange(count),
        step=step,
        features=features,
        codes=codes,
        phones=() if are_words else intervals,
        words=intervals if are_words else (),
        text=text,
    )


def spell(intervals: Iterable[Interval], text: str | None) -> bool:
    """Whether intervals, less silences, are the words of a transcript."""
    spoken = [word for word in map(normalized_word, (text or "").split()) if word]
    return bool(spoken) and spoken == [normalized_word(one.label) for one in intervals if one.label not in SILENCES]


def normalized_word(word: str) -> str:
    """In lower case, without punctuation at its ends."""
    return word.strip(string.punctuation).lower()


def phone_table(sequences: Iterable[FrameSequence], leave_out: Iterable[str] = ()) -> dict[str, int]:
    """The phones of a set, sorted, with their numbers."""
    left_out = set(leave_out)
    labels = {phone.label for sequence in sequences for phone in sequence.phones}
    return {label: number for number, label in enumerate(sorted(labels - left_out))}


def check_kind(name: str, legal: Iterable[str] = KINDS) -> str:
    """Return ``name``, or raise :class:`UserError` when it is not one of ``legal``."""
    legal = list(legal)
    if name not in legal:
        raise UserError(f"no representation {name!r}{nearest(name, legal)}; legal: {', '.join(legal)}")
    return name
