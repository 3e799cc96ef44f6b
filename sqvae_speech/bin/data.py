"""Look at data directories and shards, check them, track their F0: ``sqvae-speech data``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.bin._cli import ArgumentParser, run

FOLDER = "data directory (of recordings or images) or folder of shards"


def get_parser() -> ArgumentParser:
    """Return the parser."""
    parser = ArgumentParser(prog="sqvae-speech data", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, parser_class=ArgumentParser)

    summary = actions.add_parser(
        "summary",
        description="Counts, hours, speakers, labels, levels.",
        help="counts, hours, speakers, labels, levels",
    )
    summary.add_argument("folders", type=Path, nargs="+", metavar="DIR", help=FOLDER)
    summary.add_argument("--json", action="store_true", help="print an object with the folders as keys")
    summary.add_argument(
        "--speakers", type=int, default=20, metavar="N", help="rows of the table (of speakers, of labels); 0 for all"
    )

    validate = actions.add_parser(
        "validate",
        description="Check data directories as Kaldi does, and everything that is in shards. Exits with 1 if there "
        "is a fault; all faults of shards and recordings are listed.",
        help="find what is wrong",
    )
    validate.add_argument("folders", type=Path, nargs="+", metavar="DIR", help=FOLDER)
    validate.add_argument("--allow-pipes", action="store_true", help="accept commands in wav.scp")
    validate.add_argument(
        *("--audio", "--images"), action="store_true", help="also open every recording or image of a data directory"
    )

    show = actions.add_parser(
        "show",
        description="An utterance, and a picture of its mel; or an image.",
        help="one utterance, with its mel, or one image",
    )
    show.add_argument("folder", type=Path, metavar="DIR", help=FOLDER)
    show.add_argument("utterance", metavar="ID", help="of the utterance or image")
    plot = show.add_mutually_exclusive_group()
    plot.add_argument("--plot", type=Path, metavar="PNG", help="the picture (default: ID.png, where you stand)")
    plot.add_argument("--no-plot", action="store_true", help="no picture")
    show.add_argument("--mel-spec", default="sqvae16k", help="preset of the mel, for a data directory")
    show.add_argument(
        "--channel", help="of a recording with several, for the mel: a number from 0 (default: the mean)"
    )
    show.add_argument("--allow-pipes", action="store_true", help="run a command in wav.scp")

    f0 = actions.add_parser(
        "f0",
        description="F0 of every mel frame of shards, by pYIN, for training with model.f0_condition.",
        help="F0 of shards, for decoders that are told it",
    )
    f0.add_argument("data_dir", type=Path, metavar="DIR", help="data directory that the shards were made of")
    f0.add_argument("shards", type=Path, metavar="SHARDS", help="folder of shards")
    f0.add_argument("--output", type=Path, required=True, metavar="NPZ", help="what data.f0 then names")
    f0.add_argument("--f0-range", nargs=2, type=float, default=(65.0, 400.0), metavar=("LOW", "HIGH"), help="Hz")
    f0.add_argument("--num-workers", type=int, default=1, help="processes")
    f0.add_argument("--allow-pipes", action="store_true", help="run the commands in wav.scp")
    f0.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to ``summary``, ``validate``, ``show`` or ``f0``."""
    args = get_parser().parse_args(argv)
    return {"summary": _summary, "validate": _validate, "show": _show, "f0": _f0}[args.action](args)


def _summary(args: argparse.Namespace) -> int:
    from sqvae_speech.data.image_inspection import format_images, is_images, summarize_images
    from sqvae_speech.data.inspection import format_summary, summarize
    from sqvae_speech.errors import UserError

    if args.speakers < 0:
        raise UserError(f"--speakers {args.speakers}; legal is 0 (all) or more")
    found = {}
    shown = []
    for folder in args.folders:
        of, text = (summarize_images, format_images) if is_images(folder) else (summarize, format_summary)
        values = found[str(folder)] = of(folder)
        shown.append(f"{folder}: {values['kind']}\n{text(values, args.speakers)}")
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    print("\n\n".join(shown))
    return 0


