"""``sqvae-speech shards``: a data directory to log-mel features in webdataset shards."""

import sys
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.bin._cli import ArgumentParser, run


def get_parser() -> ArgumentParser:
    """Return the parser."""
    from sqvae_speech.data.index import DTYPES
    from sqvae_speech.data.shards import MIN_FRAMES, UTTERANCES_PER_SHARD, default_num_workers

    parser = ArgumentParser(prog="sqvae-speech shards", description="Write log-mel features to webdataset shards.")
    parser.add_argument("data_dir", type=Path, help="Kaldi data directory")
    parser.add_argument("output_dir", type=Path, help="folder for the shards and index.json")
    parser.add_argument("--mel-spec", default="sqvae16k", help="preset of the features")
    parser.add_argument("--split", help="beginning of the shards' names (default: the data directory's name)")
    parser.add_argument("--num-workers", type=int, default=default_num_workers(), help="processes")
    parser.add_argument("--utterances-per-shard", type=int, default=UTTERANCES_PER_SHARD, help="of a shard, at most")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="stored type of the mels")
    parser.add_argument("--channel", help="of recordings with several: mix, or a number from 0 (default: refuse)")
    parser.add_argument(
        "--resample", action="store_true", help="resample recordings of another rate (default: refuse)"
    )
    parser.add_argument("--min-frames", type=int, default=MIN_FRAMES, help="shorter utterances are refused")
    parser.add_argument("--max-bad", type=int, default=0, help="utterances that may be left out as unusable")
    parser.add_argument("--allow-pipes", action="store_true", help="run the commands in wav.scp")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write what is missing of the shards and print what they hold."""
    from sqvae_speech.audio.melspec import MelSpec
    from sqvae_speech.data.shards import write_shards

    options = vars(get_parser().parse_args(argv))
    mel_spec = MelSpec.preset(options.pop("mel_spec"))
    index = write_shards(options.pop("data_dir"), options.pop("output_dir"), mel_spec, **options)
    size = sum(shard.bytes for shard in index.shards) / 1e6
    print(
        f"{index.folder}: {index.num_utterances} utterances, {len(index.speakers)} speakers, {index.hours:.3f} h, "
        f"{index.num_frames} frames in {len(index.shards)} shards of {size:.1f} MB in all"
    )
    for bad in index.bad:
        print(f"left out: {bad.utterance_id}: {bad.reason}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
