"""Forms with a JSON object a line: ours, which holds all that a store holds, and pGSLM's."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

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
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits

FIELDS = tuple(field.name for field in fields(UtteranceUnits))
OPTIONAL = ("entropy", "f0", "top_codes", "top_probabilities", "samples")


def write_jsonl(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """``{"utterance_id": "a", "codes": [[71, 12]], "speaker": "84", ...}``, fields that are not known left out."""
    file = outputs.text(path)
    wanted = [name for name in FIELDS if name not in OPTIONAL or name in meta.optional_columns]
    for one in units:
        values = {name: getattr(one, name) for name in wanted if getattr(one, name) is not None}
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
        file.write(json.dumps(plain, ensure_ascii=False) + "\n")


def read_jsonl(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """Keys that are none of ours are overlooked."""
    shapes = {
        "codes": (meta.num_codebooks, -1),
        "entropy": (meta.num_codebooks, -1),
        "top_codes": (meta.num_codebooks, -1, meta.top_k),
        "top_probabilities": (meta.num_codebooks, -1, meta.top_k),
        "samples": (len(meta.sample_seeds), meta.num_codebooks, -1),
    }

    def parse(number: int, line: str) -> UtteranceUnits:
        record = _record(line)
        values = {name: record[name] for name in FIELDS if record.get(name) is not None}
        for name in ("utterance_id", "codes"):
            if name not in values:
                raise ValueError(f"no {name!r}")
        for name in values.keys() & {"codes", "durations", *OPTIONAL}:
            values[name] = _array(values[name], shapes.get(name))
        for name in values.keys() & set(OPTIONAL) - set(meta.optional_columns):
            raise ValueError(f"{name!r} needs what {path.name}.json says of it, and that does not mention it")
        return UtteranceUnits(**values | {"utterance_id": legal_id(str(values["utterance_id"]))})

    return units_of_lines(path, parse, meta)


def extend_jsonl(path: Path, meta: UnitStoreMeta) -> UnitStoreMeta:
    """What the first record has: durations, F0, entropy."""
    for _, line in read_lines(path):
        try:
            record = _record(line)
        except ValueError:
            return meta  # which reading will tell with its line
        return replace(
            meta,
            deduplicated=meta.deduplicated or "durations" in record,
            f0={"method": "unknown"} if "f0" in record else meta.f0,
            entropy="entropy" in record,
        )
    return meta


def write_pgslm(
    outputs: Outputs, path: Path, units: Iterable[UtteranceUnits], meta: UnitStoreMeta, options: WriteOptions
) -> None:
    """``{"audio": "/data/a.wav", "duration": 1.2, "hubert_km100": "71 12", "speaker": "84"}``.

    Without a data directory the audio is called as the utterance. Unknown speakers are left out: pGSLM reads lines
    as Python, which has no ``null``. Where the file's name is not the id, ``utterance_id`` is added.
    """
    file = outputs.text(path)
    for one in units:
        name = one.utterance_id
        if options.recordings is None:
            audio, seconds = f"{name}.wav", meta.seconds(one)
        else:
            audio = str(options.recordings.root / options.recordings.path(name))
            seconds = options.recordings.info(name).duration
        if seconds is None:
            raise UserError(f"{name}: its duration is not known; give --frame-rate, or the recordings by --data-dir")
        record: dict[str, Any] = {"audio": audio, "duration": seconds, options.key: join_codes(one.codes[0])}
        if one.speaker is not None:
            record["speaker"] = one.speaker
        if Path(audio).stem != name:
            record["utterance_id"] = name
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_pgslm(path: Path, meta: UnitStoreMeta, options: ReadOptions) -> Iterator[UtteranceUnits]:
    """Ids are the names of the audio files less their extension, escaped where they are no legal ids."""

    def parse(number: int, line: str) -> UtteranceUnits:
        record = _record(line)
        if options.key not in record:
            others = ", ".join(key for key in record if key not in ("audio", "duration", "speaker", "utterance_id"))
            raise ValueError(f"no {options.key!r}; give --key, perhaps one of: {others or 'none'}")
        if not isinstance(record.get("audio"), str):
            raise ValueError("no 'audio'")
        name = record.get("utterance_id", Path(record["audio"]).stem)
        return UtteranceUnits(legal_id(name), parse_codes(record[options.key]), speaker=record.get("speaker"))

    return units_of_lines(path, parse, meta)


def _record(line: str) -> dict[str, Any]:
    record = json.loads(line)  # its errors are ValueErrors
    if not isinstance(record, dict):
        raise ValueError("expected an object")
    return record


def _array(value: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    """Nested lists as an array of the axes of ``shape``, in which -1 stands for any length."""
    array = np.asarray(value)
    if shape is None:
        return array
    if not array.size:  # nothing tells the axes of an utterance without units
        return np.zeros([max(axis, 0) for axis in shape], dtype=np.int64)
    if array.ndim == 1 and len(shape) == 2 and shape[0] == 1:
        return array[None]  # of one codebook, written without its axis
    if array.ndim != len(shape):
        raise ValueError(f"{array.ndim} axes where {len(shape)} are wanted")
    return array
