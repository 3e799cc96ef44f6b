"""Text forms of units that other toolkits read: HuBERT ``.km``, GSLM lines, Kaldi text. Both ways.

What each form can hold survives a round trip: the codes and, but for ``.km``, the ids. None holds durations, speakers
or features; only ``.km`` and GSLM ship the dictionary that says how large the codebook is. One codebook only.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sqvae_speech.data.files import read_text, whole_file, write_text
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStore, UnitStoreMeta, read_units, store_of, with_frame_rate, write_units


@dataclass(frozen=True)
class TextForm:
    """One line an utterance.

    Attributes:
        suffix: of the file.
        line: the line of an utterance, without its end.
        parse: the id (None when the form has none) and the codes, as text, of a line.
        sort: lines are sorted by the bytes of the id, as Kaldi's tools demand, instead of in manifest order.
        dictionary: the name of the codebook's dictionary, beside the file, or None.
        entry: the dictionary's line of a code.
    """

    suffix: str
    line: Callable[[str, str], str]
    parse: Callable[[str], tuple[str | None, str]]
    sort: bool = False
    dictionary: str | None = None
    entry: str = "{code}"


def _parse_gslm(line: str) -> tuple[str | None, str]:
    # an id may contain the separator, codes cannot
    name, bar, codes = line.rpartition("|")
    if not bar or not name:
        raise ValueError("expected `name|71 12 57`")
    return name, codes


def _parse_kaldi(line: str) -> tuple[str | None, str]:
    name, _, codes = line.strip().replace("\t", " ").partition(" ")
    if not name:
        raise ValueError("expected `utt 71 12 57`")
    return name, codes


TEXT_FORMS = {
    # fairseq's dictionaries give a count with every symbol; it has no meaning here and is 1 by convention
    "km": TextForm(".km", lambda name, codes: codes, lambda line: (None, line), False, "dict.km.txt", "{code} 1"),
    "gslm": TextForm(".gslm", lambda name, codes: f"{name}|{codes}", _parse_gslm, False, "code_dict"),
    "kaldi": TextForm(".kaldi", lambda name, codes: f"{name} {codes}".rstrip(), _parse_kaldi, True),
}
FORMATS = ("parquet", *TEXT_FORMS)


def format_of(path: str | os.PathLike, name: str | None = None) -> str:
    """The format of a file: the one named, else the one its suffix tells.

    Raises:
        UserError: for a name or suffix that is not known.
    """
    if name is not None:
        if name not in FORMATS:
            raise UserError(f"unknown unit format {name!r}{nearest(name, FORMATS)}; legal: {', '.join(FORMATS)}")
        return name
    suffixes = {".parquet": "parquet"} | {form.suffix: key for key, form in TEXT_FORMS.items()}
    suffix = Path(path).suffix
    if suffix not in suffixes:
        raise UserError(
            f"{path}: the suffix {suffix!r} names no unit format; legal: {', '.join(suffixes)}, or name the format"
        )
    return suffixes[suffix]


def write_format(
    path: str | os.PathLike, store: UnitStore, format: str | None = None, *, codebook: int | None = None
) -> list[Path]:
    """Write a store in any format, with the dictionary that belongs to it; each file whole or not at all.

    ``km`` gets ``dict.km.txt`` and ``<stem>.ids`` (its lines carry no id), ``gslm`` gets ``code_dict``.

    Args:
        path: the file to write.
        store: the units, deduplicated or not.
        format: one of :data:`FORMATS`; by default what the suffix says.
        codebook: which codebook, for a text form of a store that has several.

    Returns:
        The files written, the main one first.

    Raises:
        UserError: when the form cannot hold the units (several codebooks, an id with white space), or when the
            dictionary there is of another codebook size and belongs to other files.
    """
    path = Path(path)
    name = format_of(path, format)
    if name == "parquet":
        write_units(path, store, store.meta)
        return [path]
    form = TEXT_FORMS[name]
    book = _one_codebook(store.meta, codebook, name)
    written = [path]
    if form.dictionary:
        written.append(_write_dictionary(path, form, store.meta.codebook_size))
    ids = sorted(store.ids, key=str.encode) if form.sort else store.ids
    units: Iterable[UtteranceUnits] = map(store.__getitem__, ids) if form.sort else store
    with whole_file(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        for utterance in units:
            if utterance.utterance_id.split() != [utterance.utterance_id]:
                raise UserError(f"id {utterance.utterance_id!r} has white space, which {name} lines cannot hold")
            file.write(_line(form, utterance, book) + "\n")
    if name == "km":
        sidecar = path.with_suffix(".ids")
        write_text(sidecar, "".join(f"{utterance_id}\n" for utterance_id in ids))
        written.append(sidecar)
    return written


def text_line(units: UtteranceUnits, meta: UnitStoreMeta, format: str, *, codebook: int | None = None) -> str:
    """The line of one utterance in a text form, without its end, for a reader of ours or theirs.

    Raises:
        UserError: several codebooks, and none chosen.
    """
    return _line(TEXT_FORMS[format], units, _one_codebook(meta, codebook, format))


def _line(form: TextForm, units: UtteranceUnits, book: int) -> str:
    return form.line(units.utterance_id, " ".join(map(str, units.codes[book].tolist())))


def read_format(
    path: str | os.PathLike,
    format: str | None = None,
    *,
    codebook_size: int | None = None,
    frame_rate: float | None = None,
    ids: str | os.PathLike | None = None,
) -> UnitStore:
    """Read units in any format.

    Args:
        path: the file.
        format: one of :data:`FORMATS`; by default what the suffix says.
        codebook_size: K, for a form or a file without a dictionary beside it.
        frame_rate: units a second, Hz, which no text form holds; None leaves it open.
        ids: for ``km``: a file with an id as the first word of each line, or a fairseq manifest (``.tsv``), whose ids
            are the file names less their extension. By default ``<stem>.ids`` or ``<stem>.tsv`` beside it.

    Raises:
        UserError: for a missing file, a bad line (quoted with its number), a code outside the codebook, a size that
            contradicts the dictionary, or ids that do not match the lines.
    """
    path = Path(path)
    name = format_of(path, format)
    if name == "parquet":
        store = read_units(path)
        _agree(f"{path}", store.meta.codebook_size, codebook_size)
        store.meta = with_frame_rate(store.meta, frame_rate)
        return store
    form = TEXT_FORMS[name]
    lines = _lines(path)
    meta = UnitStoreMeta(codebook_size=_codebook_size(path, form, codebook_size), frame_rate=frame_rate)
    given = _ids(path, ids, len(lines)) if name == "km" else None
    return store_of(_parse(path, form, lines, given, meta), meta, name=str(path))


def _parse(
    path: Path, form: TextForm, lines: list[str], ids: list[str] | None, meta: UnitStoreMeta
) -> Iterator[UtteranceUnits]:
    for number, line in enumerate(lines, 1):
        try:
            name, text = form.parse(line)
            codes = np.array([int(code) for code in text.split()], dtype=np.int64)
            units = UtteranceUnits(ids[number - 1] if ids is not None else str(name), codes)
            meta.check(units)
        except (ValueError, OverflowError) as error:
            shown = line if len(line) <= 80 else f"{line[:77]}..."
            raise UserError(f"{path}:{number}: {error}; the line is {shown!r}") from None
        yield units


def _one_codebook(meta: UnitStoreMeta, codebook: int | None, name: str) -> int:
    if codebook is None and meta.num_codebooks > 1:
        raise UserError(
            f"the units have {meta.num_codebooks} codebooks and {name} lines hold one; choose one with --codebook "
            f"0 to {meta.num_codebooks - 1}"
        )
    if not 0 <= (codebook or 0) < meta.num_codebooks:
        raise UserError(f"no codebook {codebook}; legal: 0 to {meta.num_codebooks - 1}")
    return codebook or 0


def _write_dictionary(path: Path, form: TextForm, codebook_size: int) -> Path:
    assert form.dictionary is not None
    target = path.with_name(form.dictionary)
    others = [other.name for other in path.parent.glob(f"*{form.suffix}") if other != path]
    if target.is_file() and others:
        found = len(_lines(target))
        if found != codebook_size:
            raise UserError(
                f"{target} lists {found} codes and serves {', '.join(sorted(others))}; these units have a "
                f"codebook of {codebook_size}: write them into another folder"
            )
    write_text(target, "".join(form.entry.format(code=code) + "\n" for code in range(codebook_size)))
    return target


def _codebook_size(path: Path, form: TextForm, given: int | None) -> int:
    dictionary = path.with_name(form.dictionary) if form.dictionary else None
    if dictionary is not None and dictionary.is_file():
        lines = _lines(dictionary)
        for code, line in enumerate(lines):
            if line.split()[:1] != [str(code)]:
                raise UserError(
                    f"{dictionary}:{code + 1}: {line!r}, but codes 0, 1, 2, ... in order are needed, or the codes of "
                    "the file mean something else"
                )
        _agree(str(dictionary), len(lines), given)
        return len(lines)
    if given is None:
        beside = f" and there is no {dictionary} beside it" if dictionary else ""
        raise UserError(f"{path}: the form does not say how large the codebook is{beside}; give --codebook-size")
    if given < 1:
        raise UserError(f"codebook size {given}: it must be at least 1")
    return given


def _lines(path: Path) -> list[str]:
    # not splitlines(): it also cuts at characters that may stand in an id
    lines = read_text(path).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _agree(what: str, found: int, given: int | None) -> None:
    if given is not None and found != given:
        raise UserError(
            f"{what} has a codebook_size of {found}, not {given}: units of another model, or a wrong size given"
        )


def _ids(path: Path, ids: str | os.PathLike | None, count: int) -> list[str]:
    if ids is None:
        ids = next((path.with_suffix(s) for s in (".ids", ".tsv") if path.with_suffix(s).is_file()), None)
        if ids is None:
            raise UserError(f"{path}: .km lines carry no ids, and there is no .ids or .tsv beside it; give --ids")
    source = Path(ids)
    lines = _lines(source)
    if source.suffix == ".tsv":
        names = [Path(line.split("\t")[0]).stem for line in lines[1:]]
    else:
        names = [line.split(maxsplit=1)[0] if line.strip() else "" for line in lines]
    if "" in names:
        raise UserError(f"{source}:{names.index('') + 1 + (source.suffix == '.tsv')}: an empty line has no id")
    if len(names) != count:
        raise UserError(f"{source} names {len(names)} utterances, and {path} has {count} lines: not its manifest")
    return names
