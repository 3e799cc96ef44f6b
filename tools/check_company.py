#!/usr/bin/env python3
"""Whether the units of real recordings depend on what they are encoded with: random batches against one at a time.

    python tools/check_company.py --model exp/x --wavs DIR --batches 200

Each batch holds 1 to 16 recordings, whole or cut at random. Every unit is compared with that of the utterance alone,
and with that of the network as it was trained, in float64. Prints the counts; exits with 1 if a unit differs.
"""

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_encode import recordings

from sqvae_speech.tokenizer import SpeechTokenizer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="experiment, checkpoint or exported model")
    parser.add_argument("--wavs", type=Path, nargs="+", required=True, help="folders of recordings")
    parser.add_argument("--minutes", type=float, default=10.0, help="of speech from each folder, at most")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer = SpeechTokenizer.from_pretrained(args.model)
    rate = tokenizer.sample_rate
    wavs = [wav for folder in args.wavs for wav in recordings(folder, rate, 60 * args.minutes)]
    exact = copy.deepcopy(tokenizer.bundle.model).double()
    rng = np.random.default_rng(args.seed)
    counts = {"utterances": 0, "units": 0, "near ties": 0, "other than alone": 0, "other than in float64": 0}
    for number in range(args.batches):
        batch = [cut(wavs[choice], rng) for choice in rng.integers(len(wavs), size=rng.integers(1, 17))]
        together = tokenizer.encode(batch, rate)
        counts["near ties"] += sum(int(one.sum()) for one in tokenizer.near_ties(batch, rate))
        for wav, units in zip(batch, together, strict=True):
            counts["utterances"] += 1
            counts["units"] += units.shape[1]
            counts["other than alone"] += different(units, tokenizer.encode(wav, rate)[0])
            if units.shape[1]:
                mel = tokenizer.logmel(torch.from_numpy(wav)[None]).mel.double()
                counts["other than in float64"] += different(units, exact.encode(mel).codes[0])
        print(f"\r{number + 1} batches", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"{args.batches} batches: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    return int(counts["other than alone"] > 0 or counts["other than in float64"] > 0)


def cut(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A recording, or half of the time a part of it, down to nothing that gives a unit."""
    if rng.random() < 0.5:
        return wav
    start, stop = sorted(rng.integers(0, len(wav) + 1, size=2))
    return wav[start : max(stop, start + 1)]


def different(units: torch.Tensor, others: torch.Tensor) -> int:
    return int((units != others).any(dim=0).sum())


if __name__ == "__main__":
    sys.exit(main())
