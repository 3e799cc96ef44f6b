"""F0 of all recordings of a folder of shards, a value a mel frame, for decoders that are told it."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.sources import array_source
from sqvae_speech.data.cluster import ClusterConfig, run_tasks
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.recordings import read_utterance
from sqvae_speech.errors import UserError
from sqvae_speech.units.f0 import F0, track_f0


class _Task(NamedTuple):
    """An utterance to be tracked at the frames of its log-mel."""

    utterance: Utterance
    channel: str | None
    mel_spec: MelSpec
    num_frames: int
    settings: F0


def track_shards(
    data_dir: str | os.PathLike[str],
    index: ShardIndex,
    settings: F0,
    *,
    cluster: ClusterConfig | None = None,
    allow_pipes: bool = False,
    progress: bool = True,
) -> dict[str, NDArray[np.float32]]:
    """F0 of the utterances of shards, from their recordings.

    Args:
        data_dir: Kaldi data directory that the shards were made of.
        index: of the shards.
        settings: the range.
        cluster: where it is done; by default in this process.
        allow_pipes: run the commands in ``wav.scp``.
        progress: show a progress bar.

    Returns:
        Of each utterance (F,) float32, Hz, 0 where unvoiced, F the frames of its log-mel.

    Raises:
        UserError: shards that were trimmed, whose frames are not those of the recordings; an utterance that the data
            directory does not have.
    """
    if index.front_end.trim is not None:
        raise UserError(f"{index.folder} was trimmed, so its frames are not those of the recordings; make it without")
    known = {one.utterance_id: one for one in DataDir.read(Path(data_dir), allow_pipes).utterances}
    channel = index.front_end.channel
    tasks = []
    for entry in index.entries():
        if entry.utterance_id not in known:
            raise UserError(f"{data_dir} has no {entry.utterance_id!r} of {index.folder}; give what it was made of")
        tasks.append(_Task(known[entry.utterance_id], channel, index.mel_spec, entry.num_frames, settings))
    results = run_tasks(_track, tasks, cluster or ClusterConfig())
    found = dict(tqdm(results, total=len(tasks), desc="F0", unit=" utterances", disable=not progress))
    return {entry.utterance_id: found[entry.utterance_id] for entry in index.entries()}


def _track(task: _Task) -> tuple[str, NDArray[np.float32]]:
    wav, rate = read_utterance(task.utterance, task.channel)
    source = array_source(wav, rate, task.utterance.wav)
    return task.utterance.utterance_id, track_f0(source, task.mel_spec, task.num_frames, task.settings)
