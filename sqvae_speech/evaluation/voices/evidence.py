"""What folders of conversions are worth: to a judge who learnt from real recordings, and against the truth."""

import os
from dataclasses import dataclass
from functools import lru_cache

from tqdm import tqdm

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.voices.comparison import (
    Analysis,
    CopyScores,
    Distance,
    TruthScores,
    analyse,
    copy_scores,
    distance,
    truth_scores,
)
from sqvae_speech.evaluation.voices.judge import GroupScores, Judge, Verdict, summarize
from sqvae_speech.evaluation.voices.recordings import Corpus, Recording, read_log, recording_of
from sqvae_speech.units.f0 import F0

GROUPS = ("recorded", "resynthesised", "converted")


@dataclass(frozen=True)
class VoiceScores:
    """Of a folder of conversions.

    Attributes:
        groups: :data:`GROUPS` -> scores of those there are: the sources themselves, what was decoded in its own
            voice, what was converted.
        copies: resyntheses against their originals; None without any.
        truth: conversions against the target's own recordings; None where no speaker says the same.
    """

    groups: dict[str, GroupScores]
    copies: CopyScores | None
    truth: TruthScores | None


def score_voices(
    folder: str | os.PathLike,
    corpus: Corpus,
    judge: Judge,
    *,
    pitch: F0 | None = None,
    progress: bool = True,
) -> VoiceScores:
    """Score a folder that ``sqvae-speech convert`` wrote.

    Args:
        folder: with ``log.jsonl``.
        corpus: the recordings that were converted, and those of the same texts by other speakers.
        judge: trained on other recordings.
        pitch: range of F0; None leaves pitch out, which takes most of the time.
        progress: show a progress bar.

    Raises:
        UserError: a log or a wav that cannot be read, a source that is not in the corpus, a target that the judge
            does not know.
    """
    log = read_log(folder)
    for line in log:
        if line.utterance_id not in corpus:
            raise UserError(f"{folder}: {line.utterance_id!r} was converted and is not in --data; add its directory")

    @lru_cache(maxsize=256)  # sources and truths come again and again
    def analysed(utterance_id: str) -> Analysis:
        return analyse(corpus[utterance_id], pitch)

    heard: dict[str, list[tuple[Verdict, str, str]]] = {group: [] for group in GROUPS}
    copies: list[tuple[Recording, Recording, float, Distance]] = []
    truths: list[tuple[Distance, Distance]] = []
    sources: set[str] = set()
    for line in tqdm(log, desc=f"listen to {os.path.basename(os.path.normpath(folder))}", disable=not progress):
        source = line.source_speaker
        if line.utterance_id not in sources and source in judge.voices:
            sources.add(line.utterance_id)
            heard["recorded"].append((judge.listen(corpus[line.utterance_id]), source, source))
        recording = recording_of(line, corpus)
        group = "resynthesised" if line.is_resynthesis else "converted"
        heard[group].append((judge.listen(recording), line.target_speaker, source))
        if line.is_resynthesis:
            apart = distance(analysed(line.utterance_id), analyse(recording, pitch))
            copies.append((corpus[line.utterance_id], recording, line.start, apart))
        elif (truth := corpus.same_text(line.utterance_id, line.target_speaker)) is not None:
            reference = analysed(truth)
            apart = distance(reference, analyse(recording, pitch))
            truths.append((apart, distance(reference, analysed(line.utterance_id))))
    return VoiceScores(
        groups={group: summarize(*map(list, zip(*each, strict=True))) for group, each in heard.items() if each},
        copies=copy_scores(copies) if copies else None,
        truth=truth_scores(truths) if truths else None,
    )
