"""Writing shards: a data directory's log-mels in tar files that webdataset reads.

A shard is a pure function of its utterances' recordings and the settings: written again, it has the same bytes.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.files import whole_file, write_text
from sqvae_speech.data.index import DTYPES, VERSION, Bad, ShardIndex, ShardInfo, file_sha256, read_json
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.errors import UserError

UTTERANCES_PER_SHARD = 128
# Frames of the shortest utterance that gives a unit in the published network: 2 fall to the first convolution.
MIN_FRAMES = 4


@dataclass(frozen=True)
class _Job:
    """One shard to write: everything that its bytes depend on, and where it goes."""

    path: Path
    utterances: tuple[Utterance, ...]
    mel_spec: MelSpec
    dtype: str
    channel: str | None
    resample: bool
    min_frames: int

    @property
    def sidecar(self) -> Path:
        return self.path.with_suffix(".json")

    def inputs(self) -> str:
        """SHA-256 of the settings, the utterances and the state (size and time) of their recordings."""
        digest = hashlib.sha256()
        settings = [VERSION, self.mel_spec.to_dict(), self.dtype, self.channel, self.resample, self.min_frames]
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for utterance in self.utterances:
            state: list[int] | None = None
            if not utterance.is_pipe and os.path.exists(utterance.wav):
                stat = os.stat(utterance.wav)
                state = [stat.st_size, stat.st_mtime_ns]
            digest.update(json.dumps([asdict(utterance), state], sort_keys=True).encode())
        return digest.hexdigest()

    def is_done(self) -> bool:
        """Whether the shard on disk is whole and made of just these inputs."""
        if not self.sidecar.is_file():
            return False
        try:
            state = read_json(self.sidecar)
        except UserError:
            return False
        shard = state.get("shard") or {}
        size = self.path.stat().st_size if self.path.is_file() else None
        return state.get("inputs") == self.inputs() and shard.get("bytes") == size


def write_shards(
    data_dir: str | Path,
    output_dir: str | Path,
    mel_spec: MelSpec,
    *,
    split: str | None = None,
    num_workers: int = 1,
    utterances_per_shard: int = UTTERANCES_PER_SHARD,
    dtype: str = "float32",
    channel: str | None = None,
    resample: bool = False,
    min_frames: int = MIN_FRAMES,
    max_bad: int = 0,
    allow_pipes: bool = False,
    progress: bool = True,
) -> ShardIndex:
    """Write ``output_dir/<split>-000000.tar`` ... and ``index.json`` from a Kaldi data directory.

    A sample is ``<utt>.mel.npy``, (n_mels, T), and ``<utt>.json``: utterance_id, speaker, num_frames, num_samples and
    sample_rate (of the wav that the mel was computed from), recording_sample_rate, peak (largest absolute sample,
    linear, before any normalisation), and, where known, text and ali ([onset s, offset s, label] each).

    Shards that are whole and whose inputs and settings are unchanged are kept, so an interrupted run goes on where it
    stopped. A recording counts as changed when its size or time of modification is; what a command gives is not
    looked at.

    Args:
        data_dir: Kaldi data directory.
        output_dir: folder for the shards of this split.
        mel_spec: settings of the features.
        split: beginning of the shards' names; by default the name of ``data_dir``.
        num_workers: processes; 1 works in this one.
        utterances_per_shard: utterances of a shard at most; they are divided evenly.
        dtype: ``float32`` or ``float16`` (half the size; an error of up to 0.04 dB in the normalised features).
        channel: of recordings with several: ``"mix"`` or a number from 0; None refuses them.
        resample: resample recordings of another rate than the MelSpec's, otherwise refuse them.
        min_frames: shorter utterances are refused.
        max_bad: utterances that may be unusable before the whole is refused.
        allow_pipes: run the commands in ``wav.scp``.
        progress: show a progress bar.

    Returns:
        The index, also written.

    Raises:
        UserError: a setting or the data directory is wrong; no utterance, or more than ``max_bad``, cannot be used:
            then there is no ``index.json``, and ``bad.txt`` lists all of them with their reasons.
    """
    for name, value in (("num_workers", num_workers), ("utterances_per_shard", utterances_per_shard)):
        if value < 1:
            raise UserError(f"{name} {value}; at least 1 is needed")
    if max_bad < 0:
        raise UserError(f"max_bad {max_bad}; legal is 0 or more (--max-bad)")
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}; legal are {', '.join(DTYPES)}")
    data = DataDir.read(data_dir, allow_pipes)
    output = Path(output_dir)
    split = split or Path(data_dir).resolve().name
    num_shards = -(-len(data) // utterances_per_shard)
    ends = [len(data) * number // num_shards for number in range(num_shards + 1)]
    jobs = [
        _Job(
            path=output / f"{split}-{number:06d}.tar",
            utterances=data.utterances[start:end],
            mel_spec=mel_spec,
            dtype=dtype,
            channel=channel,
            resample=resample,
            min_frames=min_frames,
        )
        for number, (start, end) in enumerate(itertools.pairwise(ends))
    ]
    output.mkdir(parents=True, exist_ok=True)
    todo = [job for job in jobs if not job.is_done()]
    stale = _stale(output, split, jobs)
    if todo or stale:
        (output / "index.json").unlink(missing_ok=True)  # it describes shards that are about to change
    for path in stale:
        path.unlink()
    with tqdm(
        total=len(data),
        initial=sum(len(job.utterances) for job in jobs) - sum(len(job.utterances) for job in todo),
        desc=f"shards of {split}",
        unit="utterance",
        disable=not progress,
    ) as bar:
        for job in _run(todo, min(num_workers, len(todo))):
            bar.update(len(job.utterances))
    return _write_index(output, split, mel_spec, dtype, jobs, max_bad)


def _stale(output: Path, split: str, jobs: list[_Job]) -> list[Path]:
    """Shards of an earlier, larger division of this split."""
    wanted = {path for job in jobs for path in (job.path, job.sidecar)}
    numbered = [output.glob(f"{split}-[0-9][0-9][0-9][0-9][0-9][0-9].{suffix}") for suffix in ("tar", "json")]
    return sorted(path for paths in numbered for path in paths if path not in wanted)


def _run(jobs: list[_Job], num_workers: int) -> Iterator[_Job]:
    """Write the shards; yields each job when it is done."""
    if num_workers <= 1:
        for job in jobs:
            yield _write_shard(job)
        return
    # "spawn": a forked child of a process that has used torch's threads can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        futures = [pool.submit(_write_shard, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise UserError(
                f"a worker process died, most likely for lack of memory; run it again with fewer than {num_workers} "
                "workers (--num-workers): finished shards are kept"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_shard(job: _Job) -> _Job:
    import torch
    import webdataset

    # one thread, whatever the number of workers: the order of sums, and so the bytes, must not depend on it
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        inputs = job.inputs()  # before reading: a recording that changes while we read is then found changed
        features = _Features(job)
        job.sidecar.unlink(missing_ok=True)
        bad: list[Bad] = []
        listed: list[tuple[str, str, int]] = []
        with whole_file(job.path) as temporary:
            with temporary.open("wb") as file:
                with webdataset.TarWriter(
                    file, encoder=False, user="", group="", mtime=0, compress=False, format="PAX_FORMAT"
                ) as writer:
                    for utterance in job.utterances:
                        try:
                            sample, num_frames = features(utterance)
                        except UserError as error:
                            bad.append(Bad(utterance.utterance_id, str(error)))
                            continue
                        writer.write(sample)
                        listed.append((utterance.utterance_id, utterance.speaker, num_frames))
                file.flush()
                os.fsync(file.fileno())
            offsets = _offsets(temporary)
            checksum = file_sha256(temporary)
            size = temporary.stat().st_size
        shard = ShardInfo(job.path.name, len(listed), sum(frames for *_, frames in listed), size, checksum)
        state = {
            "version": VERSION,
            "inputs": inputs,
            "shard": vars(shard),
            "utterances": [[*item, offsets[f"{item[0]}.mel.npy"], offsets[f"{item[0]}.json"]] for item in listed],
            "bad": [tuple(item) for item in bad],
        }
        write_text(job.sidecar, json.dumps(state, ensure_ascii=False) + "\n")
    finally:
        torch.set_num_threads(threads)
    return job


def _offsets(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of every member, read back from the finished tar."""
    with tarfile.open(path, "r:") as archive:
        return {member.name: (member.offset_data, member.size) for member in archive}


