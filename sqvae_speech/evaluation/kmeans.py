"""The baseline of quantization: k-means on log-mels or on a model's latents."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from sqvae_speech.data.reader import UtteranceMel
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.frames import FrameSequence, check_kind
from sqvae_speech.evaluation.optional import require
from sqvae_speech.evaluation.sources import FrameSource

MAX_TRAINING_FRAMES = 500_000  # more change nothing that can be measured, and take memory
_BATCH = 4096


def fit_kmeans(
    source: FrameSource,
    utterances: Iterable[UtteranceMel],
    clusters: int,
    *,
    seed: int = 0,
    max_frames: int = MAX_TRAINING_FRAMES,
) -> "KMeansSource":
    """Mini-batch k-means (Sculley, 2010) on the frames of a source, started by k-means++.

    Args:
        source: gives the frames, of its first kind.
        utterances: to train on.
        clusters: K.
        seed: of the frames drawn, where there are more than ``max_frames``, of the start and of the batches.
        max_frames: to train on.

    Raises:
        UserError: fewer frames than clusters.
    """
    kind = source.kinds[0]
    rng = np.random.default_rng(seed)
    # Each frame gets a random number, and those with the smallest are kept: a uniform sample in one pass.
    kept, keys = np.zeros((0, 0), dtype=np.float32), np.zeros(0)
    for sequence in source.frames(utterances, [kind]):
        frames = sequence.kind(kind)
        kept = np.concatenate([kept.reshape(-1, frames.shape[1]), frames])
        keys = np.concatenate([keys, rng.random(len(frames))])
        if len(kept) > 2 * max_frames:
            chosen = np.sort(np.argpartition(keys, max_frames)[:max_frames])
            kept, keys = kept[chosen], keys[chosen]
    if len(kept) > max_frames:
        kept = kept[np.sort(np.argpartition(keys, max_frames)[:max_frames])]
    if not 1 <= clusters <= len(kept):
        raise UserError(
            f"--clusters {clusters}; there are {len(kept)} frames to train on: 1 to {len(kept)} are legal"
        )
    cluster = require("sklearn.cluster", "evaluation", "k-means")
    model = cluster.MiniBatchKMeans(
        clusters, random_state=seed, batch_size=_BATCH, n_init=3, max_iter=100, reassignment_ratio=0.01
    )
    model.fit(kept.astype(np.float64))
    return KMeansSource(source, model.cluster_centers_, seed=seed, trained_on=len(kept))


class KMeansSource:
    """The nearest of K centroids of every frame of another source.

    Args:
        source: gives the frames, of its first kind.
        centroids: (K, D).
        seed, trained_on: for the description.
    """

    kinds: tuple[str, ...] = ("quantized", "codes")
    num_codebooks = 1

    def __init__(self, source: FrameSource, centroids: np.ndarray, *, seed: int = 0, trained_on: int = 0):
        self.source = source
        self.kind = source.kinds[0]
        self.centroids = np.asarray(centroids, dtype=np.float64)
        self.codebook_size: int | None = len(self.centroids)
        what = source.name if self.kind == "mel" else f"{self.kind} of {source.name}"
        self.name = f"k-means {len(self.centroids)} on {what}"
        self.description: dict[str, Any] = {
            **source.description,
            "features": f"kmeans-{self.kind}",
            "clusters": len(self.centroids),
            "seed": seed,
            "training_frames": trained_on,
        }

    def frames(self, utterances: Iterable[UtteranceMel], kinds: Collection[str]) -> Iterator[FrameSequence]:
        """See :class:`FrameSource`."""
        for kind in kinds:
            check_kind(kind, self.kinds)
        for sequence in self.source.frames(utterances, [self.kind]):
            codes = nearest_centroids(sequence.kind(self.kind), self.centroids)
            features = {"quantized": self.centroids[codes].astype(np.float32)} if "quantized" in kinds else {}
            yield replace(sequence, codes=codes[None], features=features)


def nearest_centroids(frames: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(T,) int64, which centroid (K, D) is nearest to each frame (T, D); in float64, ties to the first."""
    centre = centroids.mean(axis=0)  # a common offset would cost the digits of small distances
    x, c = frames.astype(np.float64) - centre, centroids - centre
    return np.argmin((c**2).sum(axis=1) - 2 * x @ c.T, axis=1)
