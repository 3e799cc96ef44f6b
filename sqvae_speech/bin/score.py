"""Reconstruction and codebook scores of a model on shards: ``sqvae-speech score``."""

import sys
from collections.abc import Sequence

from sqvae_speech.bin._cli import ArgumentParser, run


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech score", description=__doc__)
    options.add_argument("--model", required=True, metavar="DIR", help="experiment, checkpoint or exported model")
    options.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="folders with index.json")
    options.add_argument("--output", required=True, metavar="FILE", help="JSON; a Markdown table goes beside it")
    options.add_argument(
        "--target-speaker",
        action="append",
        default=[],
        metavar="NAME",
        help="also decode everything as this trained speaker (may be repeated)",
    )
    options.add_argument("--plots", metavar="DIR", help="write a code histogram of each split here")
    options.add_argument("--max-frames", type=int, default=16_000, help="mel frames of a batch, with its padding")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    options.add_argument("--quiet", action="store_true", help="no progress bar")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Score; prints the table."""
    args = parser().parse_args(argv)
    from pathlib import Path

    from sqvae_speech.evaluation.report import markdown, report
    from sqvae_speech.evaluation.report_files import write_report
    from sqvae_speech.evaluation.scores import score_shards
    from sqvae_speech.models.pretrained import load_speech_model
    from sqvae_speech.plots import plot_code_histogram
    from sqvae_speech.units.batches import choose_device

    device = choose_device(args.device)
    bundle = load_speech_model(args.model, str(device))
    scores = [
        score_shards(
            bundle,
            shards,
            target_speakers=args.target_speaker,
            max_frames=args.max_frames,
            device=device,
            progress=not args.quiet,
        )
        for shards in args.shards
    ]
    values = report(bundle, args.model, scores)
    table = markdown(values)
    print(table)
    files = write_report(args.output, values, table)
    if args.plots:
        files += [plot_code_histogram(Path(args.plots) / f"codes_{s.split}.png", s.counts, s.split) for s in scores]
    for file in files:
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
