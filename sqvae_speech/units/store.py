"""The unit store: the one native form of units, a Parquet file with a row an utterance and metadata of its own."""

import bisect
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sqvae_speech.data.files import whole_file
from sqvae_speech.errors import UserError
from sqvae_speech.units.columns import batch_of, schema_of, utterances_of
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate, expand

VERSION = 2  # 1 had neither num_samples nor optional columns
_KEY = b"sqvae_speech.units"
_ROWS_PER_GROUP = 1024
_UNITS_PER_GROUP = 1 << 20  # 6 hours at 50 units a second; what is held at a time
_ADDED = {"num_samples"}  # columns that version 1 lacks


class UnitSource:
    """Utterances that can be gone through, any number of times, in the order of their manifest.

    Nothing is held but what the iteration is at: what a file of any form, or a change of another source, gives.

    Args:
        meta: what the codes mean.
        units: begins an iteration.
        name: for messages.
    """

    def __init__(self, meta: UnitStoreMeta, units: Callable[[], Iterator[UtteranceUnits]], name: str = "units"):
        self.meta = meta
        self.name = name
        self._units = units

    def __iter__(self) -> Iterator[UtteranceUnits]:
        return self._units()


class UnitStore(UnitSource):
    """The units of a split, in the order of its manifest. Rows are made when asked for.

    Iterate over it, take ``store["utterance_id"]``, ``len(store)``, ``store.ids``, ``store.meta``. A store that lies
    in a file holds its ids and the group of rows that was read last.

    Args:
        meta: what the codes mean.
        ids: of all utterances.
        groups: how many rows each group has.
        read: the table of a group.
        name: for messages.
    """

    def __init__(
        self,
        meta: UnitStoreMeta,
        ids: list[str],
        groups: list[int],
        read: Callable[[int], pa.Table],
        name: str = "units",
    ):
        super().__init__(meta, self._iterate, name)
        self.ids = ids
        self._rows = {utterance_id: row for row, utterance_id in enumerate(ids)}
        self._read = read
        self._starts = [0, *itertools.accumulate(groups)]
        self._held: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._rows

    def __getitem__(self, utterance_id: str) -> UtteranceUnits:
        if utterance_id not in self._rows:
            raise UserError(f"{self.name} has no utterance {utterance_id!r}; `sqvae-speech units show` lists them")
        row = self._rows[utterance_id]
        number = bisect.bisect_right(self._starts, row) - 1
        if self._held is None or self._held[0] != number:
            self._held = (number, self._read(number))
        return next(utterances_of(self._held[1].slice(row - self._starts[number], 1), self.meta))

    def _iterate(self) -> Iterator[UtteranceUnits]:
        for number in range(len(self._starts) - 1):
            yield from utterances_of(self._read(number), self.meta)


