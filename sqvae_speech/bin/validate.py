"""``sqvae-speech validate``: check Kaldi data directories and folders of shards."""

import sys
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.bin._cli import ArgumentParser, run


def get_parser() -> ArgumentParser:
    """Return the parser."""
    parser = ArgumentParser(
        prog="sqvae-speech validate",
        description="Check Kaldi data directories as Kaldi does, and folders of shards by their checksums.",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder", help="data directory or folder of shards")
    parser.add_argument("--allow-pipes", action="store_true", help="accept commands in wav.scp")
    parser.add_argument("--audio", action="store_true", help="also open every recording of a data directory")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Check each folder, print what it holds; the first fault ends it with a message."""
    options = get_parser().parse_args(argv)
    for folder in options.folders:
        if (folder / "index.json").is_file():
            from sqvae_speech.data.index import ShardIndex

            index = ShardIndex.load(folder)
            index.validate(checksums=True)
            index.entries()
            what = f"{len(index.shards)} shards, mel {index.mel_spec.name}"
            utterances, speakers, hours = index.num_utterances, len(index.speakers), index.hours
        else:
            from sqvae_speech.data.kaldi import DataDir
            from sqvae_speech.data.recordings import check_recordings

            data = DataDir.read(folder, allow_pipes=options.allow_pipes)
            if options.audio:
                check_recordings(data)
            what = "Kaldi data directory"
            utterances, speakers, hours = len(data), len(data.speakers), (data.duration or 0) / 3600
        print(f"{folder}: valid ({what}; {utterances} utterances, {speakers} speakers, {hours:.3f} h)")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
