"""What representations are worth: ``sqvae-speech evaluate``.

ABX, unit to phone, boundaries, probes and bitrate of a trained model, or with --features of a baseline, into one JSON
file and a Markdown table. ABX needs the package fastabx (pip install 'sqvae_speech[abx]', Python 3.12 or newer).

Five more words may follow `evaluate`, each with its own --help: `features` writes features as the ZeroSpeech and
Libri-Light evaluations read them, `codebook` looks at a codebook from all sides, `voices` scores converted
recordings, `text-to-units` compares what a model says of texts with recordings, `table` sets results side by side.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.bin.evaluate_voices import main as voices
from sqvae_speech.errors import UserError

if TYPE_CHECKING:
    from sqvae_speech.evaluation.sets import EvaluationSet
    from sqvae_speech.evaluation.sources import FrameSource, ModelSource

FEATURES = ("model", "mel", "kmeans-mel", "kmeans-latents")


def parser() -> ArgumentParser:
    """The options of ``evaluate`` itself."""
    options = ArgumentParser(prog="sqvae-speech evaluate", description=__doc__)
    _source_options(options)
    options.add_argument("--output", required=True, metavar="FILE", help="JSON; a Markdown table goes beside it")
    options.add_argument("--plots", metavar="DIR", help="draw the phones of every unit here")
    options.add_argument("--representations", default="", metavar="A,B", help="only these (default: all there are)")
    abx = options.add_argument_group("ABX")
    abx.add_argument("--no-abx", action="store_true", help="leave it out")
    abx.add_argument("--item", metavar="FILE", help="item file, instead of the phones of the alignment")
    abx.add_argument("--any-context", action="store_true", help="of --item: phonemes, not triphones; any context too")
    abx.add_argument("--max-size-group", type=int, default=10, metavar="N", help="items of a group; 0 for all")
    abx.add_argument("--max-x-across", type=int, default=5, metavar="N", help="speakers of X for A and B; 0 for all")
    return options


def _features_parser() -> ArgumentParser:
    from sqvae_speech.evaluation.feature_files import FORMS

    options = ArgumentParser(
        prog="sqvae-speech evaluate features",
        description="Features as the ZeroSpeech and Libri-Light evaluations read them, a file an utterance.",
    )
    _source_options(options)
    options.add_argument("--output", required=True, metavar="DIR", help="folder to write to; DIR.json describes it")
    options.add_argument(
        "--representation", metavar="KIND", help="latents, quantized, codes (one-hot), posterior or mel"
    )
    options.add_argument(
        "--form",
        required=True,
        metavar="FORM",
        help=f"one of {', '.join(FORMS)}: text of ZeroSpeech 2017 (with times), 2019 or 2021; matrices (Libri-Light)",
    )
    options.add_argument("--rate", type=float, metavar="HZ", help="of matrices and zs2021 (default: the frames' own)")
    return options


def _codebook_parser() -> ArgumentParser:
    options = ArgumentParser(
        prog="sqvae-speech evaluate codebook",
        description="Use of the codes over time and on a set, dead codes, certainty, a map of the codes by phone, "
        "their neighbours, and the mean mel and sound of those used most.",
    )
    _source_options(options)
    options.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    options.add_argument("--max-utterances", type=int, metavar="N", help="look at N or fewer, spread over the set")
    options.add_argument("--codebook", type=int, default=0, metavar="N", help="which, if there are several")
    options.add_argument("--most-used", type=int, default=8, metavar="N", help="codes to draw and to make sound")
    return options


def _table_parser() -> ArgumentParser:
    options = ArgumentParser(
        prog="sqvae-speech evaluate table", description="Results of `evaluate` side by side, as a Markdown table."
    )
    options.add_argument("files", nargs="+", metavar="FILE", help="JSON files of `evaluate`")
    options.add_argument("--output", metavar="FILE", help="write the table here too")
    return options


def _text_to_units_parser() -> ArgumentParser:
    options = ArgumentParser(
        prog="sqvae-speech evaluate text-to-units",
        description="Units that a text-to-units model says of texts, against those of recordings and of a bigram.",
    )
    options.add_argument("--model", required=True, metavar="DIR", help="text-to-units run, checkpoint or export")
    options.add_argument("--units", required=True, nargs="+", metavar="FILE", help="unit stores with texts")
    options.add_argument("--train", required=True, metavar="FILE", help="the store that the model was trained on")
    options.add_argument(
        "--data", nargs="*", default=[], metavar="DIR", help="data directories, for their phones (ali)"
    )
    options.add_argument("--tokenizer", metavar="DIR", help="the speech model whose units they are, to compare sound")
    options.add_argument("--shards", nargs="*", default=[], metavar="DIR", help="of the recordings, for --tokenizer")
    options.add_argument("--output", required=True, metavar="FILE", help="JSON; a Markdown table goes beside it")
    options.add_argument("--temperature", type=float, default=0.0, help="of the model's draws; 0 draws nothing")
    options.add_argument("--seed", type=int, default=0, help="of all draws")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    return options


def _source_options(options: argparse.ArgumentParser) -> None:
    source = options.add_argument_group("what to evaluate, and on what")
    source.add_argument("--model", metavar="DIR", help="experiment, checkpoint or exported model")
    source.add_argument(
        "--features",
        default="model",
        metavar="KIND",
        help=f"{', '.join(FEATURES)}: the model, the log-mel as it is, or k-means on it or on the model's latents",
    )
    source.add_argument("--name", help="in tables (default: by --model or --features)")
    source.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="folders with index.json")
    source.add_argument(
        "--data", nargs="+", default=[], metavar="DIR", help="their data directories (default: labels in the shards)"
    )
    source.add_argument(
        "--train-shards",
        nargs="+",
        default=[],
        metavar="DIR",
        help="other utterances, to train k-means and probes on",
    )
    source.add_argument("--train-data", nargs="+", default=[], metavar="DIR", help="their data directories")
    source.add_argument("--clusters", type=int, default=512, metavar="K", help="of k-means")
    source.add_argument(
        "--stack", type=int, default=1, metavar="N", help="mel frames that make one, for mel features"
    )
    source.add_argument("--seed", type=int, default=0, help="of k-means and of all draws")
    source.add_argument("--max-frames", type=int, default=16_000, help="mel frames of a batch, with its padding")
    source.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    source.add_argument("--quiet", action="store_true", help="no progress bar")


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to ``features``, ``codebook``, ``voices``, ``text-to-units`` or ``table``, or evaluate."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    actions = {
        "features": _features,
        "codebook": _codebook,
        "voices": voices,
        "text-to-units": _text_to_units,
        "table": _table,
    }
    if arguments and arguments[0] in actions:
        return actions[arguments[0]](arguments[1:])
    return _evaluate(arguments)


def _evaluate(argv: Sequence[str]) -> int:
    options = parser()
    args = options.parse_args(argv)
    if args.any_context and not args.item:
        options.error("--any-context is for --item; the phones of an alignment are compared both ways")
    from sqvae_speech.evaluation.abx import require_fastabx
    from sqvae_speech.evaluation.evidence import EvaluationOptions, evaluate
    from sqvae_speech.evaluation.evidence_files import write_evidence
    from sqvae_speech.evaluation.evidence_report import markdown
    from sqvae_speech.evaluation.items import read_items
    from sqvae_speech.units.batches import choose_device

    if not args.no_abx:
        require_without_abx(require_fastabx)
    test, train = sets(args)
    if args.item and any("part" in utterance.meta for utterance in test):
        raise UserError("--item: its times are of whole recordings, but these shards were trimmed; make them without")
    evidence = evaluate(
        make_source(args, test, train),
        test,
        train,
        EvaluationOptions(
            kinds=tuple(kind for kind in args.representations.split(",") if kind),
            abx=not args.no_abx,
            items=tuple(read_items(args.item)) if args.item else (),
            any_context=args.any_context,
            max_size_group=args.max_size_group or None,
            max_x_across=args.max_x_across or None,
            seed=args.seed,
            device=choose_device(args.device),
            progress=not args.quiet,
        ),
    )
    print(markdown([evidence.values]))
    for file in write_evidence(args.output, evidence, args.plots):
        print(file)
    return 0


def _features(argv: Sequence[str]) -> int:
    args = _features_parser().parse_args(argv)
    from sqvae_speech.evaluation.feature_files import write_features
    from sqvae_speech.evaluation.frames import check_kind

    test, train = sets(args)
    source = make_source(args, test, train)
    kind = check_kind(args.representation or source.kinds[0], source.kinds)
    written = write_features(args.output, source, source.frames(test, [kind]), kind, args.form, rate=args.rate)
    grid = "" if written.rate is None else f", {written.rate:g} Hz (--feature_size {written.feature_size:g})"
    print(f"{args.output}: {written.files} files, {written.dim} numbers a frame{grid}, {written.bitrate:.1f} bit/s")
    return 0


def _codebook(argv: Sequence[str]) -> int:
    options = _codebook_parser()
    args = options.parse_args(argv)
    if args.features != "model":
        options.error("a codebook report is of a model; leave out --features")
    from sqvae_speech.evaluation.codebook_files import write_codebook_report
    from sqvae_speech.evaluation.codebook_report import codebook_report

    if args.max_utterances is not None and args.max_utterances < 1:
        options.error(f"--max-utterances {args.max_utterances}; 1 or more are legal")
    test, _ = sets(args)
    if args.max_utterances is not None:
        test = test.at_most(args.max_utterances)
    source = load_model(args, test)
    report = codebook_report(source, test, codebook=args.codebook)
    used = len(report.counts) - len(report.dead)
    print(f"{used} of {len(report.counts)} codes used, {len(report.dead)} dead")
    files = write_codebook_report(
        args.output, report, source, shards=test.shards, exp_dir=args.model, most_used=args.most_used
    )
    for file in files:
        print(file)
    return 0


def _table(argv: Sequence[str]) -> int:
    args = _table_parser().parse_args(argv)
    from pathlib import Path

    from sqvae_speech.data.files import write_text
    from sqvae_speech.evaluation.evidence_report import markdown, read_evidence

    text = markdown([read_evidence(file) for file in args.files])
    print(text)
    if args.output:
        write_text(Path(args.output), text)
    return 0


def _text_to_units(argv: Sequence[str]) -> int:
    options = _text_to_units_parser()
    args = options.parse_args(argv)
    if (args.tokenizer is None) == bool(args.shards):
        options.error("--tokenizer decodes units, --shards have what to compare it with: give both, or neither")
    from pathlib import Path

    from sqvae_speech.data.index import ShardIndex
    from sqvae_speech.evaluation import text_to_units_scores as scoring
    from sqvae_speech.evaluation.report_files import write_report
    from sqvae_speech.models.pretrained import load_speech_model
    from sqvae_speech.models.pretrained_text_to_units import load_text_to_units
    from sqvae_speech.units.batches import choose_device
    from sqvae_speech.units.store import read_units

    device = str(choose_device(args.device))
    bundle = load_text_to_units(args.model, device)
    decoding = None
    if args.tokenizer is not None:
        shards = [ShardIndex.load(Path(folder)) for folder in args.shards]
        decoding = scoring.Decoding(load_speech_model(args.tokenizer, device), shards)
    train, alignments = read_units(args.train), scoring.read_alignments(args.data)
    splits = {
        Path(path).stem: scoring.score_text_to_units(
            bundle, read_units(path), train, alignments, decoding, temperature=args.temperature, seed=args.seed
        )
        for path in args.units
    }
    table = scoring.text_to_units_markdown(bundle, splits)
    print(table)
    for file in write_report(args.output, scoring.report(bundle, splits), table):
        print(file)
    return 0


def sets(args: argparse.Namespace) -> tuple["EvaluationSet", "EvaluationSet | None"]:
    """The set to evaluate on, and the one to train k-means and probes on."""
    from sqvae_speech.evaluation.sets import EvaluationSet

    if args.train_data and not args.train_shards:
        raise UserError("--train-data without --train-shards; give both")
    train = EvaluationSet.of(args.train_shards, args.train_data) if args.train_shards else None
    return EvaluationSet.of(args.shards, args.data), train


def make_source(args: argparse.Namespace, test: "EvaluationSet", train: "EvaluationSet | None") -> "FrameSource":
    """What ``--features`` names; k-means is trained here."""
    from sqvae_speech.errors import nearest
    from sqvae_speech.evaluation.kmeans import fit_kmeans
    from sqvae_speech.evaluation.sources import MelSource

    if args.features not in FEATURES:
        raise UserError(f"--features {args.features}{nearest(args.features, FEATURES)}; legal: {', '.join(FEATURES)}")
    source: FrameSource
    if args.features in ("model", "kmeans-latents"):
        source = load_model(args, test)
    else:
        source = MelSource(test.mel_spec, args.stack)
    if args.features.startswith("kmeans"):
        if train is None:
            raise UserError(f"--features {args.features} needs --train-shards, utterances to train k-means on")
        test.mel_spec.require_same(train.mel_spec, "the shards", "those to train on")
        source = fit_kmeans(source, train, args.clusters, seed=args.seed)
    if args.name:
        source.name = args.name
    return source


def load_model(args: argparse.Namespace, test: "EvaluationSet") -> "ModelSource":
    """The model of ``--model``, for the features of the shards."""
    from pathlib import Path

    from sqvae_speech.evaluation.sources import ModelSource
    from sqvae_speech.models.pretrained import load_speech_model
    from sqvae_speech.units.batches import choose_device

    if not args.model:
        raise UserError(f"--features {args.features} needs --model, an experiment, checkpoint or exported model")
    device = choose_device(args.device)
    bundle = load_speech_model(args.model, str(device))
    bundle.mel_spec.require_same(test.mel_spec, "the checkpoint", "the shards")
    name = args.name or Path(args.model).resolve().name
    return ModelSource(bundle, name, device=device, max_frames=args.max_frames)


def require_without_abx(require) -> None:
    """Ask for fastabx, with the way around it in the message."""
    try:
        require()
    except UserError as error:
        raise UserError(f"{error}; or leave ABX out with --no-abx") from None


if __name__ == "__main__":
    sys.exit(run(main))
