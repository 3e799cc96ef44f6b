"""Reading and writing units in any form of :data:`sqvae_speech.units.forms.table.FORMS`.

What a form can hold survives a round trip: codes and ids always (:attr:`Form.holds` says what else). What it cannot
hold at all, such as several codebooks, is refused. Beside every export lie the dictionary that its toolkit needs, and
a sidecar (``<file>.json``) with what the form cannot say: :mod:`sqvae_speech.units.forms.sidecar`.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from sqvae_speech.data.files import whole_folder
from sqvae_speech.errors import UserError
from sqvae_speech.units.forms.base import KEY, Form, Outputs, ReadOptions, WriteOptions
from sqvae_speech.units.forms.lines import gslm_line
from sqvae_speech.units.forms.recordings import recordings_of
from sqvae_speech.units.forms.sidecar import describe, write_sidecar
from sqvae_speech.units.forms.table import FORMS, PARQUET, format_of
from sqvae_speech.units.meta import UnitStoreMeta, with_frame_rate
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import (
    UnitSource,
    UnitStore,
    check_codebook,
    checked,
    one_codebook,
    read_units,
    store_of,
    write_units,
)

logger = logging.getLogger(__name__)

_ENOUGH_UNITS = 1000  # that never repeat, to suspect that repeats were removed


def write_format(
    path: str | os.PathLike,
    store: UnitSource,
    format: str | None = None,
    *,
    codebook: int | None = None,
    key: str = KEY,
    data_dir: str | os.PathLike | None = None,
) -> list[Path]:
    """Write units in any format, with the dictionary and the sidecar that belong to it; all of them or none.

    Args:
        path: the file or folder to write.
        store: the units; they are gone through once, and not held.
        format: one of :data:`FORMATS`; by default what the name says.
        codebook: which codebook, for a form that holds one, of units that have several.
        key: of ``pgslm``, under which the units go.
        data_dir: Kaldi data directory of the recordings: ``km`` then gets fairseq's manifest (``.tsv``), ``pgslm``
            their paths, ``npy`` their tree.

    Returns:
        The files written, the main one first.

    Raises:
        UserError: when the form cannot hold the units (several codebooks, too large a codebook, deduplicated or not),
            when there are none, or when the dictionary there is of another codebook size and belongs to other files.
    """
    path = Path(path)
    name = format_of(path, format)
    if name == PARQUET:
        source = store if codebook is None else one_codebook(store, codebook)
        write_units(path, _not_empty(source), source.meta)
        return [path]
    form = FORMS[name]
    check_fits(store.meta, name, codebook)
    source = _fitting(store, form, codebook)
    options = WriteOptions(key, None if data_dir is None else recordings_of(data_dir))
    if form.folder:
        with whole_folder(path) as part:
            _write(part, source, form, name, options)
        return [path]
    return _write(path, source, form, name, options)


def _write(path: Path, source: UnitSource, form: Form, name: str, options: WriteOptions) -> list[Path]:
    count = 0

    def counted() -> Iterator[UtteranceUnits]:
        nonlocal count
        for units in checked(_not_empty(source), source.meta, source.name):
            count += 1
            yield units

    with Outputs() as outputs:
        form.write(outputs, path, counted(), source.meta, options)
        if form.dictionary is not None:
            form.dictionary.write(outputs, path.parent, source.meta, form, path)
        write_sidecar(outputs, path, form, name, source.meta, count)
    return outputs.paths


def _not_empty(source: UnitSource) -> Iterator[UtteranceUnits]:
    empty = True
    for units in source:
        empty = False
        yield units
    if empty:
        raise UserError(f"{source.name}: no utterances; there is nothing to write")


def check_fits(meta: UnitStoreMeta, name: str, codebook: int | None = None) -> None:
    """Raise :class:`UserError` when a format cannot hold units of this description."""
    if name == PARQUET:
        return
    form = FORMS[name]
    if not form.several_codebooks:
        require_one_codebook(meta, codebook, name)
    if form.largest_codebook is not None and meta.codebook_size > form.largest_codebook:
        raise UserError(
            f"the codebook has {meta.codebook_size} codes, and {name} has symbols for {form.largest_codebook}; take "
            "another form, such as espnet"
        )
    if form.runs is True and not meta.deduplicated:
        raise UserError(f"{name} holds deduplicated units, and these are not; give --deduplicate")
    if form.runs is False and meta.deduplicated:
        raise UserError(f"{name} holds units that are not deduplicated, and these are; give --expand")


def require_one_codebook(meta: UnitStoreMeta, codebook: int | None, what: str) -> int:
    """The codebook chosen, or the only one there is. :class:`UserError` when there are several and none is chosen."""
    if codebook is None and meta.num_codebooks > 1:
        raise UserError(
            f"the units have {meta.num_codebooks} codebooks and {what} holds one; choose one with --codebook 0 to "
            f"{meta.num_codebooks - 1}"
        )
    return check_codebook(meta, codebook or 0)


def _fitting(source: UnitSource, form: Form, codebook: int | None) -> UnitSource:
    """The units as the form holds them, with the metadata that then is true."""
    if codebook is not None:
        source = one_codebook(source, codebook)
    meta = source.meta
    kept = replace(
        meta,
        f0=meta.f0 if "f0" in form.holds else None,
        entropy=meta.entropy and "entropy" in form.holds,
        top_k=meta.top_k if "top_codes" in form.holds else 0,
        sample_seeds=meta.sample_seeds if "samples" in form.holds else (),
    )
    return UnitSource(kept, source.__iter__, source.name)


def text_line(units: UtteranceUnits, meta: UnitStoreMeta, *, codebook: int | None = None) -> str:
    """The GSLM line of one utterance, without its end.

    Raises:
        UserError: several codebooks, and none chosen.
    """
    return gslm_line(units, require_one_codebook(meta, codebook, "a line"))


def open_format(path: str | os.PathLike, format: str | None = None, options: ReadOptions | None = None) -> UnitSource:
    """Open units of any format; a store is opened as such, anything else is read anew by each iteration.

    Args:
        path: the file or folder.
        format: one of :data:`FORMATS`; by default what the name says.
        options: what the file may not say of itself.

    Raises:
        UserError: for a missing file, or a size that contradicts the dictionary; while iterating, for a bad line
            (quoted with its number), a code outside the codebook, or ids that do not match the lines.
    """
    path = Path(path)
    options = options or ReadOptions()
    name = format_of(path, format)
    if name == PARQUET:
        store = read_units(path)
        for field in ("codebook_size", "num_codebooks"):
            given, found = getattr(options, field), getattr(store.meta, field)
            if given is not None and given != found:
                raise UserError(
                    f"{path} has a {field} of {found}, not {given}: units of another model, or a wrong value given"
                )
        if options.deduplicated and not store.meta.deduplicated:
            raise UserError(f"{path}: --already-deduplicated given, and the store says that it is not; leave it out")
        store.meta = with_frame_rate(store.meta, options.frame_rate)
        return store
    form = FORMS[name]
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_dir() != form.folder:
        raise UserError(f"{path} is a {'folder' if path.is_dir() else 'file'}, and the form {name} is not")
    meta, expected = describe(path, form, options)

    def units() -> Iterator[UtteranceUnits]:
        count, runs = 0, _Runs()
        for one in checked(form.read(path, meta, options), meta, str(path)):
            count += 1
            runs.see(one)
            yield one
        if expected is not None and count != expected:
            raise UserError(
                f"{path} has {count} utterances, and its sidecar (.json) was written for {expected}; if the file was "
                "changed on purpose, remove the sidecar"
            )
        if runs.suspicious and not meta.deduplicated:
            logger.warning(
                "%s: no unit follows itself in %d; if they are deduplicated, say so: --already-deduplicated",
                path,
                runs.pairs,
            )

    return UnitSource(meta, units, str(path))


class _Runs:
    """Watches whether units ever repeat."""

    def __init__(self) -> None:
        self.pairs = 0
        self.repeats = False

    def see(self, units: UtteranceUnits) -> None:
        if not self.repeats:
            self.pairs += max(units.num_units - 1, 0)
            self.repeats = bool(np.any(np.all(units.codes[:, 1:] == units.codes[:, :-1], axis=0)))

    @property
    def suspicious(self) -> bool:
        return self.pairs >= _ENOUGH_UNITS and not self.repeats


def read_format(
    path: str | os.PathLike,
    format: str | None = None,
    *,
    codebook_size: int | None = None,
    num_codebooks: int | None = None,
    frame_rate: float | None = None,
    deduplicated: bool = False,
    ids: str | os.PathLike | None = None,
    key: str = KEY,
) -> UnitStore:
    """Read units in any format into a store, which but for Parquet is in memory: :func:`open_format` is not.

    Args:
        path: the file or folder.
        format: one of :data:`FORMATS`; by default what the name says.
        codebook_size: K, for a file with neither a sidecar nor a dictionary beside it.
        num_codebooks: N, likewise.
        frame_rate: units a second, Hz, where no sidecar says it; None leaves it open.
        deduplicated: the units are, and the file does not say so.
        ids: for forms without ids: a file with an id as the first word of each line, or a fairseq manifest
            (``.tsv``), whose ids are the file names less their extension. By default ``<stem>.ids`` or ``.tsv``
            beside it.
        key: of ``pgslm``, under which the units are.

    Raises:
        UserError: see :func:`open_format`.
    """
    options = ReadOptions(
        codebook_size, num_codebooks, frame_rate, deduplicated, None if ids is None else Path(ids), key
    )
    source = open_format(path, format, options)
    return source if isinstance(source, UnitStore) else store_of(source, source.meta, source.name)
