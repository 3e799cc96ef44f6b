"""Whether data directories and shards of speech are whole: all that is wrong with them, not only the first."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.data.recordings import check_recordings
from sqvae_speech.data.shard_folder import INDEX_NAME
from sqvae_speech.data.shard_integrity import array_fault, check_folder, listed
from sqvae_speech.errors import UserError


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

    Looked at is all that :func:`sqvae_speech.data.shard_integrity.check_folder` says; of samples, every mel's header,
    shape, type and numbers, which must be finite, and the JSON; and the speakers.

    Raises:
        UserError: there is no index, or it cannot be read.
    """
    index = ShardIndex.read(Path(folder) / INDEX_NAME)  # not load: faults are listed here, not raised

    def check_sample(row: Sequence[Any], mel: bytes, meta: Any) -> Iterator[str]:
        return _of_sample(index, row, mel, meta)

    return (
        f"{len(index.shards)} shards, mel {index.mel_spec.name}; {index.num_utterances} utterances, "
        f"{len(index.speakers)} speakers, {index.hours:.3f} h",
        [*check_folder(index, check_sample), *_of_lists(index)],
    )


def _of_lists(index: ShardIndex) -> Iterator[str]:
    speakers: set[str] = set()
    complete = True
    for shard in index.shards:
        rows = listed(index, shard)
        complete = complete and rows is not None
        speakers.update(row[1] for row in rows or ())
        frames = sum(row[2] for row in rows or ())
        if rows is not None and frames != shard.frames:
            yield f"{shard.name}: its list has {frames} frames, index.json {shard.frames}"
    if complete and sorted(speakers) != list(index.speakers):
        differ = ", ".join(sorted(speakers ^ set(index.speakers))[:5])
        yield f"index.json: its speakers are not those of its shards ({differ})"


def _of_sample(index: ShardIndex, row: Sequence[Any], data: bytes, meta: Any) -> Iterator[str]:
    name, speaker, num_frames = row[:3]
    mel, fault = array_fault(data, (index.mel_spec.n_mels, num_frames), index.dtype)
    if mel is not None and (bad := int((~np.isfinite(mel)).sum())):
        fault = f"has {bad} of {mel.size} values that are NaN or infinite"
    if fault:
        yield f"{name}.mel.npy {fault}"
    try:
        said = (meta["utterance_id"], meta["speaker"], meta["num_frames"])
    except (KeyError, TypeError):
        yield f"{name}.json cannot be read, or lacks what it should say"
        return
    if said != (name, speaker, num_frames):
        yield f"{name}.json is of {said}, the shard's list says {(name, speaker, num_frames)} (id, speaker, frames)"
