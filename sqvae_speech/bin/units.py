"""Convert, lay out, summarise, show and compare files of units: ``sqvae-speech units``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError

if TYPE_CHECKING:
    from sqvae_speech.units.store import UnitSource


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech units", description=__doc__)
    verbs = options.add_subparsers(dest="verb", required=True, parser_class=ArgumentParser)

    convert = verbs.add_parser(
        "convert",
        description="One form of units to another.",
        help="one form to another",
        epilog=_table_of_forms(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _input(convert, "input")
    convert.add_argument("output", metavar="OUTPUT", help="its name says the form, see below")
    convert.add_argument("--to", metavar="FORM", help="form of the output, when its name does not say")
    runs = convert.add_mutually_exclusive_group()
    runs.add_argument("--deduplicate", action="store_true", help="collapse runs of equal units")
    runs.add_argument("--expand", action="store_true", help="undo it, from the durations")
    convert.add_argument("--codebook", type=int, metavar="N", help="this one of several, from 0")
    convert.add_argument(
        "--sample", type=int, metavar="SEED", help="units drawn with this seed, not the most probable"
    )
    convert.add_argument(
        "--data-dir", metavar="DIR", help="recordings, for forms that name them: fairseq's manifest, pGSLM, npy"
    )

    corpus = verbs.add_parser(
        "corpus",
        description="A corpus as ESPnet or fairseq lay it out: units, texts, durations, speakers, dictionaries.",
        help="splits to a folder that ESPnet or fairseq can train on",
    )
    corpus.add_argument(
        "stores", nargs="+", metavar="FILE", help="unit stores, one a split, which they are named after"
    )
    corpus.add_argument("--to", required=True, metavar="FORM", help="espnet or fairseq")
    corpus.add_argument("--output", required=True, metavar="DIR", help="the folder, new or empty")
    corpus.add_argument("--data", metavar="DIR", help="with a data directory a split, where the recordings are")

    stats = verbs.add_parser(
        "stats", description="How the units are used.", help="perplexity, usage, bitrate, durations"
    )
    _input(stats, "input")
    stats.add_argument("--output", metavar="FILE", help="write them as JSON too")
    stats.add_argument("--plot", metavar="PNG", help="draw how often each code is used")

    show = verbs.add_parser("show", description="What a file is, and its first utterances.", help="print utterances")
    _input(show, "input")
    show.add_argument("--utterance", action="append", default=[], metavar="ID", help="this one (may be repeated)")
    show.add_argument("--max", type=int, default=5, metavar="N", help="so many utterances; 0 for all")

    diff = verbs.add_parser(
        "diff",
        description="Compare two files of units. Exit code 0 when they are the same, 1 when not, 2 for an error.",
        help="compare two files",
    )
    diff.add_argument("first", metavar="A")
    _input(diff, "second", metavar="B")
    diff.add_argument("--from-first", dest="first_form", metavar="FORM", help="form of A, if its name does not say")
    diff.add_argument("--codebook", type=int, metavar="N", help="compare this one of several only")
    diff.add_argument("--max", type=int, default=5, metavar="N", help="so many differences, one an utterance")
    return options


def _input(options: argparse.ArgumentParser, name: str, metavar: str = "INPUT") -> None:
    options.add_argument(name, metavar=metavar, help="its name says the form: `sqvae-speech units convert --help`")
    options.add_argument("--from", dest="form", metavar="FORM", help=f"form of {metavar}, if its name does not say")
    options.add_argument("--ids", metavar="FILE", help="for forms without ids: ids, or a fairseq manifest (.tsv)")
    options.add_argument("--key", default="hubert_km100", help="for pGSLM: what the units are called")
    options.add_argument("--codebook-size", type=int, metavar="K", help="for a file that came without its dictionary")
    options.add_argument("--num-codebooks", type=int, metavar="N", help="likewise")
    options.add_argument("--frame-rate", type=float, metavar="HZ", help="units a second, where no sidecar says it")
    options.add_argument(
        "--already-deduplicated", action="store_true", help="runs are collapsed, and no sidecar says so"
    )


def _table_of_forms() -> str:
    from sqvae_speech.units.forms.table import FORMS

    rows = [("parquet", "*.parquet", "our store")]
    rows += [(name, " ".join(form.all_patterns), form.what) for name, form in FORMS.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {name:<{widths[0]}}  {files:<{widths[1]}}  {what}" for name, files, what in rows]
    return "forms, and the names that tell them:\n" + "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to ``convert``, ``corpus``, ``stats``, ``show`` or ``diff``."""
    args = parser().parse_args(argv)
    if args.verb == "corpus":
        return _corpus(args)
    if args.verb == "diff":
        try:
            return _diff(args)
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2  # 1 says that they differ
    return {"convert": _convert, "stats": _stats, "show": _show}[args.verb](args, _open(args, args.input, args.form))


