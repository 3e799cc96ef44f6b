"""Speech to discrete units, or images to codes: ``sqvae-speech encode``.

From recordings, printed a line each (`name|71 12 57`); from a data directory or shards (of speech or images), into a
unit store; or live, raw samples from standard input, a unit a line. A store may be made by many processes:
`accelerate launch --num_processes 4 -m sqvae_speech.bin.encode ...`; a run that was killed goes on where it stopped.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqvae_speech.allocation import keep_freed_memory
from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError

if TYPE_CHECKING:
    from sqvae_speech.units.parts import Processes


def parser() -> ArgumentParser:
    """The options."""
    options = ArgumentParser(prog="sqvae-speech encode", description=__doc__)
    options.add_argument(
        "--model",
        required=True,
        metavar="DIR",
        help="experiment, checkpoint, exported model, or OWNER/NAME of the Hub",
    )
    source = options.add_argument_group("what to encode, one of")
    source.add_argument("wavs", nargs="*", metavar="WAV", help="recordings, of any rate")
    source.add_argument("--shards", metavar="DIR", help="folder with index.json, e.g. dump/test, of speech or images")
    source.add_argument(
        "--data-dir", metavar="DIR", help="Kaldi data directory, e.g. data/test; recordings of any rate"
    )
    source.add_argument("--stream", action="store_true", help="raw samples of one channel from standard input")
    options.add_argument("--output", metavar="FILE", help="unit store, e.g. units/test.parquet")
    options.add_argument(
        "--formats",
        default="",
        metavar="A,B",
        help="other forms to write beside it, such as km,gslm,espnet: `sqvae-speech units convert --help` has all",
    )
    options.add_argument("--deduplicate", action="store_true", help="collapse runs (the store keeps their durations)")
    options.add_argument("--codebook", type=int, metavar="N", help="codebook for other forms, if there are several")
    columns = options.add_argument_group("more columns of the store")
    columns.add_argument("--f0", action="store_true", help="F0 of every unit by pYIN, Hz, 0 where unvoiced")
    columns.add_argument(
        "--f0-range", nargs=2, type=float, default=(65.0, 400.0), metavar=("LOW", "HIGH"), help="Hz, of --f0"
    )
    columns.add_argument("--recordings", metavar="DIR", help="data directory of the shards, for --f0")
    columns.add_argument("--top-k", type=int, default=0, metavar="K", help="the K most probable codes of every unit")
    columns.add_argument("--entropy", action="store_true", help="entropy of every unit's posterior, nats")
    columns.add_argument(
        "--sample-units", default="", metavar="SEED,...", help="a sequence drawn from the posterior for each seed"
    )
    options.add_argument("--channel", help="of recordings with several: 0, 1, ... or mix")
    options.add_argument("--allow-pipes", action="store_true", help="run the commands in wav.scp")
    options.add_argument("--max-bad", type=int, default=0, help="unreadable utterances of --data-dir to leave out")
    options.add_argument("--rate", type=int, help="of --stream, Hz; by default the model's")
    options.add_argument("--pcm", default="s16le", help="samples of --stream: s16le, s32le or f32le")
    options.add_argument(
        "--level-from", metavar="WAV", help="of --stream: take peak and loudness from this recording"
    )
    options.add_argument("--max-frames", type=int, default=16_000, help="mel frames of a batch, with its padding")
    options.add_argument("--part-frames", type=int, default=128_000, help="mel frames that a process does at a time")
    options.add_argument("--batch-size", type=int, default=100, help="images of a batch")
    options.add_argument("--part-images", type=int, default=10_000, help="images that a process does at a time")
    options.add_argument("--dtype", default="float32", help="of the encoder: float32, bfloat16 or float16")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    options.add_argument("--quiet", action="store_true", help="no progress bar")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Encode; prints the units, or the files written and a summary of the units."""
    options = parser()
    args = options.parse_intermixed_args(argv)
    kinds = {"WAV ...": args.wavs, "--shards": args.shards, "--data-dir": args.data_dir, "--stream": args.stream}
    given = [kind for kind, value in kinds.items() if value]
    if len(given) != 1:
        options.error(f"give one of {', '.join(kinds)}" + (f", not {' and '.join(given)}" if given else ""))
    if args.output is None and (args.shards or args.data_dir):
        options.error(f"--output is needed with {given[0]}")
    if args.stream and args.output:
        options.error("--stream writes to standard output: leave out --output")
    columns = {"--f0": args.f0, "--top-k": args.top_k, "--entropy": args.entropy, "--sample-units": args.sample_units}
    if any(columns.values()) and args.output is None:
        wanted = next(name for name, value in columns.items() if value)
        options.error(f"{wanted} is a column of a store: give --output")
    if args.recordings and not (args.shards and args.f0):
        options.error("--recordings is for --f0 with --shards")
    keep_freed_memory()
    if args.stream:
        return encode_stream(args)
    if args.wavs:
        return encode_wavs(args)
    if args.shards:
        from sqvae_speech.data.image_inspection import is_images

        if is_images(args.shards):
            if args.formats or args.deduplicate:
                options.error("--formats and --deduplicate are for units in time; --shards has images")
            return encode_images(args)
    return encode_set(args)


