"""Forms with an array an utterance: Kaldi archives, ESPnet's speechlm, SpeechBrain, trees of ``.npy`` files."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from sqvae_speech.data.ids import legal_id
from sqvae_speech.data.npy import npy_bytes
from sqvae_speech.errors import UserError
from sqvae_speech.units.forms.ark import int_vector, npy_value, read_archive, read_table, write_entry
from sqvae_speech.units.forms.base import Outputs, ReadOptions, WriteOptions, read_lines
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits

# ---- archives


def write_vectors(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """An int32 vector an utterance, in ``.ark`` and ``.scp``."""
    _write_archive(outputs, path, units, lambda one: int_vector(one.codes[0]))


def read_vectors(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """Of an ``.scp``, or of an ``.ark`` without one."""
    return _read_archive(path, meta, _vector)


def write_flattened(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """An int32 vector an utterance: the N codes of the first unit, of the second, ...; those of layer n plus n K."""
    if meta.codebook_size * meta.num_codebooks > 2**31:
        raise UserError(f"{meta.num_codebooks} codebooks of {meta.codebook_size}: too many tokens for an int32")
    shift = meta.codebook_size * np.arange(meta.num_codebooks)[:, None]
    _write_archive(outputs, path, units, lambda one: int_vector((one.codes + shift).T.ravel()))


def read_flattened(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """The opposite of :func:`write_flattened`."""
    shift = meta.codebook_size * np.arange(meta.num_codebooks)[:, None]

    def codes(value: np.ndarray) -> np.ndarray:
        flat = _vector(value)
        if flat.size % meta.num_codebooks:
            raise ValueError(f"{flat.size} tokens are not a number of units of {meta.num_codebooks} codebooks")
        return flat.reshape(-1, meta.num_codebooks).T - shift

    return _read_archive(path, meta, codes)


def write_speechbrain(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """A (T, N) int64 array an utterance, as SpeechBrain's loader reads it: code + layer K + 1, 0 being padding."""
    shift = 1 + meta.codebook_size * np.arange(meta.num_codebooks)[:, None]
    _write_archive(outputs, path, units, lambda one: npy_value((one.codes + shift).T))


def read_speechbrain(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """Padding at the end is dropped; layers of different lengths, deduplicated each by itself, are refused."""
    shift = 1 + meta.codebook_size * np.arange(meta.num_codebooks)[:, None]

    def codes(value: np.ndarray) -> np.ndarray:
        tokens = value[:, None] if value.ndim == 1 else value
        if tokens.ndim != 2 or tokens.shape[1] != meta.num_codebooks or not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(f"{value.dtype} {value.shape}, not integers (T, {meta.num_codebooks})")
        real = tokens > 0
        lengths = real.sum(axis=0)
        length = int(lengths[0])
        if np.any(lengths != length) or not real[:length].all():
            raise ValueError(f"layers have {lengths.tolist()} tokens: deduplicated each by itself, or with 0 within")
        return tokens[:length].T - shift

    return _read_archive(path, meta, codes)


def _write_archive(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], value: Callable[[UtteranceUnits], bytes]
) -> None:
    table = path.with_suffix(".scp")
    if path.suffix not in (".scp", ".ark"):
        raise UserError(f"{path}: an archive and its table are called .ark and .scp; name one of them")
    archive = path.with_suffix(".ark")
    # the archive is renamed last but one, the table last: a table that is there points to what is there
    table_file = outputs.text(table)
    lines = []
    with open(outputs.file(archive), "wb") as file:
        for one in units:
            place = write_entry(file, one.utterance_id, value(one))
            lines.append((one.utterance_id.encode(), f"{one.utterance_id} {os.path.abspath(archive)}:{place}\n"))
    for _, line in sorted(lines):
        table_file.write(line)


def _read_archive(
    path: Path, meta: UnitStoreMeta, codes: Callable[[np.ndarray], np.ndarray]
) -> Iterator[UtteranceUnits]:
    for where, key, value in (read_archive if path.suffix == ".ark" else read_table)(path):
        try:
            units = UtteranceUnits(legal_id(key), codes(value))
            meta.check(units)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        yield units


def _vector(value: np.ndarray) -> np.ndarray:
    if value.ndim != 1 or not np.issubdtype(value.dtype, np.integer):
        raise ValueError(f"{value.dtype} {value.shape}, not integers (T,)")
    return value


# ---- a tree of .npy files, as bshall's models read it

LIST = "ids.txt"


def write_tree(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """A (T,) int64 ``.npy`` an utterance.

    Its place is that of its recording below the data directory's root, where recordings are known; otherwise it is
    called as the utterance, with ``%2F`` in an id making a folder. ``ids.txt`` has id and place, in the order of the
    manifest.
    """
    with open(path / LIST, "w", encoding="utf-8", newline="\n") as names:
        for one in units:
            name = one.utterance_id
            if options.recordings is None:
                place = _place(name)
            else:
                place = os.path.splitext(options.recordings.path(name))[0]
            target = path / f"{place}.npy"
            if target.exists():
                raise UserError(f"{name!r} and another utterance would both be {place}.npy")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(npy_bytes(one.codes[0]))
            names.write(f"{name} {place}.npy\n")


def read_tree(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """By ``ids.txt``, or else every ``.npy`` of the tree, sorted, ids being their places."""
    for name, place in _listed(path):
        try:
            codes = np.load(path / place, allow_pickle=False)
            units = UtteranceUnits(name, _vector(codes))
            meta.check(units)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path / place}: {error}") from None
        yield units


def _listed(path: Path) -> Iterator[tuple[str, str]]:
    if (path / LIST).is_file():
        for number, line in read_lines(path / LIST):
            name, _, place = line.partition(" ")
            if not place or not (path / place).resolve().is_relative_to(path.resolve()):
                raise UserError(f"{path / LIST}:{number}: expected `utt place.npy` below the folder; found {line!r}")
            yield legal_id(name, f"{path / LIST}:{number}"), place
        return
    places = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.npy"))
    if not places:
        raise UserError(f"{path}: no .npy files in this folder")
    for place in places:
        # each part by itself, so that only what was a folder becomes %2F
        yield "%2F".join(legal_id(part, str(path / place)) for part in place.removesuffix(".npy").split("/")), place


def _place(utterance_id: str) -> str:
    parts = utterance_id.split("%2F")
    return "/".join(parts) if all(parts) else utterance_id
