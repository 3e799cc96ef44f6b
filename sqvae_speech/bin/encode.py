"""Shards of log-mels to discrete units: ``sqvae-speech encode``."""

import sys
from collections.abc import Sequence

from sqvae_speech.bin._cli import ArgumentParser, run


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech encode", description=__doc__)
    options.add_argument("--model", required=True, metavar="DIR", help="experiment, checkpoint or exported model")
    options.add_argument("--shards", required=True, metavar="DIR", help="folder with index.json, e.g. dump/test")
    options.add_argument("--output", required=True, metavar="FILE", help="unit store, e.g. units/test.parquet")
    options.add_argument(
        "--formats", default="", metavar="A,B", help="text forms to write beside it as well, of km,gslm,kaldi"
    )
    options.add_argument("--deduplicate", action="store_true", help="collapse runs (the store keeps their durations)")
    options.add_argument("--codebook", type=int, metavar="N", help="codebook for text forms, if there are several")
    options.add_argument("--max-frames", type=int, default=16_000, help="mel frames of a batch, with its padding")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    options.add_argument("--quiet", action="store_true", help="no progress bar")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Encode; prints the files written and a summary of the units."""
    args = parser().parse_args(argv)
    from sqvae_speech.models.pretrained import load_speech_model
    from sqvae_speech.units.batches import choose_device
    from sqvae_speech.units.extract import encode_shards
    from sqvae_speech.units.statistics import summary, unit_statistics
    from sqvae_speech.units.store import read_units

    device = choose_device(args.device)
    files = encode_shards(
        load_speech_model(args.model, str(device)),
        args.shards,
        args.output,
        formats=[name for name in args.formats.split(",") if name],
        deduplicated=args.deduplicate,
        codebook=args.codebook,
        max_frames=args.max_frames,
        device=device,
        progress=not args.quiet,
    )
    print(summary(unit_statistics(read_units(files[0]))))
    for file in files:
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
