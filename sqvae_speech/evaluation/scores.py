"""Scores of a model on sets of utterances: reconstruction, codebook, bitrate, durations."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.reader import UtteranceMel, iterate_utterances
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.codebook import CodebookAccumulator, CodebookScores
from sqvae_speech.evaluation.reconstruction import squared_error_sums
from sqvae_speech.units.batches import MelBatch, in_order
from sqvae_speech.units.convert_voice import speaker_index
from sqvae_speech.units.extract import MAX_FRAMES, codes_of, min_frames, store_meta
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.statistics import UnitStatistics, unit_statistics
from sqvae_speech.units.store import store_of

if TYPE_CHECKING:
    from sqvae_speech.models.pretrained import SpeechBundle


@dataclass
class ErrorScores:
    """Mean squared error in dB squared; the definition is that of ``evaluation.reconstruction``.

    Attributes:
        pooled: over all values of all utterances: the published score.
        utterance_mean: mean over utterances of the error of each.
        utterance_std: its standard deviation (of the population).
        speakers: pooled over the utterances of each source speaker.
    """

    pooled: float
    utterance_mean: float
    utterance_std: float
    speakers: dict[str, float] = field(default_factory=dict)


@dataclass
class SplitScores:
    """Scores of one split.

    Attributes:
        split: its name.
        utterances: how many were scored.
        skipped: ids of those too short for a unit.
        error: decoded as the speaker of each utterance; None when some were not trained.
        target_errors: decoded as a chosen speaker, against the source's own log-mel.
        codebook: of the units chosen.
        units: bitrate, durations and counts of the units.
        counts: (N, K) uses of each code of the N codebooks, for plots.
    """

    split: str
    utterances: int
    skipped: list[str]
    error: ErrorScores | None
    target_errors: dict[str, ErrorScores]
    codebook: CodebookScores
    units: UnitStatistics
    counts: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the counts."""
        return {
            "split": self.split,
            "utterances": self.utterances,
            "skipped": self.skipped,
            "error_db2": None if self.error is None else asdict(self.error),
            "target_error_db2": {name: asdict(error) for name, error in self.target_errors.items()},
            "codebook": asdict(self.codebook),
            "units": self.units.to_dict(),
        }


def score_utterances(
    bundle: "SpeechBundle",
    utterances: Iterable[UtteranceMel],
    *,
    split: str = "",
    target_speakers: Sequence[str] = (),
    max_frames: int = MAX_FRAMES,
    device: torch.device | str = "cpu",
) -> SplitScores:
    """Score a stream of utterances in one pass, in padded batches that give what single utterances would.

    Args:
        bundle: a model in evaluation mode, on ``device``.
        utterances: with log-mels of the bundle's MelSpec.
        split: its name, for the report.
        target_speakers: trained speakers to decode everything as, beside each utterance's own speaker.
        max_frames: mel frames of a batch, padding included.
        device: where the model is.

    Raises:
        UserError: for a target that was not trained, for a source that was not when no target is given, and for a
            set without a single unit.
    """
    model = bundle.model
    targets = {name: speaker_index(bundle.speakers, name) for name in target_speakers}
    scale = bundle.mel_spec.decibels_per_unit**2
    codebook = CodebookAccumulator(model.codebook_size, model.num_codebooks)

    def process(batch: MelBatch) -> list[tuple[np.ndarray, dict[str | None, float]]]:
        indices, lengths = model.encode(batch.mel, batch.lengths)
        mask = torch.arange(indices.shape[1], device=indices.device) < lengths[:, None]
        codebook.update(indices, mask, model.posterior(batch.mel, batch.lengths))
        sums: dict[str | None, list[float]] = {}
        for name, speaker in [(None, _own_speakers(bundle, batch)), *targets.items()]:
            if speaker is None:
                continue
            voices = torch.as_tensor(speaker, device=indices.device).expand(len(indices))
            sums[name] = _error_sums(model, batch, indices, lengths, voices)
        codes = [codes_of(row[:length]) for row, length in zip(indices.cpu().numpy(), lengths.tolist(), strict=True)]
        return [(row, {name: values[number] for name, values in sums.items()}) for number, row in enumerate(codes)]

    errors: dict[str | None, list[tuple[str, float, int]]] = {None: [], **{name: [] for name in targets}}
    rows: list[UtteranceUnits] = []
    skipped: list[str] = []
    with torch.no_grad():
        known = _known(bundle, utterances, targets)
        results = in_order(known, process, max_frames=max_frames, min_frames=min_frames(model), device=device)
        for utterance, result in results:
            if result is None:
                skipped.append(utterance.utterance_id)
                continue
            codes, sums = result
            rows.append(UtteranceUnits(utterance.utterance_id, codes, num_frames=utterance.mel.shape[1]))
            values = codes.shape[1] * model.frames_per_unit * utterance.mel.shape[0]
            for name, total in sums.items():
                errors[name].append((utterance.speaker, total * scale, values))
    if not rows:
        raise UserError(f"{split or 'the set'}: no utterance is long enough for a unit; nothing to score")
    own = errors.pop(None)
    return SplitScores(
        split=split,
        utterances=len(rows),
        skipped=skipped,
        # decoded as its own speaker only in part, a set has no score that compares with another's
        error=_summary(own) if len(own) == len(rows) else None,
        target_errors={str(name): _summary(values) for name, values in errors.items()},
        codebook=codebook.scores(),
        units=unit_statistics(store_of(rows, store_meta(bundle), name=split)),
        counts=codebook.counts.numpy(),
    )


