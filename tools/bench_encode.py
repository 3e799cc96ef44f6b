#!/usr/bin/env python3
"""How fast speech becomes units, and how many units a faster way changes.

    OMP_NUM_THREADS=2 python tools/bench_encode.py --model exp/x --wavs DIR --output benchmarks/results/encode

writes encode.md and encode.json. DIR is a folder of recordings, any depth; without it, generated voices are used, and
without --model an untrained network of the published sizes, whose units mean little.

xRT is seconds of speech encoded in a second. The baseline is the plain loop: one utterance at a time through the
network as it was trained. Contenders take turns; a figure is the best of its rounds, since whatever else runs only
slows it down.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_common import machine_facts, peak, reset_peak, synchronizer, write_results

from sqvae_speech.audio.wav import read_wav
from sqvae_speech.data.reader import pad
from sqvae_speech.models.inference import for_inference
from sqvae_speech.models.speech import SpeechModel
from sqvae_speech.tokenizer import SpeechTokenizer, speech_tokenizer

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}


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
        "settings": {**vars(args), "model": args.model is not None, "wavs": args.wavs is not None},
        "utterances": len(wavs),
        "seconds": seconds,
        "tokenizer": repr(tokenizer),
    }
    document["settings"]["output"] = args.output.name
    document["cases"] = measure(contenders(tokenizer, wavs, args), seconds, args)
    document["streams"] = [stream(tokenizer, wavs, size) for size in (0.02, 0.1, 1.0)]
    if args.long:
        document["long"] = long_file(tokenizer, wavs, args)
    write_results(args.output, document, report(document))
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="experiment, checkpoint or exported model")
    parser.add_argument("--wavs", type=Path, help="folder of recordings")
    parser.add_argument("--minutes", type=float, default=17.0, help="of speech, at most")
    parser.add_argument("--batch", type=int, default=16, help="utterances of a batch of the network alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--long", type=float, default=0.0, metavar="MINUTES", help="also encode one file of this length"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/encode"), help="without suffix")
    return parser.parse_args()


def recordings(folder: Path | None, sample_rate: int, seconds: float) -> list[np.ndarray]:
    """Wavs at the model's rate, in the order of their paths, about ``seconds`` in all."""
    wavs: list[np.ndarray] = []
    if folder is None:
        rng = np.random.default_rng(0)
        while sum(map(len, wavs)) < seconds * sample_rate:
            wavs.append(generated(rng, float(rng.uniform(1, 10)), sample_rate))
        return wavs
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"no recordings under {folder}")
    step = max(1, len(files) // 500)  # of a large corpus, files from all of it
    for path in files[::step]:
        wavs.append(read_wav(path, sample_rate, channel="mix")[0])
        if sum(map(len, wavs)) >= seconds * sample_rate:
            break
    return wavs


def generated(rng: np.random.Generator, seconds: float, sample_rate: int) -> np.ndarray:
    """Harmonics of a moving pitch, in noise."""
    t = np.arange(int(seconds * sample_rate)) / sample_rate
    pitch = rng.uniform(80, 250) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(1, 4) * t))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    wav = sum(np.sin(k * phase + rng.uniform(0, 6)) / k for k in range(1, 20))
    wav = wav * (1.2 + np.sin(2 * np.pi * 3 * t)) + 0.05 * rng.standard_normal(len(t))
    return (0.5 * wav / np.abs(wav).max()).astype(np.float32)


def contenders(tokenizer: SpeechTokenizer, wavs: list[np.ndarray], args: argparse.Namespace) -> list[Contender]:
    model, logmel = tokenizer.bundle.model, tokenizer.logmel
    device, rate = tokenizer.device, tokenizer.sample_rate
    half = SpeechTokenizer(tokenizer.bundle, device=args.device, dtype="bfloat16")
    folded = {"float32": for_inference(model), "bfloat16": for_inference(model, torch.bfloat16)}

    def mel_of(wav: np.ndarray) -> Tensor:
        return logmel(torch.from_numpy(wav)[None].to(device)).mel

    mels = [mel_of(wav) for wav in wavs]
    order = sorted(range(len(mels)), key=lambda number: -mels[number].shape[2])
    groups = [order[start : start + args.batch] for start in range(0, len(order), args.batch)]
    padded = [
        {name: value.to(device) for name, value in pad([mels[number][0].cpu().numpy() for number in group]).items()}
        for group in groups
    ]

    def single(network: SpeechModel) -> list[Tensor]:
        return [network.encode(mel).codes[0] for mel in mels]

    def batched(network: SpeechModel) -> list[Tensor]:
        codes: dict[int, Tensor] = {}
        for group, batch in zip(groups, padded, strict=True):
            units = network.encode(batch["mel"], batch["lengths"])
            for number, row, length in zip(group, units.codes, units.lengths.tolist(), strict=True):
                codes[number] = row[:, :length]
        return [codes[number] for number in range(len(mels))]

    def whole(chosen: SpeechTokenizer) -> list[Tensor]:
        units = chosen.encode(wavs, rate)
        return [units[number] for number in range(len(wavs))]

    return [
        Contender("plain loop", False, lambda: single(model)),
        Contender("folded, one at a time", False, lambda: single(folded["float32"])),
        Contender(f"folded, batches of {args.batch}", False, lambda: batched(folded["float32"])),
        Contender("bf16, one at a time", False, lambda: single(folded["bfloat16"])),
        Contender(f"bf16, batches of {args.batch}", False, lambda: batched(folded["bfloat16"])),
        Contender("plain loop", True, lambda: [model.encode(mel_of(wav)).codes[0] for wav in wavs]),
        Contender("one at a time, SpeechTokenizer", True, lambda: [tokenizer.encode(wav, rate)[0] for wav in wavs]),
        Contender("SpeechTokenizer", True, lambda: whole(tokenizer)),
        Contender("SpeechTokenizer, bf16", True, lambda: whole(half)),
        Contender("log-mel alone", True, lambda: [mel_of(wav) for wav in wavs]),
    ]


