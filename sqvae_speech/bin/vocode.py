"""Log-mels to sound, of shards or of recordings (copy synthesis): ``sqvae-speech vocode``."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.allocation import keep_freed_memory
from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech vocode", description=__doc__)
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", metavar="DIR", help="utterances of this folder with index.json")
    source.add_argument("--wav", nargs="+", metavar="FILE", help="recordings, whose log-mels are computed first")
    options.add_argument(
        "--vocoder",
        default="istft",
        help="istft (the small one that comes with the project), istft:<folder> of a trained one, griffin_lim, "
        "hub:<repository or folder>:<entry>, vocos",
    )
    options.add_argument("--mel-spec", default="sqvae16k", help="preset of the log-mels of --wav")
    options.add_argument("--channel", help="of recordings with several: 0, 1, ... or mix")
    options.add_argument("--output", required=True, metavar="DIR", help="for the wavs, one an utterance")
    options.add_argument("--max", type=int, metavar="N", help="the first N utterances only")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    options.add_argument("--quiet", action="store_true", help="no progress bar")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Synthesise; prints how much, and how fast."""
    args = parser().parse_args(argv)
    import torch
    from tqdm import tqdm

    from sqvae_speech.audio.faults import write_checked_wav
    from sqvae_speech.audio.melspec import MelSpec
    from sqvae_speech.data.index import ShardIndex
    from sqvae_speech.models.vocoders import load_vocoder
    from sqvae_speech.units import convert_files as files
    from sqvae_speech.units.batches import choose_device

    if args.max is not None and args.max < 1:
        raise UserError(f"--max {args.max}; at least 1 utterance is needed")
    keep_freed_memory()
    device = choose_device(args.device)
    spec = ShardIndex.load(args.shards).mel_spec if args.shards else MelSpec.preset(args.mel_spec)
    vocoder = load_vocoder(args.vocoder, spec, device)
    if args.shards:
        sources = files.shard_sources(args.shards, spec)
    else:
        channel = int(args.channel) if (args.channel or "").isdigit() else args.channel
        sources = files.wav_sources(args.wav, spec, channel)
    spoken = taken = 0.0
    for source in tqdm(sources[: args.max], unit="wav", disable=args.quiet):
        utterance = source.load()
        assert isinstance(utterance, files.UtteranceMel)
        mel = torch.from_numpy(utterance.mel).to(device)
        start = time.perf_counter()
        wav = vocoder.vocode(mel, peak=utterance.peak).cpu().numpy()
        taken += time.perf_counter() - start
        spoken += len(wav) / spec.sample_rate
        path = Path(args.output) / f"{source.utterance_id}.wav"
        write_checked_wav(path, wav, spec.sample_rate, spec.num_samples(mel.shape[1]), spec.hop_length)
    count = len(sources[: args.max])
    print(f"{count} wavs in {args.output}: {spoken:.1f} s of speech, {spoken / taken:.0f} times as fast as real time")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
