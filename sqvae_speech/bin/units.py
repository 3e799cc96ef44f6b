"""Convert, summarise and show files of units: ``sqvae-speech units``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.bin._cli import ArgumentParser, run

SUFFIXES = ".parquet (our store), .km (HuBERT), .gslm (GSLM), .kaldi (Kaldi text)"


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech units", description=__doc__)
    verbs = options.add_subparsers(dest="verb", required=True, parser_class=ArgumentParser)

    convert = verbs.add_parser("convert", description="One form of units to another.", help="one form to another")
    _input(convert)
    convert.add_argument("output", metavar="OUTPUT", help=f"its suffix says the form: {SUFFIXES}")
    convert.add_argument("--to", metavar="FORM", help="form of the output, when its suffix does not say")
    runs = convert.add_mutually_exclusive_group()
    runs.add_argument("--deduplicate", action="store_true", help="collapse runs of equal units")
    runs.add_argument("--expand", action="store_true", help="undo it, from the durations of a store")
    convert.add_argument("--codebook", type=int, metavar="N", help="codebook for a text form, if there are several")

    stats = verbs.add_parser(
        "stats", description="How the units are used.", help="perplexity, usage, bitrate, durations"
    )
    _input(stats)
    stats.add_argument("--output", metavar="FILE", help="write them as JSON too")
    stats.add_argument("--plot", metavar="PNG", help="draw how often each code is used")

    show = verbs.add_parser("show", description="What a file is, and its first utterances.", help="print utterances")
    _input(show)
    show.add_argument("--utterance", action="append", default=[], metavar="ID", help="this one (may be repeated)")
    show.add_argument("--max", type=int, default=5, metavar="N", help="so many utterances; 0 for all")
    return options


def _input(options: argparse.ArgumentParser) -> None:
    options.add_argument("input", metavar="INPUT", help=f"its suffix says the form: {SUFFIXES}")
    options.add_argument("--from", dest="form", metavar="FORM", help="form of the input, if its suffix does not say")
    options.add_argument("--ids", metavar="FILE", help="for .km: ids, or a fairseq manifest (.tsv)")
    options.add_argument("--codebook-size", type=int, metavar="K", help="for a text form without a dictionary")
    options.add_argument("--frame-rate", type=float, metavar="HZ", help="units a second, which no text form says")


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to ``convert``, ``stats`` or ``show``."""
    args = parser().parse_args(argv)
    from sqvae_speech.units.formats import read_format

    store = read_format(
        args.input, args.form, codebook_size=args.codebook_size, frame_rate=args.frame_rate, ids=args.ids
    )
    return {"convert": _convert, "stats": _stats, "show": _show}[args.verb](args, store)


def _convert(args, store) -> int:
    from sqvae_speech.units.formats import write_format
    from sqvae_speech.units.store import deduplicate_store, expand_store

    if args.deduplicate:
        store = deduplicate_store(store)
    if args.expand:
        store = expand_store(store)
    for file in write_format(args.output, store, args.to, codebook=args.codebook):
        print(file)
    return 0


def _stats(args, store) -> int:
    from sqvae_speech.data.files import write_text
    from sqvae_speech.plots import plot_code_histogram
    from sqvae_speech.units.statistics import code_counts, summary, unit_statistics

    statistics = unit_statistics(store)
    print(summary(statistics))
    if args.output:
        write_text(Path(args.output), json.dumps(statistics.to_dict(), indent=2) + "\n")
    if args.plot:
        plot_code_histogram(args.plot, code_counts(store, store.meta.codebook_size, store.meta.num_codebooks))
    return 0


def _show(args, store) -> int:
    meta = store.meta
    rate = "unknown" if meta.frame_rate is None else f"{meta.frame_rate:g} Hz"
    spec = "unknown" if meta.mel_spec is None else meta.mel_spec["name"]
    print(
        f"{args.input}: {len(store)} utterances, {meta.num_codebooks} x {meta.codebook_size} codes, {rate}, features "
        f"{spec}, checkpoint {(meta.checkpoint or 'unknown')[:12]}{', deduplicated' if meta.deduplicated else ''}"
    )
    chosen = args.utterance or (store.ids[: args.max] if args.max else store.ids)
    for utterance_id in chosen:
        units = store[utterance_id]
        print(f"\n{utterance_id}  speaker {units.speaker or 'unknown'}, {units.num_units} units")
        if units.text:
            print(f"  {units.text}")
        for codes in units.codes:
            print("  " + " ".join(map(str, codes.tolist())))
        if units.durations is not None:
            print("  lasting " + " ".join(map(str, units.durations.tolist())))
    if len(chosen) < len(store) and not args.utterance:
        print(f"\n{len(store) - len(chosen)} more; --max 0 shows all")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
