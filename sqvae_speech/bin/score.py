"""Reconstruction and codebook scores of a model on shards, of speech or images: ``sqvae-speech score``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.bin._cli import ArgumentParser, run


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech score", description=__doc__)
    options.add_argument("--model", required=True, metavar="DIR", help="experiment, checkpoint or exported model")
    options.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="folders with index.json")
    options.add_argument("--output", required=True, metavar="FILE", help="JSON; a Markdown table goes beside it")
    options.add_argument(
        "--plots", metavar="DIR", help="draw the use of the codes here, and of images reconstructions, of each split"
    )
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    options.add_argument("--quiet", action="store_true", help="no progress bar")
    speech = options.add_argument_group("speech")
    speech.add_argument(
        "--target-speaker",
        action="append",
        default=[],
        metavar="NAME",
        help="also decode everything as this trained speaker (may be repeated)",
    )
    speech.add_argument("--max-frames", type=int, default=16_000, help="mel frames of a batch, with its padding")
    images = options.add_argument_group("images")
    images.add_argument(
        "--perceptual",
        nargs="+",
        default=[],
        metavar="NAME",
        help="further scores, of lpips and fid (torchmetrics); skipped with a message where weights cannot be had",
    )
    images.add_argument("--batch-size", type=int, default=100, help="images of a batch")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Score; prints the table."""
    options = parser()
    args = options.parse_args(argv)
    from sqvae_speech.data.image_inspection import is_images

    kinds = {is_images(shards) for shards in args.shards}
    if len(kinds) > 1:
        options.error("--shards of speech and of images: score them one after the other")
    files = _score_images(args) if kinds.pop() else _score_speech(args)
    for file in files:
        print(file)
    return 0


def _score_speech(args: argparse.Namespace) -> list[Path]:
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
    return files


def _score_images(args: argparse.Namespace) -> list[Path]:
    from sqvae_speech.evaluation.image_report import draw_scores, image_markdown, image_report
    from sqvae_speech.evaluation.image_scores import score_image_shards
    from sqvae_speech.evaluation.report_files import write_report
    from sqvae_speech.models.pretrained_image import load_image_model
    from sqvae_speech.units.batches import choose_device

    device = choose_device(args.device)
    bundle = load_image_model(args.model, str(device))
    scores = [
        score_image_shards(
            bundle,
            shards,
            perceptual=args.perceptual,
            batch_size=args.batch_size,
            device=device,
            progress=not args.quiet,
        )
        for shards in args.shards
    ]
    values = image_report(bundle, args.model, scores)
    table = image_markdown(values)
    print(table)
    files = write_report(args.output, values, table)
    if args.plots:
        for shards, split in zip(args.shards, scores, strict=True):
            files += draw_scores(args.plots, bundle, shards, split, device)
    return files


if __name__ == "__main__":
    sys.exit(run(main))
