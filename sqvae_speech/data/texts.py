"""From a written sentence to the symbols that a model of speech reads."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqvae_speech.data.espeak import phones_of
from sqvae_speech.errors import UserError

KINDS = ("characters", "phones")
BEGIN, PAUSE, END = (
    "<begin>",
    "<pause>",
    "<end>",
)  # what is silent: before the first word, between clauses, at the end
_PLAIN = str.maketrans({"’": "'", "‘": "'", "`": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "."})


def normalized(text: str) -> str:
    """Composed (NFC), lower case, typographic quotes and dashes as plain ones, runs of white space as one space.

    Nothing is spelled out: numbers and abbreviations are to be written as words, or read by espeak-ng (``phones``).
    """
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text).translate(_PLAIN)).strip().lower()


@dataclass(frozen=True)
class TextFrontEnd:
    """How text becomes symbols.

    Attributes:
        kind: ``characters``, those of :func:`normalized`, double quotes left out; or ``phones`` of espeak-ng, IPA
            without stress and without word boundaries, which sound like nothing.
        language: that espeak-ng reads it in.
    """

    kind: str = "characters"
    language: str = "en-us"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"text must be one of {', '.join(KINDS)}, got {self.kind!r}")

    def symbols(self, text: str) -> list[str]:
        """``<begin>``, the symbols, ``<end>``; with ``phones`` also ``<pause>`` between clauses.

        Raises:
            UserError: a text that nothing is to be said of; see :func:`~sqvae_speech.data.espeak.phones_of`.
        """
        if self.kind == "characters":
            said = [character for character in normalized(text) if character != '"']
        else:
            said = []
            for clause in phones_of(text, self.language):
                said += [PAUSE, *clause] if said else clause
        if not any(character.isalnum() for symbol in said for character in symbol):
            raise UserError(f"nothing can be said of the text {text!r}: it has no letters or digits")
        return [BEGIN, *said, END]


def numbers_of(symbols: Sequence[str], known: Sequence[str], text: str) -> list[int]:
    """The numbers of symbols in a model's table.

    Raises:
        UserError: symbols that the table does not have, with the list of them.
    """
    table = {symbol: number for number, symbol in enumerate(known)}
    if unknown := unknown_symbols(symbols, table):
        shown = ", ".join(map(repr, unknown))
        legal = " ".join(symbol for symbol in known if symbol not in (BEGIN, PAUSE, END, " "))
        raise UserError(
            f"{text!r} has what the model never read in training: {shown}. It knows: {legal}. Write it with these "
            "(numbers as words), or train on text that has them"
        )
    return [table[symbol] for symbol in symbols]


def unknown_symbols(symbols: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those that are not known, each once, sorted."""
    return sorted(set(symbols) - set(known))
