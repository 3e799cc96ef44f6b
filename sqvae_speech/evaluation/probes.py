"""Linear probes: what a linear classifier reads out of a representation averaged over an interval.

The average of codes is a bag of codes, of posteriors soft counts, of vectors their mean.

============  ==========================  =================================================================
target        an example is               what is kept out of training
============  ==========================  =================================================================
``speaker``   an utterance                the utterances of the test, not their speakers
``phone``     a phone's interval          the speakers of the test
``word``      a word                      the speakers of the test
============  ==========================  =================================================================

A speaker probe that fails is what a unit for linguistic content should give; the other two should succeed.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sqvae_speech.errors import UserError, nearest
from sqvae_speech.evaluation.frames import FrameSequence
from sqvae_speech.evaluation.items import phone_items, speech_span, word_items
from sqvae_speech.evaluation.optional import require

TARGETS = ("speaker", "phone", "word")
FOLDS = 5
MAX_EXAMPLES = 5_000  # to train on
_REGULARIZATION = 0.1  # C: inverse strength, of features of mean variance 1


@dataclass(frozen=True, eq=False)
class Examples:
    """M examples of a target.

    Attributes:
        features: (M, D) float64.
        labels, speakers, utterances: (M,) str.
    """

    features: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray
    utterances: np.ndarray


@dataclass(frozen=True)
class ProbeScore:
    """Of a target.

    Attributes:
        accuracy: share of the examples classified as they should be, 0 to 1.
        chance: accuracy of always naming the most frequent label.
        examples, labels: counts of what was tested.
        trained_on: examples a classifier saw, mean over the folds.
        folds: that the test was divided into.
        held_out: ``speaker`` or ``utterance``.
    """

    accuracy: float
    chance: float
    examples: int
    labels: int
    trained_on: float
    folds: int
    held_out: str


def examples_of(
    sequences: Iterable[FrameSequence], kind: str, target: str, codebook_size: int | None = None
) -> Examples | None:
    """The examples of a set, None when it has none: no alignment, no words.

    Args:
        sequences: utterances with frames of the kind.
        kind: of representation.
        target: one of :data:`TARGETS`.
        codebook_size: K, for ``codes``.

    Raises:
        UserError: another target.
    """
    if target not in TARGETS:
        raise UserError(f"no probe for {target!r}{nearest(target, TARGETS)}; legal: {', '.join(TARGETS)}")
    features, labels, speakers, utterances = [], [], [], []
    for sequence in sequences:
        if target == "speaker":
            spans = [(*speech_span(sequence), sequence.speaker)]
        else:
            items = phone_items([sequence]) if target == "phone" else word_items([sequence])
            spans = [(item.onset, item.offset, item.label) for item in items]
        for onset, offset, label in spans:
            features.append(average(sequence, kind, sequence.within(onset, offset), codebook_size))
            labels.append(label)
            speakers.append(sequence.speaker)
            utterances.append(sequence.utterance_id)
    if not features:
        return None
    return Examples(np.stack(features), np.array(labels), np.array(speakers), np.array(utterances))


def average(sequence: FrameSequence, kind: str, frames: slice, codebook_size: int | None = None) -> np.ndarray:
    """(D,) float64, the mean of some frames; of codes, the share of each in each codebook, (N*K,)."""
    if kind != "codes":
        return sequence.kind(kind)[frames].astype(np.float64).mean(axis=0)
    if sequence.codes is None or codebook_size is None:
        raise UserError(f"{sequence.utterance_id}: no codes to count")
    codes = sequence.codes[:, frames]
    return np.concatenate([np.bincount(book, minlength=codebook_size) / codes.shape[1] for book in codes])


def probe(
    test: Examples, train: Examples | None = None, *, target: str, folds: int = FOLDS, seed: int = 0
) -> ProbeScore | None:
    """Train a multinomial logistic regression and test it on what it was not trained with.

    Features are centred and brought to a mean variance of 1 on what is trained with. A test is divided into folds, of
    speakers or of utterances, and each is classified by what was trained on all others; with ``train`` on those of
    ``train``, which are other utterances, so that a speaker probe then needs no folds. The result is the same on
    every run.

    Args:
        test: to classify.
        train: to train on; by default ``test`` itself.
        target: that the labels are of: it says what is held out.
        folds: at most; fewer where there are fewer speakers.
        seed: of the draw of training examples, where there are more than :data:`MAX_EXAMPLES`.

    Returns:
        The score, or None when nothing can be held out (one speaker) or told apart (one label).

    Raises:
        UserError: an utterance that is in ``test`` and in ``train``.
    """
    pool = test if train is None else train
    if train is not None and (both := set(test.utterances) & set(train.utterances)):
        raise UserError(f"utterance {str(min(both))!r} is to be trained on and tested on; the sets have to differ")
    held_out = "utterance" if target == "speaker" else "speaker"
    numbers = _fold_numbers(test, pool, held_out, folds, divided=train is None or held_out == "speaker")
    correct = trained_on = 0
    used = np.unique(numbers.test)
    for number in used:
        tested = numbers.test == number
        training = np.flatnonzero(numbers.train != number)
        if len(training) > MAX_EXAMPLES:
            training = np.sort(np.random.default_rng(seed).choice(training, MAX_EXAMPLES, replace=False))
        if len(np.unique(pool.labels[training])) < 2:
            return None
        predicted = _classify(pool.features[training], pool.labels[training], test.features[tested])
        correct += int((predicted == test.labels[tested]).sum())
        trained_on += len(training)
    _, counts = np.unique(test.labels, return_counts=True)
    return ProbeScore(
        accuracy=correct / len(test.labels),
        chance=float(np.max(counts) / len(test.labels)),
        examples=len(test.labels),
        labels=len(counts),
        trained_on=trained_on / len(used),
        folds=len(used),
        held_out=held_out,
    )


@dataclass(frozen=True, eq=False)
class _Folds:
    """The fold of every example of the test and of the training pool; a pool's -1 is in no fold of the test."""

    test: np.ndarray
    train: np.ndarray


