"""Small unit stores with texts that decide which units there are, for tests of text to units."""

import numpy as np

from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStore, UnitStoreMeta, store_of

SPEAKERS = ("ann", "bob")
LETTERS = "abcde"
SIZE = 24


def units_of(text: str, speaker: str) -> UtteranceUnits:
    """A letter is two codes, which depend on the speaker, the first as long as the letter is late in the alphabet;
    ``e`` is not heard. The ends are silence, code 0.
    """
    codes, durations = [0], [4]
    for letter in text:
        number = LETTERS.index(letter)
        if letter != "e":
            first = 1 + 4 * number + 2 * SPEAKERS.index(speaker)
            codes += [first, first + 1]
            durations += [1 + number, 2]
    return UtteranceUnits(f"{speaker}-{text}", np.repeat([*codes, 0], [*durations, 4]), speaker=speaker, text=text)


def spoken_store(number: int, seed: int = 0, length: int = 7, **meta) -> UnitStore:
    """Utterances of random letters, none twice in a row."""
    rng = np.random.default_rng(seed)
    rows: dict[str, UtteranceUnits] = {}
    while len(rows) < number:
        letters = [LETTERS[rng.integers(4)]]
        while len(letters) < length:
            letters.append(rng.choice([letter for letter in LETTERS if letter != letters[-1]]))
        units = units_of("".join(letters), SPEAKERS[len(rows) % 2])
        rows.setdefault(units.utterance_id, units)
    return store_of(rows.values(), UnitStoreMeta(SIZE, frame_rate=50.0, **meta), f"spoken{seed}")