def encode_set(args: argparse.Namespace) -> int:
    """A data directory or shards, by all processes."""
    from sqvae_speech.tokenizer import SpeechTokenizer
    from sqvae_speech.units.extract import encode_shards
    from sqvae_speech.units.extract_wavs import encode_data_dir
    from sqvae_speech.units.store import read_units

    processes, device = processes_and_device(args.device)
    tokenizer = SpeechTokenizer.from_pretrained(args.model, device=device, dtype=args.dtype)
    bundle = replace(tokenizer.bundle, model=tokenizer.network)
    common: dict[str, Any] = {
        "formats": forms(args),
        "deduplicated": args.deduplicate,
        "codebook": args.codebook,
        "allow_pipes": args.allow_pipes,
        **columns_wanted(args),
        "part_frames": args.part_frames,
        "device": tokenizer.device,
        "processes": processes,
        "progress": not args.quiet,
    }
    if args.shards:
        options = {"recordings": args.recordings, "max_frames": args.max_frames}
        files = encode_shards(bundle, args.shards, args.output, **options, **common)
    else:
        options = {"channel": args.channel, "max_bad": args.max_bad}
        files = encode_data_dir(bundle, args.data_dir, args.output, **options, **common)
    if processes.is_first:
        summarise(read_units(files[0]), files)
    finish(processes)
    return 0


def encode_images(args: argparse.Namespace) -> int:
    """Shards of images, by all processes."""
    from sqvae_speech.models.pretrained_image import load_image_model
    from sqvae_speech.units.batches import choose_device
    from sqvae_speech.units.image_extract import encode_image_shards
    from sqvae_speech.units.store import read_units

    processes, name = processes_and_device(args.device)
    device = choose_device(name)
    files = encode_image_shards(
        load_image_model(args.model, str(device)),
        args.shards,
        args.output,
        batch_size=args.batch_size,
        part_images=args.part_images,
        device=device,
        processes=processes,
        progress=not args.quiet,
    )
    if processes.is_first:
        summarise(read_units(files[0]), files)
    finish(processes)
    return 0


