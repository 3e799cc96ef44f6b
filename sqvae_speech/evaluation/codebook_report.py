"""A codebook looked at from all sides: what is used, how surely, for which phones, and what lies near what."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sqvae_speech.data.reader import UtteranceMel
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.frames import FrameSequence, phone_table
from sqvae_speech.evaluation.sources import ModelSource
from sqvae_speech.units.batches import MelBatch, in_order
from sqvae_speech.units.extract import min_frames

CONTEXT = 10  # mel frames to each side of a code's own, in its mean mel
ENTROPY_BINS = 40


@dataclass(frozen=True, eq=False)
class CodebookReport:
    """Of one codebook of a model on a set.

    Attributes:
        counts: (K,) int64, uses of each code.
        posterior_entropy: (K,) float64, mean entropy in nats of the posterior at a code's uses; nan where unused.
        entropy_histogram: (bins,) counts of the entropies of all posteriors, from 0 to log K.
        scale: means over the set of what the quantizer says of its noise: ``variance`` (σ²) and
            ``relative_variance`` of Gaussian kinds, ``kappa`` of von Mises-Fisher; empty for VQ.
        positions: (K, 2) float64, the codes on the plane through which they vary most (principal components).
        explained: share of the codes' variance that lies in this plane.
        phones: labels of ``phone_counts``.
        phone_counts: (K, P) int64, at how many uses of a code each phone was spoken; P is 0 without an alignment.
        neighbours: (K, M) int64, the codes nearest to each, nearest first.
        distances: (K, M) float64, Euclidean, to them.
        mean_mels: (K, n_mels, frames) float32, mean log-mel around the uses of a code; nan where unused.
    """

    counts: np.ndarray
    posterior_entropy: np.ndarray
    entropy_histogram: np.ndarray
    scale: dict[str, float]
    positions: np.ndarray
    explained: float
    phones: tuple[str, ...]
    phone_counts: np.ndarray
    neighbours: np.ndarray
    distances: np.ndarray
    mean_mels: np.ndarray

    @property
    def dead(self) -> np.ndarray:
        """Codes that are never used, int64."""
        return np.flatnonzero(self.counts == 0)

    @property
    def by_frequency(self) -> np.ndarray:
        """(K,) int64, codes from the most to the least used."""
        return np.argsort(-self.counts, kind="stable")

    def dominant_phone(self, code: int) -> str | None:
        """The phone spoken at most uses of a code; None where there is none."""
        if not self.phones or not self.phone_counts[code].any():
            return None
        return self.phones[int(self.phone_counts[code].argmax())]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: a summary, and an entry a code."""
        return {
            "codebook_size": len(self.counts),
            "used": int(np.count_nonzero(self.counts)),
            "dead": self.dead.tolist(),
            "scale": self.scale,
            "explained": self.explained,
            "entropy_histogram": self.entropy_histogram.tolist(),
            "codes": [
                {
                    "code": code,
                    "count": int(self.counts[code]),
                    "posterior_entropy": _number(self.posterior_entropy[code]),
                    "position": self.positions[code].tolist(),
                    "neighbours": self.neighbours[code].tolist(),
                    "distances": self.distances[code].tolist(),
                    "phones": {
                        self.phones[p]: int(self.phone_counts[code, p])
                        for p in np.argsort(-self.phone_counts[code], kind="stable")
                        if self.phone_counts[code, p]
                    },
                }
                for code in range(len(self.counts))
            ],
        }