class _Features:
    """Utterance to webdataset sample; raises :class:`UserError` with the reason when it cannot be used."""

    def __init__(self, job: _Job):
        from sqvae_speech.audio.logmel import LogMel

        self.job = job
        self.log_mel = LogMel(job.mel_spec)

    def __call__(self, utterance: Utterance) -> tuple[dict[str, Any], int]:
        import torch

        from sqvae_speech.data.npy import npy_bytes
        from sqvae_speech.data.recordings import read_utterance

        job, spec = self.job, self.job.mel_spec
        wav, rate = read_utterance(utterance, spec.sample_rate, job.channel, job.resample)
        with torch.no_grad():
            out = self.log_mel(torch.from_numpy(wav)[None])
        mel = out.mel[0].numpy().astype(job.dtype)
        num_frames = mel.shape[1]
        if num_frames < job.min_frames:
            seconds = job.min_frames / spec.frame_rate
            raise UserError(
                f"{utterance.wav}: too short, {len(wav) / spec.sample_rate:.3f} s make {num_frames} frames, at least "
                f"{job.min_frames} ({seconds:.3f} s) are needed (--min-frames); leave it out or join it to another"
            )
        meta = {
            "utterance_id": utterance.utterance_id,
            "speaker": utterance.speaker,
            "num_frames": num_frames,
            "num_samples": len(wav),
            "sample_rate": spec.sample_rate,
            "recording_sample_rate": rate,
            "peak": float(out.peak[0]),
        }
        if utterance.text is not None:
            meta["text"] = utterance.text
        if utterance.ali:
            meta["ali"] = [tuple(interval) for interval in utterance.ali]
        sample = {
            "__key__": utterance.utterance_id,
            "mel.npy": npy_bytes(mel),
            "json": json.dumps(meta, ensure_ascii=False).encode(),
        }
        return sample, num_frames


