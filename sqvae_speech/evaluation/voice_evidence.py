"""What folders of conversions are worth: judged by ear, and against the truth where it was recorded."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from tqdm import tqdm

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.voice_comparison import (
    CopyScores,
    Distance,
    TruthScores,
    analyse,
    copy_scores,
    distance,
    truth_scores,
)
from sqvae_speech.evaluation.voice_judge import GroupScores, Judge, Verdict, summarize
from sqvae_speech.evaluation.voice_recordings import Corpus, Recording, read_log, recording_of
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
    def analysed(utterance_id: str):
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


def voice_report(scores: Mapping[str, VoiceScores], judge: Judge) -> dict[str, Any]:
    """All scores, ready for JSON; ``scores`` is name -> of a folder."""
    return {
        "speaker_model": judge.embedder.name,
        "speakers": sorted(judge.voices),
        "words": list(judge.words.labels) if judge.words else [],
        "folders": {name: asdict(each) for name, each in scores.items()},
    }


def voice_markdown(values: Mapping[str, Any]) -> str:
    """The tables of a :func:`voice_report`."""
    folders = values["folders"]
    lines = [
        "| | recordings | in the right voice | cosine with it | with the source's | words | recognised "
        "| in the right voice, alone |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, folder in folders.items():
        for group, one in folder["groups"].items():
            cells = [
                f"{name}, {group}",
                f"{one['recordings']:,}",
                _percent(one["in_voice"]),
                f"{one['similarity']:.2f}",
                _number(one["similarity_to_source"], 2),
                f"{one['words']:,}",
                _percent(one["words_recognised"]),
                _percent(one["words_in_voice"]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n\n"
    text += (
        f"Judged by what was learnt from other, real recordings ({values['speaker_model']}; "
        f"{len(values['speakers'])} speakers, {len(values['words'])} words).\n"
    )
    rows = [
        _distance_row(f"{name}: {what}", count, apart, *more)
        for name, folder in folders.items()
        for what, count, apart, more in _distances(folder)
    ]
    if rows:
        text += (
            "\n| against the recording it should be | recordings | MCD (dB) | F0 (cents) | voicing error | STOI "
            "| PESQ | factor | nearer than the source |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        )
        text += "\n".join(rows) + "\n\n"
        text += (
            "Converted and source: against the target speaker's own recording of the text; resynthesised: against "
            "its original. MCD: mel-cepstral distortion without c0, along dynamic time warping. Factor: the source's "
            "MCD over the conversion's.\n"
        )
    return text


def _distances(folder: Mapping[str, Any]):
    """(what, recordings, distance, STOI PESQ factor nearer) of each row."""
    if (truth := folder["truth"]) is not None:
        yield "source", truth["pairs"], truth["source"], (None, None, None, None)
        yield "converted", truth["pairs"], truth["converted"], (None, None, truth["factor"], truth["nearer"])
    if (copies := folder["copies"]) is not None:
        more = (copies["stoi"], copies["pesq"], None, None)
        yield "resynthesised", copies["recordings"], copies["distance"], more


def _distance_row(name: str, count: int, apart: Mapping[str, Any], stoi, pesq, factor, nearer) -> str:
    cells = [
        name,
        f"{count:,}",
        f"{apart['mcd']:.2f}",
        _number(apart["cents"], 0),
        _percent(apart["voicing_error"]),
        _number(stoi, 3),
        _number(pesq, 2),
        "" if factor is None else f"{factor:.2f}",
        _percent(nearer),
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"
