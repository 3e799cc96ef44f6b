"""The dictionary beside units: without it, a toolkit numbers the codes as it meets them, and all is gibberish."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqvae_speech.errors import UserError
from sqvae_speech.units.forms.base import Form, Outputs, read_lines
from sqvae_speech.units.meta import UnitStoreMeta

FIRST_CHARACTER = 0x4E00
CHARACTERS = 0x9FFF + 1 - FIRST_CHARACTER  # the Unicode block of CJK unified ideographs: 20,992


@dataclass(frozen=True)
class Dictionary:
    """A list of the symbols of all codes, in their order.

    Attributes:
        name: of its file.
        symbol: of a code of a codebook.
        line: the line of a symbol, given its number.
    """

    name: str
    symbol: Callable[[int, int], str]
    line: Callable[[str, int], str]

    def lines(self, meta: UnitStoreMeta) -> Iterator[str]:
        """All lines, without their ends."""
        for book in range(meta.num_codebooks):
            for code in range(meta.codebook_size):
                yield self.line(self.symbol(book, code), book * meta.codebook_size + code)

    def read(self, path: Path) -> tuple[int, int]:
        """``(codebook_size, num_codebooks)`` of a dictionary.

        Raises:
            UserError: its symbols are others, or in another order: then the codes of the file mean something else.
        """
        symbols = [line.split()[0] if line.split() else "" for _, line in read_lines(path)]
        size = next((n for n, symbol in enumerate(symbols) if symbol != self.symbol(0, n)), len(symbols))
        for number, symbol in enumerate(symbols):
            wanted = self.symbol(number // size, number % size) if size else self.symbol(0, number)
            if symbol != wanted:
                raise UserError(
                    f"{path}:{number + 1}: {symbol!r} where {wanted!r} is needed: all codes in their order, or the "
                    "codes of the file mean something else"
                )
        if not symbols or len(symbols) % size:
            raise UserError(f"{path}: {len(symbols)} symbols, which is not a number of codebooks of {size}")
        return size, len(symbols) // size

    def write(self, outputs: Outputs, folder: Path, meta: UnitStoreMeta, form: Form, main: Path) -> None:
        """Write it beside ``main``.

        Raises:
            UserError: the one there is of another size, and belongs to other files of the form.
        """
        target = folder / self.name
        if target.is_file():
            found = sum(1 for _ in read_lines(target))
            others = sorted({other.name for glob in form.all_patterns for other in folder.glob(glob)} - {main.name})
            if found != meta.codebook_size * meta.num_codebooks and others:
                raise UserError(
                    f"{target} lists {found} codes and serves {', '.join(others)}; these units have a codebook of "
                    f"{meta.codebook_size}: write them into another folder"
                )
        file = outputs.text(target)
        for line in self.lines(meta):
            file.write(f"{line}\n")


def _number(book: int, code: int) -> str:
    return str(code)


def character(book: int, code: int) -> str:
    """The symbol of a code in ESPnet's asr2 recipes."""
    return chr(FIRST_CHARACTER + code)


# fairseq's dictionaries give a count with every symbol; it has no meaning here and is 1 by convention
FAIRSEQ = Dictionary("dict.km.txt", _number, lambda symbol, number: f"{symbol} 1")
GSLM = Dictionary("code_dict", _number, lambda symbol, number: symbol)
KALDI = Dictionary("units.txt", _number, lambda symbol, number: f"{symbol} {number}")
ESPNET = Dictionary("tokens.txt", _number, lambda symbol, number: symbol)
ESPNET_CHARACTERS = Dictionary("tokens.cjk.txt", character, lambda symbol, number: symbol)
ESPNET_SPEECHLM = Dictionary(
    "codec_vocab.txt", lambda book, code: f"<codec_layer{book}_code{code}>", lambda symbol, number: symbol
)
