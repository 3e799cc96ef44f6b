"""Say a text in the voice of a speaker, as wav: ``sqvae-speech speak``.

A text-to-units model (`sqvae-speech train`, task text_to_units) makes units of the text, the speech model that they
are of makes a log-mel of them, and a vocoder makes it sound.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqvae_speech.allocation import keep_freed_memory
from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError

if TYPE_CHECKING:
    from sqvae_speech.models.pretrained import SpeechBundle
    from sqvae_speech.models.pretrained_text_to_units import TextToUnitsBundle


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech speak", description=__doc__)
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("text", nargs="?", metavar="TEXT", help="what to say")
    source.add_argument("--file", metavar="FILE", help="the lines of this file")
    source.add_argument(
        "--like", metavar="FILE", help="the texts of this unit store, as --speaker, or as their speakers"
    )
    options.add_argument("--max", type=int, metavar="N", help="only the first of so many texts")
    options.add_argument(
        "--model",
        metavar="DIR",
        help="text-to-units run, checkpoint or export (default: a small one that comes with the project)",
    )
    options.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="the speech model whose units they are (default: the folder that --model is in)",
    )
    options.add_argument("--speaker", metavar="NAME", help="a speaker seen in training")
    options.add_argument(
        "--output",
        metavar="PATH",
        help="the wav (default: speech.wav); of several texts a folder, for wavs and units.parquet (speech)",
    )
    options.add_argument("--temperature", type=float, default=0.0, help="0 says it always alike; 1 draws it")
    options.add_argument("--seed", type=int, default=0, help="other draws")
    options.add_argument("--rounds", type=int, default=8, metavar="N", help="in which the units are filled in")
    options.add_argument("--rate", type=float, default=1.0, help="2 speaks twice as fast")
    options.add_argument("--units", metavar="FILE", help="write the units here too, in the form that the name says")
    options.add_argument(
        "--vocoder",
        default="griffin_lim",
        help="how log-mels become sound: griffin_lim, istft, istft:<folder>, hub:<repository>:<entry>, vocos",
    )
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Speak; prints what was written."""
    args = parser().parse_args(argv)
    from sqvae_speech.audio.faults import write_checked_wav
    from sqvae_speech.models.pretrained_text_to_units import BUNDLED, load_text_to_units
    from sqvae_speech.models.vocoders import load_vocoder
    from sqvae_speech.units.batches import choose_device
    from sqvae_speech.units.convert_voice import require_units_of, speak_units, speaker_index
    from sqvae_speech.units.formats import write_format
    from sqvae_speech.units.meta import UnitStoreMeta
    from sqvae_speech.units.text_speaking import speak_texts

    _check(args)
    keep_freed_memory()
    device = str(choose_device(args.device))
    model = Path(args.model or BUNDLED)
    bundle = load_text_to_units(model, device)
    tokenizer = _tokenizer(args.tokenizer, model, device)
    require_units_of(tokenizer, UnitStoreMeta.from_dict(bundle.units), f"the text-to-units model {model}")
    if args.speaker is not None:
        speaker_index(tokenizer.speakers, args.speaker)
    lines = _lines(args, bundle, tokenizer.speakers)
    vocoder = load_vocoder(args.vocoder, tokenizer.mel_spec)
    store = speak_texts(
        bundle,
        [line.text for line in lines],
        [line.speaker for line in lines],
        ids=[line.name for line in lines],
        temperature=args.temperature,
        rounds=args.rounds,
        rate=args.rate,
        seed=args.seed,
    )
    output = Path(args.output or ("speech.wav" if args.text is not None else "speech"))
    wanted = [Path(args.units)] if args.units else []
    if args.text is None:
        wanted.append(output / "units.parquet")
    for path in wanted:
        print(*write_format(path, store), sep="\n")
    for units in store:
        wav = speak_units(tokenizer, units, str(units.speaker), vocoder, device=device).wav
        path = output if args.text is not None else output / f"{units.utterance_id}.wav"
        write_checked_wav(path, wav, tokenizer.mel_spec.sample_rate)
        print(f"{path}  {len(wav) / tokenizer.mel_spec.sample_rate:.2f} s  {units.speaker}: {units.text}")
    return 0


class _Line(NamedTuple):
    name: str
    text: str
    speaker: str


def _check(args: argparse.Namespace) -> None:
    if args.max is not None and args.max < 1:
        raise UserError(f"--max {args.max}; at least 1 text is needed")
    if args.like is None and args.speaker is None:
        raise UserError("--speaker is needed: the name of a speaker seen in training")


def _lines(args: argparse.Namespace, bundle: "TextToUnitsBundle", voices: Sequence[str]) -> list[_Line]:
    """What is to be said, by whom: of a store whose speakers are not among ``voices``, by the first that can."""
    if args.like is not None:
        from sqvae_speech.data.texts import TextFrontEnd
        from sqvae_speech.units.spoken_texts import read_spoken_texts
        from sqvae_speech.units.store import read_units

        can = [name for name in voices if name in (bundle.speakers or voices)]
        sayable = read_spoken_texts(read_units(args.like), TextFrontEnd(**bundle.text), bundle.symbols)
        found = [
            _Line(one.utterance_id, str(one.text), args.speaker or (one.speaker if one.speaker in can else can[0]))
            for one in (spoken.units for spoken in sayable)
        ]
    else:
        texts = [args.text] if args.text is not None else _texts(Path(args.file))
        found = [_Line(f"text-{number:04d}", text, args.speaker) for number, text in enumerate(texts, 1)]
    return found[: args.max]


def _texts(path: Path) -> list[str]:
    from sqvae_speech.data.files import read_text

    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} has no text: a line for each sentence is wanted")
    return lines


def _tokenizer(given: str | None, model: Path, device: str) -> "SpeechBundle":
    from sqvae_speech.models.pretrained import load_speech_model
    from sqvae_speech.models.pretrained_text_to_units import BUNDLED
    from sqvae_speech.tokenizer import BUNDLED as BUNDLED_TOKENIZER

    if given is None and model == BUNDLED:
        given = str(BUNDLED_TOKENIZER)
    if given is not None:
        return load_speech_model(given, device)
    try:
        return load_speech_model(model.resolve().parent, device)
    except UserError:
        raise UserError(
            f"{model.resolve().parent}, the folder that --model is in, holds no speech model: give --tokenizer, the "
            "model that made the units"
        ) from None


if __name__ == "__main__":
    sys.exit(run(main))
