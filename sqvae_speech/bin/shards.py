"""``sqvae-speech shards``: a data directory to log-mel features in webdataset shards."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError

if TYPE_CHECKING:
    from sqvae_speech.data.index import ShardIndex


def get_parser() -> ArgumentParser:
    """Return the parser."""
    from sqvae_speech.audio.wav import RESAMPLERS
    from sqvae_speech.data.cluster import SLURM_OPTIONS, default_num_workers
    from sqvae_speech.data.index import DTYPES, MIN_FRAMES, UTTERANCES_PER_SHARD

    parser = ArgumentParser(prog="sqvae-speech shards", description="Write log-mel features to webdataset shards.")
    parser.add_argument("data_dir", type=Path, help="Kaldi data directory")
    parser.add_argument("output_dir", type=Path, help="folder for the shards and index.json")
    parser.add_argument("--mel-spec", default="sqvae16k", help="preset of the features")
    parser.add_argument("--split", help="beginning of the shards' names (default: the data directory's name)")
    parser.add_argument("--utterances-per-shard", type=int, default=UTTERANCES_PER_SHARD, help="of a shard, at most")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="stored type of the mels")
    parser.add_argument("--min-frames", type=int, default=MIN_FRAMES, help="shorter utterances are refused")
    parser.add_argument("--max-bad", type=int, default=0, help="utterances that may be left out as unusable")
    parser.add_argument("--allow-pipes", action="store_true", help="run the commands in wav.scp")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")
    recordings = parser.add_argument_group("recordings")
    recordings.add_argument("--channel", help="of recordings with several: mix, or a number from 0 (default: refuse)")
    recordings.add_argument(
        "--resample",
        nargs="?",
        const="soxr",
        metavar="|".join(RESAMPLERS),
        help="resample recordings of another rate: soxr (polyphase; what --resample alone means) or sinc "
        "(torchaudio's windowed sinc); default: refuse them",
    )
    recordings.add_argument(
        "--trim", type=float, metavar="DB", help="cut ends that are so far below the loudest part"
    )
    recordings.add_argument(
        "--loudness", type=float, metavar="LUFS", help="scale every utterance to this integrated loudness, e.g. -23"
    )
    work = parser.add_argument_group("where the work is done")
    work.add_argument("--num-workers", type=int, default=default_num_workers(), help="processes on this machine")
    work.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="of a Dask cluster that runs already")
    work.add_argument("--slurm", type=int, default=0, metavar="JOBS", help="start so many SLURM jobs (dask-jobqueue)")
    work.add_argument(
        "--slurm-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"of these jobs: {', '.join(SLURM_OPTIONS)} (others: ~/.config/dask/jobqueue.yaml)",
    )
    work.add_argument("--device", default="cpu", help="where features are computed: cpu, cuda or cuda:N")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write what is missing of the shards and print what they hold."""
    options: dict[str, Any] = vars(get_parser().parse_args(argv))

    from sqvae_speech.audio.front_end import FrontEnd
    from sqvae_speech.audio.melspec import MelSpec
    from sqvae_speech.data.cluster import ClusterConfig
    from sqvae_speech.data.shards import write_shards

    mel_spec = MelSpec.preset(options.pop("mel_spec"))
    front_end = FrontEnd(**{key: options.pop(key) for key in ("channel", "trim", "resample", "loudness")})
    cluster = ClusterConfig(
        num_workers=options.pop("num_workers"),
        scheduler=options.pop("scheduler"),
        slurm_jobs=options.pop("slurm"),
        slurm_options=dict(_pair(text) for text in options.pop("slurm_option")),
    )
    index = write_shards(
        options.pop("data_dir"),
        options.pop("output_dir"),
        mel_spec,
        front_end=front_end,
        cluster=cluster,
        **options,
    )
    print(summary(index))
    return 0


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise UserError(f"--slurm-option {text!r}; it takes KEY=VALUE, such as walltime=02:00:00")
    return key, value


def duration(seconds: float) -> str:
    """Return seconds in the unit that a person would use."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    return f"{seconds / 60:.2f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def summary(index: "ShardIndex") -> str:
    """Return a table of what was written, and the reason for every utterance that was not."""
    rate = index.mel_spec.frame_rate
    silent = sum(bad.silent for bad in index.bad)
    rows = {
        "utterances": f"{index.num_utterances}",
        "speakers": f"{len(index.speakers)}",
        "speech": f"{duration(index.num_frames / rate)}, {index.num_frames} frames",
        "shortest, longest": f"{index.shortest / rate:.2f} s, {index.longest / rate:.2f} s",
        "clipped": f"{index.clipped}",
        "left out": f"{len(index.bad)}, of which silent {silent}",
        "shards": f"{len(index.shards)}, {sum(shard.bytes for shard in index.shards) / 1e6:.1f} MB, {index.dtype}",
    }
    lines = [f"{index.folder} ({index.mel_spec.name})"]
    lines += [f"  {name:<18} {value}" for name, value in rows.items()]
    lines += [f"left out: {bad.name}: {bad.reason}" for bad in index.bad]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main))