def score_shards(
    bundle: "SpeechBundle",
    shards: str | os.PathLike,
    *,
    target_speakers: Sequence[str] = (),
    max_frames: int = MAX_FRAMES,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> SplitScores:
    """Score a directory of shards; see :func:`score_utterances`.

    Raises:
        UserError: also for shards of another MelSpec, or damaged ones.
    """
    index = ShardIndex.load(Path(shards))
    bundle.mel_spec.require_same(index.mel_spec, "the checkpoint", f"the shards of {shards}")
    for name in target_speakers:  # before the progress bar
        speaker_index(bundle.speakers, name)
    utterances = iterate_utterances(index)
    with tqdm(utterances, total=index.num_utterances, desc=f"score {index.split}", disable=not progress) as bar:
        return score_utterances(
            bundle, bar, split=index.split, target_speakers=target_speakers, max_frames=max_frames, device=device
        )


def _error_sums(model, batch: MelBatch, indices, lengths, speaker) -> list[float]:
    reconstruction = model.decode(indices, speaker, lengths)
    frames = lengths * model.frames_per_unit
    target = batch.mel[:, :, model.first_frame : model.first_frame + reconstruction.shape[-1]]
    return squared_error_sums(reconstruction, target, frames).tolist()


def _own_speakers(bundle: "SpeechBundle", batch: MelBatch) -> list[int] | None:
    """Rows of the batch's speakers; None when one of them was not trained."""
    names = [utterance.speaker for utterance in batch.utterances]
    known = list(bundle.speakers)
    return [known.index(name) for name in names] if set(names) <= set(known) else None


def _known(
    bundle: "SpeechBundle", utterances: Iterable[UtteranceMel], targets: dict[str, int]
) -> Iterable[UtteranceMel]:
    for utterance in utterances:
        if not targets and utterance.speaker not in bundle.speakers:
            raise UserError(
                f"{utterance.utterance_id}: speaker {utterance.speaker!r} was not trained and cannot be decoded as "
                f"itself; give --target-speaker, one of {', '.join(bundle.speakers)}"
            )
        yield utterance


def _summary(errors: list[tuple[str, float, int]]) -> ErrorScores:
    """Of (speaker, sum of squared errors, number of values) for each utterance."""
    totals, values = np.array([e[1] for e in errors]), np.array([e[2] for e in errors], dtype=np.float64)
    speakers = np.array([e[0] for e in errors])
    each = totals / values
    return ErrorScores(
        pooled=float(totals.sum() / values.sum()),
        utterance_mean=float(each.mean()),
        utterance_std=float(each.std()),
        speakers={
            str(name): float(totals[speakers == name].sum() / values[speakers == name].sum())
            for name in np.unique(speakers)
        },
    )
