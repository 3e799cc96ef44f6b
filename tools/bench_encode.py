#!/usr/bin/env python3
"""How fast speech becomes units, and how many units a faster way changes.

    OMP_NUM_THREADS=2 python tools/bench_encode.py --model exp/x --wavs DIR --exports DIR --long 120

writes benchmarks/results/encode_cpu.md and .json. `--wavs` is a folder of recordings, any depth; without it,
generated voices are used, and without `--model` an untrained network of the published sizes, whose units mean little.
`--exports` also times ONNX Runtime and AOTInductor, whose files it keeps in that folder (compiling takes a minute).

xRT is seconds of speech encoded in a second. The baseline is the plain loop: one utterance at a time through the
network as it was trained. Contenders take turns; a figure is the best of its rounds, since whatever else runs only
slows it down.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_common import machine_facts, synchronizer, write_results

from sqvae_speech.allocation import keep_freed_memory
from sqvae_speech.audio.wav import read_wav, wav_info
from sqvae_speech.models.exported import ExportedTokenizer
from sqvae_speech.models.exporting import export_compiled, export_onnx
from sqvae_speech.models.graph import MelToUnits
from sqvae_speech.models.inference import for_inference
from sqvae_speech.models.wavs import BATCH_SECONDS
from sqvae_speech.tokenizer import SpeechTokenizer, speech_tokenizer

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}
Batch = tuple[list[int], Tensor, Tensor]  # numbers of the utterances, padded values, lengths


class Contender(NamedTuple):
    """A way to encode.

    Attributes:
        name: for the table.
        features: whether the log-mel is made too.
        run: gives the codes (N, U) of every utterance, in order.
    """

    name: str
    features: bool
    run: Callable[[], list[Tensor]]


def main() -> int:
    args = parse_args()
    if args.allocation == "kept":
        keep_freed_memory()
    load = {"device": args.device, "dtype": "float32"}
    tokenizer = (
        SpeechTokenizer.from_pretrained(args.model, **load)
        if args.model
        else speech_tokenizer(pretrained=False, map_location=args.device)
    )
    wavs = recordings(args.wavs, tokenizer.sample_rate, 60 * args.minutes)
    seconds = sum(map(len, wavs)) / tokenizer.sample_rate
    document: dict[str, Any] = {
        "machine": machine_facts(args.device),
        "settings": {
            key: value for key, value in vars(args).items() if key not in ("model", "wavs", "exports", "output")
        },
        "command": command(args),
        "utterances": len(wavs),
        "seconds": seconds,
        "tokenizer": repr(tokenizer),
        "near_ties": sum(int(one.sum()) for one in tokenizer.near_ties(wavs, tokenizer.sample_rate)),
    }
    document["cases"] = measure(contenders(tokenizer, wavs, args), seconds, args)
    document["streams"] = [stream(tokenizer, wavs, size, CLOCKS[args.clock]) for size in (0.02, 0.1, 1.0)]
    if args.long:
        document["long"] = long_file(tokenizer, wavs, args.long)
    write_results(args.output, document, report(document))
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="experiment, checkpoint or exported model")
    parser.add_argument("--wavs", type=Path, help="folder of recordings")
    parser.add_argument("--minutes", type=float, default=17.0, help="of speech, at most")
    parser.add_argument("--batch", type=int, default=16, help="utterances of a padded batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: seconds of all threads together, for provisional figures of one thread on a busy machine",
    )
    parser.add_argument(
        "--allocation",
        choices=("kept", "default"),
        default="kept",
        help="memory that is freed: kept, as `sqvae-speech encode` does, or as the C library has it",
    )
    parser.add_argument("--exports", type=Path, help="folder for exported models, which are timed too")
    parser.add_argument(
        "--long", type=float, default=0.0, metavar="MINUTES", help="also encode one file of this length"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/encode_cpu"), help="without suffix")
    return parser.parse_args()


def command(args: argparse.Namespace) -> str:
    """As it was given, without the names of folders."""
    words = [f"--{name} DIR" for name in ("model", "wavs", "exports") if getattr(args, name) is not None]
    words += [f"--{name} {getattr(args, name):g}" for name in ("minutes", "batch", "rounds", "long")]
    threads = torch.get_num_threads()
    words += [f"--{name} {getattr(args, name)}" for name in ("device", "clock", "allocation")]
    return f"OMP_NUM_THREADS={threads} python tools/bench_encode.py {' '.join(words)}"


def recordings(folder: Path | None, sample_rate: int, seconds: float) -> list[np.ndarray]:
    """Wavs at the model's rate, in the order of their paths, about ``seconds`` in all, from all of a folder."""
    wavs: list[np.ndarray] = []
    if folder is None:
        rng = np.random.default_rng(0)
        while sum(map(len, wavs)) < seconds * sample_rate:
            wavs.append(generated(rng, float(rng.uniform(1, 10)), sample_rate))
        return wavs
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"no recordings under {folder}")
    there = sum(wav_info(path).duration for path in files)
    count = max(1, int(len(files) * min(1.0, seconds / there)))
    chosen = np.linspace(0, len(files) - 1, count).round().astype(int)  # evenly from all of them
    return [read_wav(files[number], sample_rate, channel="mix")[0] for number in chosen]


