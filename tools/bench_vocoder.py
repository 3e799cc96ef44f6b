#!/usr/bin/env python3
"""What vocoders make of log-mels of recordings (copy synthesis): how near the recording, and how fast on one core.

    OMP_NUM_THREADS=1 python tools/bench_vocoder.py --wavs DIR --vocoders griffin_lim:32 griffin_lim:100 istft:DIR

writes benchmarks/results/vocoder_cpu.md and .json. `--wavs` is a folder of recordings that no vocoder was trained
on, or a Kaldi data directory. `torchaudio:100` is torchaudio's InverseMelScale and 100 rounds of its GriffinLim.
Scores are means over the recordings: distance of spectra at three resolutions, mel-cepstral distortion, PESQ (wide
band) and STOI, all of sqvae_speech.evaluation; none compares phases. Before scoring, a made wav gets the level (root
mean square) of its recording. Needs the extra `voices`.

Vocoders take turns, utterance by utterance; times are CPU seconds of the process, the best of the rounds, from the
mel to the wav. Freed memory is kept, as `sqvae-speech vocode` keeps it.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_common import machine_facts, write_results
from torchaudio_vocoder import TorchaudioVocoder

from sqvae_speech.allocation import keep_freed_memory
from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.vocoder import Vocoder
from sqvae_speech.audio.wav import read_wav, write_wav
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.evaluation.voices.cepstra import mel_cepstral_distortion
from sqvae_speech.evaluation.voices.quality import pesq, stoi
from sqvae_speech.evaluation.voices.spectra import stft_distance
from sqvae_speech.models.istft_vocoder import IstftVocoder
from sqvae_speech.models.vocoders import load_vocoder

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}
# name -> (heading, whether more is better, score of a recording and what was made of it)
SCORES: dict[str, tuple[str, bool, Callable[[np.ndarray, np.ndarray, int], float]]] = {
    "stft": (
        "STFT distance",
        False,
        lambda real, made, _: stft_distance(torch.from_numpy(real), torch.from_numpy(made)).total,
    ),
    "mcd": ("MCD, dB", False, mel_cepstral_distortion),
    "pesq": ("PESQ", True, pesq),
    "stoi": ("STOI", True, stoi),
}


def main() -> int:
    args = parse_args()
    keep_freed_memory()
    spec = MelSpec.preset(args.mel_spec)
    wavs = recordings(args.wavs, spec.sample_rate)
    vocoders = {name: load(name, spec) for name in args.vocoders}
    labels = {name: label(name, number, vocoder) for number, (name, vocoder) in enumerate(vocoders.items(), start=1)}
    cases = measure(wavs, vocoders, spec, args)
    document = {
        "machine": machine_facts("cpu"),
        "command": command(args, labels),
        "mel_spec": spec.name,
        "rounds": args.rounds,
        "recordings": list(wavs),
        "seconds": sum(map(len, wavs.values())) / spec.sample_rate,
        "vocoders": [{"name": labels[name], **cases[name]} for name in vocoders],
    }
    write_results(args.output, document, report(document))
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wavs", type=Path, required=True, help="folder of recordings, or a Kaldi data directory")
    parser.add_argument("--vocoders", nargs="+", default=["griffin_lim:32", "griffin_lim:100", "istft"])
    parser.add_argument("--mel-spec", default="sqvae16k")
    parser.add_argument("--rounds", type=int, default=3, help="of timing")
    parser.add_argument("--examples", type=Path, metavar="DIR", help="keep what was made, to be heard")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/vocoder_cpu"), help="without suffix")
    return parser.parse_args()


def load(name: str, spec: MelSpec) -> Vocoder:
    """One of the project's, or ``torchaudio:<rounds>``."""
    kind, _, rounds = name.partition(":")
    return TorchaudioVocoder(spec, int(rounds)) if kind == "torchaudio" else load_vocoder(name, spec)


def label(name: str, number: int, vocoder: Vocoder) -> str:
    """The name of a vocoder without that of a folder."""
    if isinstance(vocoder, IstftVocoder):
        weights = sum(parameter.numel() for parameter in vocoder.bundle.model.parameters())
        config = vocoder.bundle.model.config
        whose = "the bundled one" if name == "istft" else f"{vocoder.bundle.step:,} steps"
        return f"istft, {weights / 1e6:.2f} M weights, {whose}, {config.rounds} + {config.mel_rounds} rounds"
    return name if "/" not in name else f"vocoder {number}"


