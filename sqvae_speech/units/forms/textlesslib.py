"""textlesslib: parallel files of units, durations and F0s, with names or without."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from sqvae_speech.data.ids import legal_id
from sqvae_speech.errors import UserError
from sqvae_speech.units.forms.base import (
    Outputs,
    ReadOptions,
    WriteOptions,
    join_codes,
    parse_codes,
    read_lines,
    units_of_lines,
)
from sqvae_speech.units.forms.lines import ids_of
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits

COMPANIONS = {"durations": ".durations", "f0": ".f0s"}


def write_named(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """``name<TAB>71 12`` in ``.units``; durations, and F0 in whole Hz as textlesslib has it, in files beside it."""
    _write(outputs, path, units, meta, named=True)


def write_bare(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """The same without names, which ``<stem>.ids`` has."""
    _write(outputs, path, units, meta, named=False)


def read_named(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """Companions that are there must have the same names in the same order."""

    def split(number: int, line: str) -> tuple[str, str]:
        name, tab, rest = line.partition("\t")
        if not tab or not name:
            raise ValueError("expected `name<TAB>71 12 57`; without names, the form is textlesslib-bare")
        return legal_id(name), rest

    return _read(path, meta, split)


def read_bare(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """With ids of :func:`sqvae_speech.units.forms.lines.ids_of`."""
    ids = ids_of(path, options)
    return _read(path, meta, lambda number, line: (ids[number - 1], line))


def extend(path: Path, meta: UnitStoreMeta) -> UnitStoreMeta:
    """Where there are durations, units are deduplicated; where there are F0s, they were measured somehow."""
    if path.with_suffix(".durations").is_file():
        meta = replace(meta, deduplicated=True)
    if path.with_suffix(".f0s").is_file():
        meta = replace(meta, f0={"method": "unknown"})
    return meta


def _write(outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, named: bool) -> None:
    iterator = iter(units)
    first = next(iterator)  # there is one: a store without utterances is refused before
    there = {"durations": first.durations is not None, "f0": meta.f0 is not None}
    file = outputs.text(path)
    companions = {name: outputs.text(path.with_suffix(COMPANIONS[name])) for name in COMPANIONS if there[name]}
    ids = None if named else outputs.text(path.with_suffix(".ids"))
    for one in itertools.chain([first], iterator):
        prefix = f"{one.utterance_id}\t" if named else ""
        file.write(f"{prefix}{join_codes(one.codes[0])}\n")
        for name, companion in companions.items():
            value = getattr(one, name)
            if value is None:
                raise UserError(f"{one.utterance_id} has no {name}, and {first.utterance_id} has; all or none must")
            companion.write(f"{prefix}{join_codes(np.rint(value).astype(np.int64))}\n")
        if ids is not None:
            ids.write(f"{one.utterance_id}\n")
    for name, suffix in COMPANIONS.items():
        if not there[name]:
            outputs.outdate(path.with_suffix(suffix))


def _read(path: Path, meta: UnitStoreMeta, split: Callable[[int, str], tuple[str, str]]) -> Iterator[UtteranceUnits]:
    beside = {
        name: read_lines(path.with_suffix(suffix))
        for name, suffix in COMPANIONS.items()
        if path.with_suffix(suffix).is_file()
    }

    def parse(number: int, line: str) -> UtteranceUnits:
        name, text = split(number, line)
        values = {}
        for kind, lines in beside.items():
            _, other = next(lines, (0, None))
            if other is None:
                raise ValueError(f"{path.stem}{COMPANIONS[kind]} ends before this line")
            other_name, numbers = split(number, other)
            if other_name != name:
                raise ValueError(f"{path.stem}{COMPANIONS[kind]} has {other_name!r} here")
            values[kind] = parse_codes(numbers)
        return UtteranceUnits(name, parse_codes(text), durations=values.get("durations"), f0=values.get("f0"))

    return units_of_lines(path, parse, meta)
