"""Whether a folder of shards is whole, whatever is in them: all that is wrong with it, not only the first fault."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sqvae_speech.data.shard_folder import INDEX_NAME, ShardFile, ShardFolder, file_sha256, read_json
from sqvae_speech.errors import UserError

REMEDY = (
    "remove the shards named and run `sqvae-speech shards` again with the same options: it writes what is missing"
)
# (row of the shard's list, contents of the example's numbers, its json) -> faults
SampleCheck = Callable[[Sequence[Any], bytes, Any], Iterator[str]]


def check_folder(index: ShardFolder, check_sample: SampleCheck) -> Iterator[str]:
    """Yield the faults of a folder of shards.

    Looked at are every shard's presence, size and SHA-256; the tar's structure; every sample, by ``check_sample``;
    and whether the list beside the shard and ``index.json`` say the same as what is found.
    """
    for shard in index.shards:
        for fault in _of_shard(index, shard, check_sample):
            yield f"{shard.name}: {fault}"
    yield from _of_index(index)


def listed(index: ShardFolder, shard: ShardFile) -> list[Any] | None:
    """Return what the list beside a shard has, None when it is not there or not of this shard."""
    values = _sidecar(index, index.folder / shard.sidecar)
    return None if values is None or values.get("shard") != vars(shard) else values[index.list_name]


def array_fault(data: bytes, shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray | None, str]:
    """Return the array in an ``.npy`` and how it differs from what it should be, empty when it does not."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        return None, f"is no array ({error})"
    if array.shape != shape or array.dtype != dtype:
        return None, f"is {array.shape} {array.dtype}, it should be {shape} {dtype}"
    return array, ""


def _of_index(index: ShardFolder) -> Iterator[str]:
    values = read_json(index.folder / INDEX_NAME)
    for name, value in {**index.counts(), "fingerprint": index.fingerprint}.items():
        if values.get(name) != value:
            yield f"index.json: {name} is {values.get(name)!r}, its shards give {value!r}"
    names: dict[str, str] = {}
    for shard in index.shards:
        for name, *_ in listed(index, shard) or ():
            if name in names:
                yield f"{shard.name}: {name!r} is in {names[name]} too"
            names[name] = shard.name
    known = {shard.name for shard in index.shards}
    for path in sorted(index.folder.glob(f"{index.split}-[0-9][0-9][0-9][0-9][0-9][0-9].tar")):
        # a shard of which no example could be used is not in the index
        sidecar = _sidecar(index, path.with_suffix(".json"))
        if path.name not in known and (sidecar is None or sidecar[index.list_name]):
            yield f"{path.name}: is not in index.json"


def _sidecar(index: ShardFolder, path: Path) -> dict[str, Any] | None:
    try:
        values = read_json(path)
    except UserError:
        return None
    return values if isinstance(values.get(index.list_name), list) else None


def _of_shard(index: ShardFolder, shard: ShardFile, check_sample: SampleCheck) -> Iterator[str]:
    path = index.folder / shard.name
    sidecar = index.folder / shard.sidecar
    rows = listed(index, shard)
    if not sidecar.is_file():
        yield f"{shard.sidecar}, its contents, is missing"
    elif rows is None:
        yield f"{shard.sidecar}, its contents, does not belong to it or cannot be read"
    if not path.is_file():
        yield "is missing"
        return
    size = path.stat().st_size
    if size != shard.bytes:
        yield f"is {'truncated' if size < shard.bytes else 'changed'}: {size} bytes, index.json says {shard.bytes}"
    elif file_sha256(path) != shard.sha256:
        yield "has changed (SHA-256 differs from index.json's)"
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.name in members:
                    yield f"{member.name} is in it twice"
                members[member.name] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        yield f"is no whole tar ({error})"
    if rows is None:
        return
    suffixes = (f".{index.member}", ".json")
    with path.open("rb") as file:
        for row in rows:
            yield from _of_sample(row, suffixes, members, file, check_sample)
    for name in members.keys() - {f"{row[0]}{suffix}" for row in rows for suffix in suffixes}:
        yield f"holds {name}, which its list does not have"
    if len(rows) != shard.num_examples:
        yield f"its list has {len(rows)} {index.noun}s, index.json {shard.num_examples}"


def _of_sample(
    row: Sequence[Any],
    suffixes: tuple[str, str],
    members: dict[str, tuple[int, int]],
    file: io.BufferedReader,
    check_sample: SampleCheck,
) -> Iterator[str]:
    name = row[0]
    contents = []
    for suffix, place in zip(suffixes, row[-2:], strict=True):
        member = members.get(name + suffix)
        if member is None:
            yield f"lacks {name}{suffix}"
            return
        if member != tuple(place):
            yield f"{name}{suffix} lies at {member}, its list says {tuple(place)} (offset, bytes)"
        file.seek(member[0])
        contents.append(file.read(member[1]))
    try:
        meta = json.loads(contents[1])
    except ValueError:
        meta = None
    yield from check_sample(row, contents[0], meta)