def write_units(path: str | os.PathLike, units: Iterable[UtteranceUnits], meta: UnitStoreMeta) -> int:
    """Write a store, whole or not at all; rows are written as they come, so ``units`` may be a generator.

    Returns:
        The number of utterances written.

    Raises:
        UserError: for a code outside the codebook, another number of codebooks, a column that is missing, or an id
            that is not legal or comes twice.
    """
    fields = {"version": VERSION, **asdict(meta)}
    schema = schema_of(meta.optional_columns).with_metadata({_KEY: json.dumps(fields, sort_keys=True).encode()})
    count = 0
    with (
        whole_file(Path(path)) as part,
        pq.ParquetWriter(part, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for rows in _groups(checked(units, meta)):
            writer.write_batch(batch_of(rows, schema))
            count += len(rows)
    return count


def read_units(path: str | os.PathLike) -> UnitStore:
    """Open a store written by :func:`write_units`. Its ids are read at once, its units when they are asked for.

    Raises:
        UserError: when the file is missing, damaged, not a unit store, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such unit store; `sqvae-speech encode --output {path}` writes one")
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        meta = _meta(path, file.schema_arrow)
        ids = file.read(columns=["utterance_id"]).column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    schema = schema_of(meta.optional_columns)

    def read(number: int) -> pa.Table:
        try:
            table = file.read_row_group(number)
            for name in _ADDED - set(table.schema.names):
                table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
            return table.select(schema.names).cast(schema)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from None

    groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    return UnitStore(meta, ids, groups, read, name=str(path))


def store_of(units: Iterable[UtteranceUnits], meta: UnitStoreMeta, name: str = "units") -> UnitStore:
    """A store in memory, with the checks of :func:`write_units`."""
    schema = schema_of(meta.optional_columns)
    ids: list[str] = []
    tables: list[pa.Table] = []
    for rows in _groups(checked(units, meta, name)):
        ids += [row.utterance_id for row in rows]
        tables.append(pa.Table.from_batches([batch_of(rows, schema)]))
    return UnitStore(meta, ids, list(map(len, tables)), tables.__getitem__, name)


def checked(units: Iterable[UtteranceUnits], meta: UnitStoreMeta, name: str = "") -> Iterator[UtteranceUnits]:
    """Pass utterances on that fit ``meta`` and whose ids differ; raise :class:`UserError` for one that does not."""
    seen: set[str] = set()
    prefix = f"{name}: " if name else ""
    for utterance in units:
        meta.check(utterance)
        if utterance.utterance_id in seen:
            raise UserError(f"{prefix}utterance {utterance.utterance_id!r} comes twice; ids must be unique")
        seen.add(utterance.utterance_id)
        yield utterance


def deduplicated(source: UnitSource) -> UnitSource:
    """The units with runs collapsed and their durations kept. What belongs to single steps is left out.

    Raises:
        UserError: codes of images, whose places would be lost.
    """
    if source.meta.shape is not None:
        raise UserError(f"{source.name}: codes of images have places, not durations; leave out --deduplicate")
    meta = replace(source.meta, deduplicated=True, top_k=0, sample_seeds=())
    return UnitSource(meta, lambda: map(deduplicate, source), source.name)


def expanded(source: UnitSource) -> UnitSource:
    """The units, each repeated for its duration.

    Raises:
        UserError: while iterating, when runs were collapsed and their durations are not known.
    """

    def units() -> Iterator[UtteranceUnits]:
        for one in source:
            if source.meta.deduplicated and one.durations is None:
                raise UserError(
                    f"{source.name}: deduplicated, and its durations are not known; it cannot be expanded"
                )
            yield expand(one)

    return UnitSource(replace(source.meta, deduplicated=False), units, source.name)


def check_codebook(meta: UnitStoreMeta, number: int) -> int:
    """Return ``number`` if there is such a codebook, else raise :class:`UserError`."""
    if not 0 <= number < meta.num_codebooks:
        raise UserError(f"no codebook {number}; legal: 0 to {meta.num_codebooks - 1}")
    return number


def one_codebook(source: UnitSource, number: int) -> UnitSource:
    """One of several codebooks. Of deduplicated units, runs that only this codebook has are collapsed too.

    Raises:
        UserError: there is no such codebook.
    """
    meta = source.meta
    check_codebook(meta, number)
    if meta.num_codebooks == 1:
        return source

    def part(units: UtteranceUnits) -> UtteranceUnits:
        chosen = {
            name: getattr(units, name)[number : number + 1]
            for name in ("codes", "entropy", "top_codes", "top_probabilities")
            if getattr(units, name) is not None
        }
        if units.samples is not None:
            chosen["samples"] = units.samples[:, number : number + 1]
        one = replace(units, **chosen)
        if not meta.deduplicated:
            return one
        # without durations of the columns, those of the runs would count columns, not steps
        return deduplicate(one) if units.durations is not None else replace(deduplicate(one), durations=None)

    return UnitSource(replace(meta, num_codebooks=1), lambda: map(part, source), source.name)


def one_sample(source: UnitSource, seed: int) -> UnitSource:
    """The sequences that were drawn with a seed, in place of the most probable codes.

    Raises:
        UserError: none were drawn with it.
    """
    meta = source.meta
    if seed not in meta.sample_seeds:
        there = ", ".join(map(str, meta.sample_seeds)) or "none"
        raise UserError(
            f"{source.name} holds no units drawn with seed {seed} (seeds: {there}); `sqvae-speech encode "
            "--sample-units SEED,...` draws some"
        )
    number = meta.sample_seeds.index(seed)

    def drawn(units: UtteranceUnits) -> UtteranceUnits:
        assert units.samples is not None
        return replace(
            units,
            codes=units.samples[number],
            samples=None,
            top_codes=None,
            top_probabilities=None,
        )

    changed = replace(meta, sample_seeds=(), top_k=0, sampled=seed)
    return UnitSource(changed, lambda: map(drawn, source), source.name)


def _groups(units: Iterable[UtteranceUnits]) -> Iterator[list[UtteranceUnits]]:
    """Utterances in lists that make a group of rows each."""
    rows: list[UtteranceUnits] = []
    size = 0
    for one in units:
        rows.append(one)
        size += one.num_units
        if len(rows) == _ROWS_PER_GROUP or size >= _UNITS_PER_GROUP:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: not a readable Parquet file ({error}); write it again with `encode`")


def _meta(path: Path, schema: pa.Schema) -> UnitStoreMeta:
    stored = (schema.metadata or {}).get(_KEY)
    if stored is None:
        raise UserError(f"{path}: a Parquet file, but not a unit store of sqvae_speech (its metadata is missing)")
    fields = json.loads(stored)
    version = fields.pop("version")
    if version > VERSION:
        raise UserError(
            f"{path}: written by a newer sqvae_speech (store version {version}, this one reads {VERSION})"
        )
    meta = UnitStoreMeta(**fields)
    missing = set(schema_of(meta.optional_columns).names) - set(schema.names) - (_ADDED if version == 1 else set())
    if missing:
        raise UserError(f"{path}: columns {sorted(missing)} are missing; write the store again with `encode`")
    return meta
