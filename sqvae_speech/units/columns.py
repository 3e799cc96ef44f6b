"""Between utterances and Arrow columns: nested lists over flat arrays, so no Python list of codes is ever made."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits

SCALARS = {
    "utterance_id": pa.string(),
    "speaker": pa.string(),
    "text": pa.string(),
    "peak": pa.float64(),
    "num_frames": pa.int32(),
    "num_samples": pa.int64(),
}


class Nested(NamedTuple):
    """A column whose cells are arrays of ``depth`` axes, of ``dtype``."""

    depth: int
    dtype: type

    @property
    def type(self) -> pa.DataType:
        """Lists of lists of numbers."""
        kind = pa.from_numpy_dtype(self.dtype)
        for _ in range(self.depth):
            kind = pa.list_(kind)
        return kind


NESTED = {
    "codes": Nested(2, np.int32),
    "durations": Nested(1, np.int32),
    "f0": Nested(1, np.float32),
    "entropy": Nested(2, np.float32),
    "top_codes": Nested(3, np.int32),
    "top_probabilities": Nested(3, np.float32),
    "samples": Nested(3, np.int32),
}
REQUIRED = ("utterance_id", "codes")


def schema_of(optional: Sequence[str]) -> pa.Schema:
    """The columns that every store has, and of those that not every store has, ``optional``."""
    always = ["utterance_id", "speaker", "codes", "durations", "text", "peak", "num_frames", "num_samples"]
    types = SCALARS | {name: column.type for name, column in NESTED.items()}
    return pa.schema([pa.field(name, types[name], nullable=name not in REQUIRED) for name in [*always, *optional]])


def batch_of(rows: Sequence[UtteranceUnits], schema: pa.Schema) -> pa.RecordBatch:
    """Utterances as a record batch."""
    arrays = []
    for name in schema.names:
        values = [getattr(row, name) for row in rows]
        arrays.append(
            _nested_array(values, NESTED[name]) if name in NESTED else pa.array(values, type=schema.field(name).type)
        )
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def utterances_of(table: pa.Table, meta: UnitStoreMeta) -> Iterator[UtteranceUnits]:
    """The rows of a table with the columns of :func:`schema_of`."""
    for batch in table.combine_chunks().to_batches():
        columns: dict[str, list[Any]] = {
            name: _cells(batch.column(name), NESTED[name]) if name in NESTED else batch.column(name).to_pylist()
            for name in batch.schema.names
        }
        for row in range(batch.num_rows):
            yield UtteranceUnits(**_shaped({name: values[row] for name, values in columns.items()}, meta))


def _shaped(fields: dict[str, Any], meta: UnitStoreMeta) -> dict[str, Any]:
    """Give flat cells their axes, which the store's description tells: empty ones do not."""
    books = meta.num_codebooks
    units = fields["codes"].size // books
    shapes = {
        "codes": (books, units),
        "entropy": (books, units),
        "top_codes": (books, units, meta.top_k),
        "top_probabilities": (books, units, meta.top_k),
        "samples": (len(meta.sample_seeds), books, units),
    }
    return fields | {name: fields[name].reshape(shape) for name, shape in shapes.items() if name in fields}


def _nested_array(values: Sequence[np.ndarray | None], column: Nested) -> pa.Array:
    present = [value for value in values if value is not None]
    flat: list[np.ndarray] = [value.ravel().astype(column.dtype) for value in present]
    array = pa.array(np.concatenate(flat) if flat else np.zeros(0, column.dtype))
    for axis in reversed(range(column.depth)):
        if axis:
            # the lists of this axis: as many as the axes before it have elements, each as long as it
            lengths = np.concatenate(
                [np.full(np.prod(value.shape[:axis], dtype=int), value.shape[axis]) for value in present]
                or [np.zeros(0, int)]
            )
            array = pa.ListArray.from_arrays(_offsets(lengths), array)
        else:
            missing = np.array([value is None for value in values], dtype=bool)
            lengths = np.array([0 if value is None else len(value) for value in values], dtype=np.int64)
            mask = pa.array(missing) if missing.any() else None
            array = pa.ListArray.from_arrays(_offsets(lengths), array, mask=mask)
    return array


def _cells(array: pa.Array, column: Nested) -> list[np.ndarray | None]:
    """Each cell's numbers in one axis, without a copy; None for a null."""
    bounds = array.offsets.to_numpy()
    values = array.values
    for _ in range(column.depth - 1):
        bounds = values.offsets.to_numpy()[bounds]
        values = values.values
    numbers = values.to_numpy(zero_copy_only=False)
    missing = array.is_null().to_numpy(zero_copy_only=False)
    return [None if missing[row] else numbers[bounds[row] : bounds[row + 1]] for row in range(len(array))]


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
