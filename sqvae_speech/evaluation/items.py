"""What an ABX test compares: labelled intervals with their context and speaker, and the item files that list them.

An item file (ZeroSpeech, Libri-Light) has a header and then a line an interval, columns separated by spaces:
``#file onset offset #phone prev-phone next-phone speaker``, times in seconds.
"""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sqvae_speech.data.files import read_text, write_text
from sqvae_speech.data.kaldi import Interval
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.evaluation.frames import SILENCES, FrameSequence, normalized_word

COLUMNS = "#file onset offset #phone prev-phone next-phone speaker"
SPANS = ("phone", "triphone")
EDGE = "SIL"  # the context at an utterance's edge, and across a gap
_GAP = 0.001  # s; intervals further apart are not neighbours


class Item(NamedTuple):
    """An interval: ``onset`` to ``offset`` in seconds of ``utterance_id``; ``label`` is what ABX tells apart."""

    utterance_id: str
    onset: float
    offset: float
    label: str
    previous: str
    next: str
    speaker: str


def phone_items(
    sequences: Iterable[FrameSequence], span: str = "phone", silences: Iterable[str] = SILENCES
) -> list[Item]:
    """The phones of utterances as items, silences left out.

    Args:
        sequences: with ``phones``.
        span: ``phone``: a phone's own interval, for any context and for within context; ``triphone``: from the
            beginning of the phone before to the end of the one after, both of which must be speech: the intervals of
            the ZeroSpeech challenges of 2015 to 2020, for within context only.
        silences: labels that are not phones.

    Raises:
        UserError: another span.
    """
    if span not in SPANS:
        raise UserError(f"no span {span!r}{nearest(span, SPANS)}; legal: {', '.join(SPANS)}")
    silent = set(silences)
    items = []
    for sequence in sequences:
        phones = sequence.phones
        for number, phone in enumerate(phones):
            if phone.label in silent:
                continue
            before = _neighbour(phones, number, -1)
            after = _neighbour(phones, number, +1)
            onset, offset = phone.onset, phone.offset
            if span == "triphone":
                if before is None or after is None or {before.label, after.label} & silent:
                    continue
                onset, offset = before.onset, after.offset
            previous, following = (
                EDGE if one is None or one.label in silent else one.label for one in (before, after)
            )
            name, speaker = sequence.utterance_id, sequence.speaker
            items.append(Item(name, onset, offset, phone.label, previous, following, speaker))
    return items


def word_items(sequences: Iterable[FrameSequence]) -> list[Item]:
    """Words as items: those of an alignment, else utterances of one word, without the silence at both ends.

    Labels are normalised; utterances of several words without an alignment of words are left out.
    """
    items = []
    for sequence in sequences:
        words = [word for word in sequence.words if word.label not in SILENCES]
        text = (sequence.text or "").split()
        if not words and len(text) == 1:
            words = [Interval(*speech_span(sequence), text[0])]
        for word in words:
            label = normalized_word(word.label)
            items.append(Item(sequence.utterance_id, word.onset, word.offset, label, EDGE, EDGE, sequence.speaker))
    return items


def speech_span(sequence: FrameSequence) -> tuple[float, float]:
    """From where speech begins to where it ends; the whole utterance without an alignment."""
    speech = [one for one in (*sequence.phones, *sequence.words) if one.label not in SILENCES]
    return (speech[0].onset, speech[-1].offset) if speech else (0.0, sequence.seconds)


def _neighbour(phones: Sequence[Interval], number: int, direction: int) -> Interval | None:
    """The interval before or after, or None where there is none or a gap."""
    other = number + direction
    if not 0 <= other < len(phones):
        return None
    first, second = (phones[other], phones[number]) if direction < 0 else (phones[number], phones[other])
    return phones[other] if abs(second.onset - first.offset) <= _GAP else None


def write_items(path: str | os.PathLike, items: Iterable[Item]) -> None:
    """Write an item file, whole or not at all."""
    lines = [
        f"{i.utterance_id} {i.onset:.6f} {i.offset:.6f} {i.label} {i.previous} {i.next} {i.speaker}" for i in items
    ]
    write_text(Path(path), "\n".join([COLUMNS, *lines]) + "\n")


def read_items(path: str | os.PathLike) -> list[Item]:
    """Read an item file; its first line is a header, whatever it says.

    Raises:
        UserError: a line that has not seven columns or no times, with its number.
    """
    items = []
    for number, line in enumerate(read_text(Path(path)).splitlines()[1:], 2):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != len(COLUMNS.split()):
            raise UserError(f"{path}:{number}: {len(columns)} columns; an item has seven, {COLUMNS!r}")
        try:
            onset, offset = float(columns[1]), float(columns[2])
        except ValueError:
            onset = offset = math.nan
        if not 0 <= onset < offset < math.inf:
            raise UserError(f"{path}:{number}: {columns[1]} to {columns[2]} is no interval in seconds")
        items.append(Item(columns[0], onset, offset, *columns[3:]))
    if not items:
        raise UserError(f"{path} lists no items")
    return items
