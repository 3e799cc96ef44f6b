"""Shards and checks that the tests of the loaders share."""

import itertools
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from synthetic_shards import write_synthetic_shards  # noqa: E402

from sqvae_speech.data.loader import SegmentLoader, UtteranceLoader  # noqa: E402
from sqvae_speech.data.reader import iterate_utterances  # noqa: E402

__all__ = ["assert_same", "crops", "mels_of", "random_lengths", "take", "utterances", "write_synthetic_shards"]


def random_lengths(seed: int, num_shards: int, most: int = 9, longest: int = 60) -> list[list[int]]:
    """Frames of the utterances of shards of 1 to ``most``."""
    rng = np.random.default_rng(seed)
    return [rng.integers(4, longest + 1, rng.integers(1, most + 1)).tolist() for _ in range(num_shards)]


def crops(shards, **options) -> SegmentLoader:
    return SegmentLoader(shards, **{"batch_size": 4, "segment_frames": 16, "seed": 3, **options})


def utterances(shards, **options) -> UtteranceLoader:
    return UtteranceLoader(shards, **{"batch_frames": 150, "seed": 3, **options})


def take(loader, count: int) -> list[dict]:
    return list(itertools.islice(iter(loader), count))


def assert_same(one: list[dict], other: list[dict]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a["utterance_id"] == b["utterance_id"]
        for key in ("mel", "lengths", "speaker"):
            assert a[key].dtype == b[key].dtype
            assert a[key].stride() == b[key].stride()
            assert torch.equal(a[key], b[key])


def mels_of(shards) -> dict[str, np.ndarray]:
    """The utterances' mels, read as a stream by webdataset's own code."""
    return {utterance.utterance_id: utterance.mel for utterance in iterate_utterances(shards)}
