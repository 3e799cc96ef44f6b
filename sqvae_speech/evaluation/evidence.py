"""All that says what a representation is worth: ABX, unit to phone, boundaries, probes, bitrate, error."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm import tqdm

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.abx import CONDITIONS, MAX_SIZE_GROUP, MAX_X_ACROSS, AbxData, AbxScore, require_fastabx
from sqvae_speech.evaluation.boundaries import TOLERANCE, boundary_scores
from sqvae_speech.evaluation.entropy_rate import entropy_rates
from sqvae_speech.evaluation.feature_files import zerospeech_bitrate
from sqvae_speech.evaluation.frames import FrameSequence, check_kind
from sqvae_speech.evaluation.items import Item, phone_items, word_items
from sqvae_speech.evaluation.probes import TARGETS, probes
from sqvae_speech.evaluation.scores import score_utterances
from sqvae_speech.evaluation.sets import EvaluationSet
from sqvae_speech.evaluation.sources import FrameSource, ModelSource
from sqvae_speech.evaluation.unit_phone import JointCounts, joint_counts, unit_phone_scores
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.statistics import unit_statistics
from sqvae_speech.units.store import UnitStoreMeta, store_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """What to score, and how.

    Attributes:
        kinds: representations; none: all that the source makes.
        abx: whether to compute ABX, which needs fastabx.
        items: of an item file, in place of those of the alignment.
        any_context: items of the file are phonemes, to be compared in any context too (triphones cannot be).
        max_size_group, max_x_across: see :meth:`AbxData.score`.
        probes: targets, see :mod:`sqvae_speech.evaluation.probes`.
        tolerance: of boundaries, s.
        seed: of all draws.
        device: to compute ABX on.
        progress: show progress bars.
    """

    kinds: tuple[str, ...] = ()
    abx: bool = True
    items: tuple[Item, ...] = ()
    any_context: bool = False
    max_size_group: int | None = MAX_SIZE_GROUP
    max_x_across: int | None = MAX_X_ACROSS
    probes: tuple[str, ...] = TARGETS
    tolerance: float = TOLERANCE
    seed: int = 0
    device: torch.device | str = "cpu"
    progress: bool = False


@dataclass(frozen=True, eq=False)
class Evidence:
    """Scores of a source on a set.

    Attributes:
        values: all of them, ready for JSON; what the set has no labels for is None.
        joint: counts of units and phones, for plots; None without units or an alignment.
    """

    values: dict[str, Any]
    joint: JointCounts | None


def evaluate(
    source: FrameSource,
    test: EvaluationSet,
    train: EvaluationSet | None = None,
    options: EvaluationOptions | None = None,
) -> Evidence:
    """Score a source on a set.

    Args:
        source: of the set's MelSpec.
        test: to score on; its frames are held in memory.
        train: what probes are trained on: other utterances. Without it they are cross-validated on ``test``.
        options: by default all.

    Raises:
        UserError: a representation that the source does not make; no fastabx; a set without a single frame.
    """
    options = options or EvaluationOptions()
    kinds = options.kinds or source.kinds
    for kind in kinds:
        check_kind(kind, source.kinds)
    if options.abx:
        require_fastabx()  # before the work
    sequences = _frames(source, test, kinds, options, "test")
    if not sequences:
        raise UserError("no utterance is long enough for a frame; nothing to evaluate")
    training = None if train is None else _frames(source, train, kinds, options, "train")
    representations = {}
    for kind in kinds:
        logger.info("%s: %s", source.name, kind)
        representations[kind] = _representation(source, sequences, training, kind, options)
    units, joint = _units(source, sequences, test, options)
    values = {
        "name": source.name,
        "source": source.description,
        "shards": [str(folder) for folder in test.shards],
        "train_shards": None if train is None else [str(folder) for folder in train.shards],
        "utterances": len(sequences),
        "seconds": sum(sequence.seconds for sequence in sequences),
        "speakers": len({sequence.speaker for sequence in sequences}),
        "seed": options.seed,
        "representations": representations,
        "units": units,
        "error_db2": _error(source, test),
    }
    return Evidence(values, joint)


def _frames(
    source: FrameSource, chosen: EvaluationSet, kinds: Sequence[str], options: EvaluationOptions, what: str
) -> list[FrameSequence]:
    with tqdm(source.frames(chosen, kinds), desc=f"frames of {what}", disable=not options.progress) as bar:
        return list(bar)


def _representation(
    source: FrameSource,
    sequences: Sequence[FrameSequence],
    training: Sequence[FrameSequence] | None,
    kind: str,
    options: EvaluationOptions,
) -> dict[str, Any]:
    seconds = sum(sequence.seconds for sequence in sequences)
    scores = probes(
        sequences,
        kind,
        training,
        codebook_size=source.codebook_size,
        targets=options.probes,
        seed=options.seed,
    )
    return {
        "frame_rate": 1 / sequences[0].step,
        "bitrate": zerospeech_bitrate((sequence.kind(kind) for sequence in sequences), seconds),
        "abx": _abx(sequences, kind, options) if options.abx else None,
        "probes": {target: None if score is None else asdict(score) for target, score in scores.items()},
    }


def _abx(
    sequences: Sequence[FrameSequence], kind: str, options: EvaluationOptions
) -> dict[str, dict[str, dict[str, Any] | None]]:
    """Span of the items -> condition -> score."""
    spans: dict[str, tuple[Sequence[Item], tuple[str, ...]]] = {
        "phone": (phone_items(sequences), ("within", "any")),
        "triphone": (phone_items(sequences, "triphone"), ("within",)),
        "word": (word_items(sequences), ("any",)),
    }
    if options.items:
        spans = {"item": (options.items, ("within", "any") if options.any_context else ("within",))}
    by_id = {sequence.utterance_id: sequence for sequence in sequences}
    found: dict[str, dict[str, dict[str, Any] | None]] = {}
    for span, (items, contexts) in spans.items():
        if items:
            data = AbxData(by_id, items, kind, device=options.device)
            scores = {
                condition.name: data.score(
                    condition,
                    max_size_group=options.max_size_group,
                    max_x_across=options.max_x_across,
                    seed=options.seed,
                    progress=options.progress,
                )
                for condition in CONDITIONS
                if condition.context in contexts
            }
            found[span] = _as_dicts(scores)
    return found


def _as_dicts(scores: Mapping[str, AbxScore | None]) -> dict[str, dict[str, Any] | None]:
    return {name: None if score is None else asdict(score) for name, score in scores.items()}


def _units(
    source: FrameSource, sequences: Sequence[FrameSequence], test: EvaluationSet, options: EvaluationOptions
) -> tuple[dict[str, Any] | None, JointCounts | None]:
    """Scores of codes, None where there are none."""
    if source.codebook_size is None:
        return None, None
    codes = {sequence.utterance_id: sequence.codes for sequence in sequences if sequence.codes is not None}
    meta = UnitStoreMeta(source.codebook_size, source.num_codebooks, 1 / sequences[0].step)
    statistics = unit_statistics(store_of((UtteranceUnits(name, one) for name, one in codes.items()), meta))
    seconds = sum(sequence.seconds for sequence in sequences)
    rates = entropy_rates(codes.values())
    joint = scores = boundaries = None
    if any(sequence.phones for sequence in sequences):
        joint = joint_counts(sequences)
        scores, boundaries = asdict(unit_phone_scores(joint)), asdict(boundary_scores(sequences, options.tolerance))
    return {
        "codebook_size": source.codebook_size,
        "num_codebooks": source.num_codebooks,
        "perplexity": statistics.perplexity,
        "usage": statistics.usage,
        "mean_duration": statistics.durations and statistics.durations.mean_seconds,
        "bitrate": statistics.units / seconds * statistics.entropy,
        "entropy_rate": [
            {**asdict(rate), "bits_per_second": rate.bits * statistics.units / seconds} for rate in rates
        ],
        "unit_phone": scores,
        "boundaries": boundaries,
    }, joint


def _error(source: FrameSource, test: EvaluationSet) -> float | None:
    """Of the decoded log-mel, dB², each utterance as its own speaker; None where some were not trained."""
    if not isinstance(source, ModelSource) or not test.speakers <= set(source.bundle.speakers):
        return None
    scores = score_utterances(source.bundle, test, max_frames=source.max_frames, device=source.device)
    return None if scores.error is None else scores.error.pooled
