"""Writing shards: a data directory's log-mels in tar files that webdataset reads, a Dask task a shard."""

import contextlib
import dataclasses
import fcntl
import itertools
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from sqvae_speech.audio.front_end import FrontEnd
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.cluster import ClusterConfig, run_tasks
from sqvae_speech.data.files import write_text
from sqvae_speech.data.index import DTYPES, MIN_FRAMES, UTTERANCES_PER_SHARD, Bad, ShardIndex, ShardInfo, read_json
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.data.shard_task import BATCH_SECONDS, ShardSummary, ShardTask, write_shard
from sqvae_speech.errors import UserError


def write_shards(
    data_dir: str | Path,
    output_dir: str | Path,
    mel_spec: MelSpec,
    *,
    split: str | None = None,
    front_end: FrontEnd | None = None,
    cluster: ClusterConfig | None = None,
    utterances_per_shard: int = UTTERANCES_PER_SHARD,
    dtype: str = "float32",
    device: str = "cpu",
    min_frames: int = MIN_FRAMES,
    max_bad: int = 0,
    allow_pipes: bool = False,
    progress: bool = True,
) -> ShardIndex:
    """Write ``output_dir/<split>-000000.tar`` ... and ``index.json`` from a Kaldi data directory.

    A sample is ``<utt>.mel.npy``, (n_mels, T), and ``<utt>.json``: utterance_id, speaker, num_frames, num_samples and
    sample_rate (of the wav that the mel was computed from), recording_sample_rate, peak (largest absolute sample,
    linear, before the MelSpec's normalisation), clipped, and, where known, text and ali ([onset s, offset s, label]
    each). With trimming also part, what is left of the recording in seconds, which ali counts from; with loudness
    normalisation gain, in dB.

    Shards that are whole and whose inputs and settings are unchanged are kept, so an interrupted run goes on where it
    stopped, and gives the same bytes as one that was not. A recording counts as changed when its size or time of
    modification is; what a command gives is not looked at. Memory is that of the data directory's tables, about a
    kilobyte an utterance, and of two minutes of speech a worker.

    Args:
        data_dir: Kaldi data directory.
        output_dir: folder for the shards of this split. With workers on other machines, one that all of them share.
        mel_spec: settings of the features.
        split: beginning of the shards' names; by default the name of ``data_dir``.
        front_end: what is done to recordings first; by default nothing, so several channels or another rate than the
            MelSpec's are refused.
        cluster: where the shards are made; by default in this process.
        utterances_per_shard: utterances of a shard at most; they are divided evenly.
        dtype: ``float32`` (normalised dB are computed in it too, with an error of up to 0.004 dB; other features in
            float64) or ``float16`` (half the size, an error of up to 0.04 dB in the normalised features).
        device: where features are computed, as torch names it.
        min_frames: shorter utterances are refused.
        max_bad: utterances that may be unusable before the whole is refused.
        allow_pipes: run the commands in ``wav.scp``.
        progress: show a progress bar.

    Returns:
        The index, also written.

    Raises:
        UserError: a setting or the data directory is wrong; another run is writing to the folder; no utterance, or
            more than ``max_bad``, cannot be used: then there is no ``index.json``, and ``bad.txt`` lists all of them
            with their reasons.
    """
    if utterances_per_shard < 1:
        raise UserError(f"utterances_per_shard {utterances_per_shard}; at least 1 is needed")
    if max_bad < 0:
        raise UserError(f"max_bad {max_bad}; legal is 0 or more (--max-bad)")
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}; legal are {', '.join(DTYPES)}")
    _check_device(device)
    front_end = front_end or FrontEnd()
    data = DataDir.read(data_dir, allow_pipes)
    output = Path(output_dir)
    split = split or Path(data_dir).resolve().name
    num_shards = -(-len(data) // utterances_per_shard)
    ends = [len(data) * number // num_shards for number in range(num_shards + 1)]
    tasks = [
        ShardTask(
            path=output.absolute() / f"{split}-{number:06d}.tar",
            utterances=data.utterances[start:end],
            mel_spec=mel_spec,
            front_end=front_end,
            dtype=dtype,
            min_frames=min_frames,
            device=device,
        )
        for number, (start, end) in enumerate(itertools.pairwise(ends))
    ]
    output.mkdir(parents=True, exist_ok=True)
    with _alone(output):
        done = {task.path: summary for task in tasks if (summary := task.summary())}
        todo = [task for task in tasks if task.path not in done]
        stale = _stale(output, split, tasks)
        if todo or stale:
            (output / "index.json").unlink(missing_ok=True)  # it describes shards that are about to change
        for path in stale:
            path.unlink()
        bar = _Progress(f"shards of {split}", len(data), list(done.values()), shown=progress)
        cluster = cluster or ClusterConfig()
        cluster = dataclasses.replace(cluster, num_workers=max(1, min(cluster.num_workers, len(todo))))
        with bar, contextlib.closing(run_tasks(write_shard, todo, cluster)) as summaries:
            for summary in summaries:
                bar.add(summary)
        for path in _half_written(output, split):  # by workers that died; others have done their shards
            path.unlink(missing_ok=True)
        for task in todo:
            if not task.sidecar.is_file():
                raise UserError(
                    f"the workers have written {task.path.name}, but not to {output}: with workers on other machines "
                    "the folder has to be one that all of them share, under the same path"
                )
        return _write_index(output, split, tasks, max_bad)


def _check_device(device: str) -> None:
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in BATCH_SECONDS:
        raise UserError(f"device {device!r}; legal are {', '.join(BATCH_SECONDS)} (--device)")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device!r}, but this machine shows no GPU to torch; leave out --device")


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Hold the folder's lock: two runs at once would clear away each other's half-written files."""
    with (output / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run is writing shards to {output}; wait for it, or choose another folder"
            ) from None
        yield


def _stale(output: Path, split: str, tasks: list[ShardTask]) -> list[Path]:
    """Shards of an earlier, larger division of this split, and what a killed run has left half-written."""
    wanted = {path.name for task in tasks for path in (task.path, task.sidecar)}
    number = "[0-9]" * 6
    found = [path for kind in ("tar", "json") for path in output.glob(f"{split}-{number}.{kind}")]
    return sorted([path for path in found if path.name not in wanted] + _half_written(output, split))


def _half_written(output: Path, split: str) -> list[Path]:
    return sorted(output.glob(f".{split}-{'[0-9]' * 6}.*.part"))


class _Progress:
    """A bar over utterances that also counts the hours of speech, and those per hour of work."""

    def __init__(self, title: str, total: int, done: list[ShardSummary], *, shown: bool):
        self.seconds = sum(summary.seconds for summary in done)
        self.bad = sum(summary.bad for summary in done)
        self.earlier = self.seconds
        self.bar = tqdm(
            total=total,
            initial=sum(summary.utterances for summary in done),
            desc=title,
            unit="utt",
            disable=not shown,
            dynamic_ncols=True,
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, summary: ShardSummary) -> None:
        """Count a shard that has been written."""
        self.seconds += summary.seconds
        self.bad += summary.bad
        elapsed = self.bar.format_dict["elapsed"] or 1e-9
        said = f"{self.seconds / 3600:.2f} h, {(self.seconds - self.earlier) / elapsed:.0f} x real time"
        self.bar.set_postfix_str(said + (f", {self.bad} bad" if self.bad else ""), refresh=False)
        self.bar.update(summary.utterances)


def _write_index(output: Path, split: str, tasks: list[ShardTask], max_bad: int) -> ShardIndex:
    shards, bad = [], []
    for task in tasks:
        state = read_json(task.sidecar)
        bad += [Bad(*item) for item in state["bad"]]
        if state["shard"]["utterances"]:
            shards.append(ShardInfo(**state["shard"]))
    lost = {item.utterance_id for item in bad}
    speakers = {u.speaker for task in tasks for u in task.utterances if u.utterance_id not in lost}
    first = tasks[0]
    index = ShardIndex(
        folder=output,
        split=split,
        mel_spec=first.mel_spec,
        front_end=first.front_end,
        dtype=first.dtype,
        speakers=tuple(sorted(speakers)),
        shards=tuple(shards),
        bad=tuple(bad),
    )
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
