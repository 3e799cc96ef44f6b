"""Made-up utterances with phones, for tests that count and measure by hand."""

import numpy as np

from sqvae_speech.data.kaldi import Interval
from sqvae_speech.evaluation.frames import FrameSequence

PHONES = ("a", "i", "s", "SIL")
STEP = 0.02


def spoken(count: int, seed: int, *, codebook_size: int = 6, books: int = 1, dim: int = 5) -> list[FrameSequence]:
    """Utterances of three speakers, of 4 to 9 phones of 1 to 4 frames; frames and codes lean on phone and speaker."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(PHONES) + 3, dim))
    sequences = []
    for number in range(count):
        speaker = number % 3
        phones, labels, time = [], [], 0.0
        for _ in range(rng.integers(4, 10)):
            phone, frames = int(rng.integers(len(PHONES))), int(rng.integers(1, 5))
            end = round(time + STEP * frames, 6)
            phones.append(Interval(time, end, PHONES[phone]))
            labels += [phone] * frames
            time = end
        frames = centres[labels] + 0.7 * centres[len(PHONES) + speaker] + 1.5 * rng.normal(size=(len(labels), dim))
        logits = frames @ rng.normal(size=(dim, codebook_size))
        posterior = np.exp(logits - logits.max(axis=1, keepdims=True))
        codes = (np.array(labels) + (rng.random((books, len(labels))) < 0.3) * (1 + speaker)) % codebook_size
        sequences.append(
            FrameSequence(
                utterance_id=f"s{speaker}-{number:02d}",
                speaker=f"s{speaker}",
                seconds=time,
                times=STEP * (np.arange(len(labels)) + 0.5),
                step=STEP,
                features={
                    "latents": frames.astype(np.float32),
                    "posterior": (posterior / posterior.sum(axis=1, keepdims=True)).astype(np.float32),
                },
                codes=codes,
                phones=tuple(phones),
            )
        )
    return sequences
