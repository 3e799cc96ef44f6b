"""The unit store: the one native form of units, a Parquet file with a row an utterance and metadata of its own."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sqvae_speech.data.files import whole_file
from sqvae_speech.errors import UserError
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate, expand

VERSION = 1
_KEY = b"sqvae_speech.units"
_ROWS_PER_GROUP = 1024
_SCHEMA = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("speaker", pa.string()),
        pa.field("codes", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("durations", pa.list_(pa.int32())),
        pa.field("text", pa.string()),
        pa.field("peak", pa.float64()),
        pa.field("num_frames", pa.int32()),
    ]
)


@dataclass(frozen=True)
class UnitStoreMeta:
    """What the codes of a store mean.

    Attributes:
        codebook_size: K; every code is in [0, K).
        num_codebooks: N.
        frame_rate: units a second before deduplication, Hz; None when a text form did not say.
        mel_spec: ``MelSpec.to_dict()`` of the features that were encoded, or None.
        checkpoint: fingerprint of the model that made them, or None.
        deduplicated: runs are collapsed. Their durations are kept, unless the units came from a form without them.
        shape: ``(rows, columns)`` of the codes of an image, which are stored in raster order; None for speech.
    """

    codebook_size: int
    num_codebooks: int = 1
    frame_rate: float | None = None
    mel_spec: dict[str, Any] | None = None
    checkpoint: str | None = None
    deduplicated: bool = False
    shape: tuple[int, int] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "UnitStoreMeta":
        """The inverse of ``dataclasses.asdict``, also after JSON."""
        shape = values.get("shape")
        return cls(**{**values, "shape": None if shape is None else tuple(shape)})

    def check(self, units: UtteranceUnits) -> None:
        """Raise :class:`UserError` when an utterance does not fit this description."""
        name, codes = units.utterance_id, units.codes
        if codes.shape[0] != self.num_codebooks:
            raise UserError(f"{name}: {codes.shape[0]} codebooks, but the store has {self.num_codebooks}")
        if codes.size and (codes.min() < 0 or codes.max() >= self.codebook_size):
            worst = codes.min() if codes.min() < 0 else codes.max()
            raise UserError(
                f"{name}: code {worst} is outside a codebook of {self.codebook_size} (0 to "
                f"{self.codebook_size - 1}): the codebook size given is not that of the model that made these units"
            )
        if self.shape is not None and codes.shape[1] != self.shape[0] * self.shape[1]:
            rows, columns = self.shape
            raise UserError(f"{name}: {codes.shape[1]} units, but the images of the store have {rows} x {columns}")
        if units.durations is not None and not self.deduplicated:
            raise UserError(f"{name}: has durations, but the store is not marked as deduplicated")


class UnitStore:
    """The units of a split, in the order of its manifest. Rows are made when asked for.

    Iterate over it, take ``store["utterance_id"]``, ``len(store)``, ``store.ids``, ``store.meta``.
    """

    def __init__(self, meta: UnitStoreMeta, table: pa.Table, name: str = "units"):
        self.meta = meta
        self.name = name
        self.ids: list[str] = table.column("utterance_id").to_pylist()
        self._table = table
        self._rows = {utterance_id: row for row, utterance_id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[UtteranceUnits]:
        for batch in self._table.to_batches(max_chunksize=_ROWS_PER_GROUP):
            for row in range(batch.num_rows):
                yield self._utterance(batch, row)

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._rows

    def __getitem__(self, utterance_id: str) -> UtteranceUnits:
        if utterance_id not in self._rows:
            raise UserError(f"{self.name} has no utterance {utterance_id!r}; `sqvae-speech units show` lists them")
        return self._utterance(self._table.slice(self._rows[utterance_id], 1), 0)

    def _utterance(self, batch: pa.RecordBatch | pa.Table, row: int) -> UtteranceUnits:
        value = {name: batch.column(name)[row] for name in _SCHEMA.names}
        codes = value["codes"].values.flatten().to_numpy(zero_copy_only=False)
        durations = value["durations"].values
        return UtteranceUnits(
            utterance_id=value["utterance_id"].as_py(),
            codes=codes.reshape(self.meta.num_codebooks, -1) if codes.size else _no_codes(self.meta.num_codebooks),
            speaker=value["speaker"].as_py(),
            durations=None if durations is None else durations.to_numpy(zero_copy_only=False),
            text=value["text"].as_py(),
            peak=value["peak"].as_py(),
            num_frames=value["num_frames"].as_py(),
        )


def write_units(path: str | os.PathLike, units: Iterable[UtteranceUnits], meta: UnitStoreMeta) -> int:
    """Write a store, whole or not at all; rows are written as they come, so ``units`` may be a generator.

    Returns:
        The number of utterances written.

    Raises:
        UserError: for a code outside the codebook, another number of codebooks, or an id that comes twice.
    """
    schema = _SCHEMA.with_metadata({_KEY: json.dumps({"version": VERSION, **asdict(meta)}, sort_keys=True).encode()})
    seen: set[str] = set()
    with whole_file(Path(path)) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        rows: list[UtteranceUnits] = []
        for utterance in units:
            meta.check(utterance)
            if utterance.utterance_id in seen:
                raise UserError(f"utterance {utterance.utterance_id!r} comes twice; ids must be unique")
            seen.add(utterance.utterance_id)
            rows.append(utterance)
            if len(rows) == _ROWS_PER_GROUP:
                writer.write_batch(_batch(rows, schema))
                rows = []
        if rows:
            writer.write_batch(_batch(rows, schema))
    return len(seen)


def read_units(path: str | os.PathLike) -> UnitStore:
    """Open a store written by :func:`write_units`.

    Raises:
        UserError: when the file is missing, damaged, not a unit store, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such unit store; `sqvae-speech encode --output {path}` writes one")
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); write it again with `encode`") from None
    return UnitStore(_meta(path, table.schema), table.cast(_SCHEMA), name=str(path))