def _write_index(
    output: Path, split: str, mel_spec: MelSpec, dtype: str, jobs: list[_Job], max_bad: int
) -> ShardIndex:
    shards, bad = [], []
    for job in jobs:
        state = read_json(job.sidecar)
        bad += [Bad(*item) for item in state["bad"]]
        if state["shard"]["utterances"]:
            shards.append(ShardInfo(**state["shard"]))
    lost = {item.utterance_id for item in bad}
    speakers = {u.speaker for job in jobs for u in job.utterances if u.utterance_id not in lost}
    index = ShardIndex(output, split, mel_spec, dtype, tuple(sorted(speakers)), tuple(shards), tuple(bad))
    listing = output / "bad.txt"
    if bad:
        write_text(listing, "".join(f"{item.utterance_id}\t{item.reason}\n" for item in bad))
    else:
        listing.unlink(missing_ok=True)
    if len(bad) > max_bad or not shards:
        (output / "index.json").unlink(missing_ok=True)
        raise UserError(_refusal(bad, max_bad, listing, nothing_left=not shards))
    index.save()
    return index


def _refusal(bad: list[Bad], max_bad: int, listing: Path, nothing_left: bool) -> str:
    reasons = "\n".join(f"  {item.utterance_id}: {item.reason}" for item in bad[:5])
    more = f"\n  ... and {len(bad) - 5} more, all in {listing}" if len(bad) > 5 else ""
    if nothing_left:
        return f"no utterance can be used:\n{reasons}{more}"
    return (
        f"utterances that cannot be used: {len(bad)}, at most {max_bad} may be (--max-bad):\n{reasons}{more}\n"
        f"Repair or remove them, or pass --max-bad {len(bad)} to go on without them"
    )


def default_num_workers() -> int:
    """Processes that this process may use at once: its CPU affinity, at most 16."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return min(16, len(affinity(0)) if affinity else os.cpu_count() or 1)
