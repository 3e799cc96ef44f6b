"""Any speech to the voice of a speaker seen in training, as wav: ``sqvae-speech convert``.

Each result is as loud as its source, and is checked: a wrong length, clipping, silence or NaN is reported and makes
the exit code 1.
"""

import sys
from collections.abc import Sequence

from sqvae_speech.allocation import keep_freed_memory
from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech convert", description=__doc__)
    options.add_argument("--model", required=True, metavar="DIR", help="experiment, checkpoint or exported model")
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", metavar="DIR", help="utterances of this folder with index.json")
    source.add_argument("--wav", nargs="+", metavar="FILE", help="recordings of anybody, at any rate")
    source.add_argument("--units", metavar="FILE", help="units that this model made (.parquet, .km, .gslm, .kaldi)")
    target = options.add_mutually_exclusive_group(required=True)
    target.add_argument("--target-speaker", metavar="NAME", help="a speaker seen in training")
    target.add_argument("--all-pairs", action="store_true", help="to every trained speaker but the source's own")
    target.add_argument("--pairs", metavar="FILE", help="as its lines say, SOURCE-UTTERANCE TARGET-SPEAKER")
    options.add_argument(
        "--speaker-vectors",
        metavar="FILE",
        help="an .npz of vectors by name: more targets, for a model with model.speaker vector",
    )
    options.add_argument("--max", type=int, metavar="N", help="so many conversions, spread over pairs of speakers")
    options.add_argument("--output", required=True, metavar="DIR", help="for wavs, log-mel plots and log.jsonl")
    options.add_argument(
        "--vocoder",
        default="griffin_lim",
        help="how log-mels become sound: griffin_lim, istft, istft:<folder>, hub:<repository>:<entry>, vocos",
    )
    options.add_argument("--channel", help="of recordings with several: 0, 1, ... or mix")
    options.add_argument("--no-plots", action="store_true", help="wavs and the log only")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    options.add_argument("--quiet", action="store_true", help="no progress bar")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; prints what was written. Returns 1 when a wav has a fault."""
    options = parser()
    args = options.parse_args(argv)
    if args.pairs and args.max is not None:
        options.error("--max is for --target-speaker and --all-pairs; --pairs says what to convert")
    from sqvae_speech.data.speaker_vectors import SpeakerVectorFile
    from sqvae_speech.models.pretrained import load_speech_model
    from sqvae_speech.models.vocoders import load_vocoder
    from sqvae_speech.units import convert_files as files
    from sqvae_speech.units.batches import choose_device
    from sqvae_speech.units.convert_voice import require_units_of, speaker_index
    from sqvae_speech.units.formats import read_format

    if args.max is not None and args.max < 1:
        raise UserError(f"--max {args.max}; at least 1 conversion is needed")
    keep_freed_memory()
    device = choose_device(args.device)
    bundle = load_speech_model(args.model, str(device))
    if args.speaker_vectors:
        bundle = bundle.with_voices(SpeakerVectorFile(args.speaker_vectors, bundle.voice_vector_dim).vectors)
    if args.target_speaker is not None:
        speaker_index(bundle.speakers, args.target_speaker)
    if args.shards:
        sources = files.shard_sources(args.shards, bundle.mel_spec)
    elif args.wav:
        channel = int(args.channel) if (args.channel or "").isdigit() else args.channel
        sources = files.wav_sources(args.wav, bundle.mel_spec, channel)
    else:
        store = read_format(args.units, codebook_size=bundle.model.codebook_size)
        require_units_of(bundle, store.meta, args.units)
        sources = files.unit_sources(store)
    if args.pairs:
        plan = files.read_pairs(args.pairs, sources, bundle.speakers)
    else:
        targets = list(bundle.speakers) if args.all_pairs else [args.target_speaker]
        plan = files.plan_conversions(sources, targets, to_self=not args.all_pairs, maximum=args.max)
    if not plan:
        raise UserError("nothing to convert: no utterance has a speaker other than the only one trained")
    log = files.convert_files(
        bundle,
        plan,
        load_vocoder(args.vocoder, bundle.mel_spec),
        args.output,
        vocoder_name=args.vocoder,
        device=device,
        plots=not args.no_plots,
        progress=not args.quiet,
    )
    print(f"{len(log)} wavs, {sum(line['seconds'] for line in log):.1f} s, listed in {args.output}/log.jsonl")
    faulty = [line["wav"] or line["utterance_id"] for line in log if line["faults"]]
    if faulty:
        print(f"error: {len(faulty)} of {len(log)} have faults: {', '.join(faulty)}", file=sys.stderr)
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(run(main))
