"""Forms with the units of an utterance in a line, with its id or without: fairseq, GSLM, Kaldi, ESPnet."""

from collections.abc import Iterable, Iterator
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
    write_sorted,
)
from sqvae_speech.units.forms.dictionary import CHARACTERS, FIRST_CHARACTER, character
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits

# ---- HuBERT and fairseq: codes alone, in the order of a manifest


def write_km(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """``71 12 57``, with ``<stem>.ids``, and with ``<stem>.tsv``, fairseq's manifest, where recordings are known."""
    file, ids = outputs.text(path), outputs.text(path.with_suffix(".ids"))
    recordings = options.recordings
    manifest = None
    if recordings is not None:
        manifest = outputs.text(path.with_suffix(".tsv"))
        manifest.write(f"{recordings.root}\n")
    for one in units:
        file.write(join_codes(one.codes[0]) + "\n")
        ids.write(f"{one.utterance_id}\n")
        if manifest is not None and recordings is not None:
            name = one.utterance_id
            manifest.write(f"{recordings.path(name)}\t{recordings.info(name).num_samples}\n")


def read_km(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """With ids of :func:`ids_of`."""
    ids = ids_of(path, options)
    return units_of_lines(path, lambda number, line: UtteranceUnits(ids[number - 1], parse_codes(line)), meta)


def ids_of(path: Path, options: ReadOptions) -> list[str]:
    """The ids of a file whose lines have none: of ``options.ids``, or else of ``<stem>.ids`` or ``.tsv`` beside it.

    Raises:
        UserError: there are none, or not as many as lines.
    """
    source = options.ids
    if source is None:
        found = [path.with_suffix(suffix) for suffix in (".ids", ".tsv") if path.with_suffix(suffix).is_file()]
        if not found:
            raise UserError(f"{path}: its lines carry no ids, and there is no .ids or .tsv beside it; give --ids")
        source = found[0]
    manifest = source.suffix == ".tsv"
    ids = []
    for number, line in read_lines(source):
        if manifest and number == 1:
            continue  # the folder
        words = [Path(line.split("\t")[0]).stem] if manifest else line.split(maxsplit=1)
        if not words or not words[0]:
            raise UserError(f"{source}:{number}: an empty line has no id")
        ids.append(legal_id(words[0], f"{source}:{number}"))
    count = sum(1 for _ in read_lines(path))
    if len(ids) != count:
        raise UserError(f"{source} names {len(ids)} utterances, and {path} has {count} lines: not its manifest")
    return ids


# ---- GSLM


def write_gslm(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """``name|71 12 57``."""
    file = outputs.text(path)
    for one in units:
        file.write(gslm_line(one) + "\n")


def gslm_line(units: UtteranceUnits, codebook: int = 0) -> str:
    """``name|71 12 57``, for a reader of ours or theirs."""
    return f"{units.utterance_id}|{join_codes(units.codes[codebook])}"


def read_gslm(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """Names are escaped where they are no legal ids."""

    def parse(number: int, line: str) -> UtteranceUnits:
        name, bar, codes = line.rpartition("|")  # an id may contain the separator, codes cannot
        if not bar or not name:
            raise ValueError("expected `name|71 12 57`")
        return UtteranceUnits(legal_id(name), parse_codes(codes))

    return units_of_lines(path, parse, meta)


# ---- Kaldi text, and ESPnet's pseudo labels, which are the same


def write_kaldi(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """``utt 71 12 57``, sorted."""
    lines = ((one.utterance_id, f"{one.utterance_id} {join_codes(one.codes[0])}".rstrip(" ")) for one in units)
    write_sorted(outputs.text(path), lines)


def read_kaldi(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """Columns are separated by spaces or tabs."""

    def parse(number: int, line: str) -> UtteranceUnits:
        name, codes = _first_word(line)
        return UtteranceUnits(legal_id(name), parse_codes(codes))

    return units_of_lines(path, parse, meta)


def _first_word(line: str) -> tuple[str, str]:
    words = line.strip(" \t").replace("\t", " ").split(" ", 1)
    if not words[0]:
        raise ValueError("expected `utt 71 12 57`")
    return words[0], words[1] if len(words) > 1 else ""


# ---- ESPnet asr2: a character a unit, unspaced


def write_characters(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """``utt`` and a character of the CJK block for each unit, sorted."""
    lines = ((one.utterance_id, f"{one.utterance_id} {_characters(one.codes[0])}".rstrip(" ")) for one in units)
    write_sorted(outputs.text(path), lines)


def _characters(codes: np.ndarray) -> str:
    return "".join(character(0, code) for code in codes.tolist())


def read_characters(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """Spaces between characters are overlooked."""

    def parse(number: int, line: str) -> UtteranceUnits:
        name, text = _first_word(line)
        symbols = text.replace(" ", "")
        bad = [symbol for symbol in symbols if not 0 <= ord(symbol) - FIRST_CHARACTER < CHARACTERS]
        if bad:
            raise ValueError(f"{bad[0]!r} (U+{ord(bad[0]):04X}) is not a unit; units begin at U+4E00")
        return UtteranceUnits(legal_id(name), np.array([ord(symbol) - FIRST_CHARACTER for symbol in symbols], int))

    return units_of_lines(path, parse, meta)
