"""What conversions are worth: ``sqvae-speech evaluate voices``."""

from collections.abc import Sequence

from sqvae_speech.bin._cli import ArgumentParser
from sqvae_speech.errors import UserError


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(
        prog="sqvae-speech evaluate voices",
        description="Folders that `sqvae-speech convert` wrote: whose voice they are taken for and which words are "
        "recognised, by classifiers trained on other, real recordings; distance from the target's own recording of "
        "the text, where there is one; STOI and PESQ of what was decoded in its own voice (extra `voices`).",
    )
    options.add_argument("--wavs", required=True, nargs="+", metavar="DIR", help="folders with log.jsonl")
    options.add_argument("--names", nargs="+", default=[], metavar="NAME", help="theirs, in the tables")
    options.add_argument(
        "--data", required=True, nargs="+", metavar="DIR", help="data directories of the recordings converted"
    )
    options.add_argument(
        "--train-data", required=True, nargs="+", metavar="DIR", help="of others, to learn speakers and words from"
    )
    options.add_argument("--output", required=True, metavar="FILE", help="JSON; a Markdown table goes beside it")
    options.add_argument(
        "--speaker-model",
        metavar="MODEL",
        help="a TorchScript file or hub:<repository>:<entry>, called with (1, samples) at 16 kHz, instead of a "
        "classifier trained here",
    )
    options.add_argument("--max-train", type=int, default=100, metavar="N", help="recordings a speaker to learn from")
    options.add_argument("--train-steps", type=int, default=600, metavar="N", help="of each classifier")
    options.add_argument("--no-pitch", action="store_true", help="leave F0 out, which takes most of the time")
    options.add_argument(
        "--f0-range", nargs=2, type=float, default=[65.0, 400.0], metavar="HZ", help="in which F0 is looked for"
    )
    options.add_argument("--allow-pipes", action="store_true", help="run commands in wav.scp")
    options.add_argument("--channel", help="of recordings with several: 0, 1, ... or mix")
    options.add_argument("--seed", type=int, default=0, help="of the classifiers")
    options.add_argument("--quiet", action="store_true", help="no progress bar")
    return options


def main(argv: Sequence[str]) -> int:
    """Score; prints the tables."""
    options = parser()
    args = options.parse_args(argv)
    if args.names and len(args.names) != len(args.wavs):
        options.error(f"{len(args.names)} --names for {len(args.wavs)} --wavs; give one for each, or none")
    for option, value in (("--max-train", args.max_train), ("--train-steps", args.train_steps)):
        if value < 1:
            raise UserError(f"{option} {value}; at least 1 is needed")
    names = args.names or args.wavs
    if len(set(names)) < len(names):
        options.error("a folder of --wavs, or a name of --names, comes twice")
    from sqvae_speech.evaluation.report_files import write_report
    from sqvae_speech.evaluation.voices.cepstra import VOICE_SPEC
    from sqvae_speech.evaluation.voices.classifier import ClassifierConfig
    from sqvae_speech.evaluation.voices.evidence import score_voices
    from sqvae_speech.evaluation.voices.judge import train_judge
    from sqvae_speech.evaluation.voices.recordings import Corpus, read_log
    from sqvae_speech.evaluation.voices.report import voice_markdown, voice_report
    from sqvae_speech.evaluation.voices.speaker import load_embedder
    from sqvae_speech.units.f0 import F0

    pitch = F0(*args.f0_range)
    pitch.check(VOICE_SPEC.sample_rate)
    for folder in args.wavs:  # before the classifiers are trained
        read_log(folder)
    corpus = Corpus(args.data, args.allow_pipes, args.channel)
    training = Corpus(args.train_data, args.allow_pipes, args.channel)
    if both := training.ids & corpus.ids:
        raise UserError(f"utterance {min(both)!r} is in --data and in --train-data; give others to learn from")
    judge = train_judge(
        training.sample(args.max_train, args.seed),
        load_embedder(args.speaker_model) if args.speaker_model else None,
        ClassifierConfig(steps=args.train_steps, seed=args.seed),
        progress=not args.quiet,
    )
    scores = {
        name: score_voices(folder, corpus, judge, pitch=None if args.no_pitch else pitch, progress=not args.quiet)
        for name, folder in zip(names, args.wavs, strict=True)
    }
    values = voice_report(scores, judge)
    table = voice_markdown(values)
    print(table)
    for file in write_report(args.output, values, table):
        print(file)
    return 0
