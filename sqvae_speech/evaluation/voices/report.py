"""Scores of conversions as JSON for programs and as Markdown tables for people."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqvae_speech.evaluation.voices.evidence import VoiceScores
from sqvae_speech.evaluation.voices.judge import Judge

Row = dict[str, str]


def voice_report(scores: Mapping[str, VoiceScores], judge: Judge) -> dict[str, Any]:
    """All scores, ready for JSON; ``scores`` is name -> of a folder."""
    return {
        "speaker_model": judge.embedder.name,
        "speakers": sorted(judge.voices),
        "words": list(judge.words.labels) if judge.words else [],
        "folders": {name: asdict(each) for name, each in scores.items()},
    }


def voice_markdown(values: Mapping[str, Any]) -> str:
    """The tables of a :func:`voice_report`; columns and tables without a number are left out."""
    folders = values["folders"]
    judged = [
        {"": f"{name}, {group}", **_judged(one)}
        for name, folder in folders.items()
        for group, one in folder["groups"].items()
    ]
    learnt = [f"{len(values['speakers'])} speakers", f"{len(values['words'])} words"]
    text = (
        f"{_table(judged)}\nJudged by what was learnt from other, real recordings: {values['speaker_model']}; "
        f"{' and '.join(learnt if values['words'] else learnt[:1])}.\n"
    )
    apart = [row for name, folder in folders.items() for row in _apart(name, folder)]
    if apart:
        text += (
            f"\n{_table(apart)}\nSource and converted: against the target speaker's own recording of the text; "
            "resynthesised: against its original. MCD: mel-cepstral distortion without c0, along dynamic time "
            "warping. Factor: the source's MCD over the conversion's.\n"
        )
    return text


def _judged(one: Mapping[str, Any]) -> Row:
    return {
        "recordings": f"{one['recordings']:,}",
        "in the right voice": _percent(one["in_voice"]),
        "cosine with it": _number(one["similarity"], 2),
        "with the source's": _number(one["similarity_to_source"], 2),
        "words": f"{one['words']:,}" if one["words"] else "",
        "recognised": _percent(one["words_recognised"]),
        "each word alone in the right voice": _percent(one["words_in_voice"]),
    }


def _apart(name: str, folder: Mapping[str, Any]) -> Iterator[Row]:
    if (truth := folder["truth"]) is not None:
        yield _distance(f"{name}, source", truth["pairs"], truth["source"])
        yield _distance(f"{name}, converted", truth["pairs"], truth["converted"]) | {
            "factor": _number(truth["factor"], 2),
            "nearer than the source": _percent(truth["nearer"]),
        }
    if (copies := folder["copies"]) is not None:
        yield _distance(f"{name}, resynthesised", copies["recordings"], copies["distance"]) | {
            "STOI": _number(copies["stoi"], 3),
            "PESQ": _number(copies["pesq"], 2),
        }


def _distance(name: str, count: int, apart: Mapping[str, Any]) -> Row:
    return {
        "against what it should be": name,
        "recordings": f"{count:,}",
        "MCD (dB)": _number(apart["mcd"], 2),
        "F0 (cents)": _number(apart["cents"], 0),
        "voicing error": _percent(apart["voicing_error"]),
        "factor": "",
        "nearer than the source": "",
        "STOI": "",
        "PESQ": "",
    }


def _table(rows: Sequence[Row]) -> str:
    """Columns in the order of the first row, but for those that no row has anything in."""
    first, *others = [name for name in rows[0] if not name or any(row[name] for row in rows)]
    lines = [[first, *others], ["---", *["---:"] * len(others)]]
    lines += [[row[name] for name in (first, *others)] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"
