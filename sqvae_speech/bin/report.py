"""A run as a web page, or several side by side: ``sqvae-speech report``.

One run gives a page with its scores, curves, codebook and recordings to listen to; several, or --compare, a page that
sets them side by side, with means and spreads over seeds. Either is one HTML file that needs no network.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError

if TYPE_CHECKING:
    from sqvae_speech.reporting.run_folder import RunFolder
    from sqvae_speech.reporting.run_page import Listening


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech report", description=__doc__)
    options.add_argument("folders", nargs="+", metavar="RUN", help="a run; several, or folders with runs below")
    options.add_argument(
        "--output", type=Path, metavar="FILE", help="of one run RUN/report.html, of several ./comparison.html"
    )
    options.add_argument("--compare", action="store_true", help="the page for several runs, even of one")
    options.add_argument("--title", help="of the page for several runs")
    options.add_argument(
        "--baselines",
        nargs="+",
        default=[],
        metavar="FILE",
        help="JSON files of `sqvae-speech evaluate` to set beside the run, measured on the same set",
    )
    listen = options.add_argument_group("what can be heard (of a speech run)")
    listen.add_argument("--examples", type=int, default=3, metavar="N", help="utterances; 0 leaves the model alone")
    listen.add_argument("--shards", type=Path, metavar="DIR", help="to take them from (default: test, or validation)")
    listen.add_argument("--data", type=Path, metavar="DIR", help="data directory with their recordings")
    listen.add_argument("--target-speaker", metavar="NAME", help="to convert to (default: another speaker each)")
    listen.add_argument("--vocoder", default="griffin_lim", help="see `sqvae-speech convert --help`")
    listen.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; prints where."""
    options = parser()
    args = options.parse_args(argv)
    from sqvae_speech.experiments.runs import find_runs
    from sqvae_speech.reporting.page import write_page

    if args.examples < 0:
        options.error(f"--examples {args.examples}; 0 or more are legal")
    paths = find_runs(args.folders)
    if len(paths) > 1 or args.compare:
        if args.baselines:
            options.error(
                "--baselines are set beside one run; `sqvae-speech evaluate table` takes any number of files"
            )
        from sqvae_speech.reporting.comparison_page import comparison_page

        output = args.output or Path("comparison.html")
        page = comparison_page(paths, args.title or ", ".join(Path(folder).name or folder for folder in args.folders))
    else:
        from sqvae_speech.evaluation.evidence_report import read_evidence
        from sqvae_speech.reporting.run_folder import read_run_folder
        from sqvae_speech.reporting.run_page import run_page

        output = args.output or paths[0] / "report.html"
        folder = read_run_folder(paths[0])
        page = run_page(folder, [read_evidence(file) for file in args.baselines], _listening(args, folder))
    write_page(output, page)
    print(f"{output} ({output.stat().st_size / 1e6:.1f} MB)")
    return 0


def _listening(args: argparse.Namespace, folder: "RunFolder") -> "Listening":
    """Examples that the model makes now, or the reason why there are none."""
    from sqvae_speech.reporting.run_page import Listening

    if folder.task != "speech" or not args.examples:
        return Listening()
    shards = args.shards or folder.held_out
    if not folder.model:
        return Listening(note="The run has no checkpoint to make examples with.")
    if shards is None:
        return Listening(note="The shards that the run was validated on are not there: give others with --shards.")
    from sqvae_speech.models.pretrained import load_speech_model
    from sqvae_speech.models.vocoders import load_vocoder
    from sqvae_speech.reporting.run_folder import short_path
    from sqvae_speech.reporting.speech_examples import speech_examples
    from sqvae_speech.units.batches import choose_device

    device = choose_device(args.device)
    try:
        bundle = load_speech_model(folder.path, str(device))
        examples = speech_examples(
            bundle,
            shards,
            load_vocoder(args.vocoder, bundle.mel_spec, device),
            count=args.examples,
            target_speaker=args.target_speaker,
            data=args.data,
            device=device,
        )
    except UserError as error:
        if args.shards or args.data or args.target_speaker or args.vocoder != "griffin_lim":  # asked for
            raise
        return Listening(note=f"No examples could be made: {error}.")
    how = "Griffin-Lim" if args.vocoder == "griffin_lim" else args.vocoder
    return Listening(
        examples,
        f"Utterances of {short_path(shards)}. All but the recordings are made of log-mels by {how}: the second "
        "player of each row says what that alone costs. Below: the phones and the units chosen, a colour a code.",
    )


if __name__ == "__main__":
    sys.exit(run(main))