def store_of(units: Iterable[UtteranceUnits], meta: UnitStoreMeta, name: str = "units") -> UnitStore:
    """A store in memory, with the checks of :func:`write_units`."""
    rows = list(units)
    for utterance in rows:
        meta.check(utterance)
    repeated = {row.utterance_id for row in rows}
    if len(repeated) != len(rows):
        twice = next(row.utterance_id for number, row in enumerate(rows) if row.utterance_id in _ids(rows[:number]))
        raise UserError(f"{name}: utterance {twice!r} comes twice; ids must be unique")
    return UnitStore(meta, pa.Table.from_batches([_batch(rows, _SCHEMA)]), name=name)


def deduplicate_store(store: UnitStore) -> UnitStore:
    """The store with runs collapsed and their durations kept."""
    return store_of(map(deduplicate, store), replace(store.meta, deduplicated=True), store.name)


def expand_store(store: UnitStore) -> UnitStore:
    """The store with every unit repeated for its duration.

    Raises:
        UserError: when runs were collapsed and their durations are not known.
    """
    if store.meta.deduplicated and any(units.durations is None for units in store):
        raise UserError(f"{store.name}: deduplicated, and its durations are not known; it cannot be expanded")
    return store_of(map(expand, store), replace(store.meta, deduplicated=False), store.name)


def with_frame_rate(meta: UnitStoreMeta, frame_rate: float | None) -> UnitStoreMeta:
    """The metadata with a frame rate given by hand, which may fill a gap and never contradict.

    Raises:
        UserError: when the store says another rate.
    """
    if frame_rate is None or meta.frame_rate == frame_rate:
        return meta
    if meta.frame_rate is not None:
        raise UserError(
            f"--frame-rate {frame_rate:g} given, but the units are at {meta.frame_rate:g} Hz; leave it out"
        )
    return replace(meta, frame_rate=frame_rate)


def require_same_codebook(meta: UnitStoreMeta, codebook_size: int, num_codebooks: int, what: str, other: str) -> None:
    """Raise :class:`UserError`, with both values, when units are of another codebook than a model or dictionary."""
    for name, one, two in (
        ("codebook_size", meta.codebook_size, codebook_size),
        ("num_codebooks", meta.num_codebooks, num_codebooks),
    ):
        if one != two:
            raise UserError(
                f"{what} has {name} {one}, {other} has {name} {two}: these are not its units; "
                "use the model that made them, or encode again"
            )


def require_same_units(one: UnitStoreMeta, two: UnitStoreMeta, what: str, other: str) -> None:
    """Raise :class:`UserError`, with both values, when the units of two stores cannot be modelled as one kind.

    What only one of them says (a text form knows neither frame rate nor checkpoint) is not compared.
    """
    require_same_codebook(one, two.codebook_size, two.num_codebooks, what, other)
    for name in ("deduplicated", "shape", "frame_rate", "checkpoint"):
        first, second = getattr(one, name), getattr(two, name)
        known = name in ("deduplicated", "shape") or None not in (first, second)
        if known and first != second:
            raise UserError(
                f"{what} has {name} {first}, {other} has {name} {second}: units of different kinds; encode both with "
                "one model, and deduplicate both or neither"
            )


def _meta(path: Path, schema: pa.Schema) -> UnitStoreMeta:
    stored = (schema.metadata or {}).get(_KEY)
    if stored is None:
        raise UserError(f"{path}: a Parquet file, but not a unit store of sqvae_speech (its metadata is missing)")
    missing = set(_SCHEMA.names) - set(schema.names)
    if missing:
        raise UserError(f"{path}: columns {sorted(missing)} are missing; write the store again with `encode`")
    fields = json.loads(stored)
    version = fields.pop("version")
    if version > VERSION:
        raise UserError(
            f"{path}: written by a newer sqvae_speech (store version {version}, this one reads {VERSION})"
        )
    return UnitStoreMeta.from_dict(fields)


def _batch(rows: list[UtteranceUnits], schema: pa.Schema) -> pa.RecordBatch:
    # two levels of offsets over one flat array: no Python list of codes is ever made
    flat = [row.codes.ravel().astype(np.int32) for row in rows]
    inner = pa.ListArray.from_arrays(
        _offsets([row.num_units for row in rows for _ in range(len(row.codes))]),
        pa.array(np.concatenate(flat) if flat else np.zeros(0, np.int32)),
    )
    codes = pa.ListArray.from_arrays(_offsets([len(row.codes) for row in rows]), inner)
    columns = {
        "utterance_id": [row.utterance_id for row in rows],
        "speaker": [row.speaker for row in rows],
        "codes": codes,
        "durations": [None if row.durations is None else row.durations.astype(np.int32) for row in rows],
        "text": [row.text for row in rows],
        "peak": [row.peak for row in rows],
        "num_frames": [row.num_frames for row in rows],
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, type=schema.field(name).type)
        for name, column in columns.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _offsets(lengths: list[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _no_codes(num_codebooks: int) -> np.ndarray:
    return np.zeros((num_codebooks, 0), dtype=np.int64)


def _ids(rows: list[UtteranceUnits]) -> set[str]:
    return {row.utterance_id for row in rows}