@torch.no_grad()
def measure(cases: list[Contender], seconds: float, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The best time of each, and its units against those of the plain loop."""
    wait, best, codes = synchronizer(args.device), [float("inf")] * len(cases), {}
    for _ in range(args.rounds):
        for number, case in enumerate(cases):
            start = time.perf_counter()
            codes[number] = case.run()
            wait()
            best[number] = min(best[number], time.perf_counter() - start)
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


def stream(tokenizer: SpeechTokenizer, wavs: list[np.ndarray], push_seconds: float) -> dict[str, float]:
    """A minute pushed in pieces, with the level known: xRT, and the longest that one piece took."""
    rate = tokenizer.sample_rate
    wav = np.concatenate(wavs)[: 60 * rate]
    size = round(push_seconds * rate)
    one = tokenizer.stream(rate, level=tokenizer.level(wav, rate))
    took = []
    for start in range(0, len(wav), size):
        begin = time.perf_counter()
        one.push(wav[start : start + size]).cpu()
        took.append(time.perf_counter() - begin)
    return {
        "push_ms": 1e3 * push_seconds,
        "xrt": len(wav) / rate / sum(took),
        "slowest_push_ms": 1e3 * max(took),
        "latency_ms": 1e3 * one.latency,
    }


def long_file(tokenizer: SpeechTokenizer, wavs: list[np.ndarray], args: argparse.Namespace) -> dict[str, float]:
    """One file of ``--long`` minutes: xRT and the peak of resident memory, in MB."""
    import tempfile

    import soundfile

    speech = np.concatenate(wavs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        left = round(args.long * 60 * tokenizer.sample_rate)
        with soundfile.SoundFile(path, "w", tokenizer.sample_rate, 1, subtype="PCM_16") as file:
            while left > 0:
                file.write(speech[:left])
                left -= len(speech)
        before = reset_peak()
        start = time.perf_counter()
        tokenizer.encode(path)
        taken = time.perf_counter() - start
        return {"minutes": args.long, "xrt": 60 * args.long / taken, "peak_mb": peak(), "before_mb": before}


def report(document: dict[str, Any]) -> str:
    """The tables in Markdown."""
    facts, settings, cases = document["machine"], document["settings"], document["cases"]
    base = {case["features"]: case["xrt"] for case in cases if case["name"] == "plain loop"}
    words = [f"--{name}" for name in ("model", "wavs") if settings[name]]
    lines = [
        "# Encoding: speech to units",
        "",
        f"{document['utterances']} utterances, {document['seconds'] / 60:.1f} minutes. {facts['processor']}, "
        f"{facts['threads']} threads, PyTorch {facts['torch']}, load at the start {facts['load_average'][0]:.1f}; "
        f"best of {settings['rounds']} rounds. {document['tokenizer']}.",
        "",
        f"Command: `OMP_NUM_THREADS={facts['threads']} python tools/bench_encode.py "
        f"{''.join(word + ' DIR ' for word in words)}--minutes {settings['minutes']:g} --batch {settings['batch']} "
        f"--device {settings['device']} --output benchmarks/results/{settings['output']}`",
        "",
        "| | features | x real time | against the plain loop | units that differ |",
        "|---|---|---:|---:|---:|",
    ]
    for case in cases:
        differ = "" if "different" not in case else f"{case['different']} of {case['units']:,}"
        if case.get("different"):
            differ += f" ({100 * case['different'] / case['units']:.2g}%)"
        lines.append(
            f"| {case['name']} | {'included' if case['features'] else 'ready'} | {case['xrt']:,.0f} | "
            f"{case['xrt'] / base[case['features']]:.2f} | {differ} |"
        )
    lines += [
        "",
        "| streaming, pushes of | x real time | slowest push, ms | algorithmic latency, ms |",
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
            f"One file of {long['minutes']:g} minutes: {long['xrt']:.0f} x real time, at most {long['peak_mb']:,.0f} "
            f"MB resident ({long['before_mb']:,.0f} MB before).",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