def command(args: argparse.Namespace, labels: dict[str, str]) -> str:
    """As it was given, without the names of folders."""
    names = [name if "/" not in name else f"{name.partition(':')[0]}:DIR" for name in labels]
    return (
        f"OMP_NUM_THREADS={torch.get_num_threads()} python tools/bench_vocoder.py --wavs DIR --vocoders "
        f"{' '.join(names)} --mel-spec {args.mel_spec} --rounds {args.rounds}"
    )


def recordings(folder: Path, sample_rate: int) -> dict[str, np.ndarray]:
    """Name -> (T,) float32 at the rate of the mels."""
    if (folder / "wav.scp").exists():
        files = {one.utterance_id: Path(one.wav) for one in DataDir.read(folder)}
    else:
        files = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES}
    if not files:
        raise SystemExit(f"no recordings in {folder}")
    return {name: read_wav(path, sample_rate, channel="mix")[0] for name, path in files.items()}


def measure(
    wavs: dict[str, np.ndarray], vocoders: dict[str, Vocoder], spec: MelSpec, args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Scores of every vocoder, and how many times as fast as real time it is."""
    logmel = LogMel(spec)
    found: dict[str, dict[str, list[float]]] = {name: {score: [] for score in SCORES} for name in vocoders}
    taken = dict.fromkeys(vocoders, 0.0)
    for number, (utterance_id, real) in enumerate(wavs.items(), start=1):
        mel, _, peak = logmel(torch.from_numpy(real)[None])
        times: dict[str, list[float]] = {name: [] for name in vocoders}
        for turn in range(args.rounds):
            for name, vocoder in vocoders.items():
                start = time.process_time()
                made = vocoder.vocode(mel[0], peak).numpy()
                times[name].append(time.process_time() - start)
                if turn == 0:
                    keep(args.examples, name, utterance_id, made, spec.sample_rate)
                    compared = real[: len(made)]
                    made = made * (np.linalg.norm(compared) / max(float(np.linalg.norm(made)), 1e-9))
                    for score, (_, _, function) in SCORES.items():
                        found[name][score].append(function(compared, made.astype(np.float32), spec.sample_rate))
        for name in vocoders:
            taken[name] += min(times[name])
        print(f"{number} of {len(wavs)}", file=sys.stderr, flush=True)
    seconds = sum(map(len, wavs.values())) / spec.sample_rate
    return {
        name: {
            "scores": {score: float(np.mean(values)) for score, values in found[name].items()},
            "worst": {
                score: float((min if SCORES[score][1] else max)(values)) for score, values in found[name].items()
            },
            "xrt": seconds / taken[name],
            "real_time_factor": taken[name] / seconds,
        }
        for name in vocoders
    }


def keep(folder: Path | None, name: str, utterance_id: str, wav: np.ndarray, sample_rate: int) -> None:
    if folder is not None:
        write_wav(folder / name.partition("/")[0].replace(":", "_") / f"{utterance_id}.wav", wav, sample_rate)


def report(document: dict[str, Any]) -> str:
    """The table in Markdown; the best of each column is bold."""
    facts, vocoders = document["machine"], document["vocoders"]
    headings = [heading for heading, _, _ in SCORES.values()]
    lines = [
        "# Vocoders: copy synthesis",
        "",
        f"{len(document['recordings'])} recordings, {document['seconds']:.1f} s, {document['mel_spec']} log-mels. "
        f"{facts['processor']}, {facts['threads']} thread, PyTorch {facts['torch']}, load at the end "
        f"{facts['load_average'][0]:.1f}; times are CPU seconds, the best of {document['rounds']} rounds.",
        "",
        f"Command: `{document['command']}`",
        "",
        "Means over the recordings. Less is better of STFT distance and MCD (mel-cepstral distortion), more of PESQ "
        "(wide band, up to 4.64) and STOI (up to 1).",
        "",
        f"| | {' | '.join(headings)} | x real time | real-time factor |",
        f"|---|{'---:|' * (len(headings) + 2)}",
    ]
    best = {
        score: (max if more else min)(one["scores"][score] for one in vocoders)
        for score, (_, more, _) in SCORES.items()
    }
    for one in vocoders:
        cells = [
            f"**{value:.3f}**" if value == best[score] and len(vocoders) > 1 else f"{value:.3f}"
            for score, value in one["scores"].items()
        ]
        lines.append(f"| {one['name']} | {' | '.join(cells)} | {one['xrt']:.0f} | {one['real_time_factor']:.4f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
