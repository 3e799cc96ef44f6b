"""Whether data directories and shards are whole: all that is wrong with them, not only the first."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sqvae_speech.data.index import ShardIndex, ShardInfo, file_sha256, read_json
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.data.recordings import check_recordings
from sqvae_speech.errors import UserError

REMEDY = (
    "remove the shards named and run `sqvae-speech shards` again with the same options: it writes what is missing"
)


def check_data_dir(folder: str | Path, allow_pipes: bool = False, audio: bool = False) -> tuple[str, list[str]]:
    """Return what a Kaldi data directory holds, in words, and its faults.

    Args:
        folder: the directory.
        allow_pipes: accept commands in ``wav.scp``.
        audio: also open every recording that is a file, and compare its length.

    Raises:
        UserError: a fault of the directory's files, the first one.
    """
    data = DataDir.read(folder, allow_pipes=allow_pipes)
    faults = []
    if audio:
        for utterance in data:
            try:
                check_recordings([utterance])
            except UserError as error:
                faults.append(str(error))
    hours = "unknown length" if data.duration is None else f"{data.duration / 3600:.3f} h"
    return f"Kaldi data directory; {len(data)} utterances, {len(data.speakers)} speakers, {hours}", faults


def check_shards(folder: str | Path) -> tuple[str, list[str]]:
    """Return what a folder of shards holds, in words, and all faults that its shards have.

    Looked at are every shard's presence, size and SHA-256; the tar's structure; every mel's header, shape, type and
    numbers, which must be finite; the JSON of every sample; and whether the list beside the shard and ``index.json``
    say the same as what is found.

    Raises:
        UserError: there is no index, or it cannot be read.
    """
    index = ShardIndex.read(Path(folder) / "index.json")  # not load: faults are listed here, not raised
    faults = [f"{shard.name}: {fault}" for shard in index.shards for fault in _of_shard(index, shard)]
    return (
        f"{len(index.shards)} shards, mel {index.mel_spec.name}; {index.num_utterances} utterances, "
        f"{len(index.speakers)} speakers, {index.hours:.3f} h",
        faults + list(_of_index(index)),
    )


def _of_index(index: ShardIndex) -> Iterator[str]:
    values = read_json(index.folder / "index.json")
    for name in ("num_utterances", "num_frames", "fingerprint"):
        if values.get(name) != getattr(index, name):
            yield f"index.json: {name} is {values.get(name)!r}, its shards give {getattr(index, name)!r}"
    names: dict[str, str] = {}
    speakers: set[str] = set()
    complete = True
    for shard in index.shards:
        listed = _listed(index, shard)
        complete = complete and listed is not None
        for name, speaker, *_ in listed or ():
            speakers.add(speaker)
            if name in names:
                yield f"{shard.name}: {name!r} is in {names[name]} too"
            names[name] = shard.name
    if complete and sorted(speakers) != list(index.speakers):
        differ = ", ".join(sorted(speakers ^ set(index.speakers))[:5])
        yield f"index.json: its speakers are not those of its shards ({differ})"
    known = {shard.name for shard in index.shards}
    for path in sorted(index.folder.glob(f"{index.split}-[0-9][0-9][0-9][0-9][0-9][0-9].tar")):
        # a shard of which no utterance could be used is not in the index
        if path.name not in known and (_sidecar(path.with_suffix(".json")) or {"utterances": [""]})["utterances"]:
            yield f"{path.name}: is not in index.json"


def _sidecar(path: Path) -> dict[str, Any] | None:
    try:
        values = read_json(path)
    except UserError:
        return None
    return values if isinstance(values.get("utterances"), list) else None


def _listed(index: ShardIndex, shard: ShardInfo) -> list[Any] | None:
    """Return what the list beside a shard has, None when it is not there or not of this shard."""
    values = _sidecar(index.folder / shard.sidecar)
    return None if values is None or values.get("shard") != vars(shard) else values["utterances"]


def _of_shard(index: ShardIndex, shard: ShardInfo) -> Iterator[str]:
    path = index.folder / shard.name
    sidecar = index.folder / shard.sidecar
    listed = _listed(index, shard)
    if not sidecar.is_file():
        yield f"{shard.sidecar}, its contents, is missing"
    elif listed is None:
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
    with path.open("rb") as file:
        for row in listed or ():
            yield from _of_sample(index, row, members, file)
    if listed is None:
        return
    for name in members.keys() - {f"{row[0]}{suffix}" for row in listed for suffix in (".mel.npy", ".json")}:
        yield f"holds {name}, which its list does not have"
    counts = (len(listed), sum(row[2] for row in listed))
    if counts != (shard.utterances, shard.frames):
        yield "its list has {} utterances and {} frames, index.json {} and {}".format(
            *counts, shard.utterances, shard.frames
        )


def _of_sample(
    index: ShardIndex, row: list[Any], members: dict[str, tuple[int, int]], file: io.BufferedReader
) -> Iterator[str]:
    name, speaker, num_frames, *places = row
    contents = []
    for suffix, place in zip((".mel.npy", ".json"), places, strict=True):
        member = members.get(name + suffix)
        if member is None:
            yield f"lacks {name}{suffix}"
            return
        if member != tuple(place):
            yield f"{name}{suffix} lies at {member}, its list says {tuple(place)} (offset, bytes)"
        file.seek(member[0])
        contents.append(file.read(member[1]))
    fault = _of_mel(contents[0], (index.mel_spec.n_mels, num_frames), index.dtype)
    if fault:
        yield f"{name}.mel.npy {fault}"
    try:
        meta = json.loads(contents[1])
        said = (meta["utterance_id"], meta["speaker"], meta["num_frames"])
    except (ValueError, KeyError, TypeError):
        yield f"{name}.json cannot be read, or lacks what it should say"
        return
    if said != (name, speaker, num_frames):
        yield f"{name}.json is of {said}, the shard's list says {(name, speaker, num_frames)} (id, speaker, frames)"


def _of_mel(data: bytes, shape: tuple[int, int], dtype: str) -> str:
    try:
        mel = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        return f"is no array ({error})"
    if mel.shape != shape or mel.dtype != dtype:
        return f"is {mel.shape} {mel.dtype}, it should be {shape} {dtype}"
    bad = int((~np.isfinite(mel)).sum())
    return f"has {bad} of {mel.size} values that are NaN or infinite" if bad else ""
