"""Writing one shard: a pure function of its utterances' recordings and the settings, in bounded memory.

A shard is whole or absent. Beside ``<split>-000000.tar`` stands ``<split>-000000.json``, written after it: what it
was made from, what is in it and where, and the utterances that could not be used.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import webdataset

from sqvae_speech.audio.front_end import FrontEnd, Prepared, SilentRecording
from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.cluster import keep_freed_memory
from sqvae_speech.data.files import whole_file, write_text
from sqvae_speech.data.index import VERSION, Bad, ShardInfo, file_sha256, read_json
from sqvae_speech.data.kaldi import Utterance, clip_intervals
from sqvae_speech.data.npy import npy_bytes
from sqvae_speech.data.recordings import read_utterance, recordings_digest
from sqvae_speech.errors import UserError

# Recordings are read until they last so long, sorted by length, and their features computed in batches of the second
# number: memory is bounded by both, or by a single recording that is longer.
WINDOW_SECONDS = 120.0
BATCH_SECONDS = {"cpu": 10.0, "cuda": 120.0}


class ShardSummary(NamedTuple):
    """What became of a shard's utterances, for a progress bar: numbers of them, and seconds of speech written."""

    utterances: int
    bad: int
    seconds: float


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: everything that its bytes depend on, and where it goes."""

    path: Path
    utterances: tuple[Utterance, ...]
    mel_spec: MelSpec
    front_end: FrontEnd
    dtype: str
    min_frames: int
    device: str

    @property
    def sidecar(self) -> Path:
        """The file that says what is in the shard."""
        return self.path.with_suffix(".json")

    def inputs(self) -> str:
        """SHA-256 of the settings, the utterances and the state (size and time) of their recordings."""
        settings = [
            *(VERSION, self.mel_spec.to_dict(), self.front_end.to_dict(), self.dtype, self.min_frames),
            torch.device(self.device).type,
        ]
        return recordings_digest(self.utterances, json.dumps(settings, sort_keys=True))

    def summary(self) -> ShardSummary | None:
        """Return what the shard on disk holds if it is whole and made of just these inputs, else None."""
        if not self.sidecar.is_file():
            return None
        try:
            state = read_json(self.sidecar)
        except UserError:
            return None
        shard = state.get("shard") or {}
        size = self.path.stat().st_size if self.path.is_file() else None
        if state.get("inputs") != self.inputs() or shard.get("bytes") != size:
            return None
        return self._summary(state)

    def _summary(self, state: dict[str, Any]) -> ShardSummary:
        seconds = state["shard"]["frames"] / self.mel_spec.frame_rate
        return ShardSummary(len(self.utterances), len(state["bad"]), seconds)


def write_shard(task: ShardTask) -> ShardSummary:
    """Write a shard and its sidecar. Runs in a worker; utterances that cannot be used are listed, not raised."""
    keep_freed_memory()
    # one thread, whatever the number of workers: the order of sums, and so the bytes, must not depend on it
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return task._summary(_write(task))
    finally:
        torch.set_num_threads(threads)


def _write(task: ShardTask) -> dict[str, Any]:
    inputs = task.inputs()  # before reading: a recording that changes while we read is then found changed
    features = _Features(task)
    task.sidecar.unlink(missing_ok=True)
    bad: list[Bad] = []
    written: list[_Sample] = []
    with whole_file(task.path) as temporary:
        with temporary.open("wb") as file:
            with webdataset.TarWriter(
                file, encoder=False, user="", group="", mtime=0, compress=False, format="PAX_FORMAT"
            ) as writer:
                for sample in features.samples():
                    if isinstance(sample, Bad):
                        bad.append(sample)
                        continue
                    writer.write(sample.members)
                    written.append(sample._replace(members={}))
            file.flush()
            os.fsync(file.fileno())
        offsets = _offsets(temporary)
        checksum = file_sha256(temporary)
        size = temporary.stat().st_size
    frames = [sample.num_frames for sample in written]
    shard = ShardInfo(
        name=task.path.name,
        utterances=len(written),
        frames=sum(frames),
        shortest=min(frames, default=0),
        longest=max(frames, default=0),
        clipped=sum(sample.clipped for sample in written),
        bytes=size,
        sha256=checksum,
    )
    state = {
        "version": VERSION,
        "inputs": inputs,
        "shard": vars(shard),
        "utterances": [
            [*sample[:3], offsets[f"{sample.utterance_id}.mel.npy"], offsets[f"{sample.utterance_id}.json"]]
            for sample in written
        ],
        "bad": [tuple(item) for item in bad],
    }
    write_text(task.sidecar, json.dumps(state, ensure_ascii=False) + "\n")
    return state


def _offsets(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of every member, read back from the finished tar."""
    with tarfile.open(path, "r:") as archive:
        return {member.name: (member.offset_data, member.size) for member in archive}