def encode_wavs(args: argparse.Namespace) -> int:
    """Recordings named on the command line: printed, and stored where ``--output`` asks for it."""
    from pathlib import Path

    from sqvae_speech.audio.sources import recording_source
    from sqvae_speech.data.ids import legal_id
    from sqvae_speech.models.wavs import WavReader
    from sqvae_speech.tokenizer import SpeechTokenizer
    from sqvae_speech.units.extract import check_forms, export, store_meta
    from sqvae_speech.units.extract_wavs import Recording, encode_recordings
    from sqvae_speech.units.formats import text_line
    from sqvae_speech.units.sequences import deduplicate
    from sqvae_speech.units.store import read_units, write_units

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("recordings on the command line are for one process; for many, list them in a --data-dir")
    # a file that is not there should stop us before the first is encoded
    recordings = [
        Recording(legal_id(Path(path).stem, path), recording_source(path, args.channel)) for path in args.wavs
    ]
    tokenizer = SpeechTokenizer.from_pretrained(args.model, device=args.device, dtype=args.dtype)
    columns = columns_wanted(args)
    meta = store_meta(tokenizer.bundle, deduplicated=args.deduplicate, **columns)
    check_forms(forms(args), meta, args.codebook)
    reader = WavReader(tokenizer.network, tokenizer.logmel)

    def units() -> Iterator[Any]:
        for recording in recordings:
            (one,) = encode_recordings(tokenizer.network, reader, tokenizer.mel_spec, [recording], **columns)
            yield deduplicate(one) if args.deduplicate else one

    if args.output is None:
        for one in units():
            print(text_line(one, meta, codebook=args.codebook), flush=True)
    else:
        write_units(args.output, units(), meta)
        summarise(read_units(args.output), [args.output, *export(args.output, forms(args), codebook=args.codebook)])
    return 0


def encode_stream(args: argparse.Namespace) -> int:
    """Raw samples from standard input; a unit a line, as soon as it is known."""
    import numpy as np

    from sqvae_speech.errors import nearest
    from sqvae_speech.tokenizer import SpeechTokenizer
    from sqvae_speech.units.live import PCM_FORMS, read_pcm

    if args.pcm not in PCM_FORMS:
        raise UserError(f"--pcm {args.pcm}{nearest(args.pcm, PCM_FORMS)}; legal: {', '.join(PCM_FORMS)}")
    tokenizer = SpeechTokenizer.from_pretrained(args.model, device=args.device, dtype=args.dtype)
    level = None if args.level_from is None else tokenizer.level(args.level_from, channel=args.channel)
    stream = tokenizer.stream(args.rate if args.rate is not None else tokenizer.sample_rate, level=level)
    last = None

    def tell(codes: np.ndarray) -> None:
        nonlocal last
        for unit in codes.T.tolist():
            if not (args.deduplicate and unit == last):
                print(*unit, flush=True)
            last = unit

    for samples in read_pcm(sys.stdin.buffer, args.pcm):
        tell(stream.push(samples).cpu().numpy())
    tell(stream.finish().cpu().numpy())
    return 0


def processes_and_device(device: str) -> tuple["Processes", str]:
    """Who shares the work, by the launcher's environment, and the device of this process."""
    from sqvae_speech.units.parts import Processes

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(), device
    import torch
    from accelerate import PartialState

    # Processes only wait for one another, which gloo does on any machine; the slowest may take its time.
    state = PartialState(cpu=True, timeout=timedelta(days=7))
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{state.local_process_index % torch.cuda.device_count()}"
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone), device


def finish(processes: "Processes") -> None:
    """Leave the group: its threads have to end before the interpreter does."""
    if processes.count > 1:
        from torch import distributed

        processes.wait()
        distributed.destroy_process_group()


def columns_wanted(args: argparse.Namespace) -> dict[str, Any]:
    """The optional columns asked for, as the functions that extract take them."""
    from sqvae_speech.units.f0 import F0
    from sqvae_speech.units.soft import SoftUnits

    words = [word for word in args.sample_units.split(",") if word]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise UserError(
            f"--sample-units {args.sample_units}; legal are whole numbers from 0, with commas between them"
        )
    soft = SoftUnits(args.entropy, args.top_k, tuple(map(int, words)))
    return {"soft": soft, "f0": F0(*args.f0_range) if args.f0 else None}


def forms(args: argparse.Namespace) -> list[str]:
    """The other forms asked for."""
    return [name for name in args.formats.split(",") if name]


def summarise(store: Any, files: Sequence[Any]) -> None:
    """Print what a store holds, and the files written."""
    from sqvae_speech.units.statistics import summary, unit_statistics

    spoken = any(units.num_units for units in store)
    print(summary(unit_statistics(store)) if spoken else f"{len(store)} utterances, none long enough for a unit")
    for file in files:
        print(file)


if __name__ == "__main__":
    sys.exit(run(main))