def codebook_report(
    source: ModelSource,
    utterances: Iterable[UtteranceMel],
    *,
    codebook: int = 0,
    num_neighbours: int = 8,
    context: int = CONTEXT,
) -> CodebookReport:
    """Look at one codebook of a model on a set.

    Args:
        source: the model.
        utterances: of its MelSpec; with ``ali`` for phones. They are gone through twice, a batch in memory at a time;
            those of an iterator are held.
        codebook: which of several.
        num_neighbours: M, at most K - 1.
        context: mel frames to each side of a code's own in its mean mel; where a mel ends, its last frame goes on.

    Raises:
        UserError: no such codebook, or no utterance long enough for a unit.
    """
    model = source.bundle.model
    if not 0 <= codebook < source.num_codebooks:
        raise UserError(
            f"--codebook {codebook}; the model has {source.num_codebooks}: 0 to {source.num_codebooks - 1}"
        )
    size = model.codebook_size
    if iter(utterances) is utterances:
        utterances = list(utterances)
    read: dict[str, np.ndarray] = {}  # mels of utterances that are being encoded

    def reading() -> Iterator[UtteranceMel]:
        for utterance in utterances:
            read[utterance.utterance_id] = utterance.mel
            yield utterance

    counts = np.zeros(size, dtype=np.int64)
    entropy = np.zeros(size)
    histogram = np.zeros(ENTROPY_BINS, dtype=np.int64)
    by_phone: dict[str, np.ndarray] = {}
    sums = np.zeros((size, source.bundle.mel_spec.n_mels, model.frames_per_unit + 2 * context))
    for sequence in source.frames(reading(), ["posterior"]):
        codes = _codes(sequence, codebook)
        posterior = sequence.kind("posterior").astype(np.float64).reshape(len(codes), source.num_codebooks, size)
        own = torch.special.entr(torch.from_numpy(posterior[:, codebook] * source.num_codebooks)).sum(dim=1).numpy()
        counts += np.bincount(codes, minlength=size)
        np.add.at(entropy, codes, own)
        # rounding may carry it beyond either end
        histogram += np.histogram(own.clip(0.0, np.log(size)), bins=ENTROPY_BINS, range=(0.0, np.log(size)))[0]
        own_phones = phone_table([sequence])
        labels = sequence.phone_numbers(own_phones)
        for phone, number in own_phones.items():
            uses = np.bincount(codes[labels == number], minlength=size)
            by_phone[phone] = by_phone.get(phone, 0) + uses
        mel = read.pop(sequence.utterance_id)
        first = model.first_frame + model.frames_per_unit * np.arange(len(codes)) - context
        places = (first[:, None] + np.arange(sums.shape[2])).clip(0, mel.shape[1] - 1)
        np.add.at(sums, codes, mel[:, places].transpose(1, 0, 2))
    if not counts.any():
        raise UserError("no utterance is long enough for a unit; nothing to report")
    phones = sorted(by_phone)
    with np.errstate(invalid="ignore", divide="ignore"):
        entropy, means = entropy / counts, (sums / counts[:, None, None]).astype(np.float32)

    vectors = _vectors(model, codebook)
    positions, explained = principal_plane(vectors)
    neighbours, distances = nearest_codes(vectors, num_neighbours)
    return CodebookReport(
        counts=counts,
        posterior_entropy=entropy,
        entropy_histogram=histogram,
        scale=_scale(source, utterances),
        positions=positions,
        explained=explained,
        phones=tuple(phones),
        phone_counts=np.stack([by_phone[phone] for phone in phones], axis=1) if phones else np.zeros((size, 0), int),
        neighbours=neighbours,
        distances=distances,
        mean_mels=means,
    )


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """The two principal components of vectors (K, D), which is also what classical scaling of their distances gives.

    Returns:
        ``(positions, explained)``: (K, 2) float64, of which signs are chosen so that each axis' largest value is
        positive, and the share of the variance in the plane.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    positions = np.zeros((len(vectors), 2))
    width = min(2, len(s))
    positions[:, :width] = u[:, :width] * s[:width]
    largest = positions[np.abs(positions).argmax(axis=0), [0, 1]]
    total = float((s**2).sum())
    return positions * np.where(largest < 0, -1.0, 1.0), float((s[:2] ** 2).sum() / total) if total else 1.0


def nearest_codes(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` nearest other vectors of each of (K, D), and Euclidean distances to them: (K, M) both."""
    vectors = vectors.astype(np.float64)
    distances = np.stack([np.sqrt(((vectors - one) ** 2).sum(axis=1)) for one in vectors])
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : max(0, min(count, len(vectors) - 1))]
    return nearest, np.take_along_axis(distances, nearest, axis=1)


def _codes(sequence: FrameSequence, codebook: int) -> np.ndarray:
    assert sequence.codes is not None  # a model's always has them
    return sequence.codes[codebook]


def _vectors(model: Any, codebook: int) -> np.ndarray:
    """(K, D) of one codebook of any quantizer: groups and stages lie before K, stage by stage."""
    books = model.quantizer.decoding_codebook().detach().double().cpu().numpy()
    if books.ndim == 4:  # (G, N, K, D/G): codes lie stage 0 of all groups first
        books = books.transpose(1, 0, 2, 3)
    return books.reshape(-1, *books.shape[-2:])[codebook]


def _scale(source: ModelSource, utterances: Iterable[UtteranceMel]) -> dict[str, float]:
    """Means over units of the quantizer's own metrics of its noise."""
    model = source.bundle.model
    sums: dict[str, float] = {"units": 0.0}

    def measure(batch: MelBatch) -> list[None]:
        z, log_var = model.latents(batch.mel, batch.lengths)
        lengths = model.num_units(batch.lengths)
        mask = torch.arange(z.shape[1], device=z.device) < lengths[:, None]
        metrics = model.quantizer(z, log_var, mask=mask).metrics
        for name in ("variance", "relative_variance", "kappa"):
            if name in metrics:
                sums[name] = sums.get(name, 0.0) + float(metrics[name]) * int(lengths.sum())
        sums["units"] += int(lengths.sum())
        return [None] * len(batch.utterances)

    with torch.no_grad():
        for _ in in_order(
            utterances, measure, max_frames=source.max_frames, min_frames=min_frames(model), device=source.device
        ):
            pass
    units = sums.pop("units")
    return {name: total / units for name, total in sums.items()}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
