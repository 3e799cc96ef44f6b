"""``sqvae-speech shards``: a data directory of speech or images to webdataset shards."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError

if TYPE_CHECKING:
    from sqvae_speech.data.image_index import ImageIndex
    from sqvae_speech.data.index import ShardIndex
    from sqvae_speech.data.shard_folder import ShardFolder


def get_parser() -> ArgumentParser:
    """Return the parser."""
    from sqvae_speech.audio.wav import RESAMPLERS
    from sqvae_speech.data.cluster import SLURM_OPTIONS, default_num_workers
    from sqvae_speech.data.image_index import IMAGES_PER_SHARD
    from sqvae_speech.data.index import DTYPES, MIN_FRAMES, UTTERANCES_PER_SHARD

    parser = ArgumentParser(
        prog="sqvae-speech shards",
        description="Write webdataset shards: log-mel features of a Kaldi data directory, or the images of a data "
        "directory of images (one with images.scp).",
    )
    parser.add_argument("data_dir", type=Path, help="data directory")
    parser.add_argument("output_dir", type=Path, help="folder for the shards and index.json")
    parser.add_argument("--split", help="beginning of the shards' names (default: the data directory's name)")
    parser.add_argument(
        "--max-bad", type=int, default=0, help="utterances or images to leave out as unusable, at most"
    )
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")
    # Options of one kind have no default here, so that one that is given for the other kind is noticed.
    speech = parser.add_argument_group("speech")
    speech.add_argument("--mel-spec", help="preset of the features (default: sqvae16k)")
    speech.add_argument(
        "--utterances-per-shard", type=int, help=f"of a shard, at most (default: {UTTERANCES_PER_SHARD})"
    )
    speech.add_argument("--dtype", choices=DTYPES, help=f"stored type of the mels (default: {DTYPES[0]})")
    speech.add_argument("--min-frames", type=int, help=f"shorter utterances are refused (default: {MIN_FRAMES})")
    speech.add_argument("--allow-pipes", action="store_true", default=None, help="run the commands in wav.scp")
    speech.add_argument("--channel", help="of recordings with several: mix, or a number from 0 (default: refuse)")
    speech.add_argument(
        "--resample",
        nargs="?",
        const="soxr",
        metavar="|".join(RESAMPLERS),
        help="resample recordings of another rate: soxr (polyphase; what --resample alone means) or sinc "
        "(torchaudio's windowed sinc); default: refuse them",
    )
    speech.add_argument("--trim", type=float, metavar="DB", help="cut ends that are so far below the loudest part")
    speech.add_argument(
        "--loudness", type=float, metavar="LUFS", help="scale every utterance to this integrated loudness, e.g. -23"
    )
    speech.add_argument("--device", help="where features are computed: cpu (default), cuda or cuda:N")
    images = parser.add_argument_group("images")
    images.add_argument(
        "--size", type=int, nargs="+", metavar="N", help="scale to N x N, or height and width (default: as they are)"
    )
    images.add_argument("--crop", type=int, metavar="N", help="first cut N x N pixels from the middle")
    images.add_argument("--channels", type=int, help="1 (grey) or 3 (default: the first image's)")
    images.add_argument("--images-per-shard", type=int, help=f"of a shard, at most (default: {IMAGES_PER_SHARD})")
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
    return parser


SPEECH_OPTIONS = (
    *("mel_spec", "utterances_per_shard", "dtype", "min_frames", "allow_pipes", "device"),
    *("channel", "resample", "trim", "loudness"),
)
IMAGE_OPTIONS = ("size", "crop", "channels", "images_per_shard")


def main(argv: Sequence[str] | None = None) -> int:
    """Write what is missing of the shards and print what they hold."""
    parser = get_parser()
    options: dict[str, Any] = vars(parser.parse_args(argv))

    from sqvae_speech.data.cluster import ClusterConfig
    from sqvae_speech.data.image_dir import is_image_dir

    options["cluster"] = ClusterConfig(
        num_workers=options.pop("num_workers"),
        scheduler=options.pop("scheduler"),
        slurm_jobs=options.pop("slurm"),
        slurm_options=dict(_pair(text) for text in options.pop("slurm_option")),
    )
    speech, images = (
        {name: value for name in names if (value := options.pop(name)) is not None}
        for names in (SPEECH_OPTIONS, IMAGE_OPTIONS)
    )
    if is_image_dir(options["data_dir"]):
        _refuse(parser, speech, "speech", options["data_dir"])
        return _write_images(options, images)
    _refuse(parser, images, "images", options["data_dir"])
    return _write_speech(options, speech)


def _refuse(parser: ArgumentParser, given: dict[str, Any], kind: str, data_dir: Path) -> None:
    if given:
        name = "--" + next(iter(given)).replace("_", "-")
        parser.error(f"{name} is for {kind}; {data_dir} is {'images' if kind == 'speech' else 'speech'}")


def _write_speech(options: dict[str, Any], given: dict[str, Any]) -> int:
    from sqvae_speech.audio.front_end import FrontEnd
    from sqvae_speech.audio.melspec import MelSpec
    from sqvae_speech.data.shards import write_shards

    mel_spec = MelSpec.preset(given.pop("mel_spec", "sqvae16k"))
    front_end = FrontEnd(
        **{key: given.pop(key) for key in ("channel", "trim", "resample", "loudness") if key in given}
    )
    data_dir, output_dir = options.pop("data_dir"), options.pop("output_dir")
    print(summary(write_shards(data_dir, output_dir, mel_spec, front_end=front_end, **options, **given)))
    return 0


def _write_images(options: dict[str, Any], given: dict[str, Any]) -> int:
    from sqvae_speech.data.image_front_end import parse_size
    from sqvae_speech.data.image_shards import write_image_shards

    if "size" in given:
        given["size"] = parse_size(given["size"])
    print(image_summary(write_image_shards(options.pop("data_dir"), options.pop("output_dir"), **options, **given)))
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
    return _table(index, index.mel_spec.name, rows)


def image_summary(index: "ImageIndex") -> str:
    """Return a table of what was written, and the reason for every image that was not."""
    rows = {
        "images": f"{index.num_images}",
        "labels": f"{len(index.labels) or 'none'}",
        "left out": f"{len(index.bad)}",
        "shards": f"{len(index.shards)}, {sum(shard.bytes for shard in index.shards) / 1e6:.1f} MB",
    }
    return _table(index, index.image_spec.describe(), rows)


def _table(index: "ShardFolder", what: str, rows: dict[str, str]) -> str:
    lines = [f"{index.folder} ({what})"]
    lines += [f"  {name:<18} {value}" for name, value in rows.items()]
    lines += [f"left out: {bad.name}: {bad.reason}" for bad in index.bad]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main))
