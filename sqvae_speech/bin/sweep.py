"""Search over configurations: trains the trials of a sweep, here or as a SLURM array, and tabulates their scores.

``sqvae-speech sweep page`` fills results into a Markdown template; it has its own --help.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqvae_speech.bin._cli import ArgumentParser, run

if TYPE_CHECKING:
    from sqvae_speech.experiments.sweep import Sweep


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(
        prog="sqvae-speech sweep",
        description=__doc__,
        epilog="Run it again to go on: finished trials are skipped, interrupted ones resumed, failed ones tried "
        "again. Any key of the training configuration can be given too, for all trials: --data.train dump/train",
    )
    options.add_argument("sweep", type=Path, metavar="SWEEP.yaml", help="what to try")
    options.add_argument("--output", type=Path, required=True, metavar="DIR", help="for the runs and results.*")
    options.add_argument("--trial", action="append", metavar="NAME", help="this trial alone (may be repeated)")
    options.add_argument("--list", action="store_true", help="list the trials and how they stand, and stop")
    options.add_argument("--results-only", action="store_true", help="tabulate what is done, train nothing")
    options.add_argument("--retry", action="store_true", help="go on with diverged trials too")
    options.add_argument("--slurm", action="store_true", help="submit what is not done as a SLURM job array")
    options.add_argument("--no-submit", action="store_true", help="with --slurm: write the script alone")
    options.add_argument(
        "--slurm-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of sbatch: time=10:00:00, gres=gpu:1, ... (may be repeated)",
    )
    options.add_argument("--max-parallel", type=int, default=0, metavar="N", help="SLURM tasks at once; 0: no limit")
    return options


def _page_parser() -> ArgumentParser:
    options = ArgumentParser(
        prog="sqvae-speech sweep page",
        description="Fill results of sweeps into a Markdown template, so that no number of a page is typed. "
        "Places: {{table SWEEP}}, {{value SWEEP | RUN | COLUMN}}, {{change SWEEP | RUN | COLUMN | REFERENCE}}, "
        "{{fact NAME}}.",
    )
    options.add_argument("template", type=Path, metavar="TEMPLATE.md", help="with places to be filled in")
    options.add_argument(
        "--results", nargs="+", default=[], metavar="SWEEP=DIR", help="the sweeps' folders or results.json"
    )
    options.add_argument("--facts", nargs="+", default=[], metavar="NAME=TEXT", help="what else the page says")
    options.add_argument("--output", type=Path, required=True, metavar="FILE.md", help="the page to write")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep, or fill a page; the exit code is 1 when a trial failed or diverged, or only a reference did."""
    words = list(sys.argv[1:] if argv is None else argv)
    return _page(words[1:]) if words[:1] == ["page"] else _sweep(words)


def _page(argv: Sequence[str]) -> int:
    options = _page_parser()
    args = options.parse_args(argv)
    from sqvae_speech.data.files import read_text, write_text
    from sqvae_speech.experiments.page import fill, read_results

    given: dict[str, dict[str, str]] = {}
    for option in ("results", "facts"):
        pairs = [word.partition("=") for word in getattr(args, option)]
        for name, equals, _ in pairs:
            if not name or not equals:
                options.error(f"--{option} takes NAME=VALUE, not {name!r}")
        given[option] = {name: value for name, _, value in pairs}
    sweeps = {name: read_results(path) for name, path in given["results"].items()}
    write_text(args.output, fill(read_text(args.template), sweeps, given["facts"]))
    print(args.output)
    return 0


def _sweep(argv: Sequence[str]) -> int:
    options = parser()
    args, overrides = options.parse_known_args(argv)
    if not args.slurm and (args.slurm_option or args.no_submit or args.max_parallel):
        options.error("--slurm-option, --no-submit and --max-parallel are for --slurm")
    from sqvae_speech.errors import UserError, nearest
    from sqvae_speech.experiments.results import write_results
    from sqvae_speech.experiments.sweep import State, Sweep
    from sqvae_speech.experiments.trials import expand, load_sweep

    config = load_sweep(args.sweep)
    trials = expand(config, args.sweep.parent, overrides)
    names = [trial.name for trial in trials]
    for name in args.trial or ():
        if name not in names:
            raise UserError(f"the sweep has no trial {name!r}{nearest(name, names)}; --list lists all")
    sweep = Sweep(config, trials, args.output)
    if args.list:
        for outcome in sweep.outcomes():
            print(f"{outcome.state:<12} {outcome.trial.name}")
        return 0
    if args.slurm:
        return _submit(args, overrides, sweep)
    if not args.results_only:
        chosen = [trial for trial in trials if not args.trial or trial.name in args.trial]
        runner = Sweep(config, chosen, args.output)
        runner.run(retry=args.retry, references=not args.trial)
        stopped_by = runner.stopped_by
    else:
        stopped_by = 0
    outcomes = sweep.outcomes()
    files = write_results(config, outcomes, args.output, sweep.references())
    print(files[0].read_text(encoding="utf-8"))
    for file in files:
        print(file)
    if stopped_by:
        return 128 + stopped_by
    looked_at = [outcome for outcome in outcomes if not args.trial or outcome.trial.name in args.trial]
    failed = any(outcome.state in (State.FAILED, State.DIVERGED) for outcome in looked_at)
    # those of a whole sweep; a part of it scores none
    unscored = not args.trial and all(outcome.state == State.DONE for outcome in outcomes)
    return int(failed or (unscored and not all(reference.file.is_file() for reference in sweep.references())))


def _submit(args: argparse.Namespace, overrides: Sequence[str], sweep: "Sweep") -> int:
    from sqvae_speech.errors import UserError
    from sqvae_speech.experiments import slurm
    from sqvae_speech.experiments.sweep import State

    options = {}
    for word in args.slurm_option:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--slurm-option {word}: write KEY=VALUE, such as time=10:00:00")
        options[key] = value
    done = {State.DONE, State.BUSY} if args.retry else {State.DONE, State.BUSY, State.DIVERGED}
    waiting = [
        outcome.trial.name
        for outcome in sweep.outcomes()
        if outcome.state not in done and (not args.trial or outcome.trial.name in args.trial)
    ]
    if not waiting:
        print("nothing is left to run; --results-only tabulates")
        return 0
    words = [*overrides, *(["--retry"] if args.retry else [])]
    script = slurm.array_script(
        args.sweep, args.output, waiting, words=words, options=options, max_parallel=args.max_parallel
    )
    path = slurm.write_script(args.output, script)
    print(path)
    if not args.no_submit:
        print(f"job {slurm.submit(path)}: {len(waiting)} trials; tabulate with --results-only when they are done")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