class _Sample(NamedTuple):
    """An utterance as webdataset writes it, and what its list and the index say about it."""

    utterance_id: str
    speaker: str
    num_frames: int
    clipped: bool
    members: dict[str, Any]


class _Recording(NamedTuple):
    utterance: Utterance
    rate: int
    prepared: Prepared


class _Features:
    """The samples of a task's utterances, in their order."""

    def __init__(self, task: ShardTask):
        self.task = task
        # fast where it is exact enough: see LogMel
        precision = torch.float32 if task.mel_spec.normalize else torch.float64
        self.log_mel = LogMel(task.mel_spec, precision).to(task.device)

    def samples(self) -> Iterator[_Sample | Bad]:
        """Yield a sample, or the reason why there is none, for every utterance."""
        for window in self._windows():
            recordings = {i: item for i, item in enumerate(window) if isinstance(item, _Recording)}
            made: dict[int, _Sample] = {}
            for batch in self._batches(recordings):
                made.update(zip(batch, self._make([recordings[i] for i in batch]), strict=True))
            for number, item in enumerate(window):
                yield made[number] if isinstance(item, _Recording) else item

    def _windows(self) -> Iterator[list[_Recording | Bad]]:
        window: list[_Recording | Bad] = []
        seconds = 0.0
        for utterance in self.task.utterances:
            try:
                recording = self._read(utterance)
            except UserError as error:
                window.append(Bad(utterance.utterance_id, str(error), isinstance(error, SilentRecording)))
                continue
            window.append(recording)
            seconds += recording.prepared.offset - recording.prepared.onset
            if seconds >= WINDOW_SECONDS:
                yield window
                window, seconds = [], 0.0
        yield window

    def _read(self, utterance: Utterance) -> _Recording:
        task = self.task
        spec = task.mel_spec
        wav, rate = read_utterance(utterance, task.front_end.channel)
        prepared = task.front_end.prepare(wav, rate, spec.sample_rate, utterance.wav)
        num_frames = spec.num_frames(len(prepared.wav))
        if num_frames < task.min_frames:
            raise UserError(
                f"{utterance.wav}: too short, {len(prepared.wav) / spec.sample_rate:.3f} s make {num_frames} frames, "
                f"at least {task.min_frames} ({task.min_frames / spec.frame_rate:.3f} s) are needed (--min-frames); "
                "leave it out or join it to another"
            )
        return _Recording(utterance, rate, prepared)

    def _batches(self, recordings: dict[int, _Recording]) -> Iterator[list[int]]:
        """Yield keys of recordings of similar lengths, which together, padded, fit into a batch."""
        limit = BATCH_SECONDS[torch.device(self.task.device).type] * self.task.mel_spec.sample_rate
        batch: list[int] = []
        for number in sorted(recordings, key=lambda i: len(recordings[i].prepared.wav)):
            if batch and (len(batch) + 1) * len(recordings[number].prepared.wav) > limit:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _make(self, batch: list[_Recording]) -> list[_Sample]:
        wavs = [torch.from_numpy(recording.prepared.wav) for recording in batch]
        padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True).to(self.task.device)
        with torch.no_grad():
            out = self.log_mel(padded, torch.tensor([len(wav) for wav in wavs]))
        mels, lengths, peaks = out.mel.cpu().numpy(), out.lengths.tolist(), out.peak.tolist()
        return [
            self._sample(recording, mel[:, :frames], peak)
            for recording, mel, frames, peak in zip(batch, mels, lengths, peaks, strict=True)
        ]

    def _sample(self, recording: _Recording, mel: np.ndarray, peak: float) -> _Sample:
        utterance, rate, prepared = recording
        spec, front_end = self.task.mel_spec, self.task.front_end
        meta: dict[str, Any] = {
            "utterance_id": utterance.utterance_id,
            "speaker": utterance.speaker,
            "num_frames": mel.shape[1],
            "num_samples": len(prepared.wav),
            "sample_rate": spec.sample_rate,
            "recording_sample_rate": rate,
            "peak": peak,
            "clipped": prepared.clipped,
        }
        if front_end.trim is not None:
            meta["part"] = [round(prepared.onset, 6), round(prepared.offset, 6)]
        if front_end.loudness is not None:
            meta["gain"] = round(prepared.gain, 4)
        if utterance.text is not None:
            meta["text"] = utterance.text
        if utterance.ali:
            trimmed = front_end.trim is not None
            ali = clip_intervals(utterance.ali, prepared.onset, prepared.offset) if trimmed else utterance.ali
            meta["ali"] = [tuple(interval) for interval in ali]
        name = utterance.utterance_id
        members = {
            "__key__": name,
            "mel.npy": npy_bytes(mel.astype(self.task.dtype)),
            "json": json.dumps(meta, ensure_ascii=False).encode(),
        }
        return _Sample(name, utterance.speaker, mel.shape[1], prepared.clipped, members)
