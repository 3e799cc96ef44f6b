"""Shards of speech: a data directory's log-mels in tar files that webdataset reads, a Dask task a shard."""

from pathlib import Path

from sqvae_speech.audio.front_end import FrontEnd
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.cluster import ClusterConfig
from sqvae_speech.data.index import DTYPES, MIN_FRAMES, UTTERANCES_PER_SHARD, ShardIndex, ShardInfo
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.data.shard_folder import Bad
from sqvae_speech.data.shard_task import BATCH_SECONDS, MelTask
from sqvae_speech.data.shard_writing import shard_paths, write_folder
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
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}; legal are {', '.join(DTYPES)}")
    _check_device(device)
    front_end = front_end or FrontEnd()
    data = DataDir.read(data_dir, allow_pipes)
    output = Path(output_dir)
    split = split or Path(data_dir).resolve().name
    tasks = [
        MelTask(
            path=path,
            utterances=tuple(utterances),
            mel_spec=mel_spec,
            front_end=front_end,
            dtype=dtype,
            min_frames=min_frames,
            device=device,
        )
        for path, utterances in shard_paths(output, split, data.utterances, utterances_per_shard)
    ]

    def index_of(shards: tuple[ShardInfo, ...], bad: tuple[Bad, ...]) -> ShardIndex:
        lost = {item.name for item in bad}
        return ShardIndex(
            folder=output,
            split=split,
            shards=shards,
            bad=bad,
            mel_spec=mel_spec,
            front_end=front_end,
            dtype=dtype,
            speakers=tuple(sorted({u.speaker for u in data.utterances if u.utterance_id not in lost})),
        )

    return write_folder(output, split, tasks, index_of, cluster=cluster, max_bad=max_bad, progress=progress)


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
