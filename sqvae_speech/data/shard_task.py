"""A shard of speech: a pure function of its utterances' recordings and the settings, in bounded memory."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from sqvae_speech.audio.front_end import FrontEnd, Prepared, SilentRecording
from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.index import ShardIndex, ShardInfo
from sqvae_speech.data.kaldi import Utterance, clip_intervals
from sqvae_speech.data.npy import npy_bytes
from sqvae_speech.data.recordings import read_utterance, recordings_digest
from sqvae_speech.data.shard_folder import Bad, ShardFolder
from sqvae_speech.data.shard_writing import Sample, ShardTask
from sqvae_speech.errors import UserError

# Recordings are read until they last so long, sorted by length, and their features computed in batches of the second
# number: memory is bounded by both, or by a single recording that is longer.
WINDOW_SECONDS = 120.0
BATCH_SECONDS = {"cpu": 10.0, "cuda": 120.0}


@dataclass(frozen=True, kw_only=True)
class MelTask(ShardTask):
    """One shard of log-mels to write."""

    index_class: ClassVar[type[ShardFolder]] = ShardIndex

    utterances: tuple[Utterance, ...]
    mel_spec: MelSpec
    front_end: FrontEnd
    dtype: str
    min_frames: int
    device: str

    @property
    def names(self) -> Sequence[str]:
        return [utterance.utterance_id for utterance in self.utterances]

    def inputs(self) -> str:
        settings = [
            *(ShardIndex.version, self.mel_spec.to_dict(), self.front_end.to_dict(), self.dtype, self.min_frames),
            torch.device(self.device).type,
        ]
        return recordings_digest(self.utterances, json.dumps(settings, sort_keys=True))

    def samples(self) -> Iterator[Sample | Bad]:
        return _Features(self).samples()

    def shard_file(self, samples: Sequence[Sample], **common: Any) -> ShardInfo:
        frames = [sample.listed[1] for sample in samples]
        return ShardInfo(
            **common,
            utterances=len(samples),
            frames=sum(frames),
            shortest=min(frames, default=0),
            longest=max(frames, default=0),
            clipped=sum(sample.facts for sample in samples),
        )

    def seconds(self, shard: dict[str, Any]) -> float:
        return shard["frames"] / self.mel_spec.frame_rate


class _Recording(NamedTuple):
    utterance: Utterance
    rate: int
    prepared: Prepared


class _Features:
    """The samples of a task's utterances, in their order."""

    def __init__(self, task: MelTask):
        self.task = task
        # fast where it is exact enough: see LogMel
        precision = torch.float32 if task.mel_spec.normalize else torch.float64
        self.log_mel = LogMel(task.mel_spec, precision).to(task.device)

    def samples(self) -> Iterator[Sample | Bad]:
        """Yield a sample, or the reason why there is none, for every utterance."""
        for window in self._windows():
            recordings = {i: item for i, item in enumerate(window) if isinstance(item, _Recording)}
            made: dict[int, Sample] = {}
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

    def _make(self, batch: list[_Recording]) -> list[Sample]:
        wavs = [torch.from_numpy(recording.prepared.wav) for recording in batch]
        padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True).to(self.task.device)
        with torch.no_grad():
            out = self.log_mel(padded, torch.tensor([len(wav) for wav in wavs]))
        mels, lengths, peaks = out.mel.cpu().numpy(), out.lengths.tolist(), out.peak.tolist()
        return [
            self._sample(recording, mel[:, :frames], peak)
            for recording, mel, frames, peak in zip(batch, mels, lengths, peaks, strict=True)
        ]

    def _sample(self, recording: _Recording, mel: np.ndarray, peak: float) -> Sample:
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
            "mel.npy": npy_bytes(mel.astype(self.task.dtype)),
            "json": json.dumps(meta, ensure_ascii=False).encode(),
        }
        return Sample(name, (utterance.speaker, mel.shape[1]), members, prepared.clipped)