def generated(rng: np.random.Generator, seconds: float, sample_rate: int) -> np.ndarray:
    """Harmonics of a moving pitch, in noise."""
    t = np.arange(int(seconds * sample_rate)) / sample_rate
    pitch = rng.uniform(80, 250) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(1, 4) * t))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    wav = sum(np.sin(k * phase + rng.uniform(0, 6)) / k for k in range(1, 20))
    wav = wav * (1.2 + np.sin(2 * np.pi * 3 * t)) + 0.05 * rng.standard_normal(len(t))
    return (0.5 * wav / np.abs(wav).max()).astype(np.float32)


def contenders(tokenizer: SpeechTokenizer, wavs: list[np.ndarray], args: argparse.Namespace) -> list[Contender]:
    model, logmel, rate = tokenizer.bundle.model, tokenizer.logmel, tokenizer.sample_rate
    half = SpeechTokenizer(tokenizer.bundle, device=args.device, dtype="bfloat16")
    fast, fast_half = for_inference(model), for_inference(model, torch.bfloat16)
    padded_model = MelToUnits(tokenizer.bundle).to(tokenizer.device)

    def mel_of(wav: np.ndarray) -> Tensor:
        return logmel(torch.from_numpy(wav)[None].to(tokenizer.device)).mel

    mels = [mel_of(wav) for wav in wavs]
    rows = [mel[0].T for mel in mels]
    many = max(1, int(BATCH_SECONDS * tokenizer.mel_spec.frame_rate / np.mean([len(row) for row in rows])))
    mel_batches = [(numbers, values.transpose(1, 2), sizes) for numbers, values, sizes in batches(rows, args.batch)]
    large_batches = [(numbers, values.transpose(1, 2), sizes) for numbers, values, sizes in batches(rows, many)]
    wav_batches = batches([torch.from_numpy(wav) for wav in wavs], args.batch)

    def each(network: Any) -> list[Tensor]:
        return [network.encode(mel).codes[0] for mel in mels]

    def whole(chosen: SpeechTokenizer) -> list[Tensor]:
        units = chosen.encode(wavs, rate)
        return [units[number] for number in range(len(wavs))]

    def in_batches(parts: list[Batch], run: Callable[[Tensor, Tensor], tuple[Any, Any]]) -> list[Tensor]:
        codes: dict[int, Tensor] = {}
        for numbers, values, sizes in parts:
            made, units = run(values, sizes)
            for number, row, length in zip(numbers, torch.as_tensor(made), units.tolist(), strict=True):
                codes[number] = row[:, :length]
        return [codes[number] for number in range(len(wavs))]

    def encoded(network: Any) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        def run(mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            units = network.encode(mel, frames)
            return units.codes, units.lengths

        return run

    cases = [
        Contender("plain loop", False, lambda: each(model)),
        Contender("one at a time, float32", False, lambda: each(fast)),
        Contender(f"padded, masked batches of {args.batch}", False, lambda: in_batches(mel_batches, padded_model)),
        Contender("float32", False, lambda: in_batches(large_batches, encoded(fast))),
        Contender("bfloat16", False, lambda: in_batches(large_batches, encoded(fast_half))),
        Contender("plain loop", True, lambda: [model.encode(mel_of(wav)).codes[0] for wav in wavs]),
        Contender("one at a time, float32", True, lambda: [tokenizer.encode(wav, rate)[0] for wav in wavs]),
        Contender("float32", True, lambda: whole(tokenizer)),
        Contender("bfloat16", True, lambda: whole(half)),
        Contender("log-mels alone", True, lambda: [mel_of(wav) for wav in wavs]),
    ]
    if args.exports:
        for features, parts in ((False, mel_batches), (True, wav_batches)):
            for name, exported in exports(tokenizer, args.exports, features).items():

                def run(parts: list[Batch] = parts, exported: ExportedTokenizer = exported) -> list[Tensor]:
                    return in_batches(parts, lambda values, sizes: exported.run(values.numpy(), sizes.numpy()))

                cases.append(Contender(f"{name}, padded batches of {args.batch}", features, run))
    return sorted(cases, key=lambda case: case.features)


def batches(values: list[Tensor], size: int) -> list[Batch]:
    """Padded (B, T, ...) to an even T at least 6, the longest first."""
    order = sorted(range(len(values)), key=lambda number: -len(values[number]))
    parts = []
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        padded = pad_sequence([values[number] for number in numbers], batch_first=True)
        more = max(6 - padded.shape[1], padded.shape[1] % 2)
        padded = torch.cat([padded, padded.new_zeros(len(padded), more, *padded.shape[2:])], dim=1)
        parts.append((numbers, padded, torch.tensor([len(values[number]) for number in numbers])))
    return parts


def exports(tokenizer: SpeechTokenizer, folder: Path, features: bool) -> dict[str, ExportedTokenizer]:
    """ONNX Runtime and AOTInductor, made where they are not there, or are another model's."""
    found = {}
    for name, suffix, export in (("ONNX Runtime", ".onnx", export_onnx), ("AOTInductor", ".pt2", export_compiled)):
        path = folder / f"{'wav' if features else 'mel'}_to_units_{tokenizer.bundle.fingerprint[:12]}{suffix}"
        if not path.exists():
            export(tokenizer.bundle, path, features=features)
        found[name] = ExportedTokenizer(path)
    return found


@torch.no_grad()
def measure(cases: list[Contender], seconds: float, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The best time of each, and its units against those of the plain loop."""
    wait, clock = synchronizer(args.device), CLOCKS[args.clock]
    best, codes = [float("inf")] * len(cases), {}
    for _ in range(args.rounds):
        for number, case in enumerate(cases):
            start = clock()
            codes[number] = case.run()
            wait()
            best[number] = min(best[number], clock() - start)
            print(f"{case.name}: {seconds / best[number]:.0f} xRT", file=sys.stderr, flush=True)
    reference = codes[0]
    results = []
    for number, case in enumerate(cases):
        units: dict[str, Any] = {}
        if codes[number][0].dtype == torch.int64:
            pairs = zip(codes[number], reference, strict=True)
            units["different"] = sum(int((one != other).any(dim=0).sum()) for one, other in pairs)
            units["units"] = sum(one.shape[1] for one in reference)
        results.append({"name": case.name, "features": case.features, "xrt": seconds / best[number], **units})
    return results


def stream(
    tokenizer: SpeechTokenizer, wavs: list[np.ndarray], push_seconds: float, clock: Callable[[], float]
) -> dict[str, float]:
    """A minute pushed in pieces on one thread, the level known: xRT, and the longest that one piece took."""
    rate = tokenizer.sample_rate
    wav = np.concatenate(wavs)[: 60 * rate]
    size = round(push_seconds * rate)
    one = tokenizer.stream(rate, level=tokenizer.level(wav, rate))
    took = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for start in range(0, len(wav), size):
        begin = clock()
        one.push(wav[start : start + size]).cpu()
        took.append(clock() - begin)
    torch.set_num_threads(threads)
    return {
        "push_ms": 1e3 * push_seconds,
        "xrt": len(wav) / rate / sum(took),
        "slowest_push_ms": 1e3 * max(took),
        "latency_ms": 1e3 * one.latency,
    }


LONG = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from bench_common import peak, resident
from sqvae_speech.allocation import keep_freed_memory
from sqvae_speech.tokenizer import SpeechTokenizer

keep_freed_memory()

tokenizer = SpeechTokenizer.from_pretrained(sys.argv[1])
before, start = resident("VmRSS"), time.perf_counter()
units = tokenizer.encode(sys.argv[2])
print(time.perf_counter() - start, peak(), before, int(units.lengths[0]))
"""


def long_file(tokenizer: SpeechTokenizer, wavs: list[np.ndarray], minutes: float) -> dict[str, float]:
    """One file of so many minutes, in a process of its own: xRT and its peak of resident memory, in MB (VmHWM)."""
    import soundfile

    speech = np.concatenate(wavs)
    with tempfile.TemporaryDirectory() as folder:
        path, model = Path(folder) / "long.wav", Path(folder) / "model"
        tokenizer.save_pretrained(model)
        left = round(minutes * 60 * tokenizer.sample_rate)
        with soundfile.SoundFile(path, "w", tokenizer.sample_rate, 1, subtype="PCM_16") as file:
            while left > 0:
                file.write(speech[:left])
                left -= len(speech)
        tools = Path(__file__).resolve().parent
        ours = [str(tools), str(tools.parent)]
        made = subprocess.check_output([sys.executable, "-c", LONG, str(model), str(path), *ours], text=True)
    taken, highest, before, units = map(float, made.split())
    return {"minutes": minutes, "xrt": 60 * minutes / taken, "peak_mb": highest, "before_mb": before, "units": units}


def report(document: dict[str, Any]) -> str:
    """The tables in Markdown."""
    facts, cases = document["machine"], document["cases"]
    base = {case["features"]: case["xrt"] for case in cases if case["name"] == "plain loop"}
    units = next(case["units"] for case in cases if "units" in case)
    lines = [
        "# Encoding: speech to units",
        "",
        f"{document['utterances']:,} utterances, {document['seconds'] / 60:.1f} minutes, {units:,} units, of which "
        f"{document['near_ties']} are near ties. {facts['processor']}, {facts['threads']} threads, PyTorch "
        f"{facts['torch']}, load at the start {facts['load_average'][0]:.1f}; best of "
        f"{document['settings']['rounds']} rounds. {document['tokenizer']}.",
        "",
        f"Command: `{document['command']}`",
        "",
        "Features ready: the network from log-mels on. Included: from wavs at the model's rate.",
        "",
        "| | features | x real time | against the plain loop | units that differ |",
        "|---|---|---:|---:|---:|",
    ]
    for case in cases:
        differ = "" if "different" not in case else f"{case['different']}"
        if case.get("different"):
            differ += f" ({100 * case['different'] / case['units']:.2g}%)"
        lines.append(
            f"| {case['name']} | {'included' if case['features'] else 'ready'} | {case['xrt']:,.0f} | "
            f"{case['xrt'] / base[case['features']]:.2f} | {differ} |"
        )
    lines += [
        "",
        "| streaming on one thread, pushes of | x real time | slowest push, ms | algorithmic latency, ms |",
        "|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one['push_ms']:.0f} ms | {one['xrt']:.0f} | {one['slowest_push_ms']:.1f} | {one['latency_ms']:.1f} |"
        for one in document["streams"]
    ]
    if "long" in document:
        long = document["long"]
        lines += [
            "",
            f"One file of {long['minutes']:g} minutes: {long['units']:,.0f} units, {long['xrt']:.0f} x real time, at "
            f"most {long['peak_mb']:,.0f} MB resident ({long['before_mb']:,.0f} MB with the model loaded).",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