def _validate(args: argparse.Namespace) -> int:
    from sqvae_speech.data.image_inspection import check_image_dir, check_image_shards, is_images
    from sqvae_speech.data.integrity import check_data_dir, check_shards
    from sqvae_speech.data.shard_folder import is_shards
    from sqvae_speech.data.shard_integrity import REMEDY
    from sqvae_speech.errors import UserError

    count, bad, shards = 0, 0, False
    for folder in args.folders:
        try:
            if is_images(folder):
                what, faults = (
                    check_image_shards(folder) if is_shards(folder) else check_image_dir(folder, args.audio)
                )
            elif is_shards(folder):
                what, faults = check_shards(folder)
            else:
                what, faults = check_data_dir(folder, args.allow_pipes, args.audio)
        except UserError as error:
            what, faults = "", [str(error)]
        if faults:
            count, bad = count + len(faults), bad + 1
            shards = shards or is_shards(folder)
            print(f"{folder}: {_faults(len(faults))}", file=sys.stderr)
            for fault in faults:
                print(f"  {fault}", file=sys.stderr)
        else:
            print(f"{folder}: valid ({what})")
    if count:
        where = f"{bad} of {len(args.folders)} folders" if len(args.folders) > 1 else str(args.folders[0])
        raise UserError(f"{_faults(count)} in {where}{f'; {REMEDY}' if shards else ''}")
    return 0


def _f0(args: argparse.Namespace) -> int:
    from sqvae_speech.data.cluster import ClusterConfig
    from sqvae_speech.data.f0_tracks import write_f0_tracks
    from sqvae_speech.data.index import ShardIndex
    from sqvae_speech.units.f0 import F0
    from sqvae_speech.units.f0_files import track_shards

    index = ShardIndex.load(args.shards)
    tracks = track_shards(
        args.data_dir,
        index,
        F0(*args.f0_range),
        cluster=ClusterConfig(num_workers=args.num_workers),
        allow_pipes=args.allow_pipes,
        progress=not args.quiet,
    )
    write_f0_tracks(args.output, tracks)
    voiced = sum(int((track > 0).sum()) for track in tracks.values()) / max(1, index.num_frames)
    print(f"{args.output}: {len(tracks)} utterances, {voiced:.0%} of their frames voiced")
    return 0


def _faults(count: int) -> str:
    return f"{count} fault{'' if count == 1 else 's'}"


def _show(args: argparse.Namespace) -> int:
    from sqvae_speech.data.image_inspection import is_images

    return _show_image(args) if is_images(args.folder) else _show_utterance(args)


def _show_utterance(args: argparse.Namespace) -> int:
    from sqvae_speech.audio.melspec import MelSpec
    from sqvae_speech.data.show import show
    from sqvae_speech.plots import plot_mels

    shown = show(args.folder, args.utterance, MelSpec.preset(args.mel_spec), args.channel, args.allow_pipes)
    print(shown)
    if shown.mel is not None and not args.no_plot:
        title = f"{shown.utterance_id} ({shown.mel_spec.name})"
        path = plot_mels(
            args.plot or Path(f"{shown.utterance_id}.png"), {title: shown.mel}, shown.mel_spec, {title: shown.ali}
        )
        print(f"picture: {path}")
    return 0


def _show_image(args: argparse.Namespace) -> int:
    from sqvae_speech.data.image_inspection import show_image
    from sqvae_speech.plots import plot_images

    shown = show_image(args.folder, args.utterance)
    print(shown)
    if not args.no_plot:
        path = args.plot or Path(f"{shown.image_id}.png")
        plot_images(path, {shown.image_id: shown.pixels[None]}, num_classes=len(shown.classes) or None)
        print(f"picture: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
