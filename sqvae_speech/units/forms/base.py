"""What a form of units is, and what reading and writing any of them needs."""

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from sqvae_speech.data.files import whole_file
from sqvae_speech.errors import UserError
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits

if TYPE_CHECKING:
    from sqvae_speech.units.forms.dictionary import Dictionary
    from sqvae_speech.units.forms.recordings import Recordings

logger = logging.getLogger(__name__)
KEY = "hubert_km100"  # of pGSLM; its reader knows this name


@dataclass(frozen=True)
class ReadOptions:
    """What a file may not say of itself.

    Attributes:
        codebook_size: K.
        num_codebooks: N.
        frame_rate: units a second, Hz.
        deduplicated: its runs are collapsed.
        ids: for forms without ids: a file with an id as the first word of each line, or a manifest (``.tsv``).
        key: of pGSLM, under which the units are.
    """

    codebook_size: int | None = None
    num_codebooks: int | None = None
    frame_rate: float | None = None
    deduplicated: bool = False
    ids: Path | None = None
    key: str = KEY


@dataclass(frozen=True)
class WriteOptions:
    """What a form wants that a store does not have.

    Attributes:
        key: of pGSLM, under which the units go.
        recordings: where the recordings are, for forms that name them.
    """

    key: str = KEY
    recordings: "Recordings | None" = None


class Outputs:
    """Files that belong together: within the block all are written beside their names, at its end all are renamed.

    When the block raises, none is, and what was there stays.

    Attributes:
        paths: of the files.
    """

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self._stack = contextlib.ExitStack()
        self._outdated: list[Path] = []

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)
        if raised[0] is None:
            for path in self._outdated:
                path.unlink(missing_ok=True)

    def file(self, path: Path) -> Path:
        """Where to write what will be ``path``."""
        self.paths.append(path)
        return self._stack.enter_context(whole_file(path))

    def outdate(self, path: Path) -> None:
        """A file that, if it is there, belongs to what is now replaced, and would be read with what replaces it."""
        self._outdated.append(path)

    def text(self, path: Path) -> TextIO:
        """A text file, open for writing."""
        return self._stack.enter_context(open(self.file(path), "w", encoding="utf-8", newline="\n"))


Writer = Callable[[Outputs, Path, Iterable[UtteranceUnits], UnitStoreMeta, WriteOptions], None]
Reader = Callable[[Path, UnitStoreMeta, ReadOptions], Iterator[UtteranceUnits]]


@dataclass(frozen=True)
class Form:
    """How another toolkit keeps units.

    Attributes:
        what: whose it is and what it looks like, in a line.
        file: the name of an export, with ``{stem}``.
        write: writes units that fit.
        read: reads them; what it gives is checked by the caller.
        holds: the fields of :class:`UtteranceUnits`, besides id and codes, that come back.
        patterns: further names by which its files are known.
        several_codebooks: whether it holds more than one.
        largest_codebook: K that it has symbols for, None for any.
        runs: True when its units are deduplicated by definition, False when they never are, None when they may be.
        in_order: the order of the manifest is kept; otherwise it is sorted by the bytes of the ids.
        dictionary: of its codes, written beside it.
        folder: it is a folder, not a file.
        extend: for a file without a sidecar: what its companions say of it, added to its metadata.
    """

    what: str
    file: str
    write: Writer
    read: Reader
    holds: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()
    several_codebooks: bool = False
    largest_codebook: int | None = None
    runs: bool | None = None
    in_order: bool = True
    dictionary: "Dictionary | None" = None
    folder: bool = False
    extend: Callable[[Path, UnitStoreMeta], UnitStoreMeta] | None = None

    @property
    def all_patterns(self) -> tuple[str, ...]:
        """Every name by which its files are known, as globs."""
        return (self.file.replace("{stem}", "*"), *self.patterns)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers from 1, one at a time, without their ends.

    Raises:
        UserError: the file does not exist or is not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    with open(path, "rb") as file:  # not by text mode's idea of a line, which also cuts at characters within an id
        for number, line in enumerate(file, 1):
            try:
                yield number, line.removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}:{number} is not UTF-8 ({error.reason}); convert the file with iconv"
                ) from None


def units_of_lines(
    path: Path, parse: Callable[[int, str], UtteranceUnits], meta: UnitStoreMeta
) -> Iterator[UtteranceUnits]:
    """Parse each line of a file, given its number from 1; what is wrong with one is told with the line.

    Raises:
        UserError: ``parse`` raised a ``ValueError``, or what it gave does not fit ``meta``.
    """
    for number, line in read_lines(path):
        try:
            units = parse(number, line)
            meta.check(units)
        except (ValueError, OverflowError) as error:
            shown = line if len(line) <= 80 else f"{line[:77]}..."
            raise UserError(f"{path}:{number}: {error}; the line is {shown!r}") from None
        yield units


def parse_codes(text: str) -> np.ndarray:
    """``71 12 57`` -> (T,) int64. Raises ValueError for a word that is not a number of ASCII digits."""
    words = text.split()
    joined = "".join(words)
    if words and not (joined.isascii() and joined.isdigit()):  # int() would also take 1_0, +1 and full-width digits
        bad = next(word for word in words if not (word.isascii() and word.isdigit()))
        raise ValueError(f"{bad!r} is not a code")
    return np.array([int(word) for word in words], dtype=np.int64)


def join_codes(codes: np.ndarray) -> str:
    """(T,) integers -> ``71 12 57``."""
    return " ".join(map(str, codes.tolist()))


def write_sorted(file: TextIO, named: Iterable[tuple[str, str]]) -> None:
    """Write ``(id, line)`` sorted by the bytes of the ids, as Kaldi's tools demand; lines are not held in memory."""
    places: list[tuple[bytes, int, int]] = []
    position = 0
    for name, line in named:
        data = f"{line}\n".encode()
        places.append((name.encode(), position, len(data)))
        file.write(data.decode())
        position += len(data)
    if all(one[0] <= two[0] for one, two in itertools.pairwise(places)):
        return
    file.flush()
    unsorted = Path(f"{file.name}.unsorted")
    os.replace(file.name, unsorted)
    try:
        with open(unsorted, "rb") as source, open(file.name, "wb") as target:
            for _, start, size in sorted(places):
                source.seek(start)
                target.write(source.read(size))
    finally:
        unsorted.unlink(missing_ok=True)