def _fold_numbers(test: Examples, pool: Examples, held_out: str, folds: int, *, divided: bool) -> _Folds:
    if not divided:
        return _Folds(np.zeros(len(test.labels), dtype=np.int64), np.full(len(pool.labels), -1))
    if held_out == "speaker":
        number = {speaker: place % folds for place, speaker in enumerate(sorted(set(test.speakers)))}
        keys = test.speakers, pool.speakers
    else:
        # a speaker's utterances go to the folds in turn: all speakers are in all folds that they can be in
        number, places = {}, dict.fromkeys(test.speakers, 0)
        for utterance, speaker in sorted(set(zip(test.utterances, test.speakers, strict=True))):
            number[utterance] = places[speaker] % folds
            places[speaker] += 1
        keys = test.utterances, pool.utterances
    return _Folds(*(np.array([number.get(key, -1) for key in column], dtype=np.int64) for column in keys))


def _classify(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    linear = require("sklearn.linear_model", "evaluation", "a probe")
    # One scale for all dimensions: of its own, a code that was hardly ever seen in training would be made huge.
    mean, scale = train.mean(axis=0), np.sqrt(train.var(axis=0).mean()) or 1.0
    normalized = [((features - mean) / scale).astype(np.float32) for features in (train, test)]
    model = linear.LogisticRegression(C=_REGULARIZATION, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of not having converged: a fixed number of steps is what is asked for
        return model.fit(normalized[0], labels).predict(normalized[1])


def probes(
    test: Sequence[FrameSequence],
    kind: str,
    train: Sequence[FrameSequence] | None = None,
    *,
    codebook_size: int | None = None,
    targets: Iterable[str] = TARGETS,
    seed: int = 0,
) -> dict[str, ProbeScore | None]:
    """:func:`probe` for every target, None where the set has no such labels.

    Where ``train`` has none of the speakers of ``test``, speakers are cross-validated on ``test``.
    """
    scores: dict[str, ProbeScore | None] = {}
    for target in targets:
        tested = examples_of(test, kind, target, codebook_size)
        trained = None if train is None else examples_of(train, kind, target, codebook_size)
        possible = tested is not None and (train is None or trained is not None)
        if target == "speaker" and tested and trained and not set(tested.labels) & set(trained.labels):
            trained = None  # voices that were held out can only be learnt from other utterances of the test
        scores[target] = probe(tested, trained, target=target, seed=seed) if possible and tested is not None else None
    return scores
