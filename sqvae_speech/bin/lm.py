"""Score a language model over units, and draw from it: ``sqvae-speech lm``. (``sqvae-speech train`` trains one.)"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError

SAMPLE_SECONDS = 10.0
SAMPLE_UNITS = 500  # where the units do not say how long they last


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech lm", description=__doc__)
    verbs = options.add_subparsers(dest="verb", required=True, parser_class=ArgumentParser)

    score = verbs.add_parser(
        "score",
        description="Bits a unit and a second, against a bigram, a unigram and the uniform prior.",
        help="perplexity and bits against simple models",
    )
    _model(score)
    score.add_argument("--units", required=True, nargs="+", metavar="FILE", help="unit stores to score")
    score.add_argument("--train", metavar="FILE", help="the store to count unigrams and bigrams on")
    score.add_argument("--output", required=True, metavar="FILE", help="JSON; a Markdown table goes beside it")
    score.add_argument("--max-symbols", type=int, default=16_384, help="codes of a batch, with its padding")

    sample = verbs.add_parser(
        "sample",
        description="Draw units: a store of them, and with --tokenizer what they sound or look like.",
        help="units, wavs or images drawn from it",
    )
    _model(sample)
    sample.add_argument("--output", required=True, metavar="DIR", help="for units.parquet and the rest")
    sample.add_argument("--number", type=int, default=8, metavar="N", help="how many")
    sample.add_argument("--max-units", type=int, metavar="N", help=f"at most so long (default: {SAMPLE_SECONDS:g} s)")
    sample.add_argument("--temperature", type=float, default=1.0, help="below 1 more probable ones, 0 the most")
    sample.add_argument("--top-k", type=int, metavar="K", help="draw from the K most probable codes only")
    sample.add_argument("--top-p", type=float, metavar="P", help="draw from the most probable codes with P in all")
    sample.add_argument("--seed", type=int, default=0, help="other draws")
    sample.add_argument(
        "--speaker",
        action="append",
        default=[],
        metavar="NAME",
        help="whose they are, for a model that was told, and the voice to say them in; several are taken in turn "
        "(default: all that model or tokenizer know)",
    )
    sample.add_argument("--prompts", metavar="FILE", help="units to continue: the first utterances of this store")
    sample.add_argument("--prompt-units", type=int, default=50, metavar="N", help="so much of each")
    sample.add_argument("--tokenizer", metavar="DIR", help="the model that made the units, to decode them")
    sample.add_argument("--durations", metavar="FILE", help="store to draw durations from, for deduplicated units")
    sample.add_argument("--vocoder", default="griffin_lim", help="how log-mels become sound")
    return options


def _model(options: argparse.ArgumentParser) -> None:
    options.add_argument("--model", required=True, metavar="DIR", help="experiment, checkpoint or exported model")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to ``score`` or ``sample``."""
    args = parser().parse_args(argv)
    from sqvae_speech.models.pretrained_unit_lm import load_unit_lm
    from sqvae_speech.units.batches import choose_device

    bundle = load_unit_lm(args.model, str(choose_device(args.device)))
    return {"score": _score, "sample": _sample}[args.verb](args, bundle)


def _score(args, bundle) -> int:
    from sqvae_speech.evaluation.lm_scores import lm_markdown, lm_report, score_split
    from sqvae_speech.evaluation.report_files import write_report
    from sqvae_speech.units.extract import check_options
    from sqvae_speech.units.store import read_units

    check_options((), max_symbols=args.max_symbols)
    train = None if args.train is None else read_units(args.train)
    splits = [
        score_split(bundle, read_units(path), train, split=Path(path).stem, max_symbols=args.max_symbols)
        for path in args.units
    ]
    values = lm_report(bundle, splits)
    table = lm_markdown(values)
    print(table)
    for file in write_report(args.output, values, table):
        print(file)
    return 0


def _sample(args, bundle) -> int:
    from sqvae_speech.units.lm_sampling import draw_durations, sample_store
    from sqvae_speech.units.store import UnitStoreMeta, read_units, write_units

    meta = UnitStoreMeta.from_dict(bundle.units)
    device = str(bundle.model.embedding.weight.device)
    if args.durations is not None and not meta.deduplicated:
        raise UserError("--durations is for deduplicated units; those of this model all last one step")
    if args.tokenizer is not None and meta.deduplicated and args.durations is None:
        raise UserError("these units are deduplicated: to be heard they need --durations FILE, a store that has them")
    images = meta.shape is not None
    voices = None if args.tokenizer is None or images else _voices(args, meta, device)
    speakers = args.speaker
    if not speakers and args.prompts is None:
        speakers = bundle.conditions or (() if voices is None else voices.speakers)
    store = sample_store(
        bundle,
        args.number,
        max_units=_default_units(meta.frame_rate) if args.max_units is None else args.max_units,
        speakers=speakers,
        prompts=None if args.prompts is None else read_units(args.prompts),
        prompt_units=args.prompt_units,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
    )
    if args.durations is not None:
        store = draw_durations(store, read_units(args.durations), args.seed)
    output = Path(args.output)
    write_units(output / "units.parquet", store, store.meta)
    print(output / "units.parquet")
    if voices is not None:
        _speak(args, voices, store)
    elif args.tokenizer is not None:
        _draw(args, store, device)
    return 0


def _voices(args, meta, device: str):
    """The speech model that made the units, which knows the speakers asked for."""
    from sqvae_speech.models.pretrained import load_speech_model
    from sqvae_speech.units.convert_voice import require_units_of, speaker_index

    tokenizer = load_speech_model(args.tokenizer, device)
    require_units_of(tokenizer, meta, f"the language model {args.model}")
    for name in args.speaker:
        speaker_index(tokenizer.speakers, name)
    return tokenizer


def _draw(args, store, device: str) -> None:
    """Decode codes of images and write them as one grid."""
    import torch

    from sqvae_speech.models.pretrained_image import load_image_model
    from sqvae_speech.plots import plot_images
    from sqvae_speech.units.image_extract import decode_store

    tokenizer = load_image_model(args.tokenizer, device)
    images = torch.stack(list(decode_store(tokenizer, store, device=device)))
    spec = tokenizer.image_spec
    pixels = images if spec.is_labels else images.clamp(0, 1)
    path = Path(args.output) / "samples.png"
    print(plot_images(path, {"samples": pixels}, num_classes=spec.num_classes or None))


def _default_units(frame_rate: float | None) -> int:
    return SAMPLE_UNITS if frame_rate is None else round(SAMPLE_SECONDS * frame_rate)


def _speak(args, tokenizer, store) -> None:
    """Write what is not empty as wavs, with plots and a log, as ``convert`` does."""
    from sqvae_speech.models.vocoders import load_vocoder
    from sqvae_speech.units.convert_files import convert_files, unit_sources

    empty = {units.utterance_id for units in store if not units.num_units}
    sources = [source for source in unit_sources(store) if source.utterance_id not in empty]
    voices = [source.speaker or tokenizer.speakers[0] for source in sources]
    log = convert_files(
        tokenizer,
        list(zip(sources, voices, strict=True)),
        load_vocoder(args.vocoder, tokenizer.mel_spec),
        args.output,
        vocoder_name=args.vocoder,
        device=next(tokenizer.model.parameters()).device,
        progress=False,
    )
    print(
        f"{len(log)} wavs, {sum(line['seconds'] for line in log):.1f} s, listed in {args.output}/log.jsonl"
        + (f"; {len(empty)} samples ended before the first unit" if empty else "")
    )


if __name__ == "__main__":
    sys.exit(run(main))
