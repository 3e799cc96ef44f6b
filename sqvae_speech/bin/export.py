"""A tokenizer, a vocoder or a text-to-units model for other programs: ``sqvae-speech export``.

A tokenizer as an ONNX file or a compiled PyTorch package, both from wav to units with the features inside, or as a
folder for ``from_pretrained``. Beside the first two lies a JSON with the sample rate, the frame rate and the mel
settings. A vocoder as a folder for ``--vocoder istft:<folder>``, a text-to-units model as one for ``speak --model``.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError

if TYPE_CHECKING:
    from sqvae_speech.tokenizer import SpeechTokenizer

# what loads a model, writes its two files, and its card
Parts = tuple[Callable[..., Any], Callable[..., None], Callable[..., str]]

FORMATS = ("onnx", "torch", "bundle")


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech export", description=__doc__)
    options.add_argument("--model", required=True, metavar="DIR", help="experiment, checkpoint, or OWNER/NAME")
    options.add_argument("--output", required=True, metavar="PATH", help="FILE.onnx, FILE.pt2, or a folder")
    options.add_argument(
        "--format",
        default="onnx",
        choices=FORMATS,
        help="onnx: any runtime; torch: compiled by AOTInductor for this kind of CPU; bundle: weights and model card",
    )
    options.add_argument(
        "--check", nargs="+", default=[], metavar="WAV", help="recordings whose units have to be the same afterwards"
    )
    bundle = options.add_argument_group("of a bundle")
    bundle.add_argument("--name", help="what the model card calls it; by default the folder")
    bundle.add_argument("--licence", metavar="ID", help="of the weights, an SPDX id such as cc-by-4.0, for the card")
    bundle.add_argument("--data", metavar="TEXT", help="what it was trained on, for the card")
    bundle.add_argument(
        "--weights",
        default="float32",
        choices=("float32", "float16"),
        help="float16: half the size; needs --check for a tokenizer",
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Export; prints the files written and what the check found."""
    options = parser()
    args = options.parse_args(argv)
    from sqvae_speech.models.storage import kind_of_model

    if args.format != "bundle" and (args.name or args.licence or args.data or args.weights != "float32"):
        options.error("--name, --licence, --data and --weights are of --format bundle")
    kind = kind_of_model(args.model) if Path(args.model).exists() else ""
    if kind in FOLDERS:
        what, parts = FOLDERS[kind]
        if args.format != "bundle" or args.check:
            options.error(f"{what} is exported with --format bundle, without --check")
        for file in write_folder(parts, args):
            print(file)
        return 0
    if args.weights == "float16" and not args.check:
        options.error("--weights float16 may change units: give recordings to --check")
    from sqvae_speech.tokenizer import SpeechTokenizer

    tokenizer = SpeechTokenizer.from_pretrained(args.model)
    files = write_bundle(tokenizer, args) if args.format == "bundle" else write_graph(tokenizer, args)
    for file in files:
        print(file)
    return 0


def write_graph(tokenizer: "SpeechTokenizer", args: argparse.Namespace) -> list[Path]:
    """An ONNX file or a compiled package, checked on recordings."""
    from sqvae_speech.audio.wav import read_wav
    from sqvae_speech.models.exported import ExportedTokenizer

    wavs = [read_wav(path, tokenizer.sample_rate)[0] for path in args.check]  # what cannot be read should stop us now
    files = tokenizer.export_onnx(args.output) if args.format == "onnx" else tokenizer.export_compiled(args.output)
    if args.check:
        exported = ExportedTokenizer(files[0])
        units = tokenizer.encode(wavs, tokenizer.sample_rate)
        doubtful = tokenizer.near_ties(wavs, tokenizer.sample_rate)
        different = near = total = 0
        for number, wav in enumerate(wavs):
            differs = (units[number].cpu().numpy() != exported.encode([wav])[0]).any(axis=0)
            different, total = different + int(differs.sum()), total + len(differs)
            near += int((differs & doubtful[number].cpu().numpy()).sum())
        print(f"{different} of {total:,} units differ, {near} of them near ties of two codes")
        if different > near:
            raise UserError("units differ that no rounding explains: do not use these files, and report this")
    return files


def write_bundle(tokenizer: "SpeechTokenizer", args: argparse.Namespace) -> list[Path]:
    """A folder for ``from_pretrained``; of float16 weights only if no unit of the recordings changes."""
    from sqvae_speech.tokenizer import SpeechTokenizer

    half = args.weights == "float16"
    if args.check:
        units = tokenizer.encode(args.check)
        again = SpeechTokenizer(tokenizer.bundle.rounded("float16") if half else tokenizer.bundle).encode(args.check)
        different = int((units.codes != again.codes).any(dim=1).sum())
        print(f"{different} of {int(units.lengths.sum()):,} units differ")
        if different:
            raise UserError("weights in float16 change units: leave out --weights float16")
    folder = tokenizer.save_pretrained(
        args.output, name=args.name, licence=args.licence, data=args.data, weights=args.weights
    )
    return sorted(folder.iterdir())


def write_folder(parts: Callable[[], Parts], args: argparse.Namespace) -> list[Path]:
    """A folder with a model that is no tokenizer, to be loaded by its path."""
    from sqvae_speech.models.card import write_shared_folder

    load, save, card = parts()
    bundle = load(args.model)
    folder = write_shared_folder(
        Path(args.output),
        args.name,
        lambda staging: save(staging, bundle, args.weights),
        lambda name: card(bundle, name, licence=args.licence, data=args.data),
    )
    return sorted(folder.iterdir())


def vocoder_parts() -> Parts:
    """For ``--vocoder istft:<folder>`` and ``speech_vocoder``."""
    from sqvae_speech.models.pretrained_vocoder import load_trained_vocoder, save_vocoder
    from sqvae_speech.models.vocoder_card import vocoder_card

    return load_trained_vocoder, save_vocoder, vocoder_card


def text_to_units_parts() -> Parts:
    """For ``speak --model``."""
    from sqvae_speech.models.pretrained_text_to_units import load_text_to_units, save_text_to_units
    from sqvae_speech.models.text_to_units_card import text_to_units_card

    return load_text_to_units, save_text_to_units, text_to_units_card


# kind of model -> what it is called, and what loads it, saves it, writes its card
FOLDERS = {
    "vocoder": ("a vocoder", vocoder_parts),
    "text_to_units": ("a text-to-units model", text_to_units_parts),
}


if __name__ == "__main__":
    sys.exit(run(main))
