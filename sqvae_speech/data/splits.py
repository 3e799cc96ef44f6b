"""Dividing a corpus: no tested sentence is trained on, or no tested speaker; by hashes, the same on any machine."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from sqvae_speech.errors import UserError

SPLITS = ("train", "dev", "test")


class Item(NamedTuple):
    """An utterance to place: its id, its speaker, and a key that all recordings of one sentence share."""

    utterance_id: str
    speaker: str
    sentence: str


def split_by_sentence(items: Iterable[Item], fraction: float = 0.05, seed: int = 0) -> dict[str, str]:
    """Return ``{utterance_id: split}``; sentences, not utterances, are assigned.

    - A sentence is in one split, whoever reads it, so nothing tested was heard in training in another voice.
    - Every speaker of dev and test is in train, as a decoder with speaker embeddings needs.
    - test, then dev, gets about ``fraction`` of each speaker's utterances, at least one where the speaker has three
      sentences or more and the rules above leave one free.

    Sentences are taken in the order of a hash of their key and ``seed``: the same corpus gives the same splits on any
    machine, and a recording that is added or missing moves few others.

    Args:
        items: the utterances; ids must be unique.
        fraction: part of each speaker's utterances for dev, and for test; 0 to 0.4.
        seed: another seed, another division.

    Raises:
        UserError: ``fraction`` outside 0 to 0.4.
    """
    check_fraction(fraction)
    items = list(items)
    sentences: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        sentences[item.sentence].append(item)
    total = Counter(item.speaker for item in items)
    wanted = {s: 0 if n < 3 or fraction == 0 else max(1, math.floor(fraction * n + 0.5)) for s, n in total.items()}
    left = Counter(total)  # utterances of each speaker that are not in dev or test
    order = in_hash_order(sentences, seed)
    split_of: dict[str, str] = {}
    for split in ("test", "dev"):
        have: Counter[str] = Counter()
        for key in order:
            readers = Counter(item.speaker for item in sentences[key])
            if key in split_of or any(left[speaker] - n < 1 for speaker, n in readers.items()):
                continue
            short = [speaker for speaker in readers if have[speaker] < wanted[speaker]]
            # A sentence that many read is worth taking when half of them still lack one; beyond that, only for a
            # speaker who would otherwise have none at all.
            if 2 * len(short) > len(readers) or any(have[speaker] == 0 for speaker in short):
                split_of[key] = split
                have.update(readers)
                left.subtract(readers)
    return {item.utterance_id: split_of.get(item.sentence, "train") for item in items}


def split_by_speaker(speakers: Iterable[str], fraction: float = 0.05, seed: int = 0) -> set[str]:
    """Return the speakers to keep for test: about ``fraction`` of them, at least one, never all.

    They are taken in the order of a hash of their name and ``seed``.

    Args:
        speakers: names, in any order and number.
        fraction: part of the speakers; 0 to 0.4.
        seed: another seed, other speakers.

    Raises:
        UserError: ``fraction`` outside 0 to 0.4, or fewer than two speakers.
    """
    names = in_hash_order(set(speakers), seed)
    check_fraction(fraction)
    if len(names) < 2:
        raise UserError(f"speakers cannot be kept for test: there is only {', '.join(names) or 'none'}")
    return set(names[: max(1, math.floor(fraction * len(names) + 0.5))])


def in_hash_order(names: Iterable[str], seed: int) -> list[str]:
    """Return names in the order of a hash of each and ``seed``: the same on any machine, and among any others."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def check_fraction(fraction: float) -> None:
    """Raise :class:`UserError` unless so much can be taken for dev, and again for test."""
    if not 0 <= fraction <= 0.4:
        raise UserError(f"fraction {fraction} for dev and for test; legal are 0 to 0.4 (--fraction)")
