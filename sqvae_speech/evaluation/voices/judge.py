"""A judge of voices, who has learnt speakers and words from real recordings: who speaks, and what is said?"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.voices.cepstra import VOICE_SPEC, voice_mel
from sqvae_speech.evaluation.voices.classifier import ClassifierConfig, TrainedClassifier, train_classifier
from sqvae_speech.evaluation.voices.recordings import Recording
from sqvae_speech.evaluation.voices.speaker import SpeakerEmbedder, centroids, nearest_speaker, train_embedder

MAX_WORDS = 200  # different ones; more are running text, for which this is no recogniser
MIN_EXAMPLES = 5  # of a word, to learn it


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one recording.

    Attributes:
        speaker: whose voice it is taken for.
        similarity: speaker -> cosine of its embedding with that speaker's.
        words: what should be said, what is recognised, and whose voice that word alone is taken for.
    """

    speaker: str
    similarity: dict[str, float]
    words: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class GroupScores:
    """Of several recordings.

    Attributes:
        recordings: how many.
        words: how many words were to be recognised.
        words_recognised: share of them, 0 to 1; None where no words are known.
        words_in_voice: share of the words that, heard alone, are taken for the voice they should be in.
        in_voice: share of the recordings that are.
        in_each_voice: speaker -> the same, of the recordings that should be in that voice.
        similarity: mean cosine with the voice they should be in.
        similarity_to_source: with the voice that they came from; None where that is the same.
    """

    recordings: int
    words: int
    words_recognised: float | None
    words_in_voice: float | None
    in_voice: float
    in_each_voice: dict[str, float]
    similarity: float
    similarity_to_source: float | None


class Judge:
    """Trained on real recordings, and never on anything that was synthesised.

    Args:
        embedder: of voices.
        voices: speaker -> direction of its real recordings.
        words: classifier of words; None where there are none to learn.
    """

    def __init__(
        self,
        embedder: SpeakerEmbedder,
        voices: Mapping[str, NDArray[np.float64]],
        words: TrainedClassifier | None,
    ):
        self.embedder = embedder
        self.voices = dict(voices)
        self.words = words

    def listen(self, recording: Recording) -> Verdict:
        """Judge a recording.

        Raises:
            UserError: it should be in a voice that was not learnt.
        """
        if recording.speaker not in self.voices:
            known = ", ".join(sorted(self.voices))
            raise UserError(
                f"{recording.utterance_id}: speaker {recording.speaker!r} has no recording among those to learn from "
                f"({known}); give --train-data with all target speakers"
            )
        embedding = self.embedder.embed(recording.wav, recording.sample_rate)
        words = []
        for word in recording.words if self.words is not None else ():
            piece = recording.cut(word)
            if self.words is None or word.label not in self.words.labels or not _long_enough(piece, recording):
                continue
            said = self.words.classify(voice_mel(piece, recording.sample_rate))
            voice = nearest_speaker(self.embedder.embed(piece, recording.sample_rate), self.voices)
            words.append((word.label, said, voice))
        similarity = {speaker: float(embedding @ voice) for speaker, voice in self.voices.items()}
        return Verdict(nearest_speaker(embedding, self.voices), similarity, tuple(words))


def train_judge(
    recordings: Iterable[Recording],
    embedder: SpeakerEmbedder | None = None,
    config: ClassifierConfig | None = None,
    *,
    progress: bool = False,
) -> Judge:
    """Learn speakers and words.

    Args:
        recordings: real ones of all speakers; those with words teach these.
        embedder: a given one; None trains one.
        config: of the classifiers; words are learnt whole, and without a noise floor.
        progress: show progress bars.

    Raises:
        UserError: fewer than two speakers.
    """
    recordings = list(recordings)
    config = config or ClassifierConfig()
    if embedder is None:
        pairs = [(one.speaker, voice_mel(one.wav, one.sample_rate)) for one in recordings]
        embedder = train_embedder(pairs, config, progress=progress)
    embeddings: dict[str, list[NDArray[np.float64]]] = {}
    for one in recordings:
        embeddings.setdefault(one.speaker, []).append(embedder.embed(one.wav, one.sample_rate))
    return Judge(
        embedder, centroids(embeddings), _learn_words(recordings, replace(config, crop=None, floor=None), progress)
    )


def summarize(verdicts: Sequence[Verdict], speakers: Sequence[str], sources: Sequence[str]) -> GroupScores:
    """Scores of a group.

    Args:
        verdicts: of its recordings, one at least.
        speakers: the voice that each should be in.
        sources: the voice that each came from.
    """
    words = [
        (said == label, voice == speaker)
        for verdict, speaker in zip(verdicts, speakers, strict=True)
        for label, said, voice in verdict.words
    ]
    recognised, in_voice = np.mean(words, axis=0).tolist() if words else (None, None)
    from_others = [
        verdict.similarity[source]
        for verdict, speaker, source in zip(verdicts, speakers, sources, strict=True)
        if source != speaker and source in verdict.similarity
    ]
    pairs = list(zip(verdicts, speakers, strict=True))
    right: dict[str, list[bool]] = {speaker: [] for speaker in sorted(set(speakers))}
    for verdict, speaker in pairs:
        right[speaker].append(verdict.speaker == speaker)
    return GroupScores(
        recordings=len(verdicts),
        words=len(words),
        words_recognised=recognised,
        words_in_voice=in_voice,
        in_voice=float(np.mean([one for each in right.values() for one in each])),
        in_each_voice={speaker: float(np.mean(each)) for speaker, each in right.items()},
        similarity=float(np.mean([verdict.similarity[speaker] for verdict, speaker in pairs])),
        similarity_to_source=float(np.mean(from_others)) if from_others else None,
    )


def _learn_words(
    recordings: Sequence[Recording], config: ClassifierConfig, progress: bool
) -> TrainedClassifier | None:
    pieces = [
        (word.label, one.cut(word), one)
        for one in recordings
        for word in one.words
        if _long_enough(one.cut(word), one)
    ]
    counts = Counter(label for label, _, _ in pieces)
    known = {label for label, count in counts.items() if count >= MIN_EXAMPLES}
    if not 2 <= len(known) <= MAX_WORDS:
        return None
    examples = [(label, voice_mel(wav, one.sample_rate)) for label, wav, one in pieces if label in known]
    return train_classifier(
        [mel for _, mel in examples],
        [label for label, _ in examples],
        config,
        progress="learn words" if progress else None,
    )


def _long_enough(wav: NDArray[np.float32], recording: Recording) -> bool:
    return len(wav) * VOICE_SPEC.sample_rate > VOICE_SPEC.min_samples * recording.sample_rate
