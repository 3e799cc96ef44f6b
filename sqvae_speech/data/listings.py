"""The lines of a data directory's tables: an id and what belongs to it, sorted, each id once."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sqvae_speech.data.files import read_text
from sqvae_speech.data.ids import check_id
from sqvae_speech.errors import UserError


class Line(NamedTuple):
    """A line of a table: where it stands (``file:number``), its first column, and the rest."""

    where: str
    key: str
    rest: str

    def columns(self, names: str) -> list[str]:
        """Split ``rest`` into as many columns as ``names`` has words, or raise a :class:`UserError`."""
        columns = self.rest.split()
        if len(columns) != len(names.split()):
            raise UserError(
                f"{self.where}: {self.key + ' ' + self.rest!r} should be '<id> {names}', without white space in any"
            )
        return columns

    def seconds(self, value: str, name: str) -> float:
        """Return ``value`` as a finite, non-negative number, or raise a :class:`UserError`."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise UserError(f"{self.where}: {name} {value!r} of {self.key!r} is not a number of seconds")
        return number


def read_lines(path: Path, kind: str, repeated: bool = False) -> Iterator[Line]:
    """Yield the lines of a table, checking that the ids are legal, sorted and unique (or at least grouped)."""
    previous: str | None = None
    number = 0
    for number, line in enumerate(read_text(path).splitlines(), 1):
        where = f"{path}:{number}"
        key, *rest = line.split(maxsplit=1) or [""]
        if not key:
            raise UserError(f"{where}: empty line; remove it")
        check_id(key, where, kind)
        if previous is not None and key == previous and not repeated:
            raise UserError(f"{where}: duplicate {kind} {key!r}; keep one of its lines")
        if previous is not None and key < previous:  # code points order as UTF-8 bytes do, so as LC_ALL=C does
            raise UserError(
                f"{where}: {key!r} comes after {previous!r}: not sorted; `LC_ALL=C sort -o {path} {path}` sorts it"
            )
        previous = key
        yield Line(where, key, rest[0].rstrip() if rest else "")
    if not number:
        raise UserError(f"{path} is empty")


def require_same_ids(path: Path, found: Iterable[str], expected: Iterable[str], source: str) -> None:
    """Raise :class:`UserError` unless a table has just the ids that ``source`` has."""
    found, expected = set(found), set(expected)
    for name in sorted(expected - found)[:1]:
        raise UserError(f"{path} lacks {name!r}, which {source} has ({len(expected - found)} such ids)")
    for name in sorted(found - expected)[:1]:
        raise UserError(f"{path} has {name!r}, which {source} lacks ({len(found - expected)} such ids)")
