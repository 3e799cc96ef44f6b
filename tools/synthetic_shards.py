"""Shards of random numbers, for benchmarks and tests of the loaders: same numbers from the same seed."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import webdataset

from sqvae_speech.audio.front_end import FrontEnd
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.index import ShardIndex, ShardInfo
from sqvae_speech.data.npy import npy_bytes
from sqvae_speech.data.shard_folder import file_sha256


def write_synthetic_shards(
    folder: Path,
    lengths: Sequence[Sequence[int]],
    *,
    dtype: str = "float32",
    seed: int = 0,
    split: str = "train",
    num_speakers: int = 4,
) -> ShardIndex:
    """Write a folder of shards.

    Args:
        folder: made when it is not there.
        lengths: for each shard, the frames of each of its utterances.
        dtype: of the mels, ``float32`` or ``float16``.
        seed: of the numbers.
        split: beginning of the shards' names.
        num_speakers: utterance i is speaker i's, modulo this.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    mel_spec = MelSpec.preset("sqvae16k")
    shards, speakers, number = [], set(), 0
    for shard, frames in enumerate(lengths):
        path = folder / f"{split}-{shard:06d}.tar"
        listed = []
        with path.open("wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0, compress=False) as writer:
            for num_frames in frames:
                name, speaker = f"u{number:07d}", f"s{number % num_speakers}"
                mel = rng.random((mel_spec.n_mels, num_frames), dtype=np.float32).astype(dtype)
                meta = {"utterance_id": name, "speaker": speaker, "num_frames": num_frames, "peak": 1.0}
                writer.write({"__key__": name, "mel.npy": npy_bytes(mel), "json": json.dumps(meta).encode()})
                listed.append((name, speaker, num_frames))
                speakers.add(speaker)
                number += 1
        with tarfile.open(path, "r:") as archive:
            places = {member.name: (member.offset_data, member.size) for member in archive}
        info = ShardInfo(
            name=path.name,
            utterances=len(listed),
            frames=sum(frames),
            shortest=min(frames),
            longest=max(frames),
            clipped=0,
            bytes=path.stat().st_size,
            sha256=file_sha256(path),
        )
        utterances = [[*item, places[f"{item[0]}.mel.npy"], places[f"{item[0]}.json"]] for item in listed]
        state = {
            "version": ShardIndex.version,
            "inputs": "",
            "shard": vars(info),
            "utterances": utterances,
            "bad": [],
        }
        (folder / info.sidecar).write_text(json.dumps(state))
        shards.append(info)
    index = ShardIndex(
        folder=folder,
        split=split,
        shards=tuple(shards),
        mel_spec=mel_spec,
        front_end=FrontEnd(),
        dtype=dtype,
        speakers=tuple(sorted(speakers)),
    )
    index.save()
    return index