def _open(args: argparse.Namespace, path: str, form: str | None) -> "UnitSource":
    from sqvae_speech.units.formats import open_format
    from sqvae_speech.units.forms.base import ReadOptions

    options = ReadOptions(
        codebook_size=args.codebook_size,
        num_codebooks=args.num_codebooks,
        frame_rate=args.frame_rate,
        deduplicated=args.already_deduplicated,
        ids=None if args.ids is None else Path(args.ids),
        key=args.key,
    )
    return open_format(path, form, options)


def _convert(args: argparse.Namespace, source: "UnitSource") -> int:
    from sqvae_speech.units.formats import write_format
    from sqvae_speech.units.store import deduplicated, expanded, one_sample

    if args.sample is not None:
        source = one_sample(source, args.sample)
    if args.deduplicate:
        if source.meta.top_k or source.meta.sample_seeds:
            print("posteriors and samples belong to single steps: they are left out", file=sys.stderr)
        source = deduplicated(source)
    if args.expand:
        source = expanded(source)
    if Path(args.output).exists() and Path(args.output).samefile(source.name):
        raise UserError(f"{args.output} is also the input; give another name")
    files = write_format(args.output, source, args.to, codebook=args.codebook, key=args.key, data_dir=args.data_dir)
    for file in files:
        print(file)
    return 0


def _corpus(args: argparse.Namespace) -> int:
    from sqvae_speech.units.corpora import write_corpus
    from sqvae_speech.units.store import read_units

    stores = {Path(path).stem: read_units(path) for path in args.stores}
    if len(stores) < len(args.stores):
        raise UserError("two stores of one name would be one split; rename one")
    data_dirs = {split: Path(args.data) / split for split in stores} if args.data is not None else {}
    print(write_corpus(args.to, stores, args.output, data_dirs))
    return 0


def _stats(args: argparse.Namespace, source: "UnitSource") -> int:
    from sqvae_speech.data.files import write_text
    from sqvae_speech.plots import plot_code_histogram
    from sqvae_speech.units.statistics import code_counts, summary, unit_statistics

    statistics = unit_statistics(source)
    print(summary(statistics))
    if args.output:
        write_text(Path(args.output), json.dumps(statistics.to_dict(), indent=2) + "\n")
    if args.plot:
        plot_code_histogram(args.plot, code_counts(source, source.meta.codebook_size, source.meta.num_codebooks))
    return 0


def _show(args: argparse.Namespace, source: "UnitSource") -> int:
    from sqvae_speech.units.show import describe_source, describe_utterance
    from sqvae_speech.units.store import UnitStore

    if args.max < 0:
        raise UserError(f"--max {args.max}; legal is 0 or more")
    print(describe_source(source))
    wanted, count = list(dict.fromkeys(args.utterance)), 0
    # a store finds an utterance; anything else has to be gone through
    for units in map(source.__getitem__, wanted.copy()) if isinstance(source, UnitStore) and wanted else source:
        count += 1
        if units.utterance_id in wanted or (not args.utterance and (not args.max or count <= args.max)):
            print(f"\n{describe_utterance(units, source.meta)}")
        if units.utterance_id in wanted:
            wanted.remove(units.utterance_id)
            if not wanted:
                return 0
    if wanted:
        raise UserError(f"{source.name} has no utterance {wanted[0]!r}; `sqvae-speech units show --max 0` lists them")
    shown = min(count, args.max or count)
    if shown < count:
        print(f"\n{count - shown} more; --max 0 shows all")
    return 0


def _diff(args: argparse.Namespace) -> int:
    from sqvae_speech.units.diff import diff_units, report
    from sqvae_speech.units.store import one_codebook

    sides = [_open(args, args.first, args.first_form), _open(args, args.second, args.form)]
    if args.codebook is not None:
        sides = [one_codebook(side, args.codebook) for side in sides]
    found = diff_units(*sides, maximum=args.max)
    print(report(found, args.first, args.second, maximum=args.max))
    return 0 if found.same else 1


if __name__ == "__main__":
    sys.exit(run(main))
