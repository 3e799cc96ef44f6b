"""Runs side by side: how each stands, its scores, and the settings in which they differ."""

import sys
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.bin._cli import ArgumentParser, run


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(
        prog="sqvae-speech runs",
        description=__doc__,
        epilog="Columns: run, status, step, time, device, processes, starts, message, path; a score of the last "
        "validation (db2), of the best checkpoint (best/db2), a metric of training (train/entropy); a setting "
        "(training.learning_rate, or learning_rate).",
    )
    options.add_argument("folders", nargs="*", default=["."], metavar="DIR", help="runs, or folders with runs below")
    options.add_argument("--columns", nargs="+", default=[], metavar="NAME", help="instead of what differs")
    options.add_argument("--sort", metavar="NAME", help="by this column; --sort=-NAME begins with the largest")
    form = options.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything that is known, for programs")
    form.add_argument("--markdown", action="store_true", help="the table as Markdown")
    form.add_argument("--csv", action="store_true", help="the table as CSV")
    options.add_argument("--plots", type=Path, metavar="DIR", help="also draw the runs' curves in one figure each")
    options.add_argument(
        "--curves", nargs="+", default=["valid/loss", "valid/perplexity"], metavar="NAME", help="which ones"
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    args = parser().parse_args(argv)
    from sqvae_speech.experiments import comparison, tables
    from sqvae_speech.experiments.runs import find_runs, read_run

    runs = [read_run(path) for path in find_runs(args.folders)]
    columns, left_out = (args.columns, 0) if args.columns else comparison.default_columns(runs)
    comparison.require_columns(runs, [*args.columns, *([args.sort.removeprefix("-")] if args.sort else [])])
    if args.sort:
        runs = comparison.sort_runs(runs, args.sort)
    if args.json:
        print(comparison.to_json(runs), end="")
    else:
        write = tables.markdown_table if args.markdown else tables.csv_table if args.csv else tables.text_table
        print(write(*comparison.table(runs, columns)), end="")
        for each, name in zip(runs, comparison.names_of(runs), strict=True):
            if each.message and not (args.markdown or args.csv):
                print(f"\n{name}: {each.message}")
        if left_out and not args.csv:
            print(f"\n{left_out} more settings differ: --json has all")
    if args.plots:
        named = list(zip(comparison.names_of(runs), (run.path for run in runs), strict=True))
        for file in comparison.draw_curves(named, args.curves, args.plots):
            print(file, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
